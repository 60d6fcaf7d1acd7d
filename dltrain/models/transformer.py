"""A transformer encoder for series and sequences."""

from torch import Tensor, nn

from dltrain.models.layers import Block, Positions, Steps, check


class Transformer(nn.Module):
    """Blocks of attention over all steps and a linear output, at every step or at the end.

    Args:
        features: Numbers per step, at least 1.
        length: Steps of the longest sequence, at least 1.
        outputs: Numbers per answer, at least 1.
        hidden_size: Width of a step inside the network, at least 1.
        num_layers: Number of blocks, at least 1.
        num_heads: Attention heads; must divide ``hidden_size``.
        ffn_ratio: Width of the inner layer of each block, in multiples of ``hidden_size``, at least 1.
        dropout: Share of the inputs, attention weights and branches that is dropped in training, 0 to below 1.
        activation: Of the inner layers.
        vocabulary: Number of different tokens, where the input is tokens.
        each_step: An answer at every step; otherwise one, read from the last step, which has looked at all others.
        causal: A step sees itself and earlier steps only.

    Shape:
        - Input: (B, T, features), (B, C, H, W) read as H steps, or with a vocabulary int64 (B, T); T up to ``length``.
        - Output: (B, T, outputs) with ``each_step``, otherwise (B, outputs).

    Raises:
        ConfigError: When a value is out of range, a name unknown, or ``num_heads`` does not divide ``hidden_size``.

    Source: Vaswani et al. 2017, "Attention is all you need", section 3, the encoder.

    Differs: the norm stands in front of each branch, positions are learned, the activation is GELU, and
    the output reads one step.
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
    ) -> None:
        super().__init__()
        check(dropout, features=features, length=length, outputs=outputs, vocabulary=vocabulary)
        check(hidden_size=hidden_size, num_layers=num_layers, num_heads=num_heads, ffn_ratio=ffn_ratio)
        self.each_step = each_step
        self.steps = Steps(features, hidden_size, vocabulary)
        self.widen = nn.Linear(features, hidden_size) if vocabulary is None else nn.Identity()
        # The size of widened standardised numbers and fresh embeddings, which drown positions of GPT-2's 0.02.
        self.positions = Positions(length, hidden_size, std=0.5)
        self.dropout = nn.Dropout(dropout)
        blocks = [Block(hidden_size, num_heads, ffn_ratio, activation, dropout, causal) for _ in range(num_layers)]
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(hidden_size)
        self.head = nn.Linear(hidden_size, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """The answer at every step or at the end."""
        x = self.dropout(self.positions(self.widen(self.steps(x))))
        x = self.blocks(x)
        # A mean over steps would blur the latest values, from which a forecast starts.
        return self.head(self.norm(x if self.each_step else x[:, -1]))
