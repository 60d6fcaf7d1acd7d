"""Positions of the steps of a sequence: learned, sinusoidal and relative."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from dltrain.errors import ConfigError, format_error


class Positions(nn.Module):
    """Learned position embedding, added to every step.

    Shape: (B, T, width) -> (B, T, width), T up to ``length``.
    """

    def __init__(self, length: int, width: int, std: float = 0.02) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(length, width))
        nn.init.normal_(self.weight, std=std)

    def forward(self, x: Tensor, start: int = 0, positions: Tensor | None = None) -> Tensor:
        """Return the steps with their positions added.

        Args:
            start: Position of the first step.
            positions: Position of each step, int64 (B, T); None for consecutive positions from ``start``.
        """
        end, limit = start + x.shape[1], len(self.weight)
        if end > limit:
            raise ConfigError(format_error("model.length", f"at least {end} (the length of the input)", limit))
        return x + (self.weight[start:end] if positions is None else self.weight[positions])


class Sinusoids(nn.Module):
    """Sines and cosines of the position, added to every step.

    Feature ``2 i`` of position ``p`` is ``sin(p / 10000 ** (2 i / width))``, feature ``2 i + 1`` is the cosine of the
    same angle.

    Args:
        length: Number of positions to compute in advance; the table grows when a sequence is longer.

    Shape: (B, T, width) -> (B, T, width).
    Source: Vaswani et al. 2017, section 3.5.
    """

    weight: Tensor

    def __init__(self, length: int, width: int) -> None:
        super().__init__()
        self.register_buffer("weight", _sinusoids(length, width), persistent=False)

    def forward(self, x: Tensor, start: int = 0) -> Tensor:
        """Return the steps with their positions added, starting at position ``start``."""
        end = start + x.shape[1]
        if end > len(self.weight):
            with torch.inference_mode(False):  # training cannot use inference tensors
                self.weight = _sinusoids(2 * end, self.weight.shape[1]).to(self.weight)
        return x + self.weight[start:end]


def _sinusoids(length: int, width: int) -> Tensor:
    """Return the sines and cosines of the first positions, (length, width), computed in float64."""
    exponents = torch.arange(0, width, 2, dtype=torch.float64) / width
    angles = torch.outer(torch.arange(length, dtype=torch.float64), 10_000.0**-exponents)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :width].to(torch.get_default_dtype())


class NoPositions(nn.Module):
    """Module that adds no positions, for blocks with rotary, relative or no positions."""

    def forward(self, x: Tensor, start: int = 0) -> Tensor:
        """Return the steps unchanged."""
        return x


class RelativePositions(nn.Module):
    """Learned biases of attention scores, one per head and bucket of distances.

    In each direction, half of the buckets hold at most one distance each. The other half divide the distances up to
    ``max_distance`` into logarithmically spaced ranges; the last bucket also holds all longer distances.

    Args:
        bidirectional: Whether half of the buckets are for keys after the query; otherwise, these keys share the bucket
            of distance 0.

    Source: Raffel et al. 2020 (T5), section 2.1.
    """

    def __init__(
        self, num_heads: int, num_buckets: int = 32, max_distance: int = 128, bidirectional: bool = True
    ) -> None:
        super().__init__()
        self.num_buckets, self.max_distance, self.bidirectional = num_buckets, max_distance, bidirectional
        self.weight = nn.Parameter(torch.zeros(num_buckets, num_heads))

    def forward(self, queries: int, keys: int, mask: Tensor | None = None) -> Tensor:
        """Return the biases, (1, num_heads, queries, keys), or (B, ...) with a mask.

        Args:
            queries: Number of queries, which are the last steps.
            keys: Number of keys, one per step.
            mask: Keys to attend to, bool (B, 1, 1, keys); the biases of all other keys are minus infinity.
        """
        steps = torch.arange(keys, device=self.weight.device)
        scores = self.weight[self.buckets(steps[None, :] - steps[keys - queries :, None])].permute(2, 0, 1)[None]
        return scores if mask is None else scores.masked_fill(~mask, -torch.inf)

    def buckets(self, distances: Tensor) -> Tensor:
        """Return the bucket of each distance, which is the position of the key minus the position of the query."""
        number = self.num_buckets // 2 if self.bidirectional else self.num_buckets
        later = number * (distances > 0).long() if self.bidirectional else 0
        distances = distances.abs() if self.bidirectional else (-distances).clamp(min=0)
        exact = number // 2
        ratio = (distances.clamp(min=exact).float() / exact).log() / math.log(self.max_distance / exact)
        far = (exact + (ratio * (number - exact)).long()).clamp(max=number - 1)
        return later + torch.where(distances < exact, distances, far)


def embed_positions(kind: str, length: int, width: int, std: float = 0.02) -> Any:
    """Return the module that adds ``learned`` or ``sinusoidal`` positions; `NoPositions` for any other kind."""
    if kind == "learned":
        return Positions(length, width, std)
    return Sinusoids(length, width) if kind == "sinusoidal" else NoPositions()
