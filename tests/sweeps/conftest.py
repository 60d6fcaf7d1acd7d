"""Fixtures of the sweep tests."""

import sys
from pathlib import Path

import pytest
from sweep_examples import DONE, write_models

from dltrain.cli import main


@pytest.fixture
def model_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to a folder with user models that fail, and return it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "failing_models", raising=False)
    write_models(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder whose subfolder ``whole`` contains a finished sweep; the tests of a module share it."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main.main([*DONE, "hydra.sweep.dir=whole"]) == 0
    return folder
