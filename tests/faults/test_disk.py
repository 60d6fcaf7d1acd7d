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
CANNOT_MOUNT = 77  # exit code of server.py
MAX_FILE_BYTES = 1_000_000  # larger than every file of these runs except the extended train.log


@pytest.fixture
def stopped_run(start: Callable[..., Child], gate: Gate, data_root: Path, tmp_path: Path) -> Path:
    """Return the folder of a run that was stopped at step 13."""
    run = tmp_path / "run"
    gate.close("train-13")
    child = start(*recipe("forecast", data_root), f"hydra.run.dir={run}", environment=gate.environment)
    gate.wait_until_reached(child, "train-13")
    child.send(signal.SIGTERM)
    gate.open("train-13")
    assert child.wait().code == 143
    return run


def test_a_full_disk_at_a_checkpoint_is_reported_and_the_previous_checkpoint_is_kept(
    stopped_run: Path, dltrain: Callable[..., Child], uninterrupted_run: Callable[[str], Path]
) -> None:
    files = {path: sha256(path) for path in (stopped_run / "checkpoints").glob("step-*.pt")}
    size = min(path.stat().st_size for path in files)
    child = dltrain("resume", str(stopped_run), ALLOW, limits={"RLIMIT_FSIZE": size - 1000})
    assert child.code == 1
    assert "could not write: File too large" in child.stderr
    assert " MB are free there" in child.stderr
    assert "Last checkpoint: step 13" in child.stderr
    assert "Traceback" not in child.stderr
    assert status(stopped_run)["state"] == "failed"
    assert not leftovers(stopped_run)
    assert all(sha256(path) == before for path, before in files.items())
    assert Checkpoints(stopped_run).load_newest()[1]["loop"]["step"] == 13
    assert dltrain("resume", str(stopped_run), ALLOW).code == 0
    assert_same(stopped_run, uninterrupted_run("forecast"))


@pytest.mark.faults
def test_a_full_file_system_is_reported(dltrain: Callable[..., Child], tmp_path: Path) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    big = ["model=mlp", "model.hidden_size=1000", "data=digits", "device=cpu", "trainer.checkpoint_every=2"]
    child = dltrain(*big, "trainer.max_steps=6", f"hydra.run.dir={folder / 'run'}", limits={str(folder): 20_000_000})
    if child.code == CANNOT_MOUNT:
        pytest.skip("needs permission to mount a file system")
    assert child.code == 1
    assert "could not write: No space left on device" in child.stderr
    assert "Last checkpoint: step 2" in child.stderr


@pytest.mark.faults
def test_a_run_stopped_by_a_full_disk_while_logging_can_be_resumed(
    stopped_run: Path, dltrain: Callable[..., Child], uninterrupted_run: Callable[[str], Path]
) -> None:
    limit = (stopped_run / "metrics.jsonl").stat().st_size + 500
    child = dltrain("resume", str(stopped_run), ALLOW, limits={"RLIMIT_FSIZE": limit})
    assert child.code == 1
    assert "could not write: File too large" in child.stderr
    assert "Traceback" not in child.stderr
    assert Checkpoints(stopped_run).load_newest()[1]["loop"]["step"] == 13
    assert dltrain("resume", str(stopped_run), ALLOW).code == 0
    assert_same(stopped_run, uninterrupted_run("forecast"))


@pytest.mark.faults
@pytest.mark.parametrize("where", ["messages", "train.log"])
def test_a_run_continues_when_its_messages_cannot_be_written(
    where: str, stopped_run: Path, dltrain: Callable[..., Child], uninterrupted_run: Callable[[str], Path]
) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("needs /dev/full")
    more = {"stderr": full} if where == "messages" else {"limits": {"RLIMIT_FSIZE": MAX_FILE_BYTES}}
    if where == "train.log":
        with open(stopped_run / where, "a") as log:
            log.truncate(MAX_FILE_BYTES)
    child = dltrain("resume", str(stopped_run), ALLOW, **more)
    assert child.code == 0, child.stderr
    assert_same(stopped_run, uninterrupted_run("forecast"))


@pytest.mark.parametrize("where", ["/proc/dltrain/run", "{file}/run"])
def test_an_unwritable_run_folder_is_rejected_before_training(
    where: str, dltrain: Callable[..., Child], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    folder = where.format(file=tmp_path / "file")
    child = dltrain("model=mlp", "data=digits", "device=cpu", f"hydra.run.dir={folder}")
    assert child.code == 2
    assert child.stderr.count("\n") == 1
    assert child.stderr.startswith("dltrain: hydra.run.dir: expected a folder that can be written, got /")


@pytest.mark.skipif(os.geteuid() == 0, reason="root can write anywhere")
def test_a_read_only_folder_is_rejected_with_a_one_line_error(dltrain: Callable[..., Child], tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    child = dltrain("model=mlp", "data=digits", "device=cpu", f"hydra.run.dir={folder / 'run'}")
    assert child.code == 2
    assert child.stderr.count("\n") == 1


@pytest.mark.parametrize("moment", ["train-11", pytest.param("evaluate-3", marks=pytest.mark.faults)])
def test_deleting_the_run_folder_during_training_stops_the_run_with_an_error(
    moment: str, start: Callable[..., Child], gate: Gate, data_root: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    gate.close(moment)
    child = start(*recipe("forecast", data_root), f"hydra.run.dir={run}", environment=gate.environment)
    gate.wait_until_reached(child, moment)
    while run.exists():  # a checkpoint may be written at the same time
        shutil.rmtree(run, ignore_errors=True)
    gate.open(moment)
    assert child.wait().code == 1
    assert f"the run folder was removed: {run}" in child.stderr
    assert "Traceback" not in child.stderr
    assert not run.exists()
