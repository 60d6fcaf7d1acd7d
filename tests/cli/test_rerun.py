"""``dltrain rerun``: repeat a run, and list what differs from the original run."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from in_process import Result, run_command

from dltrain.config import compose
from dltrain.runs import job, provenance
from dltrain.storage.checkpoints import Checkpoints

FinishedRun = Callable[..., Path]


def differences(result: Result) -> dict[str, str]:
    """Return each reported difference, ``then -> now``, by name."""
    lines = [line.strip() for line in result.err.splitlines() if " -> " in line]
    return dict(re.split(r"\s{2,}", line, maxsplit=1) for line in lines)


@pytest.fixture
def rerun(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., Result]:
    """Return a function that runs ``dltrain rerun`` in this process and writes to the run folder ``again``."""
    return lambda *words: run_command(capsys, "rerun", *words, f"hydra.run.dir={tmp_path / 'again'}")


def copy_of(run: Path, to: Path) -> Path:
    shutil.copytree(run, to / "copy", symlinks=True)
    return to / "copy"


def content_of(root: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in root.rglob("*") if file.is_file()}


def hashes(run: Path) -> list[str]:
    """Return the hashes of the last and the best checkpoint. A run on a slow disk may omit other checkpoints."""
    return [Checkpoints(run).read_entry(name)["sha256"] for name in ("last.pt", "best.pt")]


@pytest.mark.parametrize("kind", ["augmented", "forecast"])
def test_a_rerun_without_changes_writes_the_same_last_and_best_checkpoints(
    finished_run: FinishedRun, rerun: Callable[..., Result], tmp_path: Path, kind: str
) -> None:
    run = finished_run(kind)
    before = content_of(run)
    result = rerun(run)
    assert result.code == 0, result.err
    assert f"no differences from {run}" in result.err and not differences(result)
    assert hashes(tmp_path / "again") == hashes(run)
    assert result.out == run.with_name("printed").read_text()
    assert content_of(run) == before


def test_a_changed_seed_is_reported_and_gives_different_weights(
    plain_run: Path, rerun: Callable[..., Result], tmp_path: Path
) -> None:
    result = rerun(plain_run, "seed=1")
    assert differences(result) == {"seed": "0 -> 1"}
    assert hashes(tmp_path / "again") != hashes(plain_run)


def test_differences_from_the_original_run_are_listed_before_training(
    plain_run: Path, rerun: Callable[..., Result], tmp_path: Path
) -> None:
    run = copy_of(plain_run, tmp_path)
    file = run / "environment.json"
    then: dict[str, Any] = json.loads(file.read_text())
    now = json.loads(file.read_text())
    then |= {"python": "3.9.1", "threads": 64, "device": "an abacus", "commit": {"id": "abc", "dirty": True}}
    then["packages"]["torch"] = "1.0"
    then["data"]["test"] = "0000"
    then["code"] = "1111"
    file.write_text(json.dumps(then))
    result = rerun(run, "optimizer.lr=0.01")
    assert result.code == 0
    commit = now["commit"] and now["commit"]["id"] + " with uncommitted changes" * now["commit"]["dirty"]
    assert differences(result) == {
        "optimizer.lr": "0.001 -> 0.01",
        "python": f"3.9.1 -> {now['python']}",
        "torch": f"1.0 -> {now['packages']['torch']}",
        "device": f"an abacus -> {now['device']}",
        "threads": f"64 -> {now['threads']}",
        "commit": f"abc with uncommitted changes -> {commit or 'none'}",
        "code": f"1111 -> {now['code']}",
        "test data": f"0000 -> {now['data']['test']}",
    }
    assert result.err.index("differences from") < result.err.index("epoch 1/1")


def test_a_run_with_a_damaged_environment_json_can_be_rerun(
    plain_run: Path, rerun: Callable[..., Result], tmp_path: Path
) -> None:
    run = copy_of(plain_run, tmp_path)
    (run / "environment.json").write_text("{")
    result = rerun(run)
    assert result.code == 0
    assert differences(result)["threads"].startswith("none -> ")
    assert hashes(tmp_path / "again") == hashes(run)


def test_the_stored_command_composes_the_configuration_of_the_new_run(
    finished_run: FinishedRun, rerun: Callable[..., Result], tmp_path: Path
) -> None:
    run = finished_run("model=mlp", "data=digits", "trainer.max_steps=2", "optimizer.lr=0.3", "model.hidden_size=8")
    result = rerun(run, "optimizer.momentum=0.5", "optimizer=momentum", "model.hidden_size=16")
    assert result.code == 0, result.err
    command = shlex.split((tmp_path / "again" / "command.txt").read_text())
    repeated = compose.compose(command[1:])
    found = job.load_job(tmp_path / "again")
    assert repeated.config == found.config
    assert repeated.choices == found.choices
    assert (found.config["optimizer"]["momentum"], found.config["model"]["hidden_size"]) == (0.5, 16)
    assert found.config["optimizer"]["lr"] != 0.3  # the override belonged to the optimizer that was replaced


def test_the_fingerprint_of_the_code_covers_a_user_module_only_if_it_is_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine_of_rerun.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    __import__("mine_of_rerun")
    before = provenance.code_fingerprint(["mine_of_rerun"]), provenance.code_fingerprint([])
    (tmp_path / "mine_of_rerun.py").write_text("x = 2\n")
    after = provenance.code_fingerprint(["mine_of_rerun"]), provenance.code_fingerprint([])
    assert before[0] != after[0]
    assert before[1] == after[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["model=lsmt"], "Did you mean lstm?"),
        (
            ["experiment=lenet5_mnist"],
            "experiment: not supported because it changes several groups. For a new run: dltrain exp",
        ),
        (["optimizer.lr=-1", "trainer.epochs=x"], "optimizer.lr: expected a number above 0, got -1"),
        (["seed=1,2"], "seed: expected one value"),
        (["--sort"], "--sort: unknown flag"),
        (["another"], "rerun: expected dltrain rerun RUN"),
        (["data=timeseries"], "task=classification data=timeseries: not supported because"),
    ],
)
def test_an_invalid_command_is_rejected_and_creates_no_folder(
    plain_run: Path, rerun: Callable[..., Result], tmp_path: Path, arguments: list[str], message: str
) -> None:
    found = rerun(plain_run, *arguments)
    assert found.code == 2
    assert message in found.err and "Traceback" not in found.err
    assert not list(tmp_path.iterdir())


def test_an_existing_run_folder_as_hydra_run_dir_is_rejected_without_importing_torch(plain_run: Path) -> None:
    script = (
        "import sys; from dltrain.cli import main; code = main.main(sys.argv[1:]); print('torch' in sys.modules, code)"
    )
    command = [sys.executable, "-c", script, "rerun", str(plain_run), f"hydra.run.dir={plain_run}"]
    completed = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert completed.stdout.split() == ["False", "2"]
    assert "hydra.run.dir: expected a folder that holds no run yet" in completed.stderr
