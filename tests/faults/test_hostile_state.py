"""Malicious checkpoints that contain no code, and malicious files that libraries load."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from children import Child

from dltrain.cli import main

RUN = ["model=mlp", "data=digits", "model.hidden_size=8", "device=cpu", "trainer.log_media=false"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run of two steps."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    assert main.main([*RUN, "trainer.max_steps=2", f"hydra.run.dir={folder}"]) == 0
    return folder


@pytest.fixture
def run_copy(trained: Path, tmp_path: Path) -> Path:
    """Return a copy of the run, to be modified."""
    return shutil.copytree(trained, tmp_path / "sent", symlinks=True)


def forge(run: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change every checkpoint, and update its hash and size in the manifest."""
    manifest = json.loads((run / "checkpoints" / "manifest.json").read_text())
    for name, entry in manifest.items():
        file = run / "checkpoints" / name
        state = torch.load(file, weights_only=True)
        change(state)
        torch.save(state, file)
        entry |= {"sha256": hashlib.sha256(file.read_bytes()).hexdigest(), "bytes": file.stat().st_size}
    (run / "checkpoints" / "manifest.json").write_text(json.dumps(manifest))


def moments(state: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the optimizer state of each parameter tensor."""
    return list(state["optimizers"]["train"]["optimizer"]["state"].values())


def short_exp_avg(state: dict[str, Any]) -> None:
    for moment in moments(state):
        moment["exp_avg"] = torch.zeros(8)


def scalar_exp_avg_sq(state: dict[str, Any]) -> None:
    for moment in moments(state):
        moment["exp_avg_sq"] = torch.tensor(0.0)


def vector_step(state: dict[str, Any]) -> None:
    for moment in moments(state):
        moment["step"] = torch.zeros(3)


def sparse_exp_avg(state: dict[str, Any]) -> None:
    for moment in moments(state):
        moment["exp_avg"] = moment["exp_avg"].to_sparse()


# These tests run in child processes, because an optimizer that accepted these states would write to invalid memory.
@pytest.mark.parametrize(
    "change",
    [
        short_exp_avg,
        *(pytest.param(f, marks=pytest.mark.faults) for f in (scalar_exp_avg_sq, vector_step, sparse_exp_avg)),
    ],
    ids=lambda f: f.__name__,
)
def test_an_optimizer_state_with_the_wrong_shape_or_layout_is_rejected(
    change: Callable[..., None], run_copy: Path, dltrain: Callable[..., Child]
) -> None:
    forge(run_copy, change)
    before = {file: file.read_bytes() for file in (run_copy / "checkpoints").glob("*.pt")}
    child = dltrain("resume", str(run_copy), "trainer.max_steps=4")
    assert child.code == 5, child.stderr
    assert "rejected because this run cannot resume from it" in child.stderr
    assert "Traceback" not in child.stderr
    assert before == {file: file.read_bytes() for file in (run_copy / "checkpoints").glob("*.pt")}


def stretched(state: dict[str, Any]) -> None:
    """Expand one number to the expected shape, with strides of 0."""
    for moment in moments(state):
        moment["exp_avg"] = torch.zeros(1).expand(moment["exp_avg"].shape)


@pytest.mark.faults
def test_an_optimizer_state_with_zero_strides_is_copied_to_contiguous_memory(
    run_copy: Path, dltrain: Callable[..., Child]
) -> None:
    forge(run_copy, stretched)
    child = dltrain("resume", str(run_copy), "trainer.max_steps=4")
    assert child.code == 0, child.stderr
    saved = torch.load(run_copy / "checkpoints" / "last.pt", weights_only=True)
    assert saved["loop"]["step"] == 4
    assert all(0 not in moment["exp_avg"].stride() for moment in moments(saved))


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state.update(model={"layers.0.weight": 3}),
        lambda state: state.update(model=[1, 2]),
        lambda state: state.update(average=3),
        lambda state: state["model"].update({7: torch.zeros(1)}),
        lambda state: state.update(loop=None),
        lambda state: state.update(task=3, rng=None),
        lambda state: state.pop("model"),
    ],
    ids=[
        "a number as a weight",
        "weights without names",
        "an invalid average",
        "a number as a name",
        "no loop state",
        "an invalid task and generator state",
        "no model",
    ],
)
@pytest.mark.parametrize(
    "verb", ["resume", *(pytest.param(verb, marks=pytest.mark.faults) for verb in ("evaluate", "generate"))]
)
def test_an_invalid_state_is_rejected_on_resume_and_never_ends_in_a_traceback(
    verb: str, change: Callable[[dict[str, Any]], Any], run_copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    forge(run_copy, change)
    more = ["trainer.max_steps=4"] if verb == "resume" else []
    assert main.main([verb, str(run_copy), *more]) in ((5,) if verb == "resume" else (0, 2, 5))
    assert "Traceback" not in capsys.readouterr().err


class Evil:
    """An object whose unpickling creates a file."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.canary,)


def test_cached_weights_of_a_library_are_never_unpickled(
    run_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # torchvision loads cached weights without weights_only and does not check their hash.
    cache = tmp_path / "cache" / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    torch.save(Evil(tmp_path / "canary"), cache / "squeezenet1_1-b8a52dc0.pth")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    content = yaml.safe_load((run_copy / "job.yaml").read_text())
    content["config"]["model"] = {"_target_": "torchvision.models.squeezenet1_1", "weights": "DEFAULT"}
    (run_copy / "job.yaml").write_text(yaml.safe_dump(content))
    assert main.main(["evaluate", str(run_copy)]) == 2
    stderr = capsys.readouterr().err
    assert "model: not supported because squeezenet1_1 rejects these values" in stderr and "Traceback" not in stderr
    assert not (tmp_path / "canary").exists()
    assert os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] == "1", "the environment variable is restored"
    monkeypatch.delenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD")
    torch.load(cache / "squeezenet1_1-b8a52dc0.pth", weights_only=False)  # an unsafe load runs the code
    assert (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    ("group", "target"),
    [
        ("data", "dltrain.datasets.download.download_dataset"),
        ("data", "dltrain.data.checks.existing_folder"),
        ("model", "torchvision.models.list_models"),
        ("model", "torchvision.models.get_model"),
        ("model", "dltrain.optim.schedules.Constant"),
        ("task", "torch.nn.Identity"),
        ("optimizer", "torch.nn.Identity"),
    ],
)
def test_a_target_of_the_wrong_kind_for_its_group_is_rejected(
    group: str, target: str, run_copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = yaml.safe_load((run_copy / "job.yaml").read_text())
    content["config"][group]["_target_"] = target
    (run_copy / "job.yaml").write_text(yaml.safe_dump(content))
    assert main.main(["resume", str(run_copy), "trainer.max_steps=4"]) == 2
    stderr = capsys.readouterr().err
    assert f"{group}._target_: expected a" in stderr and target in stderr and "Traceback" not in stderr


PAGE = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"


def test_images_are_never_passed_to_an_external_program(
    run_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path / 'canary'}\n")
    (programs / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    (tmp_path / "page.png").write_text(PAGE)
    assert main.main(["predict", str(run_copy), str(tmp_path / "page.png")]) == 2
    assert "not an image" in capsys.readouterr().err
    assert not (tmp_path / "canary").exists()
