"""Progress of long evaluations, with a clock that the tests set."""

import io
import time
from collections.abc import Iterator

import pytest
from small_loop import BATCH, EPOCH, ROWS, source

from dltrain.data.loader import Batch, Batches
from dltrain.loggers.console import REPEAT_S, Console
from dltrain.loggers.screen import ScreenHandler
from dltrain.training.evaluation import with_progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def evaluated(stream: io.StringIO, seconds: float, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the output of an evaluation with `seconds` per batch."""
    now = [1000.0]
    for clock in ("monotonic", "perf_counter"):
        monkeypatch.setattr(time, clock, lambda: now[0])
    monkeypatch.setenv("TERM", "xterm")

    def consume(batches: Iterator[Batch]) -> int:
        count = 0
        for batch in batches:
            count += len(batch["inputs"])
            now[0] += seconds
        return count

    assert consume(with_progress(Batches(source(), BATCH), Console(stream))) == ROWS
    return stream.getvalue()


def test_a_long_evaluation_shows_its_progress_and_time_left_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written = evaluated(Terminal(), 1.0, monkeypatch)
    assert "evaluation" in written and "batch 1/" not in written, "no progress is shown in the first two seconds"
    for done in range(2, EPOCH):
        assert f"batch {done}/{EPOCH}  {done / EPOCH:.0%}  left {EPOCH - done}.0s" in written
    assert written.endswith("\r\x1b[K"), "the progress line is erased at the end"


def test_a_short_evaluation_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert evaluated(Terminal(), 0.2, monkeypatch) == ""


def test_without_a_terminal_a_long_evaluation_writes_lines_at_the_same_interval_as_training(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert ScreenHandler(io.StringIO()).rich is None
    assert evaluated(io.StringIO(), 1.0, monkeypatch) == ""
    lines = evaluated(io.StringIO(), REPEAT_S / 2, monkeypatch).splitlines()
    assert [line.split()[2] for line in lines] == [f"{done}/{EPOCH}" for done in range(2, EPOCH, 2)]
