"""Runs that several tests share."""

import contextlib
import io
from collections.abc import Callable

import pytest
from run_examples import IMAGES, INTERVALS, STEPS, TEXT

from dltrain.config import compose
from dltrain.loggers.console import Console
from dltrain.runs import launch
from dltrain.runs.launch import Outcome

MEDIA = "trainer.log_media=true"


@pytest.fixture(scope="package")
def train(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Outcome]:
    """Return a function that trains in a new run folder, in an empty working directory."""

    def run_it(*overrides: str, config_dirs: tuple[str, ...] = ()) -> Outcome:
        path = tmp_path_factory.mktemp("runs") / "run"
        with contextlib.chdir(tmp_path_factory.mktemp("cwd")):
            job = compose.compose(
                ["device=cpu", "trainer.log_media=false", *overrides, f"hydra.run.dir={path}"], config_dirs
            )
            return launch.train(job, Console(io.StringIO()), 0.0)

    return run_it


@pytest.fixture(scope="package")
def classification_run(train: Callable[..., Outcome], small_data: Callable[[str], list[str]]) -> Outcome:
    return train(*IMAGES, *small_data("digits"), *INTERVALS, MEDIA)


@pytest.fixture(scope="package")
def forecasting_run(train: Callable[..., Outcome], small_data: Callable[[str], list[str]]) -> Outcome:
    overrides = [
        "model=lstm",
        "model.hidden_size=8",
        "optimizer=adam",
        "regularization.dropout=0.2",
        "trainer.log_every=4",
        "seed=7",
    ]
    return train(
        *overrides, *small_data("timeseries"), f"trainer.max_steps={STEPS}", f"trainer.eval_every={STEPS}", MEDIA
    )


@pytest.fixture(scope="package")
def regression_run(train: Callable[..., Outcome], small_data: Callable[[str], list[str]]) -> Outcome:
    return train("model=mlp", "task=regression", *small_data("csv"), "data.column=price", *INTERVALS, MEDIA)


@pytest.fixture(scope="package")
def language_model_run(train: Callable[..., Outcome], small_data: Callable[[str], list[str]]) -> Outcome:
    once = ["trainer.max_steps=6", "trainer.log_every=2", "trainer.eval_every=6 steps"]  # drawing samples is slow
    return train(*TEXT, *small_data("text"), *once, MEDIA)
