"""A run's folder that somebody else wrote: its configuration is data, and names nothing that is imported or called."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Child, Server
from omegaconf import OmegaConf

RUN = ["model=mlp", "data=digits", "device=cpu", "trainer.max_steps=2"]
# What runs a shell command or unpickles, when something calls it.
EVIL = {
    "os.system": {"command": "touch {canary}"},
    "subprocess.check_call": {"args": ["touch", "{canary}"]},
    "torch.load": {"f": "{bait}", "weights_only": False},
    "numpy.load": {"file": "{bait}", "allow_pickle": True},
    "torch.utils.collect_env.run": {"command": "touch {canary}"},
    "mine.Evil": {},
}


@pytest.fixture(scope="session")
def ended(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without checkpoints, so that resuming builds everything anew."""
    path = tmp_path_factory.mktemp("ended") / "run"
    child = server.start([*RUN, f"hydra.run.dir={path}"], path.parent).wait()
    assert child.code == 0, child.stderr
    shutil.rmtree(path / "checkpoints")
    (path / "status.json").unlink()
    return path


@pytest.fixture
def run(ended: Path, tmp_path: Path) -> Path:
    """A copy of it, to be tampered with."""
    return shutil.copytree(ended, tmp_path / "theirs")


def planted(value: Any, **names: Path) -> Any:
    """A payload with its files named."""
    if isinstance(value, dict):
        return {key: planted(item, **names) for key, item in value.items()}
    if isinstance(value, list):
        return [planted(item, **names) for item in value]
    return value.format(**names) if isinstance(value, str) else value


PLACES = ("data", "task", "model", "optimizer", "optimizer.schedule")
CASES = [
    pytest.param(target, place, marks=[] if place == PLACES[number % len(PLACES)] else [pytest.mark.faults])
    for number, target in enumerate(EVIL)
    for place in PLACES
]


@pytest.mark.parametrize(("target", "place"), CASES)
def test_an_evil_target_in_a_runs_folder_is_refused_before_it_is_imported(
    target: str, place: str, run: Path, dltrain: Callable[..., Child], tmp_path: Path
) -> None:
    canary, bait = tmp_path / "canary", tmp_path / "bait.pkl"
    bait.write_bytes(b"cos\nsystem\n(S'touch " + str(canary).encode() + b"'\ntR.")
    (tmp_path / "mine.py").write_text(f"open({str(canary)!r}, 'w')\nclass Evil: pass\n")
    job = OmegaConf.load(run / "job.yaml")
    node = {"_target_": target, **planted(EVIL[target], canary=canary, bait=bait)}
    if place == "optimizer":
        node["schedule"] = job.config.optimizer.schedule
    OmegaConf.update(job, f"config.{place}", node, merge=False)
    OmegaConf.update(job, "config.allow_targets", ["os", "subprocess", "torch", "numpy", "mine"])
    OmegaConf.save(job, run / "job.yaml")
    child = dltrain("resume", str(run))
    assert child.code == 2, child.stderr
    assert f"got {target}" in child.stderr
    assert not canary.exists()


def test_what_hydra_would_call_is_not_called_from_a_runs_folder(
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


def test_a_configuration_that_asks_yaml_to_build_objects_is_refused(
    run: Path, dltrain: Callable[..., Child], tmp_path: Path
) -> None:
    canary = tmp_path / "canary"
    text = (run / "job.yaml").read_text()
    (run / "job.yaml").write_text(f"evil: !!python/object/apply:os.system ['touch {canary}']\n{text}")
    child = dltrain("resume", str(run))
    assert child.code == 2, child.stderr
    assert "Traceback" not in child.stderr
    assert not canary.exists()
