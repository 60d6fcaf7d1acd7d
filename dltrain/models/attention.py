"""Multi-head attention: heads, masks and rotary positions."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dltrain.errors import ConfigError, format_error
from dltrain.models.layers import inside

Projected = dict[str, Tensor]  # ``keys`` and ``values``, each (B, num_kv_heads, S, size)


@dataclass(frozen=True)
class Heads:
    """Division of queries, keys and values into attention heads.

    Args:
        num_heads: Number of heads of the queries.
        num_kv_heads: Number of heads of keys and values; each serves ``num_heads / num_kv_heads`` heads of the queries.
        size: Features of a head.
        dropout: Dropout probability of the attention weights. Training with dropout on a CPU needs memory for all
            weights, (B, num_heads, T, S); without dropout, memory is linear in T and S.
        scale: Factor of the scores; None for ``1 / sqrt(size)``.

    Source: Vaswani et al. 2017, section 3.2; multi-query attention, Shazeer 2019; grouped-query attention,
    Ainslie et al. 2023.
    """

    num_heads: int
    num_kv_heads: int
    size: int
    dropout: float = 0.0
    scale: float | None = None

    def split(self, projections: Tensor) -> tuple[Tensor, ...]:
        """Return the heads of joined projections: (B, T, heads * size) -> queries, keys and values (B, heads, T, size).

        If the projections contain no queries, the result is only keys and values.
        """
        heads = self.split_one(projections)
        has_queries = heads.shape[1] > 2 * self.num_kv_heads
        return heads.split([self.num_heads] * has_queries + [self.num_kv_heads] * 2, dim=1)

    def split_one(self, projection: Tensor) -> Tensor:
        """Return the heads of one projection: (B, T, heads * size) -> (B, heads, T, size)."""
        return projection.view(*projection.shape[:2], -1, self.size).transpose(1, 2)

    def attend(
        self,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        mask: Tensor | None = None,
        causal: bool = False,
        training: bool = False,
    ) -> Tensor:
        """Return the joined outputs of all heads, (B, T, num_heads * size).

        Args:
            mask: Whether a query may attend to a key (bool), or numbers to add to the scores (float), of a shape that
                broadcasts to (B, num_heads, T, S). Without a mask, PyTorch can use its fastest kernels.
            causal: Whether a query attends only to its own and earlier positions; the T queries are the last of the S
                steps.
        """
        steps, total = queries.shape[2], keys.shape[2]
        if causal and (mask is not None or steps != total):
            mask, causal = _causal(steps, total, queries.device, mask), False
        # Only some kernels read shared keys without copies, and none of them accepts a mask.
        is_shared = self.num_kv_heads < self.num_heads
        if is_shared and mask is not None:
            groups = self.num_heads // self.num_kv_heads
            keys, values = (part.repeat_interleave(groups, dim=1) for part in (keys, values))
        if mask is not None and mask.is_floating_point():
            mask = mask.to(queries.dtype)  # autocast computes queries in lower precision
        y = F.scaled_dot_product_attention(
            queries,
            keys,
            values,
            mask,
            dropout_p=self.dropout if training else 0.0,
            is_causal=causal,
            scale=self.scale,
            enable_gqa=is_shared and mask is None,
        )
        return y.transpose(1, 2).flatten(2)


def make_heads(
    width: int,
    num_heads: int,
    num_kv_heads: int | None = None,
    size: int | None = None,
    dropout: float = 0.0,
    scale: float | None = None,
) -> Heads:
    """Return the attention heads for states of ``width`` features.

    Args:
        num_kv_heads: Number of heads of keys and values; None for ``num_heads``.
        size: Features of a head; None for ``width / num_heads``.

    Raises:
        ConfigError: ``size`` is None and ``num_heads`` does not divide ``width``; or ``num_kv_heads`` is below 1 or
            does not divide ``num_heads``.
    """
    if size is None and width % num_heads:
        expected = f"a divisor of model.hidden_size, which is {width}"
        raise ConfigError(format_error("model.num_heads", expected, num_heads))
    shared = num_heads if num_kv_heads is None else num_kv_heads
    if shared < 1 or num_heads % shared:
        expected = f"a divisor of model.num_heads, which is {num_heads}"
        raise ConfigError(format_error("model.num_kv_heads", expected, shared))
    return Heads(num_heads, shared, size or width // num_heads, dropout, scale)


def padding_mask(lengths: Tensor | None, width: int, device: torch.device) -> Tensor | None:
    """Return a mask of the keys that are not padding, bool (B, 1, 1, width), or None for no padding.

    Args:
        lengths: Steps of each sequence, int64 (B,) on the CPU; None for no padding.
    """
    return None if lengths is None else inside(lengths, width, device)[:, None, None, :]


def _causal(steps: int, total: int, device: torch.device, mask: Tensor | None) -> Tensor | None:
    """Combine `mask` with a causal mask; the queries are the last ``steps`` of ``total`` steps."""
    if steps == 1:
        return mask  # the last step attends to all steps
    earlier = torch.ones(steps, total, dtype=torch.bool, device=device).tril(total - steps)
    if mask is None:
        return earlier
    return mask & earlier if mask.dtype == torch.bool else mask.masked_fill(~earlier, -torch.inf)


def rotate(x: Tensor, start: int = 0, base: float = 10_000.0) -> Tensor:
    """Return queries or keys rotated by angles proportional to their positions (rotary position embedding).

    Feature ``i`` and feature ``i + size / 2`` of a head are rotated by the angle ``position / base ** (2 i / size)``,
    so that the dot product of a query and a key depends on the difference of their positions, not on each position.

    Shape: (B, heads, T, size) -> (B, heads, T, size), size even.
    Source: Su et al. 2021, "RoFormer", section 3.2.2.
    Differs: rotates pairs of features half a head apart, as GPT-NeoX and Llama do; in the paper, pairs of neighbors.
    """
    half = x.shape[-1] // 2
    exponents = torch.arange(half, device=x.device, dtype=torch.float32) / half
    positions = torch.arange(start, start + x.shape[2], device=x.device, dtype=torch.float32)
    angles = torch.outer(positions, base**-exponents)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x[..., :half], x[..., half:]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


class CrossAttention(nn.Module):
    """Attention of a target to a source; `read` computes the keys and values of the source once.

    Shape: (B, T, width) -> (B, T, width).
    """

    def __init__(self, width: int, heads: Heads, bias: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, heads.num_heads * heads.size, bias=bias)
        self.kv = nn.Linear(width, 2 * heads.num_kv_heads * heads.size, bias=bias)
        self.mix = nn.Linear(heads.num_heads * heads.size, width, bias=bias)

    def read(self, memory: Tensor) -> Projected:
        """Return keys and values of the encoder states (B, S, width)."""
        keys, values = self.heads.split(self.kv(memory))
        return {"keys": keys, "values": values}

    def forward(self, x: Tensor, source: Projected, mask: Tensor | None = None) -> Tensor:
        """Return the attention output.

        Args:
            source: Result of `read`.
            mask: Mask of the source; see `Heads.attend`.
        """
        queries = self.heads.split_one(self.query(x))
        return self.mix(self.heads.attend(queries, source["keys"], source["values"], mask, training=self.training))
