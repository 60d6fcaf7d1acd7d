"""Transformer encoder for time series and token sequences."""

from torch import Tensor, nn

from dltrain.errors import choose
from dltrain.models.attention import padding_mask
from dltrain.models.blocks import Block
from dltrain.models.documents import document_positions, same_document
from dltrain.models.layers import READOUTS, Steps, check_sizes, read_out
from dltrain.models.positions import Positions


class Transformer(nn.Module):
    """Transformer blocks and a linear output layer, applied at every step or once per sequence.

    Args:
        features, length, outputs, hidden_size, num_layers: At least 1.
        num_heads: Number of attention heads; divides ``hidden_size``.
        ffn_ratio: Width of the feed-forward layers, as a multiple of ``hidden_size``, at least 1.
        dropout: Dropout probability of the inputs, attention weights and residual branches, in [0, 1).
        vocabulary: Number of distinct tokens; None for numeric inputs.
        each_step: Return an output at every step; otherwise one per sequence.
        causal: Whether steps attend only to themselves and earlier steps.
        readout: Input of the output layer without ``each_step``: the ``last`` step, or the ``mean`` or ``max`` over all
            steps.

    Shape: (B, T, features), images (B, C, H, W) as H steps, or tokens int64 (B, T), T up to ``length`` ->
    (B, T, outputs) with ``each_step``, otherwise (B, outputs).
    Source: Vaswani et al. 2017, "Attention is all you need", section 3, the encoder.
    Differs: pre-norm blocks, learned positions, GELU, and an output layer.
    """

    def __init__(
        self,
        features: int,
        length: int,
        outputs: int,
        hidden_size: int = 64,
        num_layers: int = 2,
        num_heads: int = 4,
        ffn_ratio: int = 4,
        dropout: float = 0.0,
        activation: str = "gelu",
        vocabulary: int | None = None,
        each_step: bool = False,
        causal: bool = False,
        readout: str = "last",
    ) -> None:
        super().__init__()
        check_sizes(dropout, features=features, length=length, outputs=outputs, vocabulary=vocabulary)
        check_sizes(hidden_size=hidden_size, num_layers=num_layers, num_heads=num_heads, ffn_ratio=ffn_ratio)
        self.each_step = each_step
        self.readout = choose("model.readout", readout, {name: name for name in READOUTS})
        self.steps = Steps(features, hidden_size, vocabulary)
        self.widen = nn.Linear(features, hidden_size) if vocabulary is None else nn.Identity()
        # Projected inputs and embeddings have an initial std of 0.5 to 1, so GPT-2's 0.02 would be too small.
        self.positions = Positions(length, hidden_size, std=0.5)
        self.dropout = nn.Dropout(dropout)
        sizes = hidden_size, num_heads, ffn_ratio * hidden_size
        blocks = [Block(*sizes, activation, dropout, causal) for _ in range(num_layers)]
        self.causal = causal
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(hidden_size)
        self.head = nn.Linear(hidden_size, outputs)

    def forward(self, x: Tensor, lengths: Tensor | None = None, documents: Tensor | None = None) -> Tensor:
        """Return the outputs at every step or of the whole sequence.

        Args:
            lengths: Steps of each sequence, int64 (B,) on the CPU; later steps are padding. None for no padding.
            documents: Index of the document of each step, int64 (B, T): steps attend only to their own document, and
                positions restart with each document. None for one document.
        """
        positions = None if documents is None else document_positions(documents)
        x = self.dropout(self.positions(self.widen(self.steps(x)), positions=positions))
        # In causal attention, no step attends to the padding after it, and attention is faster without a mask.
        mask = None if self.causal else padding_mask(lengths, x.shape[1], x.device)
        if documents is not None:
            mask = same_document(documents) if mask is None else mask & same_document(documents)
        for block in self.blocks:
            x = block(x, mask)
        # `last` is the default because a forecast continues the latest values, which a mean would blur.
        return self.head(self.norm(x if self.each_step else read_out(x, lengths, self.readout)))
