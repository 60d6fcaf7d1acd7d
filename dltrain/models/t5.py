"""T5: an encoder-decoder Transformer with relative positions."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from dltrain.errors import ConfigError, format_error
from dltrain.models.blocks import Block, state_norm
from dltrain.models.encoder_decoder import ReadAndWrite
from dltrain.models.layers import check_sizes
from dltrain.models.positions import NoPositions, RelativePositions
from dltrain.models.published_layouts import t5_names

EPS = 1e-6


class T5(ReadAndWrite):
    """Encoder and decoder with RMSNorm before each layer, linear layers without biases, and relative positions.

    Positions affect only the scores of self-attention, through biases that all blocks of a stack share. Attention
    scores are not scaled. Weights of T5 in the layout of Hugging Face's transformers can be loaded as initial
    weights; weights of version 1.1 need ``gated=true activation=gelu_tanh tie_embeddings=false``.

    Args:
        vocabulary, outputs: Number of distinct tokens of the source and of the target.
        hidden_size, num_layers: Width of the states, and number of blocks of the encoder and of the decoder.
        num_heads: Number of attention heads; divides ``hidden_size`` unless ``head_size`` is set.
        head_size: Features of a head; None for ``hidden_size / num_heads``.
        ffn_size: Width of the feed-forward layers; None for ``4 * hidden_size``.
        gated: Whether the activated layer is multiplied by a second, linear layer (version 1.1).
        num_buckets, max_distance: See `RelativePositions`.
        tie_embeddings: Whether the output layer shares the weights of the target embedding.
        shared_vocabulary: Whether source and target have the same vocabulary; then they share the embedding.
        dropout: Dropout probability of embeddings, attention weights and residual branches, in [0, 1).

    Shape: int64 (B, S) and int64 (B, T) -> (B, T, outputs), the logits of each next token of the target.
    Source: Raffel et al. 2020, "Exploring the limits of transfer learning", section 2.1; version 1.1, Shazeer 2020.
    Differs: no dropout inside the feed-forward layers or on the outputs of encoder and decoder.
    """

    head_bias = False

    def __init__(
        self,
        vocabulary: int,
        outputs: int,
        hidden_size: int = 256,
        num_layers: int = 3,
        num_heads: int = 8,
        head_size: int | None = None,
        ffn_size: int | None = None,
        activation: str = "relu",
        gated: bool = False,
        num_buckets: int = 32,
        max_distance: int = 128,
        tie_embeddings: bool = True,
        shared_vocabulary: bool | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_sizes(dropout, vocabulary=vocabulary, outputs=outputs, hidden_size=hidden_size, num_layers=num_layers)
        check_sizes(num_heads=num_heads, head_size=head_size, ffn_size=ffn_size)
        check_sizes(minimum=4, num_buckets=num_buckets)
        if max_distance <= num_buckets // 2:
            expected = f"more than {num_buckets // 2}, half of model.num_buckets"
            raise ConfigError(format_error("model.max_distance", expected, max_distance))
        sizes = hidden_size, num_heads, ffn_size or 4 * hidden_size, activation, dropout
        options: dict[str, Any] = {
            "norm": "rms",
            "eps": EPS,
            "bias": False,
            "gated": gated,
            "head_size": head_size,
            "scale": 1.0,
        }
        self.output_scale = hidden_size**-0.5
        buckets = num_heads, num_buckets, max_distance
        self.build(
            (None if shared_vocabulary else vocabulary, outputs, hidden_size),
            num_layers,
            partial(Block, *sizes, **options),
            partial(state_norm, "rms", hidden_size, EPS),
            (NoPositions(), NoPositions()),
            tie_embeddings,
            dropout,
            (RelativePositions(*buckets), RelativePositions(*buckets, bidirectional=False)),
        )
        self._initialize(hidden_size)

    def _initialize(self, width: int) -> None:
        """Draw weights with the standard deviations of T5, which make scaling of attention scores unnecessary."""
        for name, parameter in self.named_parameters():
            fan_in = parameter.shape[-1]
            std = 1.0 if "embedding" in name else width**-0.5 if "distances" in name else fan_in**-0.5
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=std)
        for block in (*self.encoder, *self.decoder):
            queries = [block.qkv.weight[: block.heads.num_heads * block.heads.size]]
            queries += [] if block.cross is None else [block.cross.query.weight]
            for weight in queries:
                nn.init.normal_(weight, std=(width * block.heads.size) ** -0.5)

    def adapt_weights(self, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return published weights under the names of this model."""
        return t5_names(weights)
