"""Batches of a split on the device.

The plan of an epoch, which assigns examples to batches, depends on (seed, epoch), and the randomness of an example is
keyed by (seed, epoch, index). The bytes of a batch therefore depend neither on the number of workers nor on where in an
epoch a run resumes.

Four operations are random, each with its own keys: decoding an example, `augment`, the task's `corrupt`, and `blend`,
which combines the examples of a batch. Only `corrupt` is also random outside training; its key then depends on the
index alone.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property

import torch
from torch import Tensor

from dltrain.data.bad_samples import BadSamples
from dltrain.data.plans import FixedSize
from dltrain.data.ragged import Padding, Ragged, padded_width, padding_share
from dltrain.data.selection import Selection
from dltrain.data.spec import Field, Source
from dltrain.data.splits import permutation
from dltrain.data.worker_pool import TIMEOUT_S, WorkerLoader, leave_cores
from dltrain.errors import ConfigError, format_error
from dltrain.keyed_random import key, mix

Batch = dict[str, Tensor]

# Rows are gathered and prepared for many batches at once; a training step only slices. 8 MiB fit into the cache.
CHUNK_BYTES = 8 * 2**20

LAYOUTS = {4: torch.channels_last, 5: torch.channels_last_3d}  # by the number of axes: images, clips

DECODE, BLEND, CORRUPT = 1, 2, 3  # hashed into the keys of these operations; keys of `augment` have no such number


class Batches:
    """The batches of one split.

    Outside training, if the plan does not keep the order of the examples, a batch has the field ``position``, int64
    (B,), on the CPU: the position of each example among the evaluated examples.

    Args:
        source: The split.
        batch_size: Examples per batch, at least 1; unused if the plan limits the tokens per batch instead.
        device: Device of the batches.
        seed: Seed of the order of the examples and of all random operations.
        training: Whether to shuffle and augment the examples.
        sample: Maximum number of examples, at least 1: a fixed random sample, or the first ones if each batch
            continues the previous one, as in `Streams`. None reads all.
        workers: Processes that decode `Files`, at least 0; unused for tensors.
        channels_last: Convert images to the memory format ``channels_last``, and clips to ``channels_last_3d``.
        corrupt: Function ``corrupt(batch, keys)`` that changes each prepared example at random, also outside training.
        bad: Policy for unreadable examples, shared by all splits of a run. None stops at the first one.
        timeout: Seconds without a batch after which workers count as hanging.
    """

    def __init__(
        self,
        source: Source,
        batch_size: int,
        device: torch.device | str = "cpu",
        seed: int = 0,
        training: bool = False,
        sample: int | None = None,
        workers: int = 0,
        channels_last: bool = False,
        corrupt: Callable[[Batch, Tensor], Batch] | None = None,
        bad: BadSamples | None = None,
        timeout: float = TIMEOUT_S,
    ) -> None:
        self.device = torch.device(device)
        self.bad = bad or BadSamples()
        self._divide = source.plan or FixedSize()
        self._reorders = not training and getattr(self._divide, "reorders", False)
        self._multiple = getattr(self._divide, "multiple", 1)
        count = len(source)
        scattered = sample is not None and not self._divide.contiguous
        self._indices = permutation(count)[:sample].sort().values if scattered else torch.arange(count)[:sample]
        self.examples = len(self._indices)
        self.batch_size = batch_size
        self.seed = seed
        self.training = training
        self.channels_last = channels_last
        self.prepare = source.prepare.to(self.device).eval()
        self.augment = source.augment.to(self.device) if training and source.augment is not None else None
        self.blend = source.blend.to(self.device) if training and source.blend is not None else None
        self.corrupt = corrupt
        self._loader = (
            TensorLoader(source.rows, batch_size, self.device, self._multiple)
            if isinstance(source.rows, Mapping)
            else WorkerLoader(source.rows, self.device, workers, timeout, self.bad)
        )

    @cached_property
    def sizes(self) -> list[int]:
        """Number of examples in each batch of epoch 0, including unreadable ones; other epochs may have other sizes."""
        return [len(part) for part in self.plan(0)]

    def __len__(self) -> int:
        return len(self.sizes)

    def __iter__(self) -> Iterator[Batch]:
        """Yield the non-empty batches of epoch 0.

        Raises:
            ConfigError: No example can be read.
        """
        empty = True
        for batch in filter(None, self.epoch(0)):
            empty = False
            yield batch
        if empty:
            got = f"{self.examples} unreadable examples"
            raise ConfigError(format_error("data.path", "at least one readable example in each split", got))

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch from batch number ``start`` on, without decoding the earlier ones.

        Unreadable examples are left out of their batch. A batch without any readable example is ``{}``, so
        that batch numbers stay the same when a run resumes.
        """
        decoding = key(self.seed, epoch, DECODE) if self.training else None
        for first, indices, rows, sizes in self._loader.chunks(self.plan(epoch), start, decoding):
            if not rows:
                yield {}
                continue
            # With a single example, torch may split a sum across threads, so the number of threads affects rounding.
            # A single example therefore uses all threads, whatever the number of workers.
            workers = (self.decoders or 0) if len(indices) > 1 and self.device.type == "cpu" else 0
            with torch.no_grad(), leave_cores(workers):
                batch = self._prepare(rows, indices, epoch)
            if self._reorders:
                batch["position"] = torch.searchsorted(self._indices, indices.cpu())
            parts = [value.split(sizes) for value in batch.values()]
            skip = max(0, start - first)
            divided = [dict(zip(batch, values, strict=True)) for values in zip(*parts, strict=True)][skip:]
            if self.blend is None and not self._divide.contiguous:
                yield from divided
                continue
            for number, (part, drawn) in enumerate(
                zip(divided, indices.split(sizes)[skip:], strict=True), first + skip
            ):
                yield self._finish(part, number, drawn, epoch)

    def plan(self, epoch: int) -> list[Tensor]:
        """Return the example indices (int64, on the CPU) of each batch; all epochs have the same number of batches."""
        shuffle = torch.Generator().manual_seed(key(self.seed, epoch)) if self.training else None
        return self._divide(self._indices, self.batch_size, shuffle)

    @property
    def lengths(self) -> Tensor | None:
        """Steps of each example of the split in its first `Ragged` field; None without such fields."""
        return self._loader.lengths if isinstance(self._loader, TensorLoader) else None

    @property
    def padding(self) -> float | None:
        """Fraction of the values of `Ragged` fields in epoch 0 that are padding; None without such fields."""
        fields = self._loader.ragged.values() if isinstance(self._loader, TensorLoader) else ()
        return padding_share(fields, self.plan(0)) if fields else None

    @property
    def decoders(self) -> int | None:
        """Number of worker processes that decode examples; 0 to decode in this process, None if nothing is decoded."""
        return None if isinstance(self._loader, TensorLoader) else self._loader.loader.num_workers

    def widest(self) -> Batch:
        """Return the batch of epoch 0 that needs the most memory for attention: batch size times squared width.

        Without `lengths`, return the first batch.
        """
        if self.lengths is None:
            return next(iter(self))
        areas = [len(part) * padded_width(self.lengths[part], self._multiple) ** 2 for part in self.plan(0)]
        return next(self.epoch(0, areas.index(max(areas))))

    def close(self) -> None:
        """End the worker processes and release the data."""
        if isinstance(self._loader, WorkerLoader):
            self._loader.close()
        del self._loader

    def _prepare(self, rows: Batch, indices: Tensor, epoch: int) -> Batch:
        batch: Batch = self.prepare(rows)
        if self.augment is not None:
            batch = self.augment(batch, self._keys(indices, key(self.seed, epoch)))
        if self.corrupt is not None:
            parts = (self.seed, epoch, CORRUPT) if self.training else (CORRUPT,)
            batch = self.corrupt(batch, self._keys(indices, key(*parts)))
        if self.channels_last and batch["inputs"].dim() in LAYOUTS:
            batch["inputs"] = batch["inputs"].contiguous(memory_format=LAYOUTS[batch["inputs"].dim()])
        return batch

    def _finish(self, batch: Batch, number: int, indices: Tensor, epoch: int) -> Batch:
        """Add the field ``continues`` if the plan is contiguous, and apply the blend, if any."""
        if self._divide.contiguous:
            batch["continues"] = torch.full((len(batch["inputs"]),), number > 0)
        if self.blend is None:
            return batch
        with torch.no_grad():
            return self.blend(batch, self._keys(indices, key(self.seed, epoch, BLEND)))

    def _keys(self, indices: Tensor, base: int) -> Tensor:
        return mix(indices.to(self.device) + base)


class TensorLoader:
    """Rows of tensors on the device, gathered in chunks of several batches, or of one batch if a field is `Ragged`.

    Chunk boundaries do not depend on ``start``: vectorized arithmetic may round a row differently next to other rows,
    and a resumed run must see the same bytes.
    """

    def __init__(self, rows: Mapping[str, Field], batch_size: int, device: torch.device, multiple: int = 1) -> None:
        self.rows = {name: _to_device(value, device) for name, value in rows.items() if not isinstance(value, Ragged)}
        ragged = {name: value for name, value in rows.items() if isinstance(value, Ragged)}
        self.ragged = {name: Padding(value, device, multiple) for name, value in ragged.items()}
        self.device = device
        row_bytes = sum(value[:1].numel() * value[:1].element_size() for value in self.rows.values())
        # Preparing a row enlarges it (a byte becomes a float32), so count each byte four times.
        self.batches = 1 if self.ragged else max(1, CHUNK_BYTES // max(1, 4 * row_bytes * batch_size))

    @property
    def lengths(self) -> Tensor | None:
        """Steps of each row in the first `Ragged` field; None without such fields."""
        return next((padding.lengths for padding in self.ragged.values()), None)

    def chunks(self, plan: list[Tensor], start: int, key: int | None) -> Iterator[tuple[int, Tensor, Batch, list[int]]]:
        """Yield (first batch number, indices, rows, batch sizes) of each chunk, from the chunk of batch ``start`` on.

        Nothing is decoded, so ``key`` is unused.
        """
        first = start // self.batches * self.batches
        order = torch.cat(plan[first:]) if plan[first:] else torch.empty(0, dtype=torch.int64)
        moved, begin = order.to(self.device), 0  # one copy per epoch, because each copy may wait for the device
        for number in range(first, len(plan), self.batches):
            sizes = [part.shape[0] for part in plan[number : number + self.batches]]
            end = begin + sum(sizes)
            yield number, moved[begin:end], self._gather(order[begin:end], moved[begin:end]), sizes
            begin = end

    def _gather(self, indices: Tensor, moved: Tensor) -> Batch:
        rows = {name: value[moved] for name, value in self.rows.items()}
        for name, padding in self.ragged.items():
            rows[name], rows[f"{name}_lengths"] = padding.gather(indices, moved)
        return rows


def _to_device(value: Tensor | Selection, device: torch.device) -> Tensor | Selection:
    if isinstance(value, Selection):
        return Selection(to_device(value.values, device), value.rows.to(device))
    return to_device(value, device)


def to_device(value: Tensor, device: torch.device) -> Tensor:
    """Move a tensor; overlapping windows stay a view, so that only their base is copied."""
    if value.device == device or device.type == "cpu":
        return value
    base = value._base
    if base is None or base.numel() >= value.numel():
        return value.to(device)
    return base.contiguous().to(device).as_strided(value.shape, value.stride(), value.storage_offset())
