"""Fixtures that train models and run commands in the test process."""

import io
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from in_process import Result, run_command
from prediction_examples import SHORT, Predict, Train

from dltrain.config import compose
from dltrain.loggers.console import Console
from dltrain.runs import launch


@pytest.fixture(scope="session")
def train(tmp_path_factory: pytest.TempPathFactory) -> Train:
    """Return a function that trains a short run and returns its folder; equal overrides reuse the run."""
    known: dict[tuple[str, ...], Path] = {}

    def once(*overrides: str) -> Path:
        if overrides not in known:
            folder = tmp_path_factory.mktemp("predict") / "run"
            job = compose.compose([*SHORT, *overrides, f"hydra.run.dir={folder}"])
            assert launch.train(job, Console(io.StringIO()), 0.0).exit_code == 0
            known[overrides] = folder
        return known[overrides]

    return once


@pytest.fixture
def predict(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Predict:
    """Return a function that runs ``dltrain predict`` in this process with the given standard input."""

    def call(*words: object, stdin: bytes = b"") -> Result:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        return run_command(capsys, "predict", *words)

    return call


@pytest.fixture
def generate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Result]:
    """Return a function that runs ``dltrain generate`` in the temporary folder of the test."""
    monkeypatch.chdir(tmp_path)
    return lambda *words: run_command(capsys, "generate", *words)
