"""Plans divide the examples of a split into batches. All epochs of a plan have the same number of batches."""

import heapq
import itertools
import math
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Generator, Tensor

# Fraction of padding above which batches are divided. With the jitter of training, the fraction is usually at most 5%.
MAX_PADDING = 0.04
JITTER = 0.03  # maximum relative change of the widths in training, for data in which few examples have the same width


class Plan(Protocol):
    """Division of the examples of a split into batches.

    Attributes:
        contiguous: Whether each row of a batch continues the same row of the previous batch.
        reorders: Whether evaluation batches change the order of the examples; they then have the field ``position``,
            see `dltrain.data.loader.Batches`. Optional, by default false.
        multiple: `Ragged` rows of a batch are padded to a multiple of this number of steps. Optional, by default 1.
    """

    contiguous: ClassVar[bool]

    def __call__(self, examples: Tensor, batch_size: int, shuffle: Generator | None) -> list[Tensor]:
        """Return the examples of each batch of an epoch.

        Args:
            examples: Indices of all examples, int64 on the CPU.
            batch_size: Examples per batch.
            shuffle: Generator, seeded for the epoch; None for the fixed batches of evaluation.
        """


@dataclass(frozen=True)
class FixedSize:
    """Batches of ``batch_size`` examples, in random order in training; the last one of an epoch may be smaller.

    Args:
        multiple: Batches of rows of different lengths are padded to a multiple of this number of steps, at least 1.
    """

    contiguous: ClassVar[bool] = False

    multiple: int = 1

    def __call__(self, examples: Tensor, batch_size: int, shuffle: Generator | None) -> list[Tensor]:
        """Return the examples of each batch of an epoch."""
        order = examples if shuffle is None else examples[torch.randperm(len(examples), generator=shuffle)]
        return list(order.split(batch_size))


@dataclass(frozen=True, eq=False)
class ByLength:
    """Batches of examples of similar length, to reduce padding.

    Examples are sorted by padded width, the widest first, and cut into batches. Examples with two lengths are sorted by
    the first length and then, within strips of several batches, by the second length; with `max_tokens`, they are
    sorted by the larger length. A batch has ``batch_size`` examples, or as many as fit into `max_tokens`; an example of
    more steps is a batch by itself. Batches are then divided as in `divide_batches`.

    In training, the order of batches, and of examples with the same width, is random.

    Args:
        lengths: Number of steps of each example, int64 (N,), or of two fields of each example, (N, 2), on the CPU.
        max_tokens: Maximum steps of a field per batch, padding included, at least 1; None for batches of ``batch_size``
            examples.
        multiple: Batches are padded to a multiple of this number of steps, at least 1. 1 pads least; a larger number
            yields fewer different shapes and more varied batches of a small data set.
        jitter: In training, widths are multiplied by random factors from 1 - `jitter` to 1 + `jitter` before sorting,
            so that batches differ more between epochs. Unused with `max_tokens`.
    """

    contiguous: ClassVar[bool] = False
    reorders: ClassVar[bool] = True

    lengths: Tensor
    max_tokens: int | None = None
    multiple: int = 1
    jitter: float = 0.0

    def __call__(self, examples: Tensor, batch_size: int, shuffle: Generator | None) -> list[Tensor]:
        """Return the examples of each batch of an epoch.

        Without `shuffle`, each batch is sorted by index, and the batches are in the order of their first examples.
        """
        if shuffle is None:
            parts = self._divide(self._sort(examples, batch_size, None), batch_size)
            return sorted((part.sort().values for part in parts), key=lambda part: int(part[0]))
        other = torch.Generator().manual_seed(0)  # a fixed order, which determines the number of batches of all epochs
        count = len(self._divide(self._sort(examples, batch_size, other), batch_size))
        batches = self._divide(self._sort(examples, batch_size, shuffle), batch_size, count)
        return [batches[number] for number in torch.randperm(count, generator=shuffle).tolist()]

    def _widths(self, examples: Tensor) -> Tensor:
        """Return the padded width of each field of each example in units of `multiple` steps, int64 (N, fields)."""
        lengths = self.lengths[examples].view(len(examples), -1).clamp(min=1)
        return (lengths + self.multiple - 1) // self.multiple

    def _sort(self, examples: Tensor, batch_size: int, shuffle: Generator | None) -> Tensor:
        """Return the examples in the order in which they are cut into batches, randomized by `shuffle`."""
        if shuffle is not None:
            examples = examples[torch.randperm(len(examples), generator=shuffle)]
        widths = self._widths(examples)
        if self.max_tokens is not None:
            return examples[_order(widths.amax(1), True)]
        if shuffle is not None and self.jitter:
            factors = 2 * torch.rand(widths.shape, generator=shuffle, dtype=torch.float64) - 1
            widths = widths * (1 + self.jitter * factors)
        order = _order(widths[:, 0], True)
        if widths.shape[1] > 1 and len(examples):
            # There are about as many strips as batches in a strip.
            # Alternating directions keep neighboring batches similar.
            size = batch_size * max(1, round((len(examples) / batch_size) ** 0.5))
            strips = enumerate(order.split(size))
            order = torch.cat([strip[_order(widths[strip, 1], number % 2 == 0)] for number, strip in strips])
        return examples[order]

    def _divide(self, order: Tensor, batch_size: int, count: int | None = None) -> list[Tensor]:
        """Return the batches of sorted examples, `count` batches if it is given."""
        widths = self._widths(order)
        sizes, fitting = list[int](), None
        if self.max_tokens is not None:  # the first example of a batch is the widest
            fitting = (self.max_tokens // (widths.amax(1) * self.multiple)).clamp(min=1).tolist()
        start, end = 0, len(order)
        while start < end:
            sizes.append(min(batch_size if fitting is None else fitting[start], end - start))
            start += sizes[-1]
        return list(order.split(divide_batches(widths, sizes, count)))


def divide_batches(widths: Tensor, sizes: list[int], count: int | None = None) -> list[int]:
    """Return the sizes of batches after the divisions that remove the most padding.

    The divisions end when the fraction of padding is at most `MAX_PADDING`, or when no division removes padding.

    Args:
        widths: Width of each field of each example, (N, fields).
        sizes: Number of examples of each batch, N in total.
        count: Number of batches at which the divisions end instead, from ``len(sizes)`` to N.
    """
    if not sizes or count == len(sizes):
        return sizes
    largest = torch.segment_reduce(widths.double(), "max", lengths=torch.tensor(sizes), axis=0).sum(1)
    padded, limit = float(largest @ torch.tensor(sizes).double()), int(widths.sum()) / (1 - MAX_PADDING)
    if count is None and padded <= limit:
        return sizes
    ends = list(itertools.accumulate(sizes))
    batches = [_best_division(widths, end - size, end) for size, end in zip(sizes, ends, strict=True)]
    heapq.heapify(batches)
    while (padded > limit and batches[0][0] < 0) if count is None else len(batches) < count:
        change, start, middle, end = heapq.heappop(batches)
        padded += change
        for part in ((start, middle), (middle, end)):
            heapq.heappush(batches, _best_division(widths, *part))
    return [end - start for _, start, _, end in sorted(batches, key=lambda batch: batch[1])]


def _order(values: Tensor, descending: bool) -> Tensor:
    """Return the indices that sort `values`; equal values keep their order."""
    return values.sort(stable=True, descending=descending).indices


def _best_division(widths: Tensor, start: int, end: int) -> tuple[float, int, int, int]:
    """Return (change in padded steps, start, middle, end) of the best division of a batch into two.

    The change is infinite if the batch has only one example.
    """
    if end - start < 2:
        return math.inf, start, start, end
    part, counts = widths[start:end].double(), torch.arange(1, end - start)
    first = part.cummax(0).values.sum(1)
    second = part.flip(0).cummax(0).values.flip(0).sum(1)
    changes = counts * first[:-1] + counts.flip(0) * second[1:] - len(part) * first[-1]
    best = int(changes.argmin())
    return float(changes[best]), start, start + best + 1, end


@dataclass(frozen=True)
class Streams:
    """Contiguous streams: row `s` of each batch continues row `s` of the previous batch.

    The examples, windows of a text in their order, are divided into at most ``batch_size`` streams of equal length. If
    the number of windows is not divisible by the number of streams, the first streams are one window longer, and the
    last batch has only windows of these streams. The order is never shuffled. The batch field ``continues`` (bool (B,),
    on the CPU) is false in the first batch of an epoch and true in all later ones.

    Args:
        max_streams: Maximum number of streams, at least 1; None for ``batch_size``.
    """

    contiguous: ClassVar[bool] = True

    max_streams: int | None = None

    def __call__(self, examples: Tensor, batch_size: int, shuffle: Generator | None) -> list[Tensor]:
        """Return the examples of each batch of an epoch."""
        streams = min(batch_size, len(examples), self.max_streams or batch_size)
        length, longer = divmod(len(examples), max(1, streams))
        rows = torch.arange(streams)
        starts = rows * length + rows.clamp(max=longer)
        batches = [examples[starts + step] for step in range(length)]
        return [*batches, examples[starts[:longer] + length]] if longer else batches
