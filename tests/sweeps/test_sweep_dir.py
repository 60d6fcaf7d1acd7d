"""Sweep folders: used by one sweep at a time, and rejected if they are damaged or contain links."""

import contextlib
import os
import shutil
from pathlib import Path

import pytest
from sweep_examples import DONE, state

from dltrain.cli import main
from dltrain.storage import run_dir

NO_JOBS = ('{"jobs": 3, "command": ""}', '{"jobs": [{}], "command": ""}')


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "{}", *NO_JOBS, "[" * 100_000),
        '{"jobs": [{"overrides": [1], "config": {}}, {"overrides": [], "config": {}}], "command": ""}',
    ],
)
def test_a_damaged_sweep_is_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / "sweep.json").write_text(text)
    assert main.main([*DONE, "sweep.resume=whole"]) == 2
    error = capsys.readouterr().err
    assert "sweep.resume: expected a sweep.json that can be read, got whole/sweep.json" in error
    assert ("it does not describe a sweep" in error) == (text in ("[]", "{}", *NO_JOBS))
    assert os.listdir(tmp_path / "whole") == ["sweep.json"]


def test_a_folder_is_rejected_while_another_sweep_uses_it(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(finished)
    # A lock belongs to an open file, so opening the folder twice in this process acts like two processes.
    with contextlib.closing(run_dir.reopen(finished / "whole")) as other:
        other.write_status("running")
        assert main.main([*DONE, "sweep.resume=whole"]) == 2
    error = capsys.readouterr().err
    assert "sweep.resume: expected a folder that no other run uses" in error
    assert f"It is in use by process {os.getpid()} on " in error
    assert main.main([*DONE, "sweep.resume=whole"]) == 0


@pytest.mark.parametrize("name", ["1_model=mlp", "0_model=perceptron", "status.json", "summary.csv", "sweep.json"])
def test_a_sweep_folder_with_links_is_rejected_and_nothing_is_written_through_them(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished / "whole", "whole", symlinks=True)
    shutil.move(f"whole/{name}", "victim")
    os.symlink(tmp_path / "victim", f"whole/{name}")
    if Path("victim").is_dir():
        Path("victim/status.json").unlink()  # so that the job is unfinished
    before = state(tmp_path)
    assert main.main([*DONE, "sweep.resume=whole"]) == 2
    expected = (
        f"sweep.resume: expected files and folders that lie in the sweep's folder, got whole/{name}. It is a link."
    )
    assert expected in capsys.readouterr().err
    assert state(tmp_path) == before


@pytest.mark.parametrize("name", ["status.json", "config.yaml", "sweep.json", "summary.csv", "1_model=mlp"])
def test_a_new_sweep_is_rejected_in_a_folder_with_a_run_or_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / name).write_text("{}")
    assert main.main([*DONE, "hydra.sweep.dir=taken"]) == 2
    assert f"It contains {name}." in capsys.readouterr().err
    assert os.listdir(tmp_path / "taken") == [name]


def test_the_files_of_a_job_do_not_mention_its_sweep(finished: Path) -> None:
    for file in ("job.yaml", "config.yaml", "command.txt"):
        assert "sweep" not in (finished / "whole" / "0_model=perceptron" / file).read_text()
