"""Order, randomness and place of data: a split becomes batches on the device.

The order of an epoch is a permutation from (seed, epoch) and the randomness of an example is keyed by (seed, epoch,
index), so any number of workers, and a resume in the middle of an epoch, see the same bytes.
"""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from dltrain.data.bad_samples import BadSamples
from dltrain.data.spec import Source
from dltrain.data.worker_pool import TIMEOUT_S, Loaded
from dltrain.errors import ConfigError, format_error

Batch = dict[str, Tensor]

# Rows are gathered and prepared for many steps at once, so that a step of training only slices: 8 MiB stay in cache.
CHUNK_BYTES = 8 * 2**20


class Batches:
    """One split in batches.

    Args:
        source: The split.
        batch_size: Examples per batch; the last batch of an epoch may be shorter.
        device: Where the batches live.
        seed: Names the order and the randomness of all epochs.
        training: Shuffle and augment; otherwise the order is that of the data.
        workers: Processes that decode `Files`; tensors need none.
        channels_last: Lay out pictures with the channels innermost.
        bad: What to do about examples that cannot be read; all splits of a run share it.
        timeout: Seconds after which a worker that gives nothing counts as hanging.
    """

    def __init__(
        self,
        source: Source,
        batch_size: int,
        device: torch.device | str = "cpu",
        seed: int = 0,
        training: bool = False,
        workers: int = 0,
        channels_last: bool = False,
        bad: BadSamples | None = None,
        timeout: float = TIMEOUT_S,
    ) -> None:
        self.device = torch.device(device)
        self.bad = bad or BadSamples()
        self.examples = len(source)
        self.batch_size = batch_size
        self.seed = seed
        self.training = training
        self.channels_last = channels_last
        self.prepare = source.prepare.to(self.device).eval()
        self.augment = source.augment.to(self.device) if training and source.augment is not None else None
        self._reader = (
            _Resident(source.rows, batch_size, self.device)
            if isinstance(source.rows, Mapping)
            else Loaded(source.rows, batch_size, self.device, workers, timeout, self.bad)
        )

    def __len__(self) -> int:
        return -(-self.examples // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        """The batches of the first epoch that hold an example.

        Raises:
            ConfigError: There is none.
        """
        empty = True
        for batch in filter(None, self.epoch(0)):
            empty = False
            yield batch
        if empty:
            got = f"{self.examples} that cannot"
            raise ConfigError(format_error("data.path", "an example that can be read in each part", got))

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of one epoch, from batch ``start`` on; what comes before ``start`` is not read.

        A batch is shorter by its examples that cannot be read. One that has no other is empty, ``{}``, and keeps its
        place, so that the number of a batch means the same in every session of a run.
        """
        order = self.order(epoch)
        for indices, rows, skip in self._reader.read(order, start):
            if not rows:
                yield {}
                continue
            with torch.no_grad():
                batch = self._prepared(rows, indices, epoch)
            parts = [value.split(self.batch_size) for value in batch.values()]
            for values in list(zip(*parts, strict=True))[skip:]:
                yield dict(zip(batch, values, strict=True))

    def order(self, epoch: int) -> Tensor:
        """The examples' indices in the order of one epoch, int64 on the CPU."""
        if not self.training:
            return torch.arange(self.examples)
        generator = torch.Generator().manual_seed(key(self.seed, epoch))
        return torch.randperm(self.examples, generator=generator)

    def close(self) -> None:
        """End the worker processes."""
        if isinstance(self._reader, Loaded):
            self._reader.close()
        del self._reader

    def _prepared(self, rows: Batch, indices: Tensor, epoch: int) -> Batch:
        batch: Batch = self.prepare(rows)
        if self.augment is not None:
            batch = self.augment(batch, mix(indices.to(self.device) + key(self.seed, epoch)))
        if self.channels_last and batch["inputs"].dim() == 4:
            batch["inputs"] = batch["inputs"].contiguous(memory_format=torch.channels_last)
        return batch


class _Resident:
    """Tensors that live on the device: rows are gathered for a whole chunk of batches at a time.

    Chunks start at fixed places, so an example's neighbours, and with them the bytes of vectorised arithmetic, do not
    depend on where a run was resumed.
    """

    def __init__(self, rows: Mapping[str, Tensor], batch_size: int, device: torch.device) -> None:
        self.rows = {name: rows_to(value, device) for name, value in rows.items()}
        self.device = device
        row_bytes = sum(value[:1].numel() * value.element_size() for value in rows.values())
        # Rows grow when they are prepared (a byte becomes a float32), so count four bytes for one.
        self.batches = max(1, CHUNK_BYTES // max(1, 4 * row_bytes * batch_size))
        self.batch_size = batch_size

    def read(self, order: Tensor, start: int) -> Iterator[tuple[Tensor, Batch, int]]:
        chunk = self.batches * self.batch_size
        first = start // self.batches
        order = order.to(self.device)
        for number, indices in enumerate(order.split(chunk)[first:], first):
            rows = {name: value[indices] for name, value in self.rows.items()}
            yield indices, rows, start - number * self.batches if number == first else 0


def rows_to(value: Tensor, device: torch.device) -> Tensor:
    """``value`` on the device; a view of overlapping windows stays a view, so nothing is copied more than once."""
    if value.device == device or device.type == "cpu":
        return value
    base = value._base
    if base is None or base.numel() >= value.numel():
        return value.to(device)
    return base.contiguous().to(device).as_strided(value.shape, value.stride(), value.storage_offset())


_GOLDEN = -7046029254386353131  # 2**64 / golden ratio, as a signed number


def key(*parts: int) -> int:
    """One 63-bit number from several, the same on every machine."""
    value = torch.zeros((), dtype=torch.int64)
    for part in parts:
        value = mix(value + part)
    return int(value) & (2**63 - 1)


def mix(value: Tensor) -> Tensor:
    """SplitMix64's finaliser on int64 tensors: a different, well spread number for each input.

    Source: Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators".
    """
    value = value + _GOLDEN
    value = (value ^ _shift(value, 30)) * -4658895280553007687
    value = (value ^ _shift(value, 27)) * -7723592293110705685
    return value ^ _shift(value, 31)


def _shift(value: Tensor, bits: int) -> Tensor:
    """Logical shift to the right; torch's own keeps the sign."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)


def uniform(keys: Tensor, count: int) -> Tensor:
    """Uniform numbers in [0, 1) named by the keys: int64 (B,) -> float32 (B, count)."""
    lanes = torch.arange(1, count + 1, device=keys.device)
    bits = mix(keys[:, None] + lanes * _GOLDEN)
    return _shift(bits, 40).to(torch.float32) * 2.0**-24
