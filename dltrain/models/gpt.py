"""A decoder-only language model."""

import math

from torch import Tensor, nn
from torch.nn import functional as F

from dltrain.errors import ConfigError, format_error
from dltrain.models.layers import Block, Positions, check


class GPT(nn.Module):
    """Causal blocks over tokens; the output shares the weights of the embedding.

    Args:
        vocabulary: Number of different tokens, at least 1.
        length: Tokens of the longest sequence, at least 1.
        outputs: Must equal ``vocabulary``.
        hidden_size: Width of a token inside the network, at least 1.
        num_layers: Number of blocks, at least 1.
        num_heads: Attention heads; must divide ``hidden_size``.
        dropout: Share of the inputs, attention weights and branches that is dropped in training, 0 to below 1.
        activation: Of the inner layers.
        bias: Linear layers and norms have a bias.

    Shape:
        - Input: int64 (B, T), T up to ``length``.
        - Output: (B, T, vocabulary), the logits of each next token.

    Raises:
        ConfigError: When a value is out of range, ``num_heads`` does not divide ``hidden_size``, or ``outputs`` is not
            ``vocabulary``.

    Source: Radford et al. 2019, "Language models are unsupervised multitask learners" (GPT-2), section 2.3; the shared
    weights from Press and Wolf 2017.
    """

    def __init__(
        self,
        vocabulary: int,
        length: int,
        outputs: int,
        hidden_size: int = 128,
        num_layers: int = 4,
        num_heads: int = 4,
        dropout: float = 0.0,
        activation: str = "gelu",
        bias: bool = True,
    ) -> None:
        super().__init__()
        check(
            dropout,
            vocabulary=vocabulary,
            length=length,
            hidden_size=hidden_size,
            num_layers=num_layers,
            num_heads=num_heads,
        )
        if outputs != vocabulary:
            hint = "A gpt predicts the next token; another task wants another model."
            raise ConfigError(format_error("model.outputs", f"{vocabulary}, the size of the vocabulary", outputs, hint))
        self.embedding = nn.Embedding(vocabulary, hidden_size)
        self.positions = Positions(length, hidden_size)
        self.dropout = nn.Dropout(dropout)
        blocks = [
            Block(hidden_size, num_heads, 4, activation, dropout, causal=True, bias=bias) for _ in range(num_layers)
        ]
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(hidden_size, bias=bias)
        self.apply(_start)
        for block in blocks:
            for projection in (block.mix, block.down):
                # Each of the 2 * depth branches adds its variance to the stream, which is to keep its size.
                nn.init.normal_(projection.weight, std=0.02 / math.sqrt(2 * num_layers))

    def forward(self, x: Tensor) -> Tensor:
        """The logits of each next token."""
        x = self.dropout(self.positions(self.embedding(x)))
        return F.linear(self.norm(self.blocks(x)), self.embedding.weight)


def _start(module: nn.Module) -> None:
    """GPT-2's values before training."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
