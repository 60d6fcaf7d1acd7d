"""Signals: what was begun is finished or undone, the run is kept, and the exit code and the message say so."""

import json
import os
import signal
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from children import Child, Gate
from recipes import recipe
from same import assert_same, leftovers, status, steps, whole

ALLOW = "allow_targets=[gated]"
BIG = [
    *["model=mlp", "model.hidden_size=1000", "model.num_layers=2", "data=digits", "data.batch_size=256", "device=cpu"],
    *["trainer.epochs=null", "trainer.max_steps=16", "trainer.checkpoint_every=1", "trainer.eval_every=16"],
]


@pytest.fixture
def waiting(
    start: Callable[..., Child], gate: Gate, data_root: Path, tmp_path: Path
) -> Callable[..., tuple[Child, Path]]:
    """``waiting("forecast", "train-5")``: a run that has come to a moment and waits there, and its folder."""

    def begin(kind: str, moment: str, *more: str, **environment: str) -> tuple[Child, Path]:
        run = tmp_path / "run"
        gate.close(moment)
        command = [*recipe(kind, data_root), f"hydra.run.dir={run}", *more]
        child = start(*command, environment={**gate.environment, **environment})
        gate.reached(child, moment)
        return child, run

    return begin


@pytest.mark.parametrize(
    ("number", "code"), [pytest.param(signal.SIGTERM, 143, marks=pytest.mark.faults), (signal.SIGINT, 130)]
)
def test_a_signal_ends_a_run_after_its_step_and_says_how_to_go_on(
    number: signal.Signals,
    code: int,
    waiting: Callable[..., tuple[Child, Path]],
    dltrain: Callable[..., Child],
    gate: Gate,
    whole_run: Callable[[str], Path],
) -> None:
    child, run = waiting("forecast", "train-13")
    child.send(number)
    gate.open("train-13")
    assert child.wait().code == code
    found = status(run)
    assert (found["state"], found["exit_code"], found["step"], found["error"]) == ("interrupted", code, 13, number.name)
    assert "Last checkpoint: step 13" in child.stderr
    assert f"dltrain resume {run}" in child.stderr
    assert "Traceback" not in child.stderr
    assert steps(run) == 13  # every step was written down, and none after the stop
    assert dltrain("resume", str(run), ALLOW).code == 0
    assert_same(run, whole_run("forecast"))


def test_a_second_ctrl_c_ends_a_run_at_once_and_nothing_is_half_written(
    waiting: Callable[..., tuple[Child, Path]], dltrain: Callable[..., Child], whole_run: Callable[[str], Path]
) -> None:
    child, run = waiting("forecast", "train-13")
    child.send(signal.SIGINT)
    time.sleep(0.1)  # two presses, not one
    child.send(signal.SIGINT)
    assert child.wait().code == 130
    found = status(run)
    assert (found["state"], found["error"]) == ("interrupted", "aborted by a second signal")
    whole(run)
    assert dltrain("resume", str(run), ALLOW).code == 0
    assert_same(run, whole_run("forecast"))


@pytest.mark.faults
@pytest.mark.parametrize("number", range(6))
def test_a_second_ctrl_c_during_a_save_leaves_nothing_half_written(
    number: int, start: Callable[..., Child], dltrain: Callable[..., Child], tmp_path: Path
) -> None:
    run, folder = tmp_path / "run", tmp_path / "run" / "checkpoints"
    child = start(*BIG, f"hydra.run.dir={run}")
    child.until(lambda: len(list(folder.glob("step-*.pt"))) > 1)
    child.until(lambda: any(folder.glob(".step*.tmp")), interval=0)
    child.send(signal.SIGINT)
    time.sleep(0.004 * number)
    child.send(signal.SIGINT)
    assert child.wait().code == 130
    assert not leftovers(run)
    assert dltrain("resume", str(run)).code == 0
    whole(run)


def test_sigterm_while_the_data_are_loaded_leaves_nothing(waiting: Callable[..., tuple[Child, Path]]) -> None:
    child, run = waiting("text", "load-1", "data._target_=gated.Text")
    child.send(signal.SIGTERM)
    assert child.wait(20).code == 143
    assert "interrupted before anything was done" in child.stderr
    assert not run.exists()


@pytest.mark.parametrize(
    "moment",
    [
        pytest.param("train-1", id="before step 1"),
        pytest.param("evaluate-3", id="during validation", marks=pytest.mark.faults),
        pytest.param("evaluate-12", id="during the test", marks=pytest.mark.faults),
        pytest.param("show-1", id="while pictures are drawn", marks=pytest.mark.faults),
        pytest.param("show-5", id="while the pictures of the test are drawn", marks=pytest.mark.faults),
    ],
)
def test_sigterm_at_an_awkward_moment_is_no_different(
    moment: str,
    waiting: Callable[..., tuple[Child, Path]],
    dltrain: Callable[..., Child],
    gate: Gate,
    whole_run: Callable[[str], Path],
) -> None:
    child, run = waiting("forecast", moment)
    child.send(signal.SIGTERM)
    time.sleep(0.05)
    if (gate.folder / f"{moment}.reached").exists():
        gate.open(moment)
    assert child.wait(20).code == 143
    assert status(run)["state"] == "interrupted"
    assert not leftovers(run)
    for file in run.glob("checkpoints/step-*.pt"):
        assert file.stat().st_size > 1000
    assert dltrain("resume", str(run), ALLOW).code == 0
    assert_same(run, whole_run("forecast"))


@pytest.mark.faults
def test_sigterm_during_a_save_waits_for_it(start: Callable[..., Child], tmp_path: Path) -> None:
    run, folder = tmp_path / "run", tmp_path / "run" / "checkpoints"
    child = start(*BIG, f"hydra.run.dir={run}")
    child.until(lambda: any(folder.glob(".step*.tmp")), interval=0)
    child.send(signal.SIGTERM)
    assert child.wait(20).code == 143
    whole(run)
    step = status(run)["step"]
    assert any(file.name.startswith(f"step-{step:08}") for file in folder.glob("step-*.pt"))


@pytest.mark.faults
def test_sigusr1_saves_and_the_run_goes_on(
    waiting: Callable[..., tuple[Child, Path]], gate: Gate, whole_run: Callable[[str], Path]
) -> None:
    gate.close("train-15")
    child, run = waiting("forecast", "train-13")
    child.send(signal.SIGUSR1)
    gate.open("train-13")
    gate.reached(child, "train-15")
    child.until((run / "checkpoints" / "step-00000013.pt").exists)
    gate.open("train-15")
    assert child.wait().code == 0
    assert "saved at step 13 on SIGUSR1" in child.stderr
    assert_same(run, whole_run("forecast"))


@pytest.fixture
def scontrol(tmp_path: Path) -> tuple[dict[str, str], Path]:
    """The environment of a job of Slurm's, with a `scontrol` that only writes down how it was called, and where."""
    calls, folder = tmp_path / "calls", tmp_path / "bin"
    folder.mkdir()
    script = folder / "scontrol"
    script.write_text(f'#!/bin/sh\necho "$@" >> {calls}\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return {"SLURM_JOB_ID": "4711", "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}, calls


@pytest.mark.faults
def test_under_slurm_sigusr1_saves_and_puts_the_job_back_into_the_queue(
    waiting: Callable[..., tuple[Child, Path]],
    start: Callable[..., Child],
    gate: Gate,
    scontrol: tuple[dict[str, str], Path],
    whole_run: Callable[[str], Path],
    data_root: Path,
) -> None:
    environment, calls = scontrol
    again = ["trainer.requeue=true", "trainer.resume=auto"]
    child, run = waiting("forecast", "train-13", *again, **environment)
    child.send(signal.SIGUSR1)
    gate.open("train-13")
    assert child.wait().code == 143
    assert calls.read_text() == "requeue 4711\n"
    assert status(run)["state"] == "interrupted"
    assert "requeued Slurm job 4711" in child.stderr
    # Slurm runs the same command again.
    second = start(*recipe("forecast", data_root), f"hydra.run.dir={run}", *again, environment=environment).wait()
    assert second.code == 0, second.stderr
    assert_same(run, whole_run("forecast"))


@pytest.mark.faults
@pytest.mark.parametrize(("number", "code", "requeue"), [(signal.SIGUSR1, 0, "false"), (signal.SIGTERM, 143, "true")])
def test_under_slurm_nothing_is_requeued_that_was_not_to_be(
    number: signal.Signals,
    code: int,
    requeue: str,
    waiting: Callable[..., tuple[Child, Path]],
    gate: Gate,
    scontrol: tuple[dict[str, str], Path],
) -> None:
    environment, calls = scontrol
    child, run = waiting("forecast", "train-13", f"trainer.requeue={requeue}", **environment)
    child.send(number)
    gate.open("train-13")
    assert child.wait().code == code
    assert not calls.exists()
    assert (run / "checkpoints" / "last.pt").exists()


@pytest.mark.faults
def test_a_run_whose_time_is_up_ends_in_order_and_goes_on_to_the_same_bytes(
    start: Callable[..., Child],
    dltrain: Callable[..., Child],
    gate: Gate,
    whole_run: Callable[[str], Path],
    data_root: Path,
    tmp_path: Path,
) -> None:
    run = tmp_path / "run"
    gate.delay(0.1)
    command = [*recipe("forecast", data_root), f"hydra.run.dir={run}", "trainer.max_minutes=0.03"]
    child = start(*command, environment=gate.environment).wait()
    assert child.code == 0, child.stderr
    assert status(run)["state"] == "finished"
    whole(run)
    first = json.loads((run / "result.json").read_text())
    assert first["out_of_time"] and 0 < first["steps"] < 32
    assert (run / "checkpoints" / f"step-{first['steps']:08}.pt").exists()
    resumed = dltrain("resume", str(run), ALLOW, "trainer.max_minutes=10")
    assert resumed.code == 0, resumed.stderr
    assert_same(run, whole_run("forecast"), also_tested_at=first["steps"])
