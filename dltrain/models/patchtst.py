"""PatchTST: a Transformer on patches of a series."""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from dltrain.errors import ConfigError, choose, format_error
from dltrain.models.blocks import Block, StepBatchNorm
from dltrain.models.layers import check_sizes
from dltrain.models.linear_forecasters import Forecaster
from dltrain.models.positions import Positions

EPS = 1e-5  # added to the variance, which is 0 for a constant window


class PatchTST(Forecaster):
    """Transformer whose tokens are patches of one column; all columns share its weights.

    Each window is normalized by its own mean and standard deviation, and the forecast is denormalized by them.

    Args:
        length: Steps of the window, at least 1.
        columns, horizon, outputs, features: See `Forecaster`.
        patch_length: Steps of a patch, from 1 to ``length``.
        stride: Steps from one patch to the next, at least 1. The last value is repeated ``stride`` times, so that the
            last patch ends after the window.
        hidden_size, num_layers: At least 1.
        num_heads: Number of attention heads; divides ``hidden_size``.
        ffn_ratio: Width of the feed-forward layers, as a multiple of ``hidden_size``, at least 1.
        dropout: Dropout probability of patches, attention weights, residual branches and the last layer's inputs.
        norm: ``batch``, batch norm after each residual sum, as published; or ``layer``, layer norm before attention and
            feed-forward network, and at the end.

    Shape: (B, length, features) -> (B, outputs), flattened from (B, horizon, columns, levels).
    Source: Nie et al. 2023, "A time series is worth 64 words: Long-term forecasting with transformers", section 3.1.
    Differs: the default ``norm``, which is ``layer``.
    """

    def __init__(
        self,
        length: int,
        columns: int,
        horizon: int,
        outputs: int,
        patch_length: int = 16,
        stride: int = 8,
        hidden_size: int = 64,
        num_layers: int = 2,
        num_heads: int = 4,
        ffn_ratio: int = 2,
        dropout: float = 0.0,
        features: int | None = None,
        norm: str = "layer",
    ) -> None:
        super().__init__(columns, horizon, outputs, features)
        check_sizes(dropout, length=length, patch_length=patch_length, stride=stride)
        check_sizes(hidden_size=hidden_size, num_layers=num_layers, num_heads=num_heads, ffn_ratio=ffn_ratio)
        if patch_length > length:
            expected = f"at most data.window={length}"
            raise ConfigError(format_error("model.patch_length", expected, patch_length))
        self.patch_length, self.stride = patch_length, stride
        patches = (length + stride - patch_length) // stride + 1
        self.embed = nn.Linear(patch_length, hidden_size)
        self.positions = Positions(patches, hidden_size, std=0.02)
        self.dropout = nn.Dropout(dropout)
        sizes = hidden_size, num_heads, ffn_ratio * hidden_size
        kinds: dict[str, dict[str, Any]] = {"layer": {}, "batch": {"pre_norm": False, "norm": StepBatchNorm}}
        kind = choose("model.norm", norm, kinds)
        self.blocks = nn.Sequential(*[Block(*sizes, "gelu", dropout, **kind) for _ in range(num_layers)])
        self.norm = nn.Identity() if norm == "batch" else nn.LayerNorm(hidden_size)
        self.head = nn.Linear(patches * hidden_size, horizon * self.levels)

    def each_column(self, x: Tensor) -> Tensor:
        """Return the forecast of each column."""
        mean = x.mean(dim=-1, keepdim=True)
        deviation = (x.var(dim=-1, correction=0, keepdim=True) + EPS).sqrt()
        padded = F.pad((x - mean) / deviation, (0, self.stride), mode="replicate")
        patches = padded.unfold(-1, self.patch_length, self.stride).flatten(0, 1)
        states = self.dropout(self.positions(self.embed(patches)))
        states = self.norm(self.blocks(states)).flatten(1)
        return self.head(self.dropout(states)).view(len(x), self.columns, -1) * deviation + mean
