"""Batches of a split on the device.

The order of an epoch is a permutation of (seed, epoch), and the randomness of an example is keyed by (seed, epoch,
index). The bytes of a batch therefore depend neither on the number of workers nor on where in an epoch a run resumes.

Randomness enters at four places, each with its own keys: an example is decoded, `augment` changes it, the task's
`corrupt` changes it, and `blend` combines the examples of a batch. Only `corrupt` also applies outside training, keyed
by the index alone.
"""

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from dltrain.data.bad_samples import BadSamples
from dltrain.data.spec import Source
from dltrain.data.splits import permutation
from dltrain.data.worker_pool import TIMEOUT_S, WorkerLoader
from dltrain.errors import ConfigError, format_error
from dltrain.keyed_random import key, mix

Batch = dict[str, Tensor]

# Rows are gathered and prepared for many steps at once, so that a training step only slices. 8 MiB stay in cache.
CHUNK_BYTES = 8 * 2**20

DECODE, BLEND, CORRUPT = 1, 2, 3  # parts of a key; that of `augment` has none


class Batches:
    """One split in batches.

    Args:
        source: The split.
        batch_size: Examples per batch, at least 1; the last batch of an epoch may be smaller.
        device: Device of the batches.
        seed: Seed of the order and of the augmentation in all epochs.
        training: Shuffle and augment. Otherwise batches keep the order of the data.
        sample: Read a fixed sample of at most this many examples, at least 1; None reads all.
        workers: Processes that decode `Files`, at least 0; unused for tensors.
        channels_last: Convert images to the channels_last memory format.
        corrupt: Random change of each prepared example, also outside training, ``corrupt(batch, keys)``.
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
        count = len(source)
        self._indices = torch.arange(count) if sample is None else permutation(count)[:sample].sort().values
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
            TensorLoader(source.rows, batch_size, self.device)
            if isinstance(source.rows, Mapping)
            else WorkerLoader(source.rows, batch_size, self.device, workers, timeout, self.bad)
        )

    def __len__(self) -> int:
        return -(-self.examples // self.batch_size)

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
        """Yield the batches of an epoch from batch number ``start`` on, without reading the earlier ones.

        Unreadable examples are left out of their batch. A batch without any readable example is ``{}``, so
        that batch numbers stay the same when a run resumes.
        """
        order = self.order(epoch)
        decoding = key(self.seed, epoch, DECODE) if self.training else None
        for indices, rows, skip in self._loader.chunks(order, start, decoding):
            if not rows:
                yield {}
                continue
            with torch.no_grad():
                batch = self._prepare(rows, indices, epoch)
            parts = [value.split(self.batch_size) for value in (indices, *batch.values())]
            for numbers, *values in list(zip(*parts, strict=True))[skip:]:
                yield self._blend(dict(zip(batch, values, strict=True)), numbers, epoch)

    def order(self, epoch: int) -> Tensor:
        """Return the example indices in the order of an epoch, int64 on the CPU."""
        if not self.training:
            return self._indices
        generator = torch.Generator().manual_seed(key(self.seed, epoch))
        return self._indices[torch.randperm(self.examples, generator=generator)]

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
        if self.channels_last and batch["inputs"].dim() == 4:
            batch["inputs"] = batch["inputs"].contiguous(memory_format=torch.channels_last)
        return batch

    def _blend(self, batch: Batch, indices: Tensor, epoch: int) -> Batch:
        if self.blend is None:
            return batch
        with torch.no_grad():
            return self.blend(batch, self._keys(indices, key(self.seed, epoch, BLEND)))

    def _keys(self, indices: Tensor, base: int) -> Tensor:
        return mix(indices.to(self.device) + base)


class TensorLoader:
    """Rows of tensors that live on the device, gathered for a chunk of batches at a time.

    Chunk boundaries do not depend on ``start``: vectorized arithmetic may round a row differently next to other rows,
    and a resumed run must see the same bytes.
    """

    def __init__(self, rows: Mapping[str, Tensor], batch_size: int, device: torch.device) -> None:
        self.rows = {name: to_device(value, device) for name, value in rows.items()}
        self.device = device
        row_bytes = sum(value[:1].numel() * value.element_size() for value in rows.values())
        # Preparing a row enlarges it (a byte becomes a float32), so count four bytes for one.
        self.batches = max(1, CHUNK_BYTES // max(1, 4 * row_bytes * batch_size))
        self.batch_size = batch_size

    def chunks(self, order: Tensor, start: int, key: int | None) -> Iterator[tuple[Tensor, Batch, int]]:
        """Yield (indices, rows, batches to skip) for each chunk from the one with batch ``start`` on.

        Nothing is decoded, so ``key`` is unused.
        """
        first = start // self.batches
        order = order.to(self.device)
        for number, indices in enumerate(order.split(self.batches * self.batch_size)[first:], first):
            rows = {name: value[indices] for name, value in self.rows.items()}
            yield indices, rows, start - number * self.batches if number == first else 0


def to_device(value: Tensor, device: torch.device) -> Tensor:
    """Move a tensor; overlapping windows stay a view, so that only their base is copied."""
    if value.device == device or device.type == "cpu":
        return value
    base = value._base
    if base is None or base.numel() >= value.numel():
        return value.to(device)
    return base.contiguous().to(device).as_strided(value.shape, value.stride(), value.storage_offset())
