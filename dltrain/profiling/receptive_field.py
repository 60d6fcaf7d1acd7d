"""Receptive fields of tensors, tracked through the operations of a forward pass."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

# Per spatial axis: the number of inputs that one value depends on, and the distance between neighboring values, counted
# in inputs.
Field = tuple[tuple[int, int], ...]

aten = torch.ops.aten


class ReceptiveField:
    """Receptive fields of the outputs of convolutions, pooling and pointwise operations.

    All axes after batch and channels are spatial. Tracking starts at the first convolution. An operation without a rule
    is treated as pointwise if it keeps the spatial shape; otherwise, tracking ends. Inputs whose spatial shape
    differs from the output's, such as the gate of squeeze-and-excitation, are ignored.

    Source: Araujo, Norris, Sim 2019, "Computing receptive fields of convolutional neural networks", equation 2.
    """

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        self.fields: dict[int, Field] = {}
        self.padded: dict[int, Tensor] = {}
        # References keep these tensors alive, so that no later tensor gets the same id.
        self.held: list[Tensor] = list(inputs)

    def field(self, tensor: Tensor) -> tuple[int, ...] | None:
        """Return the number of inputs that one value of ``tensor`` depends on, per spatial axis; None if unknown."""
        found = self.fields.get(id(tensor))
        return None if found is None else tuple(size for size, _ in found)

    def update(self, func: Any, args: Sequence[Any], out: Any) -> None:
        """Record the receptive field of the output of one operation."""
        result = out[0] if isinstance(out, tuple | list) and out else out
        inputs = [leaf for leaf in tree_leaves(args) if isinstance(leaf, Tensor)]
        if not isinstance(result, Tensor) or not inputs:
            return
        kind = func._overloadpacket
        if not self.fields:
            self._start(kind, inputs[0], result)
        rule = RULES.get(kind)
        if rule is None:
            found = self._pointwise(inputs, result)
        else:
            field = self.fields.get(id(inputs[0]))
            found = None if field is None else rule(field, args)
        if found is not None and len(found) == result.dim() - 2:
            self._record(result, found)
        else:
            self.fields.pop(id(result), None)

    def _start(self, kind: Any, source: Tensor, result: Tensor) -> None:
        """Record a field of 1 for the input of the first convolution, and for the same input before padding."""
        if kind is aten.constant_pad_nd:
            self.padded[id(result)] = source
            self.held.append(result)
        elif kind is aten.convolution:
            single = ((1, 1),) * (source.dim() - 2)
            self._record(source, single)
            if id(source) in self.padded:
                self._record(self.padded[id(source)], single)

    def _record(self, tensor: Tensor, field: Field) -> None:
        self.fields[id(tensor)] = field
        self.held.append(tensor)

    def _pointwise(self, inputs: Sequence[Tensor], result: Tensor) -> Field | None:
        """Return the largest field of the inputs; None unless all inputs with the output's spatial shape have one."""
        spatial = result.shape[2:]
        fields = [self.fields.get(id(t)) for t in inputs if t.dim() == result.dim() and t.shape[2:] == spatial]
        known = [field for field in fields if field is not None]
        if not spatial or not known or len(known) < len(fields):
            return None
        return tuple(max(axis) for axis in zip(*known, strict=True))


def _windowed(field: Field, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> Field:
    axes = zip(field, kernel, stride, dilation, strict=True)
    return tuple((size + (k - 1) * d * jump, jump * s) for (size, jump), k, s, d in axes)


def _convolution(field: Field, args: Sequence[Any]) -> Field | None:
    weight, stride, dilation, transposed = args[1], args[3], args[5], args[6]
    axes = len(field)
    return None if transposed else _windowed(field, weight.shape[2:], _each(stride, axes), _each(dilation, axes))


def _pool(field: Field, args: Sequence[Any], dilation_at: int) -> Field:
    axes = len(field)
    kernel = _each(args[1], axes)
    stride = _each(args[2], axes) if len(args) > 2 and args[2] else kernel
    dilation = _each(args[dilation_at], axes) if 0 < dilation_at < len(args) else [1] * axes
    return _windowed(field, kernel, stride, dilation)


def _each(value: Any, axes: int) -> list[int]:
    values = [value] if isinstance(value, int) else list(value)
    return values * axes if len(values) == 1 else values


def _unsqueeze(field: Field, args: Sequence[Any]) -> Field | None:
    axis = args[1] % (args[0].dim() + 1) - 2
    return (*field[:axis], (1, 1), *field[axis:]) if axis >= 0 else None


def _squeeze(field: Field, args: Sequence[Any]) -> Field | None:
    axis = args[1] % args[0].dim() - 2
    return (*field[:axis], *field[axis + 1 :]) if axis >= 0 else None


RULES: dict[Any, Callable[[Field, Sequence[Any]], Field | None]] = {
    aten.convolution: _convolution,
    aten.max_pool2d_with_indices: lambda field, args: _pool(field, args, 4),
    aten.max_pool3d_with_indices: lambda field, args: _pool(field, args, 4),
    aten.avg_pool2d: lambda field, args: _pool(field, args, 0),
    aten.avg_pool3d: lambda field, args: _pool(field, args, 0),
    aten.constant_pad_nd: lambda field, args: field,
    aten.slice: lambda field, args: field if len(args) < 5 or args[4] == 1 else None,
    aten.unsqueeze: _unsqueeze,
    aten.squeeze: _squeeze,
}
