"""Plans divide the examples of a split into batches. All epochs of a plan have the same number of batches."""

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Generator, Tensor

from dltrain.data.ragged import WIDTH_MULTIPLE


class Plan(Protocol):
    """Division of the examples of a split into batches.

    Args:
        contiguous: Whether each row of a batch continues the same row of the previous batch.
        multiple: `Ragged` rows of a batch are padded to a multiple of this number of steps. Optional, by default
            `dltrain.data.ragged.WIDTH_MULTIPLE`.
    """

    contiguous: ClassVar[bool]

    def __call__(self, examples: Tensor, batch_size: int, shuffle: Generator | None) -> list[Tensor]:
        """Return the examples of each batch of an epoch.

        Args:
            examples: Indices of all examples, int64 on the CPU.
            batch_size: Examples per batch.
            shuffle: Generator, seeded for the epoch; None for the fixed batches of evaluation.
        """


class FixedSize:
    """Batches of ``batch_size`` examples, in random order in training; the last one of an epoch may be smaller."""

    contiguous: ClassVar[bool] = False

    def __call__(self, examples: Tensor, batch_size: int, shuffle: Generator | None) -> list[Tensor]:
        """Return the examples of each batch of an epoch."""
        order = examples if shuffle is None else examples[torch.randperm(len(examples), generator=shuffle)]
        return list(order.split(batch_size))


@dataclass(frozen=True, eq=False)
class ByLength:
    """Batches of examples of similar length, in random order, to reduce padding.

    Examples are sorted by padded width, with ties in random order, and cut into batches. A batch has
    ``batch_size`` examples, or as many as fit into `max_tokens`; an example longer than that is a
    batch of its own.

    Args:
        lengths: Steps of each example of the split, int64 on the CPU.
        max_tokens: Maximum steps per batch, including padding, at least 1; None for batches of ``batch_size`` examples.
        multiple: Batches are padded to a multiple of this number of steps, at least 1. 1 pads least; a larger number
            yields fewer different shapes and more varied batches of a small data set.
        fields: Lengths of several fields, int64 (N, fields), to sort by the first one and then by the others, unless
            there is a `max_tokens`; None to sort by `lengths`.
    """

    contiguous: ClassVar[bool] = False

    lengths: Tensor
    max_tokens: int | None = None
    multiple: int = WIDTH_MULTIPLE
    fields: Tensor | None = None

    def __call__(self, examples: Tensor, batch_size: int, shuffle: Generator | None) -> list[Tensor]:
        """Return the examples of each batch of an epoch; without `shuffle` the longest examples come first."""
        if shuffle is not None:
            examples = examples[torch.randperm(len(examples), generator=shuffle)]
        if self.max_tokens is None and self.fields is not None:
            for field in reversed(self.fields.unbind(1)):
                examples = self._sort(examples, field)
        else:
            examples = self._sort(examples, self.lengths)
        sizes = (
            batch_size if self.max_tokens is None else self._cut(self._widths(examples, self.lengths), self.max_tokens)
        )
        batches = list(examples.split(sizes))
        if shuffle is None:
            return batches
        return [batches[number] for number in torch.randperm(len(batches), generator=shuffle).tolist()]

    def _widths(self, examples: Tensor, lengths: Tensor) -> Tensor:
        return (lengths[examples].clamp(min=1) + self.multiple - 1) // self.multiple

    def _sort(self, examples: Tensor, lengths: Tensor) -> Tensor:
        """Return the examples, the widest first; those of the same width keep their order."""
        return examples[self._widths(examples, lengths).sort(stable=True, descending=True).indices]

    def _cut(self, widths: Tensor, max_tokens: int) -> list[int]:
        """Return the size of each batch, whose first example is the widest and determines the padding."""
        fitting = (max_tokens // (widths * self.multiple)).clamp(min=1).tolist()
        sizes, start = [], 0
        while start < len(fitting):
            sizes.append(min(fitting[start], len(fitting) - start))
            start += sizes[-1]
        return sizes


@dataclass(frozen=True)
class Streams:
    """Contiguous streams: row `s` of each batch continues row `s` of the previous batch.

    The examples, windows of a text in their order, are divided into ``batch_size`` streams of equal length. If they do
    not divide evenly, the first streams are one window longer, and the last batch has only these. The order is never
    shuffled. The batch field ``continues`` (bool (B,), on the CPU) is false in the first batch of an epoch and true in
    all later ones.

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
