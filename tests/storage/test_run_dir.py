"""Run folders: used by one run only, never overwritten, and removed if the run fails before its first step."""

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dltrain.cli import main
from dltrain.errors import ConfigError
from dltrain.runs import provenance
from dltrain.runs.job import find_run
from dltrain.storage import atomic, folder_checks, run_dir, run_files


def test_runs_started_in_the_same_second_get_unique_folders(tmp_path: Path) -> None:
    def make(_: int) -> Path:
        home = run_dir.create(None, tmp_path, "lstm-timeseries")
        home.close()
        return home.path

    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(make, range(200)))
    assert len(set(paths)) == 200
    assert {path.parent for path in paths} == {tmp_path / "lstm-timeseries"}


def test_an_existing_name_is_not_reused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = iter(["aaaa", "aaaa", "aaaa", "bbbb"])
    monkeypatch.setattr("secrets.token_hex", lambda count: next(drawn))
    monkeypatch.setattr(time, "strftime", lambda *_: "20300101-000000")
    assert [run_dir.make_unique(tmp_path).name for _ in range(2)] == ["20300101-000000-aaaa", "20300101-000000-bbbb"]


def test_an_explicit_run_folder_is_used_as_given(tmp_path: Path) -> None:
    home = run_dir.create(str(tmp_path / "a" / "b"), tmp_path, "x")
    assert home.path == tmp_path / "a" / "b"
    home.close()
    assert [file.name for file in home.path.iterdir()] == [run_files.LOCK]


def test_a_tilde_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    home = run_dir.create("~/mine", tmp_path, "x")
    assert home.path == tmp_path / "mine"
    home.close()


@pytest.mark.parametrize("name", [*run_files.RUN_FILES, "events.out.tfevents.1.of-another-tool", run_files.LOCK])
def test_a_folder_that_contains_a_run_is_rejected_and_unchanged(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    for check in (folder_checks.check_available, lambda path, root: run_dir.create(path, root, "x")):
        with pytest.raises(ConfigError, match=f"expected a folder that holds no run yet, got .*{name}"):
            check(str(tmp_path), tmp_path)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [(name, "mine")]


@pytest.mark.parametrize("exists", [True, False])
@pytest.mark.parametrize("name", ["train.log", "film.gif", "checkpoints", "events.out.tfevents.1.x", run_files.LOCK])
def test_a_link_in_place_of_a_run_file_is_rejected(tmp_path: Path, name: str, exists: bool) -> None:
    victim, mine = tmp_path / "victim.txt", tmp_path / "mine"
    mine.mkdir()
    (mine / name).symlink_to(victim)
    if exists:
        victim.write_text("all my work")
    with pytest.raises(ConfigError, match=f"It has {name}"):
        run_dir.create(str(mine), tmp_path, "x")
    assert (mine / name).is_symlink()
    assert victim.exists() == exists and (not exists or victim.read_text() == "all my work")


def test_only_temporary_files_of_dltrain_are_removed(tmp_path: Path) -> None:
    for name in (".status.json.123.tmp", ".notes.tmp", ".thesis.tex.123.tmp"):
        (tmp_path / name).write_text("half")
    run_dir.create(str(tmp_path), tmp_path, "x").close()
    assert sorted(file.name for file in tmp_path.iterdir()) == [run_files.LOCK, ".notes.tmp", ".thesis.tex.123.tmp"]


def test_only_one_of_several_simultaneous_runs_gets_the_folder(tmp_path: Path) -> None:
    def attempt(_: int) -> str:
        try:
            home = run_dir.create(str(tmp_path / "same"), tmp_path, "x")
        except ConfigError as error:
            return str(error)
        time.sleep(0.2)
        home.write_status("running")
        home.close()
        return "got it"

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(attempt, range(8)))
    assert found.count("got it") == 1
    assert all("expected a folder that" in text and "hydra.run.dir" in text for text in found if text != "got it")


def test_check_available_and_create_reject_an_unwritable_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    # Not even root can write to /proc.
    folders = [
        tmp_path / "file" / "x",
        tmp_path / "file",
        *(Path(p) / "dltrain" / "x" for p in ["/proc"] if os.path.isdir(p)),
    ]
    for folder in folders:
        for check in (folder_checks.check_available, lambda path, root: run_dir.create(path, root, "x")):
            with pytest.raises(ConfigError, match=r"hydra\.run\.dir: expected a folder that can be written"):
                check(str(folder), tmp_path)
        with pytest.raises(ConfigError, match=f"expected a folder that can be written, got {folder}"):
            folder_checks.check_available(None, folder)
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root can read every folder")
def test_a_folder_in_a_folder_without_permissions_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0)
    for path in (tmp_path / "locked" / "run", tmp_path / "locked" / "a" / "run"):
        with pytest.raises(
            ConfigError, match=r"hydra\.run\.dir: expected a folder that can be written.* Permission denied"
        ):
            folder_checks.check_available(str(path), tmp_path)
        with pytest.raises(ConfigError, match=r"hydra\.sweep\.dir: expected a folder that can be .* Permission denied"):
            folder_checks.check_writable(path, "hydra.sweep.dir")
        with pytest.raises(ConfigError, match=r"RUN: expected a folder that can be read.* Permission denied"):
            find_run(str(path))


def test_a_folder_with_too_long_a_name_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"hydra\.run\.dir: expected a folder that can be written.* name too long"):
        folder_checks.check_available("x" * 300, tmp_path)


def test_check_available_leaves_no_files(tmp_path: Path) -> None:
    folder_checks.check_available(str(tmp_path / "a" / "b"), tmp_path)
    folder_checks.check_available(None, tmp_path / "outputs")
    assert not list(tmp_path.iterdir())


def write_files(home: run_dir.RunDir) -> None:
    """Write files of a run, and create its checkpoint folder."""
    home.write_status("running")
    for name in (
        "config.yaml",
        "command.txt",
        "environment.json",
        "train.log",
        "metrics.jsonl",
        "events.out.tfevents.1",
        "film.gif",
        "nan_report.json",
    ):
        home.write(name, "")
    (home.path / "checkpoints").mkdir()


def test_discard_removes_all_files_and_created_folders(tmp_path: Path) -> None:
    home = run_dir.create(None, tmp_path / "outputs", "lstm-timeseries")
    write_files(home)
    home.discard()
    assert not list(tmp_path.iterdir())


def test_discard_keeps_existing_files(tmp_path: Path) -> None:
    other = run_dir.create(None, tmp_path / "outputs", "lstm-timeseries")
    home = run_dir.create(None, tmp_path / "outputs", "lstm-timeseries")
    write_files(home)
    home.discard()
    assert list((tmp_path / "outputs" / "lstm-timeseries").iterdir()) == [other.path]
    other.close()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("all my work")
    home = run_dir.create(str(tmp_path / "mine"), tmp_path, "x")
    write_files(home)
    home.discard()
    assert [file.name for file in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    "name", ["environment.json", "command.txt", "job.yaml", "train.log", "result.json", "events.out.tfevents.1.x"]
)
def test_a_users_own_files_are_neither_overwritten_nor_deleted(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_text("mine")
    assert (
        main.main(["model=mlp", "data=digits", "device=cpu", "trainer.max_steps=1", f"hydra.run.dir={tmp_path}"]) == 2
    )
    assert f"hydra.run.dir: expected a folder that holds no run yet, got {tmp_path}. It has {name}." in (
        capsys.readouterr().err
    )
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [(name, "mine")]


def test_discard_keeps_an_existing_lock_file(tmp_path: Path) -> None:
    (tmp_path / run_files.LOCK).touch()
    home = run_dir.create(str(tmp_path), tmp_path, "x")
    write_files(home)
    home.discard()
    assert [file.name for file in tmp_path.iterdir()] == [run_files.LOCK]


def test_readers_never_see_an_incomplete_file(tmp_path: Path) -> None:
    home = run_dir.create(str(tmp_path), tmp_path, "x")
    home.write_status("running", step=0)
    errors = []

    def watch() -> None:
        while not errors:
            try:
                json.loads((tmp_path / "status.json").read_text())
            except ValueError as error:
                errors.append(error)
            if home.path.joinpath("end").exists():
                return

    with ThreadPoolExecutor(1) as pool:
        watching = pool.submit(watch)
        for step in range(300):
            home.write_status("running", step=step)
        home.write("end", "")
        watching.result()
    home.close()
    assert not errors
    assert sorted(file.name for file in tmp_path.iterdir()) == [run_files.LOCK, "end", "status.json"]


def test_a_link_in_place_of_a_temporary_file_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim.txt").write_text("all my work")
    for name, write in (("a", atomic.write_atomic), ("b", atomic.write_durable)):
        (tmp_path / f".{name}.{os.getpid()}.tmp").symlink_to(tmp_path / "victim.txt")
        write(tmp_path / name, b"new")
        assert (tmp_path / name).read_text() == "new" and not (tmp_path / name).is_symlink()
    assert (tmp_path / "victim.txt").read_text() == "all my work"


def test_the_status_file_has_the_state_of_the_run(tmp_path: Path) -> None:
    home = run_dir.create(str(tmp_path), tmp_path, "x")
    home.write_status("failed", 1, step=7, error="no more coffee")
    home.close()
    status = json.loads((tmp_path / "status.json").read_text())
    assert {key: status[key] for key in ("state", "exit_code", "step", "error", "pid")} == {
        "state": "failed",
        "exit_code": 1,
        "step": 7,
        "error": "no more coffee",
        "pid": os.getpid(),
    }


def test_the_environment_has_the_versions_of_torch_and_python_and_the_commit() -> None:
    import torch

    found = provenance.describe_platform("CPU")
    assert found["packages"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    assert commit.returncode or found["commit"]["id"] == commit.stdout.strip()


@pytest.mark.slow
def test_eight_commands_started_in_the_same_second_give_eight_runs(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "dltrain", "data.series=sunspots", "data.window=12", "data.horizon=3"]
    command += ["trainer.max_steps=2", "model.hidden_size=4"]
    started = [subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL) for _ in range(8)]
    assert [process.wait(timeout=300) for process in started] == [0] * 8
    states = [json.loads(file.read_text())["state"] for file in tmp_path.glob("outputs/lstm-timeseries/*/status.json")]
    assert states == ["finished"] * 8
