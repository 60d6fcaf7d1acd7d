"""Runs resume on a CPU with checkpoints from a GPU, and after `torch.compile` is switched on or off."""

import signal
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from children import Child, Gate
from recipes import recipe
from same import assert_same, checkpoints, update_manifest

from dltrain.storage.checkpoints import Checkpoints

ALLOW = "allow_targets=[gated]"
COMPILE_S = 600


@pytest.fixture
def stopped(start: Callable[..., Child], gate: Gate, tmp_path: Path) -> Callable[..., Path]:
    """Return a function that starts a run, stops it at step 13 and returns its folder."""

    def stop(*command: str) -> Path:
        run = tmp_path / "run"
        gate.close("train-13")
        child = start(*command, f"hydra.run.dir={run}", environment=gate.environment)
        child.wait_until((gate.folder / "train-13.reached").exists, COMPILE_S)
        child.send(signal.SIGTERM)
        gate.open("train-13")
        assert child.wait().code == 143, child.stderr
        return run

    return stop


def as_if_from_cuda(path: Path) -> None:
    """Rewrite a checkpoint as if its tensors were on a GPU, with the generator states of two GPUs."""
    state = torch.load(path, weights_only=True)
    torch.save({**state, "rng": {**state["rng"], "cuda": [torch.zeros(16, dtype=torch.uint8)] * 2}}, path)
    with zipfile.ZipFile(path) as old:
        files = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as new:
        for name, content in files.items():
            moved = content.replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0")
            new.writestr(name, moved if name.endswith("data.pkl") else content)
    update_manifest(path)


def test_a_run_resumes_on_a_cpu_with_a_checkpoint_from_a_gpu(
    stopped: Callable[..., Path],
    dltrain: Callable[..., Child],
    uninterrupted_run: Callable[[str], Path],
    data_root: Path,
) -> None:
    run = stopped(*recipe("forecast", data_root))
    for path in checkpoints(run):
        as_if_from_cuda(path)
    newest = checkpoints(run)[-1]
    if not torch.cuda.is_available():  # check that the file refers to a GPU
        with pytest.raises(RuntimeError, match="CUDA"):
            torch.load(newest, weights_only=True)
    child = dltrain("resume", str(run), ALLOW, "device=cpu")
    assert child.code == 0, child.stderr
    assert_same(run, uninterrupted_run("forecast"))


@pytest.mark.faults
@pytest.mark.parametrize(("before", "after"), [("true", "false"), ("false", "true")])
def test_torch_compile_can_be_switched_on_or_off_on_resume(
    before: str, after: str, stopped: Callable[..., Path], dltrain: Callable[..., Child], tmp_path: Path
) -> None:
    command = [
        "model=mlp",
        "model.hidden_size=8",
        "data=digits",
        "data.batch_size=100",
        "trainer.epochs=2",
        "device=cpu",
    ]
    command += ["task._target_=gated.Classification", ALLOW]
    plain = dltrain(*command, f"hydra.run.dir={tmp_path / 'plain'}")
    assert plain.code == 0, plain.stderr
    run = stopped(*command, f"device.compile={before}")
    child = dltrain("resume", str(run), ALLOW, f"device.compile={after}", timeout=COMPILE_S)
    assert child.code == 0, child.stderr
    found, expected = (Checkpoints(path).load("last.pt")["model"] for path in (run, tmp_path / "plain"))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)
