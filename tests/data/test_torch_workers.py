"""Adapter to torch's DataLoader: private names, hanging workers and timeouts."""

import inspect
import time
from collections.abc import Iterator

import pytest
import torch
from torch.utils.data import DataLoader
from torch.utils.data import dataloader as module

from dltrain.data.torch_workers import end_workers, is_shared_memory_full, is_timeout, take_over_workers


class Numbers:
    """A data set whose last example never arrives."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> int:
        if index == 2:
            time.sleep(1000)
        return index


@pytest.fixture
def loader() -> Iterator[DataLoader]:
    created: DataLoader = DataLoader(Numbers(), num_workers=1, persistent_workers=True, timeout=1)  # type: ignore[arg-type]
    yield created
    end_workers(created, kill=True)


def test_torch_has_every_private_name_that_the_adapter_uses(loader: DataLoader) -> None:
    source = inspect.getsource(module)
    names = ["_iterator", "_workers", "_worker_pids_set", "_shutdown", "_shutdown_workers"]
    names += ["_pin_memory_thread_done_event", "DataLoader timed out"]
    missing = [name for name in names if name not in source]
    missing += [] if hasattr(torch._C, "_remove_worker_pids") else ["torch._C._remove_worker_pids"]
    assert not missing, f"torch {torch.__version__} has no {', '.join(missing)}: adapt dltrain/data/torch_workers.py"
    take_over_workers(iterator := iter(loader))
    for name in names[1:5]:
        assert hasattr(iterator, name), f"torch {torch.__version__}: iterators have no {name}"
    assert loader._iterator is iterator


def test_a_hanging_worker_can_be_killed_and_the_loader_starts_a_new_one(loader: DataLoader) -> None:
    (first,) = take_over_workers(iterator := iter(loader))
    assert [next(iterator).item() for _ in range(2)] == [0, 1] and first.is_alive()
    end_workers(loader, kill=True)
    assert not first.is_alive()
    (second,) = take_over_workers(iterator := iter(loader))
    assert next(iterator).tolist() == [0] and second.pid != first.pid


def test_the_error_of_a_hanging_worker_is_recognized_as_a_timeout(loader: DataLoader) -> None:
    take_over_workers(iterator := iter(loader))
    assert [next(iterator).item() for _ in range(2)] == [0, 1]
    with pytest.raises(RuntimeError) as caught:
        next(iterator)
    assert is_timeout(caught.value) and not is_shared_memory_full(caught.value)
    assert is_shared_memory_full(RuntimeError("unable to allocate shared memory(shm) for file </torch_1>"))
