"""A folder with payloads, and a run folder into which tests insert payloads."""

import pickle
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from payloads import SMALL, Pickled

from dltrain.cli import main

EVIL = "open('canary', 'w').close()\nclass Model:\n    def __init__(self, *args, **kwargs): open('canary', 'w')\n"


@pytest.fixture
def payload_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Change to a folder with payloads, and check afterwards that none was run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "evil.py").write_text(EVIL)
    (tmp_path / "hubconf.py").write_text(f"{EVIL}def evil(): pass\n")
    (tmp_path / "evil.pt").write_bytes(pickle.dumps(Pickled()))
    np.save(tmp_path / "evil.npy", np.array([Pickled()], dtype=object), allow_pickle=True)
    (tmp_path / "victim").mkdir()
    yield tmp_path
    assert not (tmp_path / "canary").exists()
    assert (tmp_path / "victim").exists()
    assert "evil" not in sys.modules


@pytest.fixture(scope="package")
def good_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a finished run."""
    folder = tmp_path_factory.mktemp("good")
    assert (
        main.main(["model=lstm", "model.hidden_size=4", "optimizer=adam", *SMALL, f"hydra.run.dir={folder / 'run'}"])
        == 0
    )
    return folder / "run"


@pytest.fixture
def run_copy(good_run: Path, payload_folder: Path) -> Path:
    """Return a copy of the finished run, which tests may modify, in the current folder."""
    return Path(shutil.copytree(good_run, payload_folder / "sent"))
