"""Simultaneous runs never share a folder."""

import json
import os
import platform
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from children import Child, Gate
from omegaconf import OmegaConf
from recipes import recipe
from same import assert_same, status

ALLOW = "allow_targets=[gated]"
TINY = ["model=mlp", "model.hidden_size=4", "data=digits", "device=cpu", "trainer.max_steps=3", "trainer.log_every=1"]
TINY += ["trainer.log_media=false"]


@pytest.mark.faults
def test_eight_runs_started_in_the_same_second_have_separate_folders(
    start: Callable[..., Child], tmp_path: Path
) -> None:
    children = [start(*TINY, f"seed={seed}") for seed in range(8)]
    assert [child.wait().code for child in children] == [0] * 8
    runs = sorted((tmp_path / "outputs" / "mlp-digits").iterdir())
    assert len(runs) == 8
    assert sorted(OmegaConf.load(run / "config.yaml").seed for run in runs) == list(range(8))
    assert sorted(OmegaConf.load(run / "job.yaml").config.seed for run in runs) == list(range(8))
    for run in runs:
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines if line["split"] == "train"] == [1, 2, 3]
        assert (run / "train.log").read_text().count("step 3/3") == 1


@pytest.mark.faults
def test_only_one_of_eight_simultaneous_runs_may_use_the_same_folder(
    start: Callable[..., Child], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    children = [start(*TINY, f"seed={seed}", f"hydra.run.dir={run}") for seed in range(8)]
    codes = [child.wait().code for child in children]
    assert sorted(codes) == [0] + [2] * 7
    assert OmegaConf.load(run / "config.yaml").seed == codes.index(0)
    assert status(run)["state"] == "finished"


@pytest.fixture
def busy(start: Callable[..., Child], gate: Gate, data_root: Path, tmp_path: Path) -> tuple[Child, Path]:
    """Return the process of a run that waits in step 13, and the run folder."""
    run = tmp_path / "run"
    gate.close("train-13")
    child = start(*recipe("forecast", data_root), f"hydra.run.dir={run}", environment=gate.environment)
    gate.wait_until_reached(child, "train-13")
    return child, run


def test_a_run_in_progress_cannot_be_resumed_and_the_error_names_its_process(
    busy: tuple[Child, Path],
    dltrain: Callable[..., Child],
    gate: Gate,
    data_root: Path,
    uninterrupted_run: Callable[[str], Path],
) -> None:
    child, run = busy
    again = [*recipe("forecast", data_root), f"hydra.run.dir={run}", "trainer.resume=auto"]
    for second in (dltrain("resume", str(run), ALLOW), dltrain(*again)):
        assert second.code == 2
        assert f"It is in use by process {child.pid} on {platform.node()}." in second.stderr
        assert "Traceback" not in second.stderr
    gate.open("train-13")
    assert child.wait().code == 0
    assert_same(run, uninterrupted_run("forecast"))


@pytest.mark.faults
def test_a_run_whose_process_was_killed_can_be_resumed(
    busy: tuple[Child, Path], dltrain: Callable[..., Child], uninterrupted_run: Callable[[str], Path]
) -> None:
    child, run = busy
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert status(run)["state"] == "running"  # a killed process cannot update status.json
    assert dltrain("resume", str(run), ALLOW).code == 0
    assert_same(run, uninterrupted_run("forecast"))


def test_resume_auto_resumes_a_killed_run_and_reports_a_finished_run(
    busy: tuple[Child, Path], dltrain: Callable[..., Child], data_root: Path, uninterrupted_run: Callable[[str], Path]
) -> None:
    child, run = busy
    child.kill()
    command = [*recipe("forecast", data_root), f"hydra.run.dir={run}", "trainer.resume=auto"]
    second = dltrain(*command)
    assert second.code == 0 and "(resumed)" in second.stderr
    assert_same(run, uninterrupted_run("forecast"))
    third = dltrain(*command)
    assert third.code == 0 and "this run is finished" in third.stderr
    other = dltrain(*command, "optimizer.lr=0.5")
    assert other.code == 2 and "got 0.5. It cannot be changed on resume." in other.stderr
    nowhere = dltrain(*command[:-2], "trainer.resume=auto")
    assert nowhere.code == 2 and "trainer.resume=auto: not supported without hydra.run.dir=FOLDER" in nowhere.stderr
    assert_same(run, uninterrupted_run("forecast"))
