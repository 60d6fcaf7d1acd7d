"""Runs killed by SIGKILL resume to identical results, and no existing checkpoint is damaged."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from children import Child, Gate
from recipes import CORE, STEPS, recipe
from same import assert_intact, assert_same, steps

from dltrain.storage.checkpoints import Checkpoints

ALLOW = "allow_targets=[gated]"
SAVES = 40
SAMPLE = {1}  # indices in `STEPS` of the kinds of run that the default suite also tests


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(n, marks=[] if n in SAMPLE else [pytest.mark.faults if kind in CORE else pytest.mark.slow])
        for n, kind in enumerate(STEPS)
    ],
)
def test_a_run_killed_at_a_random_step_resumes_to_identical_results(
    number: int,
    uninterrupted_run: Callable[[str], Path],
    start: Callable[..., Child],
    dltrain: Callable[..., Child],
    gate: Gate,
    data_root: Path,
    tmp_path: Path,
) -> None:
    draw = random.Random(number)
    kind = list(STEPS)[number]
    run, last = tmp_path / "run", STEPS[kind][1]
    command = [*recipe(kind, data_root), f"hydra.run.dir={run}", "trainer.resume=auto"]
    gate.delay(0.005)
    child = start(*command, environment=gate.environment)
    step = draw.randint(1, last - 5)
    child.wait_until(lambda: steps(run) >= step, interval=draw.uniform(0.001, 0.01))
    assert child.kill().code == -signal.SIGKILL
    again = dltrain(*command)
    assert again.code == 0, again.stderr
    assert "(resumed)" in again.stderr
    assert_same(run, uninterrupted_run(kind))


@pytest.mark.faults
def test_a_kill_and_resume_in_separate_interpreters_gives_identical_results(
    gate: Gate, uninterrupted_run: Callable[[str], Path], data_root: Path, tmp_path: Path
) -> None:
    # The other tests fork children, which share the hash seed of one interpreter. Here the hash seeds differ.
    run = tmp_path / "run"
    call = [sys.executable, "-m", "dltrain", *recipe("text", data_root), f"hydra.run.dir={run}", "trainer.resume=auto"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), **gate.environment}
    gate.close("train-17")
    with subprocess.Popen(call, cwd=tmp_path, env={**environment, "PYTHONHASHSEED": "1"}) as first:
        limit = time.monotonic() + 300
        while not (gate.folder / "train-17.reached").exists() and time.monotonic() < limit:
            time.sleep(0.01)
        first.kill()
    assert first.returncode == -signal.SIGKILL
    again = subprocess.run(call, cwd=tmp_path, env={**environment, "PYTHONHASHSEED": "2"}, check=False, timeout=300)
    assert again.returncode == 0
    assert_same(run, uninterrupted_run("text"))


@pytest.mark.faults
def test_a_kill_before_the_result_is_written_duplicates_no_metrics_or_images(
    uninterrupted_run: Callable[[str], Path],
    start: Callable[..., Child],
    dltrain: Callable[..., Child],
    gate: Gate,
    data_root: Path,
    tmp_path: Path,
) -> None:
    gate.close("show-5")  # the images of the test split
    run = tmp_path / "run"
    child = start(*recipe("forecast", data_root), f"hydra.run.dir={run}", environment=gate.environment)
    gate.wait_until_reached(child, "show-5")
    assert child.kill().code == -signal.SIGKILL
    assert dltrain("resume", str(run), ALLOW).code == 0
    assert_same(run, uninterrupted_run("forecast"))


BIG = [
    *["model=mlp", "model.hidden_size=700", "model.num_layers=2", "data=digits", "data.batch_size=256", "device=cpu"],
    *["trainer.epochs=null", "trainer.log_every=10", "trainer.checkpoint_every=1", "trainer.eval_every=200"],
    "trainer.log_media=false",
]


def test_a_kill_during_a_save_damages_no_existing_checkpoint(
    start: Callable[..., Child], dltrain: Callable[..., Child], tmp_path: Path
) -> None:
    kill_during_saves(2, start, dltrain, tmp_path)


@pytest.mark.faults
def test_forty_kills_during_saves_damage_no_existing_checkpoint(
    start: Callable[..., Child], dltrain: Callable[..., Child], tmp_path: Path
) -> None:
    kill_during_saves(SAVES, start, dltrain, tmp_path)


def kill_during_saves(count: int, start: Callable[..., Child], dltrain: Callable[..., Child], tmp_path: Path) -> None:
    """Kill one run repeatedly during saves, then let it finish, and compare it with an uninterrupted run."""
    draw, run, total = random.Random(0), tmp_path / "run", 8 * count + 10
    command = [*BIG, f"trainer.max_steps={total}", "trainer.resume=auto"]
    folder, reached, caught = run / "checkpoints", 0, 0
    for number in range(count):
        child = start(*command, f"hydra.run.dir={run}")
        least = reached + draw.randint(1, 4)
        child.wait_until(lambda least=least: newest(folder) >= least, interval=0.001)
        child.wait_until(lambda: any(folder.glob(".*.tmp")), interval=0)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        caught += bool(list(folder.glob(".*.tmp")))
        name, state, rejected = Checkpoints(run).load_newest()
        assert not rejected, f"kill {number}: {rejected}"
        assert state["loop"]["step"] >= max(reached, least), (
            f"kill {number}: expected step {max(reached, least)} or later, loaded {name}"
        )
        reached = state["loop"]["step"]
    assert caught >= count // 2, f"only {caught} of {count} kills interrupted a save"
    finished = dltrain(*command, f"hydra.run.dir={run}")
    assert finished.code == 0, finished.stderr
    assert_intact(run)
    reference = dltrain(*command, "trainer.checkpoint_every=1 epoch", f"hydra.run.dir={tmp_path / 'whole'}")
    assert reference.code == 0, reference.stderr
    assert_same(run, tmp_path / "whole")
    names = {path.name for path in folder.glob("step-*.pt")}
    assert len(names) <= 3, f"too many checkpoints: {sorted(names)}"


def newest(folder: Path) -> int:
    """Return the step of the newest checkpoint file."""
    return max((int(path.name[5:13]) for path in folder.glob("step-*.pt")), default=0)
