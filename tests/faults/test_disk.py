"""Full disks, unwritable folders and deleted folders are reported, and the last good checkpoint is kept."""

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from children import Child, Gate
from recipes import recipe
from same import assert_same, leftovers, sha256, status

from dltrain.storage.checkpoints import Checkpoints

ALLOW = "allow_targets=[gated]"
NO_RIGHTS = 77
ROOM = 1_000_000  # more than any other file of these runs


@pytest.fixture
def stopped(start: Callable[..., Child], gate: Gate, data_root: Path, tmp_path: Path) -> Path:
    """Return the folder of a run that was stopped at step 13."""
    run = tmp_path / "run"
    gate.close("train-13")
    child = start(*recipe("forecast", data_root), f"hydra.run.dir={run}", environment=gate.environment)
    gate.reached(child, "train-13")
    child.send(signal.SIGTERM)
    gate.open("train-13")
    assert child.wait().code == 143
    return run


def test_a_disk_full_at_a_checkpoint_is_reported_and_keeps_the_previous_checkpoint(
    stopped: Path, dltrain: Callable[..., Child], undisturbed_run: Callable[[str], Path]
) -> None:
    files = {path: sha256(path) for path in (stopped / "checkpoints").glob("step-*.pt")}
    size = min(path.stat().st_size for path in files)
    child = dltrain("resume", str(stopped), ALLOW, limits={"RLIMIT_FSIZE": size - 1000})
    assert child.code == 1
    assert "could not write: File too large" in child.stderr
    assert " MB are free there" in child.stderr
    assert "Last checkpoint: step 13" in child.stderr
    assert "Traceback" not in child.stderr
    assert status(stopped)["state"] == "failed"
    assert not leftovers(stopped)
    assert all(sha256(path) == was for path, was in files.items())
    assert Checkpoints(stopped).load_newest()[1]["loop"]["step"] == 13
    assert dltrain("resume", str(stopped), ALLOW).code == 0
    assert_same(stopped, undisturbed_run("forecast"))


@pytest.mark.faults
def test_a_full_file_system_is_reported(dltrain: Callable[..., Child], tmp_path: Path) -> None:
    place = tmp_path / "small"
    place.mkdir()
    big = ["model=mlp", "model.hidden_size=1000", "data=digits", "device=cpu", "trainer.checkpoint_every=2"]
    child = dltrain(*big, "trainer.max_steps=6", f"hydra.run.dir={place / 'run'}", limits={str(place): 20_000_000})
    if child.code == NO_RIGHTS:
        pytest.skip("needs the right to mount a file system")
    assert child.code == 1
    assert "could not write: No space left on device" in child.stderr
    assert "Last checkpoint: step 2" in child.stderr


@pytest.mark.faults
def test_a_disk_full_while_logging_stops_the_run_and_it_can_be_resumed(
    stopped: Path, dltrain: Callable[..., Child], undisturbed_run: Callable[[str], Path]
) -> None:
    room = (stopped / "metrics.jsonl").stat().st_size + 500
    child = dltrain("resume", str(stopped), ALLOW, limits={"RLIMIT_FSIZE": room})
    assert child.code == 1
    assert "could not write: File too large" in child.stderr
    assert "Traceback" not in child.stderr
    assert Checkpoints(stopped).load_newest()[1]["loop"]["step"] == 13
    assert dltrain("resume", str(stopped), ALLOW).code == 0
    assert_same(stopped, undisturbed_run("forecast"))


@pytest.mark.faults
@pytest.mark.parametrize("where", ["messages", "train.log"])
def test_messages_that_cannot_be_written_do_not_stop_a_run(
    where: str, stopped: Path, dltrain: Callable[..., Child], undisturbed_run: Callable[[str], Path]
) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("needs /dev/full")
    more = {"stderr": full} if where == "messages" else {"limits": {"RLIMIT_FSIZE": ROOM}}
    if where == "train.log":
        with open(stopped / where, "a") as log:
            log.truncate(ROOM)
    child = dltrain("resume", str(stopped), ALLOW, **more)
    assert child.code == 0, child.stderr
    assert_same(stopped, undisturbed_run("forecast"))


@pytest.mark.parametrize("where", ["/proc/dltrain/run", "{file}/run"])
def test_an_unwritable_run_folder_is_rejected_before_training(
    where: str, dltrain: Callable[..., Child], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    place = where.format(file=tmp_path / "file")
    child = dltrain("model=mlp", "data=digits", f"hydra.run.dir={place}")
    assert child.code == 2
    assert child.stderr.count("\n") == 1
    assert child.stderr.startswith("dltrain: hydra.run.dir: expected a folder that can be written, got /")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_rejected_in_one_line(dltrain: Callable[..., Child], tmp_path: Path) -> None:
    place = tmp_path / "locked"
    place.mkdir(mode=0o500)
    child = dltrain("model=mlp", "data=digits", f"hydra.run.dir={place / 'run'}")
    assert child.code == 2
    assert child.stderr.count("\n") == 1


@pytest.mark.parametrize("moment", ["train-11", pytest.param("evaluate-3", marks=pytest.mark.faults)])
def test_deleting_the_run_folder_during_training_stops_the_run_with_an_error(
    moment: str, start: Callable[..., Child], gate: Gate, data_root: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    gate.close(moment)
    child = start(*recipe("forecast", data_root), f"hydra.run.dir={run}", environment=gate.environment)
    gate.reached(child, moment)
    while run.exists():  # a checkpoint may be written at the same time
        shutil.rmtree(run, ignore_errors=True)
    gate.open(moment)
    assert child.wait().code == 1
    assert f"the run folder was removed: {run}" in child.stderr
    assert "Traceback" not in child.stderr
    assert not run.exists()
