"""The fraction of training time spent waiting for data is logged.

Advice is printed once if the wait is long and the fraction large.

The clock of these tests advances only when a test advances it.
"""

import io
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from small_loop import BATCH, CLASSES, SIZE, lines, make_loop, network
from torch import Tensor, nn

from dltrain.data.spec import Source
from dltrain.loggers.console import Console
from dltrain.training.loop import Loop
from dltrain.training.meters import Timer


class Clock:
    """A replacement for `time.perf_counter`."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(time, "perf_counter", found)
    return found


class Slow:
    """Examples that each take `seconds` to decode."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        self.clock, self.seconds = clock, seconds

    def __len__(self) -> int:
        return 4 * BATCH

    def example(self, index: int, key: int | None) -> int:
        self.clock.now += self.seconds
        return index

    def stack(self, examples: list[int]) -> dict[str, Tensor]:
        inputs = torch.tensor(examples)[:, None] * torch.ones(SIZE)
        return {"inputs": inputs, "targets": torch.tensor(examples) % CLASSES}


def trained(folder: Path, clock: Clock, decoding: float, step: float, console: Console, **more: Any) -> Loop:
    """Train on batches that take `BATCH` times `decoding` seconds to decode and `step` seconds to compute."""
    model = network()

    def compute(*_: object) -> None:
        clock.now += step if model.training else 0

    model.register_forward_pre_hook(compute)
    train = more.pop("train", None) or Source(Slow(clock, decoding), nn.Identity())
    loop = make_loop(folder, model=model, train=train, console=console, **more)
    loop.run()
    return loop


@pytest.mark.parametrize(("decoding", "step", "share"), [(0.5, 1.0, 0.8), (0.0, 1.0, 0.0), (1.0, 0.0, 1.0)])
def test_the_fraction_of_time_spent_waiting_is_logged_in_each_interval(
    decoding: float, step: float, share: float, tmp_path: Path, clock: Clock
) -> None:
    trained(tmp_path, clock, decoding, step, Console(io.StringIO()))
    logged = [line["throughput/data_wait"] for line in lines(tmp_path, "train")]
    assert logged == pytest.approx([share] * 8)


ADVICE = "of the training time was spent waiting for data"


@pytest.mark.parametrize(
    ("decoding", "step", "times"),
    [(0.5, 1.0, 1), (0.5, 40.0, 0), (0.005, 0.01, 0)],
    ids=["many seconds, large fraction", "small fraction", "few seconds"],
)
def test_advice_is_given_once_if_waiting_takes_many_seconds_and_a_large_fraction_of_the_time(
    decoding: float, step: float, times: int, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 6)
    out = io.StringIO()
    trained(tmp_path, clock, decoding, step, Console(out), epochs=4)
    assert out.getvalue().count(ADVICE) == times
    if times:
        assert f"80% {ADVICE}. Raise data.workers (now 0; this machine has 6 CPU cores)." in out.getvalue()


def test_advice_recommends_smaller_files_if_there_are_as_many_workers_as_cores(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    out = io.StringIO()
    loop = make_loop(tmp_path, console=Console(out))
    loop.timer.begin()
    loop.timer.for_data, clock.now = 8.0, clock.now + 10.0
    loop.logger.advise(None)
    assert ADVICE not in out.getvalue(), "data in memory have no workers"
    loop.logger.advise(2)
    assert f"80% {ADVICE}. Store images of about data.image_size pixels" in out.getvalue()


def test_waiting_for_the_device_does_not_count_as_waiting_for_data(clock: Clock) -> None:
    timer = Timer(clock())

    def batches() -> Any:
        for number in range(3):
            clock.now += 2
            yield number

    assert list(timer.watch(batches())) == [0, 1, 2] and timer.idle_seconds == 6
    with timer.reading():  # the queued steps took another 5 seconds, so the device was idle for at most 1
        clock.now += 5
    assert timer.idle_seconds == 1
    with timer.reading():
        clock.now += 5
    assert timer.idle_seconds == 0
