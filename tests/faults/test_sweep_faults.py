"""Interrupted sweeps end with the results of an uninterrupted sweep, and a folder is used by one sweep at a time."""

import csv
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from children import Child, Gate, ServerClient
from recipes import recipe
from same import assert_same, leftovers, status

SEEDS = 4
JOBS = [f"{seed}_seed={seed}" for seed in range(SEEDS)]


def command(data_root: Path, home: Path) -> list[str]:
    """Return the arguments of a sweep: four LSTM runs, each with two epochs of eight steps."""
    seeds = ",".join(map(str, range(SEEDS)))
    return ["-m", f"seed={seeds}", *recipe("forecast", data_root), "trainer.epochs=2", f"hydra.sweep.dir={home}"]


@pytest.fixture(scope="session")
def uninterrupted_sweep(server: ServerClient, tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> Path:
    """Return the folder of an uninterrupted sweep."""
    folder = tmp_path_factory.mktemp("sweep")
    child = server.start(command(data_root, folder / "whole"), folder).wait()
    assert child.code == 0, child.stderr
    return folder / "whole"


def summary(home: Path) -> list[dict[str, str]]:
    """Return ``summary.csv`` without times and parent folders."""
    rows = list(csv.DictReader((home / "summary.csv").open()))
    return [{k: Path(v).name if k == "folder" else v for k, v in row.items() if k != "seconds"} for row in rows]


def written(folder: Path) -> dict[Path, int]:
    """Return the modification time of each file and folder in a folder."""
    return {file: file.stat().st_mtime_ns for file in folder.rglob("*")}


def assert_same_sweep(home: Path, whole: Path) -> None:
    """Assert that every job and the summary equal those of the uninterrupted sweep."""
    assert sorted(path.name for path in home.iterdir() if path.is_dir()) == JOBS
    for name in JOBS:
        assert_same(home / name, whole / name)
    assert summary(home) == summary(whole)
    assert not leftovers(home)
    assert status(home)["state"] == "finished"


@pytest.mark.parametrize("moment", ["train-12", "train-2"])
@pytest.mark.faults
def test_a_sweep_killed_in_its_third_job_resumes_that_job_and_leaves_finished_jobs_unchanged(
    moment: str,
    uninterrupted_sweep: Path,
    start: Callable[..., Child],
    dltrain: Callable[..., Child],
    gate: Gate,
    data_root: Path,
    tmp_path: Path,
) -> None:
    home = tmp_path / "cut"
    arguments = command(data_root, home)
    gate.close(moment)
    child = start(*arguments, environment=gate.environment)
    for _ in range(2):
        gate.wait_until_reached(child, moment)
        gate.close(moment)  # stops the next job
        gate.open(moment)
    gate.wait_until_reached(child, moment)
    child.kill()
    assert [status(home / name)["state"] for name in JOBS[:3]] == ["finished", "finished", "running"]
    assert not (home / JOBS[3]).exists()
    before = {name: written(home / name) for name in JOBS[:2]}
    again = dltrain(*arguments, f"sweep.resume={home}")
    assert again.code == 0, again.stderr
    assert {name: written(home / name) for name in JOBS[:2]} == before
    assert_same_sweep(home, uninterrupted_sweep)
    from_where = "resumed at step " if moment == "train-12" else "starting from the beginning"
    assert again.stderr.count(from_where) == 1
    assert [f"job {n} ({n + 1} of 4): seed={n} (finished, not run again)" in again.stderr for n in (0, 1, 2)] == [
        1,
        1,
        0,
    ]


def test_a_second_sweep_in_the_same_folder_is_rejected_while_the_first_runs(
    start: Callable[..., Child], dltrain: Callable[..., Child], gate: Gate, data_root: Path, tmp_path: Path
) -> None:
    home = tmp_path / "cut"
    arguments = command(data_root, home)
    gate.close("train-2")
    child = start(*arguments, environment=gate.environment)
    gate.wait_until_reached(child, "train-2")
    for more in ([f"sweep.resume={home}"], ["trainer.resume=never"]):
        second = dltrain(*arguments, *more)
        assert second.code == 2
        assert f"process {child.pid} on " in second.stderr or "It contains sweep.json" in second.stderr
    assert status(home)["pid"] == child.pid
    child.kill()


@pytest.mark.faults
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_sweep_stopped_by_a_signal_can_be_resumed(
    number: signal.Signals,
    uninterrupted_sweep: Path,
    start: Callable[..., Child],
    dltrain: Callable[..., Child],
    gate: Gate,
    data_root: Path,
    tmp_path: Path,
) -> None:
    home = tmp_path / "cut"
    arguments = command(data_root, home)
    gate.close("train-5")
    child = start(*arguments, environment=gate.environment)
    gate.wait_until_reached(child, "train-5")
    child.send(number)
    gate.open("train-5")
    assert child.wait().code == {signal.SIGTERM: 143, signal.SIGINT: 130}[number]
    assert (status(home)["state"], summary(home)[0]["state"], len(summary(home))) == ("interrupted", "interrupted", 1)
    assert f"sweep.resume={home}" in child.stderr
    again = dltrain(*arguments, f"sweep.resume={home}")
    assert again.code == 0, again.stderr
    assert_same_sweep(home, uninterrupted_sweep)


@pytest.mark.faults
def test_a_sweep_killed_repeatedly_ends_with_the_same_results_as_an_uninterrupted_one(
    uninterrupted_sweep: Path,
    start: Callable[..., Child],
    dltrain: Callable[..., Child],
    data_root: Path,
    tmp_path: Path,
) -> None:
    home, moments = tmp_path / "cut", random.Random(0)
    arguments, resumed = command(data_root, home), f"sweep.resume={home}"
    child = start(*arguments)
    child.wait_until((home / "sweep.json").exists)
    for _ in range(10):
        time.sleep(moments.uniform(0.0, 1.5))
        child.kill()
        child = start(*arguments, resumed)
    assert child.wait().code == 0, child.stderr
    assert_same_sweep(home, uninterrupted_sweep)
