"""Fixtures of the tests of ``dltrain predict``."""

import io
import sys
from pathlib import Path

import pytest
from prediction_examples import SHORT, Predict, Result, Train

from dltrain.cli import main
from dltrain.config import compose
from dltrain.loggers.console import Console
from dltrain.runs import launch


@pytest.fixture(scope="session")
def train(tmp_path_factory: pytest.TempPathFactory) -> Train:
    """Return a function from overrides to the folder of a short run, trained once."""
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
        capsys.readouterr()
        code = main.main(["predict", *map(str, words)])
        return Result(code, *capsys.readouterr())

    return call
