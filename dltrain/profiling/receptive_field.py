"""Receptive fields, followed through the operations of a forward pass."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

# Per spatial axis: how many inputs one value depends on, and how many inputs apart two neighbours are.
Field = tuple[tuple[int, int], ...]

aten = torch.ops.aten


class Reach:
    """The field of every tensor that still has one: what convolutions, pooling and pointwise operations make of it.

    The axes behind batch and channels are the spatial ones. The first convolution starts the count; an operation
    that mixes or reorders places ends it. Only places count: a gate made from the whole picture is not seen.

    Args:
        inputs: What the model is called with.

    Source: Araujo, Norris, Sim 2019, "Computing receptive fields of convolutional neural networks", equation 2.
    """

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        self.fields: dict[int, Field] = {}
        self.padded: dict[int, Tensor] = {}
        # Tensors are held, so that no later one takes the same identity.
        self.held: list[Tensor] = list(inputs)

    def field(self, tensor: Tensor) -> tuple[int, ...] | None:
        """Inputs that one value of ``tensor`` depends on, per spatial axis."""
        found = self.fields.get(id(tensor))
        return None if found is None else tuple(size for size, _ in found)

    def follow(self, func: Any, args: Sequence[Any], out: Any) -> None:
        """Note the field of what one operation returns."""
        result = out[0] if isinstance(out, tuple | list) and out else out
        inputs = _tensors(args)
        if not isinstance(result, Tensor) or not inputs:
            return
        kind = func._overloadpacket
        if not self.fields:
            self._begin(kind, inputs[0], result)
        rule = RULES.get(kind)
        if rule is None:
            found = self._pointwise(inputs, result)
        else:
            field = self.fields.get(id(inputs[0]))
            found = None if field is None else rule(field, args)
        if found is not None and len(found) == result.dim() - 2:
            self._note(result, found)
        else:
            self.fields.pop(id(result), None)

    def _begin(self, kind: Any, given: Tensor, result: Tensor) -> None:
        """The first convolution's input has the field of a single place, and so has what was padded to make it."""
        if kind is aten.constant_pad_nd:
            self.padded[id(result)] = given
            self.held.append(result)
        elif kind is aten.convolution:
            single = ((1, 1),) * (given.dim() - 2)
            self._note(given, single)
            if id(given) in self.padded:
                self._note(self.padded[id(given)], single)

    def _note(self, tensor: Tensor, field: Field) -> None:
        self.fields[id(tensor)] = field
        self.held.append(tensor)

    def _pointwise(self, inputs: Sequence[Tensor], result: Tensor) -> Field | None:
        """The widest of the inputs, if all that have the result's places have a field."""
        places = result.shape[2:]
        fields = [self.fields.get(id(t)) for t in inputs if t.dim() == result.dim() and t.shape[2:] == places]
        known = [field for field in fields if field is not None]
        if not places or not known or len(known) < len(fields):
            return None
        return tuple(max(axis) for axis in zip(*known, strict=True))


def _tensors(args: Sequence[Any]) -> list[Tensor]:
    """The tensors among the arguments, those in lists included (``cat``)."""
    flat = [item for arg in args for item in (arg if isinstance(arg, tuple | list) else [arg])]
    return [item for item in flat if isinstance(item, Tensor)]


def _windowed(field: Field, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> Field:
    axes = zip(field, kernel, stride, dilation, strict=True)
    return tuple((size + (k - 1) * d * jump, jump * s) for (size, jump), k, s, d in axes)


def _convolution(field: Field, args: Sequence[Any]) -> Field | None:
    weight, stride, dilation, transposed = args[1], args[3], args[5], args[6]
    axes = len(field)
    if transposed:
        return None
    return _windowed(field, weight.shape[2:], _each(stride, axes), _each(dilation, axes))


def _pool(field: Field, args: Sequence[Any], dilation_at: int) -> Field:
    axes = len(field)
    kernel = _each(args[1], axes)
    stride = _each(args[2], axes) if len(args) > 2 and args[2] else kernel
    dilation = _each(args[dilation_at], axes) if 0 < dilation_at < len(args) else [1] * axes
    return _windowed(field, kernel, stride, dilation)


def _each(value: Any, axes: int) -> list[int]:
    values = [value] if isinstance(value, int) else list(value)
    return values * axes if len(values) == 1 else values


def _cut(field: Field, args: Sequence[Any]) -> Field | None:
    return field if len(args) < 5 or args[4] == 1 else None


def _unsqueeze(field: Field, args: Sequence[Any]) -> Field | None:
    place = args[1] % (args[0].dim() + 1) - 2
    return (*field[:place], (1, 1), *field[place:]) if place >= 0 else None


def _squeeze(field: Field, args: Sequence[Any]) -> Field | None:
    place = args[1] % args[0].dim() - 2
    return (*field[:place], *field[place + 1 :]) if place >= 0 else None


def _same(field: Field, args: Sequence[Any]) -> Field:
    return field


RULES: dict[Any, Callable[[Field, Sequence[Any]], Field | None]] = {
    aten.convolution: _convolution,
    aten.max_pool2d_with_indices: lambda field, args: _pool(field, args, 4),
    aten.max_pool3d_with_indices: lambda field, args: _pool(field, args, 4),
    aten.avg_pool2d: lambda field, args: _pool(field, args, 0),
    aten.avg_pool3d: lambda field, args: _pool(field, args, 0),
    aten.constant_pad_nd: _same,
    aten.slice: _cut,
    aten.unsqueeze: _unsqueeze,
    aten.squeeze: _squeeze,
}
