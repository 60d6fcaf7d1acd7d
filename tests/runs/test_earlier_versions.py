"""Interrupted runs of version 0.1.0 (tests/fixtures/runs_of_0.1) and runs with old keys can be resumed and evaluated.

Version 0.1.0 computed the expected metrics when it resumed the same runs. They are compared with a tolerance because
sums in float32 differ between CPUs; on the same CPU the checkpoints were identical.
"""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from dltrain.cli.main import main
from dltrain.runs.assemble import build_components
from dltrain.runs.dry_run import build_batches
from dltrain.runs.job import open_run

RUNS = Path(__file__).parents[1] / "fixtures" / "runs_of_0.1"
EXPECTED = {
    "lstm": ([], 582, {"mae": 1.8565322, "rmse": 2.2879614}),
    "table": ([], 560, {"loss": 0.18357459, "accuracy": 0.95}),
    "gan": (["trainer.max_steps=200", "--change-schedule"], 200, {}),  # instead of 600 steps, which take longer
}


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(RUNS, tmp_path / "runs", symlinks=True)
    (tmp_path / "outputs").mkdir()
    for name in EXPECTED:
        (tmp_path / "runs" / name).rename(tmp_path / "outputs" / name)
    for file in ("fruit.csv", "new.csv"):
        (tmp_path / "runs" / file).rename(tmp_path / file)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "outputs"


@pytest.mark.parametrize("name", ["table", "gan", pytest.param("lstm", marks=pytest.mark.slow)])
def test_a_run_of_version_0_1_resumes_and_finishes(name: str, runs: Path) -> None:
    overrides, steps, metrics = EXPECTED[name]
    assert main(["resume", f"outputs/{name}", *overrides]) == 0
    result: dict[str, Any] = json.loads((runs / name / "result.json").read_text())
    assert result["steps"] == steps
    assert {key: result["test"][key] for key in metrics} == pytest.approx(metrics, rel=0.02)
    assert all(math.isfinite(value) for value in result["test"].values())
    stored = (runs / name / "job.yaml").read_text()
    assert main(["evaluate", f"outputs/{name}", "--json"]) == 0
    assert (runs / name / "job.yaml").read_text() == stored


def test_a_table_model_of_version_0_1_classifies_new_rows(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "outputs/table", "new.csv"]) == 0
    classes = [json.loads(line)["class_name"] for line in capsys.readouterr().out.splitlines()]
    assert classes == ["plum", "apple", "pear"]


def test_rerun_of_a_version_0_1_run_uses_the_new_names(runs: Path) -> None:
    assert main(["rerun", "outputs/gan", "trainer.max_steps=2", "trainer.log_media=false", "hydra.run.dir=again"]) == 0
    job = Path("again/job.yaml").read_text()
    assert "n_critic: 2" in job and "critic_turns" not in job
    assert "_target_: dltrain.models.gan.GAN" in job and "model.hidden_size=16" in job


def test_a_run_older_than_the_augment_group_keeps_its_augmentation(
    finished_run: Callable[..., Path], tmp_path: Path
) -> None:
    shutil.copytree(finished_run("augmented"), tmp_path / "run", symlinks=True)
    file = tmp_path / "run" / "job.yaml"
    job = yaml.safe_load(file.read_text())
    assert job["config"]["data"]["augment"] == ["crop"]
    del job["config"]["augment"], job["choices"]["augment"]
    file.write_text(yaml.safe_dump(job))
    assert main(["resume", str(tmp_path / "run"), "trainer.max_steps=8"]) == 0
    batches = []
    for folder in (tmp_path / "run", finished_run("augmented")):
        made = build_components(open_run(str(folder), [])[1])
        batches.append(next(iter(build_batches(made, made.data.load())["train"].epoch(3)))["inputs"])
    assert torch.equal(*batches)


def test_a_run_with_the_old_spelling_of_binarize_can_be_evaluated_sampled_and_resumed(
    finished_run: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vae = ["model=vae", "data=digits", "model.hidden_size=8", "model.latent=2"]
    new = finished_run(*vae, "task.binarize=true", "trainer.max_steps=4")
    old = Path(shutil.copytree(new, tmp_path / "run", symlinks=True))
    for file in ("job.yaml", "config.yaml", "command.txt"):
        assert "binarize" in (old / file).read_text()
        (old / file).write_text((old / file).read_text().replace("binarize", "binarise"))
    metrics, samples = [], []
    for run in (new, old):
        capsys.readouterr()
        assert main(["evaluate", str(run), "--json"]) == 0
        metrics.append(json.loads(capsys.readouterr().out)["metrics"])
        file = tmp_path / f"{len(metrics)}.npy"
        assert main(["generate", str(run), "--count", "2", "--out", str(file)]) == 0
        samples.append(file.read_bytes())
    assert metrics[0] == metrics[1] and samples[0] == samples[1]
    assert main(["resume", str(old), "trainer.max_steps=6"]) == 0
    assert json.loads((old / "result.json").read_text())["steps"] == 6
    job = (old / "job.yaml").read_text()
    assert "task.binarize=true" in job and "binarise" not in job
