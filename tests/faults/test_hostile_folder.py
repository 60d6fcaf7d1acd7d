"""Malicious run folders: malicious targets are never imported or called, and named pipes and links are rejected."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from children import Child, ServerClient
from omegaconf import OmegaConf

from dltrain.data.inputs import InputFiles
from dltrain.errors import ConfigError

RUN = ["model=mlp", "data=digits", "device=cpu", "trainer.max_steps=2", "trainer.log_media=false"]
# Targets that would run a command, unpickle a file or import a malicious module.
EVIL = {
    "os.system": {"command": "touch {canary}"},
    "subprocess.check_call": {"args": ["touch", "{canary}"]},
    "torch.load": {"f": "{bait}", "weights_only": False},
    "numpy.load": {"file": "{bait}", "allow_pickle": True},
    "torch.utils.collect_env.run": {"command": "touch {canary}"},
    "mine.Evil": {},
}


@pytest.fixture(scope="session")
def finished(server: ServerClient, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run folder without checkpoints, so that resuming builds everything from the configuration."""
    path = tmp_path_factory.mktemp("ended") / "run"
    child = server.start([*RUN, f"hydra.run.dir={path}"], path.parent).wait()
    assert child.code == 0, child.stderr
    shutil.rmtree(path / "checkpoints")
    (path / "status.json").unlink()
    return path


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """Return a copy of the run folder, to be modified."""
    return shutil.copytree(finished, tmp_path / "theirs")


def fill_in(value: Any, **names: Path) -> Any:
    """Replace placeholders such as ``{canary}`` in the arguments of a target by paths."""
    if isinstance(value, dict):
        return {key: fill_in(item, **names) for key, item in value.items()}
    if isinstance(value, list):
        return [fill_in(item, **names) for item in value]
    return value.format(**names) if isinstance(value, str) else value


KEYS = ("data", "task", "model", "optimizer", "optimizer.schedule")
CASES = [
    pytest.param(target, key, marks=[] if key == KEYS[number % len(KEYS)] else [pytest.mark.faults])
    for number, target in enumerate(EVIL)
    for key in KEYS
]


@pytest.mark.parametrize(("target", "key"), CASES)
def test_a_malicious_target_in_a_run_folder_is_rejected_before_it_is_imported(
    target: str, key: str, run: Path, dltrain: Callable[..., Child], tmp_path: Path
) -> None:
    canary, bait = tmp_path / "canary", tmp_path / "bait.pkl"
    bait.write_bytes(b"cos\nsystem\n(S'touch " + str(canary).encode() + b"'\ntR.")
    (tmp_path / "mine.py").write_text(f"open({str(canary)!r}, 'w')\nclass Evil: pass\n")
    job = OmegaConf.load(run / "job.yaml")
    node = {"_target_": target, **fill_in(EVIL[target], canary=canary, bait=bait)}
    if key == "optimizer":
        node["schedule"] = job.config.optimizer.schedule
    OmegaConf.update(job, f"config.{key}", node, merge=False)
    OmegaConf.update(job, "config.allow_targets", ["os", "subprocess", "torch", "numpy", "mine"])
    OmegaConf.save(job, run / "job.yaml")
    child = dltrain("resume", str(run))
    assert child.code == 2, child.stderr
    assert f"got {target}" in child.stderr
    assert not canary.exists()


def test_hydra_callbacks_and_launchers_in_a_run_folder_are_not_called(
    run: Path, dltrain: Callable[..., Child], tmp_path: Path
) -> None:
    canary = tmp_path / "canary"
    job = OmegaConf.load(run / "job.yaml")
    node = {"_target_": "torch.utils.collect_env.run", "command": f"touch {canary}"}
    for key in ("config.hydra.callbacks.evil", "hydra.callbacks.evil", "config.evil", "config.hydra.launcher"):
        OmegaConf.update(job, key, node, force_add=True)
    OmegaConf.save(job, run / "job.yaml")
    dltrain("resume", str(run))
    assert not canary.exists()


def test_yaml_with_python_objects_is_rejected(run: Path, dltrain: Callable[..., Child], tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    text = (run / "job.yaml").read_text()
    (run / "job.yaml").write_text(f"evil: !!python/object/apply:os.system ['touch {canary}']\n{text}")
    child = dltrain("resume", str(run))
    assert child.code == 2, child.stderr
    assert "Traceback" not in child.stderr
    assert not canary.exists()


# --- named pipes and links --------------------------------------------------------------------------------------------

FILES = ("status.json", "metrics.jsonl", "environment.json", "result.json", "train.log", "job.yaml", ".lock", "mine")
DEEPER = ("checkpoints/manifest.json", "checkpoints/step-00000002.pt", "frames/00000001.png")


def make_pipe(file: Path) -> None:
    """Replace a file with a named pipe, which blocks its readers."""
    file.parent.mkdir(exist_ok=True)
    file.unlink(missing_ok=True)
    os.mkfifo(file)


VERBS = ("resume", "evaluate", "rerun", "predict")
PIPES = [
    pytest.param(name, verb, marks=[] if verb == VERBS[number % len(VERBS)] else [pytest.mark.faults])
    for number, name in enumerate((*FILES, *DEEPER))
    for verb in VERBS
]


@pytest.mark.parametrize(("name", "verb"), PIPES)
def test_a_named_pipe_in_a_run_folder_is_rejected_without_blocking(
    name: str, verb: str, run: Path, dltrain: Callable[..., Child]
) -> None:
    make_pipe(run / name)
    child = dltrain(verb, str(run), *["x.png"] * (verb == "predict"))
    assert child.code == 2, child.stderr
    (line,) = [line for line in child.stderr.splitlines() if line.startswith("dltrain: ")]
    assert f"got {run / name}. It is neither a file nor a folder." in line
    assert "Traceback" not in child.stderr


@pytest.mark.parametrize(
    "name", ["status.json", "metrics.jsonl", "environment.json", "command.txt", ".lock", DEEPER[0]]
)
def test_the_runs_command_lists_the_other_folders_if_one_contains_a_named_pipe(
    name: str, finished: Path, run: Path, dltrain: Callable[..., Child], tmp_path: Path
) -> None:
    shutil.copytree(run, tmp_path / "other")
    for path in (run, tmp_path / "other"):
        (path / "status.json").write_text('{"state": "running"}')
    make_pipe(run / name)
    child = dltrain("runs", str(tmp_path))
    assert child.code == 0, child.stderr
    assert "other" in child.stdout


def test_a_named_pipe_in_a_sweep_folder_is_rejected_without_blocking(
    dltrain: Callable[..., Child], tmp_path: Path
) -> None:
    home = tmp_path / "whole"
    home.mkdir()
    make_pipe(home / "sweep.json")
    child = dltrain("-m", *RUN, "seed=0,1", f"sweep.resume={home}")
    assert child.code == 2, child.stderr
    assert f"got {home / 'sweep.json'}. It is neither a file nor a folder." in child.stderr


def test_a_named_pipe_is_rejected_as_input(finished: Path, dltrain: Callable[..., Child], tmp_path: Path) -> None:
    make_pipe(tmp_path / "pipe")
    make_pipe(tmp_path / "pictures" / "a.png")
    child = dltrain("predict", str(finished), "pipe")
    assert child.code == 2
    assert "dltrain: INPUT 1: expected a file, a folder or -, got pipe. " in child.stderr
    with pytest.raises(ConfigError, match=r"INPUT 1: expected regular files in a folder, got .*a\.png"):
        next(InputFiles((str(tmp_path / "pictures"),)).expand("pictures", [".png"]))


@pytest.mark.parametrize("name", [*FILES, *DEEPER, "checkpoints/last.pt"])
def test_resume_rejects_a_link_in_a_run_folder_and_does_not_write_through_it(
    name: str, run: Path, dltrain: Callable[..., Child], tmp_path: Path
) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes((run / name).read_bytes() if (run / name).exists() else b"mine")
    before = victim.read_bytes()
    (run / name).parent.mkdir(exist_ok=True)
    (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(victim)
    child = dltrain("resume", str(run))
    assert child.code == 2, child.stderr
    assert f"RUN: expected a run folder without links except last.pt and best.pt, got {run / name}" in child.stderr
    assert victim.read_bytes() == before


def test_a_temporary_link_left_by_a_killed_process_does_not_prevent_resuming(
    run: Path, dltrain: Callable[..., Child]
) -> None:
    half = run / "checkpoints" / ".last.pt.123.tmp"
    half.parent.mkdir()
    half.symlink_to("step-00000002.pt")
    child = dltrain("resume", str(run))
    assert child.code == 0, child.stderr
    assert not half.is_symlink()
