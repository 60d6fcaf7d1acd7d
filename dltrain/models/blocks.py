"""The transformer block: self-attention, optional cross-attention and a feed-forward network."""

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from dltrain.errors import ConfigError, choose, format_error
from dltrain.models.attention import CrossAttention, Projected, make_heads, rotate
from dltrain.models.kv_cache import append_steps
from dltrain.models.layers import activation

STATE_NORMS: Mapping[str, Callable[[int, float, bool], nn.Module]] = {
    "layer": lambda width, eps, bias: nn.LayerNorm(width, eps, bias=bias),
    "rms": lambda width, eps, bias: nn.RMSNorm(width, eps),
}


class StepBatchNorm(nn.BatchNorm1d):
    """Batch norm of states (B, T, width) over examples and steps."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalized states."""
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


def state_norm(name: str, width: int, eps: float = 1e-5, bias: bool = True) -> nn.Module:
    """Return the normalization layer `name` (``layer`` or ``rms``) for states (B, T, width).

    Source: Ba, Kiros and Hinton 2016 (layer); Zhang and Sennrich 2019 (rms, without a mean and a bias).
    """
    return choose("model.norm", name, STATE_NORMS)(width, eps, bias)


class Block(nn.Module):
    """Self-attention, cross-attention (if ``cross``) and a feed-forward network, each with a residual connection.

    Args:
        num_heads: Number of attention heads; divides ``width`` unless ``head_size`` is set.
        ffn_size: Width of the feed-forward layer.
        activation_name: Activation function of the feed-forward layer.
        gated: Whether the activated layer is multiplied by a second, linear layer; with ``silu`` this is SwiGLU.
        pre_norm: Whether norms precede attention and feed-forward network (Radford et al. 2019) or follow the residual
            sums (Vaswani et al. 2017).
        norm: ``layer``, ``rms``, or a function that returns a normalization layer for a width.
        eps: Constant that ``layer`` adds to the variance and ``rms`` to the mean square.
        num_kv_heads, head_size: See `make_heads`.
        scale: Factor of the attention scores; None for ``1 / sqrt(head_size)``.
        rotary: Whether to rotate queries and keys by their positions; see `rotate`.
        causal: Whether steps attend only to themselves and earlier steps.
        bias: Whether linear layers and layer norms have biases.

    Raises:
        ConfigError: See `make_heads`; or ``rotary`` is true and heads have an odd number of features; or the name of
            the norm or activation is unknown.

    Shape: (B, T, width) -> (B, T, width).
    Source: Vaswani et al. 2017, section 3; gated layers, Shazeer 2020, section 2.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        ffn_size: int,
        activation_name: str = "gelu",
        dropout: float = 0.0,
        causal: bool = False,
        bias: bool = True,
        pre_norm: bool = True,
        norm: str | Callable[[int], nn.Module] = "layer",
        eps: float = 1e-5,
        gated: bool = False,
        num_kv_heads: int | None = None,
        head_size: int | None = None,
        scale: float | None = None,
        rotary: bool = False,
        cross: bool = False,
    ) -> None:
        super().__init__()
        self.heads = heads = make_heads(width, num_heads, num_kv_heads, head_size, dropout, scale)
        if rotary and heads.size % 2:
            expected = f"a divisor of {width} with an even number of features per head"
            raise ConfigError(format_error("model.num_heads", expected, num_heads))
        self.causal, self.pre_norm, self.rotary = causal, pre_norm, rotary
        # The order of the layers determines initial weights and the order of optimizer states in checkpoints.
        build = norm if callable(norm) else lambda width: state_norm(norm, width, eps, bias)
        self.norm1 = build(width)
        self.qkv = nn.Linear(width, (heads.num_heads + 2 * heads.num_kv_heads) * heads.size, bias=bias)
        self.mix = nn.Linear(heads.num_heads * heads.size, width, bias=bias)
        self.norm_cross = build(width) if cross else None
        self.cross = CrossAttention(width, heads, bias) if cross else None
        self.norm2 = build(width)
        self.up = nn.Linear(width, ffn_size, bias=bias)
        self.gate = nn.Linear(width, ffn_size, bias=bias) if gated else None
        self.activation = activation(activation_name)
        self.down = nn.Linear(ffn_size, width, bias=bias)
        self.drop = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        source: Projected | None = None,
        source_mask: Tensor | None = None,
    ) -> Tensor:
        """Return the output of the block.

        Args:
            mask: Mask of self-attention; see `Heads.attend`. Causal attention needs no mask for padding at the end,
                because no earlier step attends to it.
            source: Keys and values of the source, computed by ``cross.read``.
            source_mask: Mask of the cross-attention.
        """
        return self._run(x, None, mask, source, source_mask)[0]

    def extend(
        self,
        x: Tensor,
        cache: Projected,
        mask: Tensor | None = None,
        source: Projected | None = None,
        source_mask: Tensor | None = None,
    ) -> tuple[Tensor, Projected]:
        """Return the output for new steps, and the cache extended by them.

        Args:
            cache: Keys and values of the previous steps, (B, num_kv_heads, steps, size); ``steps`` may be 0.
        """
        return self._run(x, cache, mask, source, source_mask)

    def empty_cache(self, batch_size: int) -> Projected:
        """Return the cache before the first step."""
        empty = self.qkv.weight.new_empty(batch_size, self.heads.num_kv_heads, 0, self.heads.size)
        return {"keys": empty, "values": empty}

    def _run(
        self,
        x: Tensor,
        cache: Projected | None,
        mask: Tensor | None,
        source: Projected | None,
        source_mask: Tensor | None,
    ) -> tuple[Tensor, Projected]:
        queries, keys, values = self.heads.split(self.qkv(self._before(self.norm1, x)))
        start = 0 if cache is None else cache["keys"].shape[2]
        if self.rotary:
            queries, keys = rotate(queries, start), rotate(keys, start)
        if cache is not None and start > 0:
            keys, values = append_steps(cache["keys"], keys), append_steps(cache["values"], values)
        y = self.mix(self.heads.attend(queries, keys, values, mask, self.causal, self.training))
        x = self._add(self.norm1, x, y)
        if self.cross is not None and self.norm_cross is not None and source is not None:
            y = self.cross(self._before(self.norm_cross, x), source, source_mask)
            x = self._add(self.norm_cross, x, y)
        x = self._add(self.norm2, x, self._feed_forward(self._before(self.norm2, x)))
        return x, {"keys": keys, "values": values}

    def _feed_forward(self, x: Tensor) -> Tensor:
        y = self.activation(self.up(x))
        return self.down(y if self.gate is None else y * self.gate(x))

    def _before(self, norm: nn.Module, x: Tensor) -> Tensor:
        """Return the input of a branch."""
        return norm(x) if self.pre_norm else x

    def _add(self, norm: nn.Module, x: Tensor, branch: Tensor) -> Tensor:
        """Return the states after a branch."""
        x = x + (self.drop(branch) if self.drop.training else branch)
        return x if self.pre_norm else norm(x)
