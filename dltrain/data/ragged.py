"""Rows of different lengths, padded one batch at a time."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from dltrain.errors import ConfigError, format_error

WIDTH_MULTIPLE = 8  # the maximum width that a model expects for `Ragged` rows is a multiple of this
# Values of data.pad_multiple; each divides WIDTH_MULTIPLE. Above 1, batches have fewer different shapes, so
# that torch.compile generates code less often.
PAD_MULTIPLES = (1, 2, 4, 8)


@dataclass(frozen=True, eq=False)
class Ragged:
    """Rows of different lengths as one field of `Source.rows`.

    A field ``tokens`` becomes two fields of a batch: ``tokens`` (B, width, ...), padded on the device, and
    ``tokens_lengths`` (B,), int64 and always on the CPU, where packed sequences need them.

    Args:
        values: All rows, one after the other, (steps, ...).
        lengths: Number of steps of each row, int64 (rows,), on the CPU; 0 is allowed.
        pad: Value of the steps after the end of a row.
    """

    values: Tensor
    lengths: Tensor
    pad: float = 0

    def __len__(self) -> int:
        return len(self.lengths)

    @cached_property
    def starts(self) -> Tensor:
        """First step of each row in `values`."""
        return self.lengths.cumsum(0) - self.lengths

    def __getitem__(self, rows: Tensor) -> "Ragged":
        """Return the rows with these indices (int64, on the CPU), in this order."""
        lengths = self.lengths[rows]
        shift = (self.starts[rows] - (lengths.cumsum(0) - lengths)).repeat_interleave(lengths)
        return Ragged(self.values[shift + torch.arange(len(shift))], lengths, self.pad)


class Padding:
    """Rows of a `Ragged` on a device, gathered and padded a batch at a time without waiting for the device."""

    def __init__(self, rows: Ragged, device: torch.device, multiple: int = 1) -> None:
        self.lengths, self.multiple = rows.lengths, multiple
        count, steps = len(rows), torch.arange(len(rows.values))
        # Each row is followed by one padding value, which is read for all steps after the row's end.
        values = rows.values.new_full((len(steps) + count, *rows.values.shape[1:]), rows.pad)
        values[steps + torch.arange(count).repeat_interleave(rows.lengths)] = rows.values
        starts = rows.starts + torch.arange(count)
        self.values, self.starts, self.ends = (part.to(device) for part in (values, starts, starts + rows.lengths))
        self.steps = torch.arange(padded_width(rows.lengths, multiple), device=device)

    def gather(self, indices: Tensor, on_device: Tensor) -> tuple[Tensor, Tensor]:
        """Return the padded rows (B, width, ...) on the device and their lengths (B,) on the CPU.

        Args:
            indices: Indices of the rows, on the CPU.
            on_device: The same indices on the device.
        """
        lengths = self.lengths.index_select(0, indices)
        starts, ends = (part.index_select(0, on_device).unsqueeze(1) for part in (self.starts, self.ends))
        steps = torch.minimum(starts + self.steps[: padded_width(lengths, self.multiple)], ends)
        return self.values.index_select(0, steps.view(-1)).view(*steps.shape, *self.values.shape[1:]), lengths


def check_multiple(multiple: int) -> int:
    """Return ``multiple`` if it is one of `PAD_MULTIPLES`."""
    if multiple not in PAD_MULTIPLES:
        raise ConfigError(format_error("data.pad_multiple", "1, 2, 4 or 8", multiple))
    return multiple


def padded_width(lengths: Tensor, multiple: int = 1) -> int:
    """Return the width to which rows of these lengths are padded, a multiple of ``multiple``."""
    longest = int(lengths.max()) if len(lengths) else 0
    return -(-max(1, longest) // multiple) * multiple


def largest_width(length: int) -> int:
    """Return the largest width of a batch whose rows have at most this length, for any of `PAD_MULTIPLES`."""
    return padded_width(torch.tensor([length]), WIDTH_MULTIPLE)


def padding_share(fields: Iterable[Padding], batches: list[Tensor]) -> float:
    """Return the fraction of the values of all batches that are padding.

    Args:
        batches: Indices of the rows of each batch.
    """
    rows, sizes, own, all_steps = torch.cat(batches), torch.tensor([len(part) for part in batches]), 0, 0
    for field in fields:
        lengths, numbers = field.lengths[rows], field.values[0].numel()
        longest = torch.segment_reduce(lengths.double(), "max", lengths=sizes).long().clamp(min=1)
        widths = (longest + field.multiple - 1) // field.multiple * field.multiple
        own += numbers * int(lengths.sum())
        all_steps += numbers * int((sizes * widths).sum())
    return 1 - own / max(1, all_steps)
