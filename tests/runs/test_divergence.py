"""Runs with non-finite weights or test metrics end as diverged."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from run_examples import read

from dltrain.cli.main import main
from dltrain.config import compose
from dltrain.loggers.console import Console
from dltrain.runs.launch import Outcome
from dltrain.sweeps.sweep import run_sweep

Train = Callable[..., Outcome]
HUGE = ["optimizer=sgd", "optimizer.lr=1e30", "trainer.max_steps=1"]


@pytest.mark.parametrize(
    "more", [[], ["data.validation=0"], ["trainer.on_non_finite=ignore"], ["trainer.on_non_finite=skip"]], ids=str
)
def test_a_run_with_a_non_finite_test_loss_ends_as_diverged_for_every_value_of_on_non_finite(
    train: Train, small_data: Callable[[str], list[str]], more: list[str]
) -> None:
    outcome = train("model=mlp", *small_data("digits"), *HUGE, *more)
    assert (outcome.state, outcome.exit_code, outcome.result) == ("diverged", 3, {})
    assert read(outcome.folder / "status.json")["state"] == "diverged"
    assert not (outcome.folder / "result.json").exists()
    assert "not finite on the test split: loss" in str(outcome.error)


@pytest.mark.parametrize(
    ("model", "data"),
    [
        ("vae", "digits"),
        *(pytest.param(*pair, marks=pytest.mark.slow) for pair in (("autoencoder", "digits"), ("gpt", "text"))),
    ],
)
def test_runs_of_generative_models_end_as_diverged_at_a_huge_learning_rate(
    train: Train, small_data: Callable[[str], list[str]], model: str, data: str
) -> None:
    outcome = train(f"model={model}", *small_data(data), *HUGE)
    assert outcome.state == "diverged", outcome.error


def test_the_error_names_the_first_non_finite_weight_and_its_step(
    train: Train, small_data: Callable[[str], list[str]]
) -> None:
    outcome = train("model=rbm", *small_data("digits"), "optimizer.lr=1e38", "trainer.max_steps=1")
    assert outcome.state == "diverged"
    assert "the weight up.weight is not finite in step 1" in str(outcome.error)


def test_a_run_with_nan_weights_ends_as_diverged_with_on_non_finite_skip(train: Train) -> None:
    adamw = ["optimizer=adamw", "optimizer.eps=1e-300", "trainer.max_steps=2", "trainer.on_non_finite=skip"]
    assert train("model=gan", "data=ring", *adamw).state == "diverged"


def test_a_diverged_job_has_no_value_in_the_summary_of_its_sweep(
    tmp_path: Path, small_data: Callable[[str], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    overrides = ["model=mlp", *small_data("digits"), "device=cpu", "optimizer=sgd", "optimizer.lr=0.1,1e30"]
    overrides += ["trainer.max_steps=1", "trainer.log_media=false", "hydra.sweep.dir=sweep"]
    assert run_sweep(compose.expand(overrides), Console(), overrides) == 1
    jobs = json.loads((tmp_path / "sweep" / "summary.json").read_text())["jobs"]
    assert [job["state"] for job in jobs] == ["finished", "diverged"]
    assert jobs[0]["value"] is not None and jobs[1]["value"] is None


def test_a_run_whose_step_fails_because_of_non_finite_weights_ends_as_diverged(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["model=rbm", "data=digits", "model.hidden_size=8", "optimizer.lr=1e30", "regularization.l1=1e38"]
    assert main([*words, "device=cpu", "trainer.max_steps=2", f"hydra.run.dir={tmp_path / 'run'}"]) == 3
    error = capfd.readouterr().err
    assert "diverged" in error and "Traceback" not in error
