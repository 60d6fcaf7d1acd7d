"""Runs of a development version of 0.2 (tests/fixtures/runs_of_0.2), and runs that lack a newer group or key.

The expected metrics come from runs of the same version that trained for twice as many epochs as the stored runs,
without interruption. The tests allow a tolerance because sums in float32 differ between CPUs.
"""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dltrain.cli.main import main
from dltrain.config import compose, composer, groups
from dltrain.config.older import without_newer_keys
from dltrain.runs.job import load_job, open_run
from dltrain.storage import fitted

FIXTURES = Path(__file__).parents[1] / "fixtures"
EXPECTED = {
    "gpt": (2, 14, {"loss": 4.2601446}),
    "lstm": (2, 50, {"mae": 1.3118530, "mase": 1.0685138}),
    "table": (12, 840, {"loss": 0.1418065, "accuracy": 0.9666667}),
}


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(FIXTURES / "runs_of_0.2", tmp_path / "outputs", symlinks=True)
    for file in ("fruit.csv", "new.csv"):
        shutil.copy(FIXTURES / "runs_of_0.1" / file, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "outputs"


@pytest.fixture
def newer_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Add a group and a key to a copy of dltrain's own configuration."""
    conf = tmp_path / "conf"
    shutil.copytree(compose.conf_dir(), conf)
    (conf / "extra").mkdir()
    (conf / "extra" / "none.yaml").write_text("level: 0\n")
    config = (conf / "config.yaml").read_text()
    config = config.replace("  - model: lstm\n", "  - model: lstm\n  - extra: none\n", 1)
    (conf / "config.yaml").write_text(config.replace("trainer:\n", "trainer:\n  extra: 3\n", 1))
    for module in (groups, compose):
        monkeypatch.setattr(module, "conf_dir", lambda: conf)
    caches = (compose.defaults, composer.packaged)
    for cached in caches:
        cached.cache_clear()
    yield
    for cached in caches:
        cached.cache_clear()


def result(run: Path) -> dict[str, Any]:
    return json.loads((run / "result.json").read_text())


@pytest.mark.parametrize("name", EXPECTED)
def test_a_resumed_run_of_version_0_2_reaches_the_metrics_of_that_version(name: str, runs: Path) -> None:
    epochs, steps, metrics = EXPECTED[name]
    assert main(["evaluate", f"outputs/{name}", "--json"]) == 0
    assert main(["resume", f"outputs/{name}", f"trainer.epochs={epochs}"]) == 0
    found = result(runs / name)
    assert found["steps"] == steps
    assert {key: found["test"][key] for key in metrics} == pytest.approx(metrics, rel=0.02)
    assert fitted.intact_sha256(runs / name), "`resume` must save the fitted state, which that version did not"
    assert fitted.load(runs / name)


def test_models_of_version_0_2_classify_new_rows_and_score_text(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "outputs/table", "new.csv"]) == 0
    classes = [json.loads(line)["class_name"] for line in capsys.readouterr().out.splitlines()]
    assert classes == ["plum", "apple", "pear"]
    assert main(["predict", "outputs/gpt", "--text", "Call me"]) == 0
    line = json.loads(capsys.readouterr().out)
    assert line["nats_per_character"] == pytest.approx(4.33723895, rel=1e-4)


def test_a_run_that_lacks_a_newer_group_and_key_gets_their_defaults(newer_groups: None, runs: Path) -> None:
    _, job, changes = open_run("outputs/table", [])
    assert (job.config["extra"], job.choices["extra"]) == ({"level": 0}, "none")
    assert job.config["trainer"]["extra"] == 3 and not changes
    assert job.config["trainer"]["epochs"] == 6
    assert main(["resume", "outputs/table", "trainer.epochs=7"]) == 0
    assert load_job(runs / "table").config["extra"] == {"level": 0}


def test_resume_auto_accepts_the_command_of_a_run_that_lacks_a_newer_group_and_key(
    newer_groups: None, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = (runs / "table" / "command.txt").read_text().split()[1:]
    typed = [word for word in command if not word.startswith("trainer.epochs")]
    auto = [*typed, "trainer.epochs=7", "trainer.resume=auto", "hydra.run.dir=outputs/table"]
    assert main(auto) == 0
    assert result(runs / "table")["epochs"] == 7
    assert main([*auto, "trainer.extra=4"]) == 2
    assert "trainer.extra: expected 3, got 4. It cannot be changed on resume." in capsys.readouterr().err


def test_an_override_inside_a_mapping_missing_in_an_older_run_is_kept() -> None:
    job = compose.compose(["model=mlp", "data=digits", "optimizer=muon", "optimizer.adamw.lr=0.5"])
    optimizer = {name: value for name, value in job.config["optimizer"].items() if name != "adamw"}
    stored = replace(job, config={**job.config, "optimizer": optimizer})
    assert without_newer_keys(job, stored).config["optimizer"] == {**optimizer, "adamw": {"lr": 0.5}}
    assert without_newer_keys(replace(job, overrides=()), stored).config["optimizer"] == optimizer


def test_a_key_missing_in_an_older_run_has_its_default(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = runs / "table" / "job.yaml"
    job.write_text(job.read_text().replace("    stratify: true\n", ""))
    command = (runs / "table" / "command.txt").read_text().split()[1:]
    auto = [*command, "trainer.resume=auto", "hydra.run.dir=outputs/table"]
    assert main([*auto, "data.stratify=false"]) == 2
    assert "data.stratify: expected no value, got false. It cannot be changed on resume." in capsys.readouterr().err
    assert main(auto) == 0
    assert "this run is finished" in capsys.readouterr().err
