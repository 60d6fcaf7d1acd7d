"""Contents of run folders after an extension of a finished run, and after a failed resume."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from children import Child
from omegaconf import OmegaConf
from PIL import Image

from dltrain.storage.checkpoints import Checkpoints

COMMON = [
    *["model=mlp", "model.hidden_size=16", "data=digits", "device=cpu", "trainer.eval_every=10"],
    *["trainer.epochs=null", "trainer.log_media=false"],
]


def max_steps_of(run: Path) -> list[Any]:
    """Return trainer.max_steps in job.yaml and config.yaml, and its overrides in command.txt."""
    job, config = (OmegaConf.load(run / name) for name in ("job.yaml", "config.yaml"))
    words = (run / "command.txt").read_text().split()
    overrides = [word for word in words if word.startswith("trainer.max_steps=")]
    return [job.config.trainer.max_steps, config.trainer.max_steps, overrides]


def test_an_extended_run_equals_one_long_run(dltrain: Callable[..., Child], tmp_path: Path) -> None:
    for name, steps in (("short", 10), ("long", 20)):
        assert dltrain(*COMMON, f"trainer.max_steps={steps}", f"hydra.run.dir={tmp_path / name}").code == 0
    short = tmp_path / "short"
    again = dltrain("resume", str(short))
    assert again.code == 0 and "To train longer, raise trainer.epochs, trainer.max_steps or" in again.stderr
    longer = dltrain("resume", str(short), "trainer.max_steps=20")
    assert longer.code == 0, longer.stderr
    found = [Checkpoints(tmp_path / name).read_entry("last.pt")["sha256"] for name in ("short", "long")]
    assert found[0] == found[1]
    assert max_steps_of(short) == [20, 20, ["trainer.max_steps=20"]]
    again = dltrain("resume", str(short))
    assert again.code == 0 and "this run is finished" in again.stderr


def test_a_run_that_stopped_early_is_not_extended(dltrain: Callable[..., Child], tmp_path: Path) -> None:
    run = tmp_path / "run"
    early = ["optimizer.lr=1e-30", "regularization.early_stopping_patience=1", "trainer.max_steps=60"]
    assert dltrain(*COMMON, *early, f"hydra.run.dir={run}").code == 0
    again = dltrain("resume", str(run), "trainer.max_steps=90")
    assert again.code == 0 and "this run is finished because it stopped early" in again.stderr
    assert f"dltrain rerun {run} regularization.early_stopping_patience=N" in again.stderr
    assert max_steps_of(run) == [60, 60, ["trainer.max_steps=60"]]


def test_a_failed_resume_removes_no_files(dltrain: Callable[..., Child], tmp_path: Path) -> None:
    for number in range(16):
        folder = tmp_path / "pictures" / ("ab"[number % 2])
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (10 * number, 0, 0)).save(folder / f"{number}.png")
    run = tmp_path / "run"
    data = ["data=image_folder", f"data.path={tmp_path / 'pictures'}", "data.image_size=8", "data.batch_size=4"]
    overrides = ["model=mlp", "model.hidden_size=8", *data, "device=cpu", "trainer.max_steps=3"]
    assert dltrain(*overrides, "trainer.log_media=false", f"hydra.run.dir={run}").code == 0
    # Simulate a kill before the first checkpoint, and damage the images without changing the file sizes.
    for file in (run / "checkpoints").iterdir():
        file.unlink()
    status = json.loads((run / "status.json").read_text())
    (run / "status.json").write_text(json.dumps({**status, "state": "running"}))
    for file in (tmp_path / "pictures").rglob("*.png"):
        file.write_bytes(bytes(file.stat().st_size))
    before = {file.name for file in run.iterdir()}
    child = dltrain("resume", str(run))
    assert child.code == 2 and "expected readable images" in child.stderr, child.stderr
    assert before <= {file.name for file in run.iterdir()}
