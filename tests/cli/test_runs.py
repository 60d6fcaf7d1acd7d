"""``dltrain runs``: a table of runs in any state, computed from their folders."""

import errno
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import in_process
import pytest
from filelock import FileLock

from dltrain.storage import run_dir

FinishedRun = Callable[..., Path]

# Run the command on a folder, then print whether it imported torch, how many files it opened there, and how often.
COUNT_OPENS = """
import collections, sys
from dltrain.cli.main import main
opened = collections.Counter()
def audit(event, arguments):
    if event == "open" and str(arguments[0]).startswith(sys.argv[2]):
        opened[str(arguments[0])] += 1
sys.addaudithook(audit)
code = main(sys.argv[1:])
print(f"torch={'torch' in sys.modules} files={len(opened)} opens={opened.total()}", file=sys.stderr)
sys.exit(code)
"""

# Lock a run folder, write the status "running", and wait to be killed.
OWNER = """
import sys, time
from pathlib import Path
from dltrain.storage import run_dir
home = run_dir.reopen(Path(sys.argv[1]))
home.write_status("running", step=3)
print("ready", flush=True)
time.sleep(60)
"""


class Result(in_process.Result):
    """The result of ``dltrain runs``."""

    @property
    def rows(self) -> list[dict[str, Any]]:
        assert self.code == 0, self.err
        return json.loads(self.out)


@pytest.fixture
def runs(capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Return a function that runs ``dltrain runs`` in this process."""
    return lambda *words: Result(*in_process.run_command(capsys, "runs", *words))


def copy_run(run: Path, to: Path, age: float = 0.0, **status: Any) -> Path:
    """Copy a run to `to`, update its status, and set its modification times to `age` seconds ago."""
    shutil.copytree(run, to, symlinks=True)
    if status:
        known = json.loads((to / "status.json").read_text())
        (to / "status.json").write_text(json.dumps({**known, **status}))
    for file in to.rglob("*"):
        os.utime(file, (time.time() - age,) * 2)
    return to


def names(result: Result) -> list[str]:
    return [Path(row["folder"]).name for row in result.rows]


def test_a_row_has_the_options_and_the_result_of_its_run(any_run: Path, runs: Callable[..., Result]) -> None:
    (row,) = runs(any_run, "--json").rows
    result, config = (any_run / "result.json").read_text(), (any_run / "environment.json").read_text()
    found, choices = json.loads(result), json.loads(config)["choices"]
    assert {key: row[key] for key in ("model", "data", "task")} == {k: choices[k] for k in ("model", "data", "task")}
    assert (row["metric"], row["value"]) == (f"{found['metric']}/test", found["test"][found["metric"]])
    assert (row["state"], row["step"], row["time"]) == ("finished", found["steps"], found["seconds"])
    assert (row["folder"], row["choices"], row["error"]) == (str(any_run), choices, None)
    assert row["age"] >= 0


def test_the_table_shows_the_values_in_readable_units(
    finished_run: FinishedRun, runs: Callable[..., Result], tmp_path: Path
) -> None:
    run = copy_run(finished_run("forecast"), tmp_path / "lstm-timeseries" / "one", age=7300)
    mae = json.loads((run / "result.json").read_text())["test"]["mae"]
    head, rule, line = runs(tmp_path).out.splitlines()
    assert " ".join(head.split()) == "model data task metric value state step age time folder typed"
    assert set(rule) == {"-", " "}
    words = line.split()
    assert words[:6] == ["lstm", "timeseries", "forecasting", "mae/test", f"{mae:.4g}", "finished"]
    assert "2h 01m" in line and str(run) in line
    assert line.endswith("  model.hidden_size=8 data.series=elnino ...")


def test_folders_are_relative_to_the_current_folder(
    plain_run: Path, runs: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy_run(plain_run, tmp_path / "outputs" / "mlp-digits" / "one")
    monkeypatch.chdir(tmp_path)
    line = runs().out.splitlines()[-1]
    assert " outputs/mlp-digits/one " in line


def test_a_killed_run_is_shown_as_lost_and_a_run_in_progress_as_running(
    plain_run: Path, runs: Callable[..., Result], tmp_path: Path
) -> None:
    run = copy_run(plain_run, tmp_path / "run")
    (run / "result.json").unlink()
    with subprocess.Popen([sys.executable, "-c", OWNER, str(run)], stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None and owner.stdout.readline() == b"ready\n"
        alive = runs(run, "--json").rows[0]
        owner.kill()
    dead = runs(run, "--json").rows[0]
    assert (alive["state"], dead["state"]) == ("running", "lost")
    assert alive["step"] == dead["step"] == 21
    manifest = json.loads((run / "checkpoints" / "manifest.json").read_text())
    earlier = max(entry["seconds"] for entry in manifest.values())
    started = datetime.fromisoformat(json.loads((run / "status.json").read_text())["started"]).timestamp()
    # The time is the total time in the manifest or, if longer, the time from the start to the last write.
    for seconds in (0, earlier + 30):
        for file in run.rglob("*"):
            os.utime(file, (started + seconds,) * 2)
        assert runs(run, "--json").rows[0]["time"] == pytest.approx(max(earlier, seconds), abs=1e-3)


def test_without_file_locks_a_run_whose_process_has_ended_is_shown_as_lost(
    plain_run: Path, runs: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = copy_run(plain_run, tmp_path / "run")
    with subprocess.Popen([sys.executable, "-c", ""]) as dead:
        dead.wait()
    status = json.loads((run / "status.json").read_text())
    (run / "status.json").write_text(json.dumps({**status, "state": "running", "pid": dead.pid}))

    def full(lock: FileLock, **options: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(FileLock, "acquire", full)
    assert runs(run, "--json").rows[0]["state"] == "lost"
    (run / "status.json").write_text(json.dumps({**status, "state": "running", "pid": os.getpid()}))
    assert runs(run, "--json").rows[0]["state"] == "running"


def test_a_run_without_test_metrics_shows_its_best_validation_metric(
    finished_run: FinishedRun, runs: Callable[..., Result], tmp_path: Path
) -> None:
    run = copy_run(finished_run("average"), tmp_path / "run", state="interrupted", error="SIGINT")
    best = json.loads((run / "result.json").read_text())["best"]["accuracy"]
    (run / "result.json").unlink()
    (row,) = runs(run, "--json").rows
    assert (row["metric"], row["value"], row["error"]) == ("accuracy/val", best, "SIGINT")


def test_age_is_the_time_since_the_last_write(
    plain_run: Path, runs: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)
    run = copy_run(plain_run, tmp_path / "run", age=5000)
    assert runs(run, "--json").rows[0]["age"] == pytest.approx(5000, abs=1e-3)
    os.utime(run / "metrics.jsonl", (time.time() - 500,) * 2)
    assert runs(run, "--json").rows[0]["age"] == pytest.approx(500, abs=1e-3)


@pytest.fixture
def five_runs(finished_run: FinishedRun, tmp_path: Path) -> Path:
    """Return a folder with five runs: three classifiers, one of them in a sweep, and two forecasters."""
    root = tmp_path / "outputs"
    for name, kind, age, value in (
        ("mlp-digits/b", "plain", 30, 0.5),
        ("mlp-digits/a", "plain", 10, 0.9),
        ("sweep/then/0_seed=0", "plain", 20, 0.7),
        ("lstm-timeseries/d", "forecast", 50, 3.0),
        ("lstm-timeseries/c", "forecast", 40, 1.0),
    ):
        run = copy_run(finished_run(kind), root / name, age)
        result = json.loads((run / "result.json").read_text())
        result["test"][result["metric"]] = value
        (run / "result.json").write_text(json.dumps(result))
    states = {"mlp-digits/b": "failed", "lstm-timeseries/c": "diverged"}
    for name, state in states.items():
        home = run_dir.reopen(root / name)
        home.write_status(state, 1, step=len(name))
        os.utime(root / name / "status.json", (time.time() - 60,) * 2)
        home.close()
    return root


@pytest.mark.parametrize(
    ("key", "order"),
    [
        ("age", ["a", "0_seed=0", "b", "c", "d"]),
        ("metric", ["a", "0_seed=0", "b", "c", "d"]),
        ("folder", ["c", "d", "a", "b", "0_seed=0"]),
        ("state", ["c", "b", "a", "0_seed=0", "d"]),
        ("model", ["c", "d", "a", "0_seed=0", "b"]),
        ("data", ["a", "0_seed=0", "b", "c", "d"]),
    ],
)
def test_runs_are_sorted_by_the_given_key(
    five_runs: Path, runs: Callable[..., Result], key: str, order: list[str]
) -> None:
    assert names(runs(five_runs, "--sort", key, "--json")) == order


def test_the_newest_run_comes_first_by_default_and_sweep_jobs_are_included(
    five_runs: Path, runs: Callable[..., Result]
) -> None:
    assert names(runs(five_runs, "--json")) == ["a", "0_seed=0", "b", "c", "d"]
    assert names(runs(five_runs / "sweep", "--json")) == ["0_seed=0"]


@pytest.mark.parametrize("key", ["step", "time"])
def test_sorting_by_step_or_time_lists_the_longest_run_first(
    five_runs: Path, runs: Callable[..., Result], key: str
) -> None:
    values = [row[key] for row in runs(five_runs, "--sort", key, "--json").rows]
    assert values == sorted(values, reverse=True) and len(set(values)) > 1


def test_runs_with_damaged_files_are_listed(five_runs: Path, runs: Callable[..., Result]) -> None:
    wrong = ["", "{", "[]", '"text"', '{"choices": 3, "metric": [], "test": "x", "step": "y", "started": 5, "a": 1}']
    for run, content in zip(sorted(five_runs.glob("*/[a-d]")), wrong, strict=False):
        for name in ("environment.json", "result.json", "checkpoints/manifest.json", "metrics.jsonl", "command.txt"):
            (run / name).write_text(content)
    (five_runs / "mlp-digits" / "a" / "status.json").write_text(wrong[-1])
    for key in ("age", "metric", "state", "step", "time", "model"):
        assert len(runs(five_runs, "--sort", key, "--json").rows) == 5
        assert runs(five_runs, "--sort", key).code == 0


DEEP = "[" * 100_000
HUGE = json.dumps({"step": 10**400, "state": "running", "started": "0001-01-01"})


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *((name, DEEP) for name in ("status.json", "result.json", "environment.json", "metrics.jsonl")),
        ("environment.json", '{"choices": {"model": ' + "[" * 900 + "]" * 900 + "}}"),
        ("checkpoints/manifest.json", DEEP),
        ("checkpoints/manifest.json", json.dumps({"step-00000001.pt": {"step": 10**400, "seconds": 10**400}})),
        ("status.json", HUGE),
        ("status.json", '{"state": "\\ud800", "step": 1.5, "error": {}, "started": 5}'),
        ("result.json", json.dumps({"metric": "accuracy", "test": {"accuracy": 10**400}, "seconds": True})),
        ("command.txt", "it's \udcff"),
    ],
)
def test_a_damaged_folder_does_not_hide_the_other_runs(
    five_runs: Path, runs: Callable[..., Result], name: str, content: str
) -> None:
    (five_runs / "mlp-digits" / "a" / name).write_bytes(content.encode(errors="surrogateescape"))
    for key in ("age", "metric", "state", "step", "time", "model"):
        assert len(runs(five_runs, "--sort", key, "--json").rows) == 5
        shown = runs(five_runs, "--sort", key)
        assert shown.code == 0 and len(shown.out.splitlines()) == 7


def test_a_folder_without_runs_gives_an_empty_list(runs: Callable[..., Result], tmp_path: Path) -> None:
    assert runs(tmp_path, "--json").rows == []
    result = runs(tmp_path)
    assert (result.code, result.out) == (0, "") and f"no runs below {tmp_path}" in result.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sort", "metrik"], "--sort: expected one of model data task metric"),
        (["--sort", "metrik"], "Did you mean metric?"),
        (["--jason"], "--jason: unknown flag. Did you mean --json?"),
        (["here", "there"], "runs: expected dltrain runs [FOLDER] [FLAGS], got here there"),
        (["seed=1"], "runs: expected dltrain runs [FOLDER]"),
    ],
)
def test_invalid_arguments_are_rejected(runs: Callable[..., Result], arguments: list[str], message: str) -> None:
    found = runs(*arguments)
    assert found.code == 2 and message in found.err


def test_a_missing_folder_is_rejected_with_the_nearest_name(five_runs: Path, runs: Callable[..., Result]) -> None:
    found = runs(five_runs / "mlp-digit")
    assert found.code == 2
    assert f"Did you mean {five_runs / 'mlp-digits'}?" in found.err


def test_listing_runs_opens_each_file_once_and_does_not_import_torch(plain_run: Path, tmp_path: Path) -> None:
    runs, files = 30, ("status.json", "result.json", "environment.json", "command.txt", "config.yaml", "metrics.jsonl")
    for number in range(runs):
        run = tmp_path / "mlp-digits" / str(number)
        (run / "checkpoints").mkdir(parents=True)
        for name in (*files, "checkpoints/manifest.json"):
            shutil.copy(plain_run / name, run / name)
    command = [sys.executable, "-c", COUNT_OPENS, "runs", str(tmp_path)]
    completed = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    assert len(completed.stdout.splitlines()) == runs + 2
    found = dict(part.split("=") for part in completed.stderr.splitlines()[-1].split())
    assert found["torch"] == "False"
    assert int(found["opens"]) == int(found["files"]) >= runs


def test_overrides_that_differ_between_sweep_jobs_are_listed_first(
    finished_run: FinishedRun, runs: Callable[..., Result], tmp_path: Path
) -> None:
    for job, lr in enumerate(("0.1", "0.2")):
        run = copy_run(finished_run("plain"), tmp_path / "sweep" / str(job), 10)
        (run / "command.txt").write_text(f"dltrain --config-dir my_conf trainer.epochs=1 optimizer.lr={lr}\n")
    shown = runs(tmp_path)
    assert all(f"optimizer.lr={lr} trainer.epochs=1" in shown.out for lr in ("0.1", "0.2")), shown.out
