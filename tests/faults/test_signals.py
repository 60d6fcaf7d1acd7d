"""After a signal the current action is completed or undone, and the run can be resumed."""

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
from same import assert_intact, assert_same, leftovers, status, steps

ALLOW = "allow_targets=[gated]"
BIG = [  # checkpoints of several MB, so that signals arrive during a save
    *["model=mlp", "model.hidden_size=1000", "model.num_layers=2", "data=digits", "data.batch_size=256", "device=cpu"],
    *["trainer.epochs=null", "trainer.max_steps=16", "trainer.checkpoint_every=1", "trainer.eval_every=16"],
]


@pytest.fixture
def run_until(
    start: Callable[..., Child], gate: Gate, data_root: Path, tmp_path: Path
) -> Callable[..., tuple[Child, Path]]:
    """Return a function that trains until a gate is reached, and returns the child and the run folder."""

    def begin(kind: str, moment: str, *overrides: str, **environment: str) -> tuple[Child, Path]:
        run = tmp_path / "run"
        gate.close(moment)
        command = [*recipe(kind, data_root), f"hydra.run.dir={run}", *overrides]
        child = start(*command, environment={**gate.environment, **environment})
        gate.wait_until_reached(child, moment)
        return child, run

    return begin


@pytest.mark.parametrize(
    ("number", "code"), [pytest.param(signal.SIGTERM, 143, marks=pytest.mark.faults), (signal.SIGINT, 130)]
)
def test_after_a_signal_a_run_finishes_the_current_step_and_prints_how_to_resume(
    number: signal.Signals,
    code: int,
    run_until: Callable[..., tuple[Child, Path]],
    dltrain: Callable[..., Child],
    gate: Gate,
    uninterrupted_run: Callable[[str], Path],
) -> None:
    child, run = run_until("forecast", "train-13")
    child.send(number)
    gate.open("train-13")
    assert child.wait().code == code
    found = status(run)
    assert (found["state"], found["exit_code"], found["step"], found["error"]) == ("interrupted", code, 13, number.name)
    assert "Last checkpoint: step 13" in child.stderr
    assert f"dltrain resume {run}" in child.stderr
    assert "Traceback" not in child.stderr
    assert steps(run) == 13  # every completed step was logged
    assert dltrain("resume", str(run), ALLOW).code == 0
    assert_same(run, uninterrupted_run("forecast"))


def test_a_second_ctrl_c_stops_a_run_immediately_and_leaves_no_partial_files(
    run_until: Callable[..., tuple[Child, Path]],
    dltrain: Callable[..., Child],
    uninterrupted_run: Callable[[str], Path],
) -> None:
    child, run = run_until("forecast", "train-13")
    child.send(signal.SIGINT)
    time.sleep(0.1)  # two pending signals would arrive as one
    child.send(signal.SIGINT)
    assert child.wait().code == 130
    found = status(run)
    assert (found["state"], found["error"]) == ("interrupted", "aborted by a second signal")
    assert_intact(run)
    assert dltrain("resume", str(run), ALLOW).code == 0
    assert_same(run, uninterrupted_run("forecast"))


@pytest.mark.faults
@pytest.mark.parametrize("delay_ms", range(0, 24, 4))
def test_a_second_ctrl_c_during_a_save_leaves_no_partial_files(
    delay_ms: int, start: Callable[..., Child], dltrain: Callable[..., Child], tmp_path: Path
) -> None:
    run, folder = tmp_path / "run", tmp_path / "run" / "checkpoints"
    child = start(*BIG, f"hydra.run.dir={run}")
    child.wait_until(lambda: len(list(folder.glob("step-*.pt"))) > 1)
    child.wait_until(lambda: any(folder.glob(".step*.tmp")), interval=0)
    child.send(signal.SIGINT)
    time.sleep(delay_ms / 1000)
    child.send(signal.SIGINT)
    assert child.wait().code == 130
    assert not leftovers(run)
    assert dltrain("resume", str(run)).code == 0
    assert_intact(run)


def test_sigterm_while_data_are_loaded_leaves_no_run_folder(run_until: Callable[..., tuple[Child, Path]]) -> None:
    child, run = run_until("text", "load-1", "data._target_=gated.Text")
    child.send(signal.SIGTERM)
    assert child.wait().code == 143
    assert "interrupted before anything was done" in child.stderr
    assert not run.exists()


@pytest.mark.parametrize(
    "moment",
    [
        pytest.param("train-1", id="before step 1"),
        pytest.param("evaluate-3", id="during validation", marks=pytest.mark.faults),
        pytest.param("evaluate-12", id="during evaluation on the test split", marks=pytest.mark.faults),
        pytest.param("show-1", id="while images are drawn", marks=pytest.mark.faults),
        pytest.param("show-5", id="while images of the test split are drawn", marks=pytest.mark.faults),
    ],
)
def test_sigterm_in_every_phase_leaves_a_run_that_can_be_resumed(
    moment: str,
    run_until: Callable[..., tuple[Child, Path]],
    dltrain: Callable[..., Child],
    gate: Gate,
    uninterrupted_run: Callable[[str], Path],
) -> None:
    child, run = run_until("forecast", moment)
    child.send(signal.SIGTERM)
    time.sleep(0.05)
    if (gate.folder / f"{moment}.reached").exists():
        gate.open(moment)
    assert child.wait().code == 143
    assert status(run)["state"] == "interrupted"
    assert not leftovers(run)
    for file in run.glob("checkpoints/step-*.pt"):
        assert file.stat().st_size > 1000
    assert dltrain("resume", str(run), ALLOW).code == 0
    assert_same(run, uninterrupted_run("forecast"))


@pytest.mark.faults
def test_sigterm_during_a_save_lets_the_save_finish(start: Callable[..., Child], tmp_path: Path) -> None:
    run, folder = tmp_path / "run", tmp_path / "run" / "checkpoints"
    child = start(*BIG, f"hydra.run.dir={run}")
    child.wait_until(lambda: any(folder.glob(".step*.tmp")), interval=0)
    child.send(signal.SIGTERM)
    assert child.wait().code == 143
    assert_intact(run)
    step = status(run)["step"]
    assert any(file.name.startswith(f"step-{step:08}") for file in folder.glob("step-*.pt"))


@pytest.mark.faults
def test_sigusr1_saves_a_checkpoint_and_training_continues(
    run_until: Callable[..., tuple[Child, Path]], gate: Gate, uninterrupted_run: Callable[[str], Path]
) -> None:
    gate.close("train-15")
    child, run = run_until("forecast", "train-13")
    child.send(signal.SIGUSR1)
    gate.open("train-13")
    gate.wait_until_reached(child, "train-15")
    child.wait_until((run / "checkpoints" / "step-00000013.pt").exists)
    gate.open("train-15")
    assert child.wait().code == 0
    assert "saved at step 13 on SIGUSR1" in child.stderr
    assert_same(run, uninterrupted_run("forecast"))


@pytest.fixture
def scontrol(tmp_path: Path) -> tuple[dict[str, str], Path]:
    """Return the environment variables of a Slurm job whose `scontrol` only logs its arguments, and the log file."""
    calls, folder = tmp_path / "calls", tmp_path / "bin"
    folder.mkdir()
    script = folder / "scontrol"
    script.write_text(f'#!/bin/sh\necho "$@" >> {calls}\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return {"SLURM_JOB_ID": "4711", "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}, calls


@pytest.mark.faults
def test_under_slurm_sigusr1_saves_a_checkpoint_and_requeues_the_job(
    run_until: Callable[..., tuple[Child, Path]],
    start: Callable[..., Child],
    gate: Gate,
    scontrol: tuple[dict[str, str], Path],
    uninterrupted_run: Callable[[str], Path],
    data_root: Path,
) -> None:
    environment, calls = scontrol
    requeue = ["trainer.requeue=true", "trainer.resume=auto"]
    child, run = run_until("forecast", "train-13", *requeue, **environment)
    child.send(signal.SIGUSR1)
    gate.open("train-13")
    assert child.wait().code == 143
    assert calls.read_text() == "requeue 4711\n"
    assert status(run)["state"] == "interrupted"
    assert "requeued Slurm job 4711" in child.stderr
    # Slurm runs the same command again.
    second = start(*recipe("forecast", data_root), f"hydra.run.dir={run}", *requeue, environment=environment).wait()
    assert second.code == 0, second.stderr
    assert_same(run, uninterrupted_run("forecast"))


@pytest.mark.faults
@pytest.mark.parametrize(("number", "code", "requeue"), [(signal.SIGUSR1, 0, "false"), (signal.SIGTERM, 143, "true")])
def test_only_sigusr1_with_requeue_true_requeues_a_slurm_job(
    number: signal.Signals,
    code: int,
    requeue: str,
    run_until: Callable[..., tuple[Child, Path]],
    gate: Gate,
    scontrol: tuple[dict[str, str], Path],
) -> None:
    environment, calls = scontrol
    child, run = run_until("forecast", "train-13", f"trainer.requeue={requeue}", **environment)
    child.send(number)
    gate.open("train-13")
    assert child.wait().code == code
    assert not calls.exists()
    assert (run / "checkpoints" / "last.pt").exists()


@pytest.mark.faults
def test_a_run_that_reaches_max_minutes_finishes_and_resumes_to_identical_results(
    start: Callable[..., Child],
    dltrain: Callable[..., Child],
    gate: Gate,
    uninterrupted_run: Callable[[str], Path],
    data_root: Path,
    tmp_path: Path,
) -> None:
    run = tmp_path / "run"
    gate.delay(0.1)
    command = [*recipe("forecast", data_root), f"hydra.run.dir={run}", "trainer.max_minutes=0.03"]
    child = start(*command, environment=gate.environment).wait()
    assert child.code == 0, child.stderr
    assert status(run)["state"] == "finished"
    assert_intact(run)
    first = json.loads((run / "result.json").read_text())
    assert first["out_of_time"] and 0 < first["steps"] < 32
    assert (run / "checkpoints" / f"step-{first['steps']:08}.pt").exists()
    resumed = dltrain("resume", str(run), ALLOW, "trainer.max_minutes=10")
    assert resumed.code == 0, resumed.stderr
    assert_same(run, uninterrupted_run("forecast"), also_tested_at=first["steps"])
