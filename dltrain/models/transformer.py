"""A transformer encoder for series and sequences."""

from torch import Tensor, nn

from dltrain.models.layers import Block, Positions, Steps, check


class Transformer(nn.Module):
    """Blocks of attention over all steps and a linear output, at every step or at the end.

    Args:
        features: Numbers per step, at least 1.
        length: Steps of the longest sequence, at least 1.
        outputs: Numbers per answer, at least 1.
        hidden: Width of a step inside the network, at least 1.
        depth: Number of blocks, at least 1.
        heads: Attention heads; must divide ``hidden``.
        feedforward: Width of the inner layer of each block, in multiples of ``hidden``, at least 1.
        dropout: Share of the inputs, attention weights and branches that is dropped in training, 0 to below 1.
        activation: Of the inner layers.
        vocabulary: Number of different tokens, where the input is tokens.
        each_step: An answer at every step; otherwise one, read from the last step, which has looked at all others.
        causal: A step sees itself and earlier steps only.

    Shape:
        - Input: (B, T, features), (B, C, H, W) read as H steps, or with a vocabulary int64 (B, T); T up to ``length``.
        - Output: (B, T, outputs) with ``each_step``, otherwise (B, outputs).

    Raises:
        ConfigError: When a value is out of range, a name unknown, or ``heads`` does not divide ``hidden``.

    Source: Vaswani et al. 2017, "Attention is all you need", section 3, the encoder.

    Differs: the norm stands in front of each branch, positions are learned, the activation is GELU, and
    the output reads one step.
    """

    def __init__(
        self,
        features: int,
        length: int,
        outputs: int,
        hidden: int = 64,
        depth: int = 2,
        heads: int = 4,
        feedforward: int = 4,
        dropout: float = 0.0,
        activation: str = "gelu",
        vocabulary: int | None = None,
        each_step: bool = False,
        causal: bool = False,
    ) -> None:
        super().__init__()
        check(dropout, features=features, length=length, outputs=outputs, vocabulary=vocabulary)
        check(hidden=hidden, depth=depth, heads=heads, feedforward=feedforward)
        self.each_step = each_step
        self.steps = Steps(features, hidden, vocabulary)
        self.widen = nn.Linear(features, hidden) if vocabulary is None else nn.Identity()
        # The size of widened standardised numbers and fresh embeddings, which drown positions of GPT-2's 0.02.
        self.positions = Positions(length, hidden, std=0.5)
        self.dropout = nn.Dropout(dropout)
        blocks = [Block(hidden, heads, feedforward, activation, dropout, causal) for _ in range(depth)]
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(hidden)
        self.head = nn.Linear(hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """The answer at every step or at the end."""
        x = self.dropout(self.positions(self.widen(self.steps(x))))
        x = self.blocks(x)
        # A mean over steps would blur the latest values, from which a forecast starts.
        return self.head(self.norm(x if self.each_step else x[:, -1]))
