"""Runs that are stopped at critical moments, shortened, or resumed with missing or damaged files."""

import json
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from children import Child, Gate
from omegaconf import OmegaConf
from recipes import recipe
from same import assert_intact, assert_same, lines, status

from dltrain.storage.checkpoints import Checkpoints
from dltrain.training.signals import GRACE_S

ALLOW = "allow_targets=[gated]"
TINY = ["model=mlp", "model.hidden_size=8", "data=digits", "device=cpu", "trainer.log_media=false"]

RunUntil = Callable[..., tuple[Child, Path]]


@pytest.fixture
def run_until(start: Callable[..., Child], gate: Gate, data_root: Path, tmp_path: Path) -> RunUntil:
    """Return a function that trains until a gate of `gated.py` is reached, and returns the child and the run folder."""

    def begin(moment: str, *more: str) -> tuple[Child, Path]:
        run = tmp_path / "run"
        gate.close(moment)
        child = start(*recipe("forecast", data_root), f"hydra.run.dir={run}", *more, environment=gate.environment)
        gate.wait_until_reached(child, moment)
        return child, run

    return begin


@pytest.mark.faults
def test_a_slow_save_is_completed_after_sigterm(
    run_until: RunUntil, gate: Gate, dltrain: Callable[..., Child], uninterrupted_run: Callable[[str], Path]
) -> None:
    child, run = run_until("train-13")
    for number in range(1, 40):
        gate.close(f"save-{number}")
    child.send(signal.SIGTERM)
    gate.open("train-13")
    saving = child.wait_until(lambda: list(gate.folder.glob("save-*.reached")))[0]
    time.sleep(GRACE_S + 2)
    assert not child.ended.is_set()
    gate.open(saving.stem)
    assert child.wait().code == 143
    assert status(run)["step"] == 13
    assert (run / "checkpoints" / "step-00000013.pt").exists()
    assert_intact(run)
    assert dltrain("resume", str(run), ALLOW).code == 0
    assert_same(run, uninterrupted_run("forecast"))


@pytest.mark.faults
def test_resume_after_a_forced_stop_while_drawing_images_gives_identical_results(
    run_until: RunUntil, dltrain: Callable[..., Child], uninterrupted_run: Callable[[str], Path]
) -> None:
    child, run = run_until("show-2")
    child.send(signal.SIGTERM)
    assert child.wait().code == 143
    assert dltrain("resume", str(run), ALLOW).code == 0
    assert_same(run, uninterrupted_run("forecast"))


def test_a_stop_before_the_first_step_leaves_no_folder_and_the_command_can_be_repeated(
    run_until: RunUntil,
    gate: Gate,
    start: Callable[..., Child],
    uninterrupted_run: Callable[[str], Path],
    data_root: Path,
) -> None:
    child, run = run_until("stages-2", "trainer.resume=auto")
    child.send(signal.SIGTERM)
    assert child.wait().code == 143
    assert "interrupted before anything was done" in child.stderr
    assert not run.exists()
    again = start(*recipe("forecast", data_root), f"hydra.run.dir={run}", "trainer.resume=auto").wait()
    assert again.code == 0, again.stderr
    assert_same(run, uninterrupted_run("forecast"))


@pytest.mark.faults
def test_an_evaluation_interrupted_by_sigterm_and_repeated_after_a_kill_is_logged_once(
    run_until: RunUntil,
    gate: Gate,
    start: Callable[..., Child],
    dltrain: Callable[..., Child],
    data_root: Path,
    tmp_path: Path,
) -> None:
    reference, more = tmp_path / "reference", ["optimizer.lr=0.3", "data.batch_size=16"]  # evaluated in four batches
    assert dltrain(*recipe("forecast", data_root), *more, f"hydra.run.dir={reference}").code == 0
    metrics = [line["mae"] for line in lines(reference) if line["split"] == "val"]
    # Every new best evaluation saves a checkpoint, so a killed run repeats only evaluations that are not a new best.
    number = next(n for n in range(2, len(metrics)) if metrics[n - 1] >= min(metrics[: n - 1]))
    moment = f"evaluate-{4 * (number - 1) + 1}"
    child, run = run_until(moment, *more)
    child.send(signal.SIGTERM)
    gate.open(moment)
    assert child.wait().code == 143
    gate.close("train-1")
    child = start("resume", str(run), ALLOW, environment=gate.environment)
    gate.wait_until_reached(child, "train-1")
    child.kill()
    assert dltrain("resume", str(run), ALLOW).code == 0
    assert_same(run, reference)


@pytest.mark.faults
def test_a_stopped_run_shortened_to_its_current_step_equals_a_run_of_that_length(
    run_until: RunUntil, gate: Gate, dltrain: Callable[..., Child], data_root: Path, tmp_path: Path
) -> None:
    short = ["trainer.epochs=null", "trainer.max_steps=13"]
    assert dltrain(*recipe("forecast", data_root), *short, f"hydra.run.dir={tmp_path / 'short'}").code == 0
    child, run = run_until("train-13")
    child.send(signal.SIGTERM)
    gate.open("train-13")
    assert child.wait().code == 143
    resumed = dltrain("resume", str(run), ALLOW, *short)
    assert resumed.code == 0, resumed.stderr
    assert_same(run, tmp_path / "short")


@pytest.mark.faults
def test_a_run_cannot_be_shortened_below_the_steps_already_taken(
    run_until: RunUntil, gate: Gate, dltrain: Callable[..., Child], tmp_path: Path
) -> None:
    child, run = run_until("train-13")
    child.send(signal.SIGTERM)
    gate.open("train-13")
    assert child.wait().code == 143
    before = (run / "job.yaml").read_bytes()
    rejected = dltrain("resume", str(run), ALLOW, "trainer.epochs=1")
    assert rejected.code == 2
    assert "at least the 13 steps already taken, got 8" in rejected.stderr
    assert (run / "job.yaml").read_bytes() == before
    assert dltrain("resume", str(run), ALLOW).code == 0
    before = (run / "job.yaml").read_bytes()
    finished = dltrain("resume", str(run), ALLOW, "trainer.epochs=1")
    assert finished.code == 0 and "this run is finished" in finished.stderr
    assert (run / "job.yaml").read_bytes() == before


def test_a_resumed_run_reports_a_damaged_best_checkpoint_and_finishes(
    run_until: RunUntil, gate: Gate, dltrain: Callable[..., Child]
) -> None:
    child, run = run_until("train-13")
    child.send(signal.SIGTERM)
    gate.open("train-13")
    assert child.wait().code == 143
    checkpoints = Checkpoints(run)
    best = checkpoints.path / checkpoints.resolve("best.pt")
    assert best.name != checkpoints.resolve("last.pt")
    best.write_bytes(best.read_bytes()[:-100])
    resumed = dltrain("resume", str(run), ALLOW)
    assert resumed.code == 0, resumed.stderr
    assert f"{best}: ignored because it is damaged" in resumed.stderr
    assert json.loads((run / "result.json").read_text())["best"]["step"] > 13
    assert dltrain("evaluate", str(run), ALLOW).code == 0


@pytest.mark.faults
def test_evaluating_a_run_that_was_never_validated_uses_its_last_weights(
    dltrain: Callable[..., Child], tmp_path: Path
) -> None:
    overrides = ["model=mlp", "data=digits", "device=cpu", "trainer.epochs=null", "trainer.max_steps=1000000"]
    never = ["trainer.eval_every=1000000", "trainer.max_minutes=0.02", f"hydra.run.dir={tmp_path / 'run'}"]
    assert dltrain(*overrides, *never).code == 0
    assert json.loads((tmp_path / "run" / "result.json").read_text())["out_of_time"]
    evaluated = dltrain("evaluate", str(tmp_path / "run"), "--json")
    assert evaluated.code == 0, evaluated.stderr
    expected = json.loads((tmp_path / "run" / "result.json").read_text())["test"]
    assert json.loads(evaluated.stdout)["metrics"] == expected


def test_a_resumed_run_reports_a_deleted_metrics_file_once(dltrain: Callable[..., Child], tmp_path: Path) -> None:
    run = tmp_path / "run"
    overrides = [*TINY, "trainer.max_steps=2"]
    assert dltrain(*overrides, f"hydra.run.dir={run}").code == 0
    (run / "metrics.jsonl").unlink()
    resumed = dltrain("resume", str(run), "trainer.max_steps=4")
    assert resumed.code == 0
    assert "metrics.jsonl: missing, the log up to step 2 is lost" in resumed.stderr
    assert "is lost" not in dltrain("resume", str(run), "trainer.max_steps=6").stderr


def test_the_log_interval_can_change_on_resume_except_with_fp16(dltrain: Callable[..., Child], tmp_path: Path) -> None:
    run, more = tmp_path / "run", ["trainer.max_steps=4", "trainer.log_every=1"]
    assert dltrain(*TINY, "trainer.max_steps=2", f"hydra.run.dir={run}").code == 0
    shutil.copytree(run, tmp_path / "half", symlinks=True)
    assert dltrain("resume", str(run), *more).code == 0
    # Edit job.yaml instead of training in fp16: torch's gradient scaler would import torch._dynamo, which is slow.
    job = OmegaConf.load(tmp_path / "half" / "job.yaml")
    OmegaConf.update(job, "config.device.precision", "fp16")
    OmegaConf.save(job, tmp_path / "half" / "job.yaml")
    rejected = dltrain("resume", str(tmp_path / "half"), *more)
    assert rejected.code == 2
    assert "trainer.log_every: expected 50, got 1. It cannot be changed on resume." in rejected.stderr
