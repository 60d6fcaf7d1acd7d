"""A sweep resumes with ``sweep.resume`` or ``trainer.resume=auto``: only failed and unfinished jobs run.

A job that diverged or ran out of memory has ended and is not run again; a job with another exception has failed.
"""

import json
import os
import shlex
import shutil
import signal
from pathlib import Path

import pytest
from sweep_examples import DONE, SMALL, USER_MODELS, checkpoints, state, summary_rows

from dltrain.cli import main
from dltrain.loggers.console import Console


def test_resuming_a_sweep_retries_only_failed_jobs(model_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*USER_MODELS, "-m", "model=faulty", "model.fault=none,raise,memory,loss", *SMALL]
    arguments += ["hydra.sweep.dir=whole"]
    assert main.main(arguments) == 1
    home = model_folder / "whole"
    rows, before = summary_rows(home), {path.name: state(path) for path in home.iterdir() if path.is_dir()}
    hint = capsys.readouterr().err
    assert "Retry failed jobs with: dltrain --config-dir my_conf -m" in hint
    assert f"sweep.resume={home}" in hint
    assert main.main([*arguments, "sweep.resume=whole"]) == 1
    stderr = capsys.readouterr().err
    for number, end in ((0, "finished"), (2, "out_of_memory"), (3, "diverged")):
        title = f"job {number} ({number + 1} of 4): model.fault={rows[number]['model.fault']}"
        assert f"{title} ({end}, not run again)" in stderr
    assert summary_rows(home) == rows
    for path in (home / row["folder"] for row in rows):
        assert (state(path) == before[path.name]) == ("raise" not in path.name)


@pytest.mark.parametrize(("fault", "code"), [("SIGTERM", 143), pytest.param("SIGINT", 130, marks=pytest.mark.slow)])
def test_a_signal_stops_a_sweep_and_the_printed_command_resumes_it(
    model_folder: Path, capsys: pytest.CaptureFixture[str], fault: str, code: int
) -> None:
    arguments = [*USER_MODELS, "-m", "model=faulty", "seed=0,1", f"model.fault={fault}", *SMALL]
    (model_folder / "signalled").touch()  # the model sends no signal if this file exists
    assert main.main([*arguments, "hydra.sweep.dir=whole"]) == 0
    (model_folder / "signalled").unlink()
    assert main.main([*arguments, "hydra.sweep.dir=cut"]) == code
    assert [row["state"] for row in summary_rows(model_folder / "cut")] == ["interrupted"]
    assert json.loads((model_folder / "cut" / "status.json").read_text())["exit_code"] == code
    stderr = capsys.readouterr().err
    resume_command = shlex.split(
        next(line for line in stderr.splitlines() if line.startswith("Resume with: dltrain -"))[13:]
    )
    assert main.main(resume_command[1:]) == 0
    assert summary_rows(model_folder / "cut") == summary_rows(model_folder / "whole")
    assert checkpoints(model_folder / "cut") == checkpoints(model_folder / "whole")
    assert len(checkpoints(model_folder / "whole")) == 4
    assert [
        group["seeds"] for group in json.loads((model_folder / "cut" / "summary.json").read_text())["over_seeds"]
    ] == [2]


@pytest.mark.slow
def test_a_signal_between_two_jobs_is_not_lost(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The signal arrives after the first job has finished.
    class SignalAfterFirstJob(Console):
        def close_log(self) -> None:
            super().close_log()
            if list(model_folder.glob("cut/0*/result.json")) and not (model_folder / "cut" / "summary.csv").exists():
                os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("dltrain.cli.train.Console", SignalAfterFirstJob)
    # The same command again, as a scheduler runs it.
    arguments = ["-m", "model=perceptron", "seed=0,1", *SMALL, "hydra.sweep.dir=cut", "trainer.resume=auto"]
    assert main.main(arguments) == 143
    assert [row["state"] for row in summary_rows(model_folder / "cut")] == ["finished"]
    assert main.main(arguments) == 0
    assert [row["state"] for row in summary_rows(model_folder / "cut")] == ["finished"] * 2


def test_resuming_a_finished_sweep_changes_nothing(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(finished)
    before = {path.name: state(path) for path in (finished / "whole").iterdir() if path.is_dir()}
    table = summary_rows(finished / "whole", without=())
    assert main.main([*DONE, "hydra.sweep.dir=whole", "sweep.resume=whole"]) == 0
    captured = capsys.readouterr()
    assert captured.err.count("(finished, not run again)") == 2
    assert "Resume with" not in captured.err
    assert {path.name: state(path) for path in (finished / "whole").iterdir() if path.is_dir()} == before
    assert summary_rows(finished / "whole", without=()) == table
    # A sweep folder is not a run folder, and a different command does not resume the sweep.
    assert main.main(["resume", "whole"]) == 2
    assert "It is a sweep: to resume it, add sweep.resume=whole to its command." in capsys.readouterr().err
    assert main.main([*DONE, "hydra.sweep.dir=whole", "trainer.resume=auto"]) == 2
    error = capsys.readouterr().err
    assert "job 0: trainer.resume: expected never, as in the sweep, got auto" in error
    assert "hydra.sweep.dir: not supported because the sweep in whole was started by another command" in error


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("-m model=perceptron,mlp seed=1", "job 0: expected the overrides model=perceptron seed=0"),
        ("-m model=perceptron,mlp seed=1", "job 1: seed: expected 0, as in the sweep, got 1"),
        ("-m model=mlp,perceptron seed=0", "job 0: expected the overrides model=perceptron seed=0"),
        (
            "-m model=perceptron,mlp,gru seed=0",
            "not supported because the sweep in whole has 2 jobs, and this command has 3. The sweep was started",
        ),
        (
            "-m model=perceptron,mlp seed=0 optimizer.lr=0.5",
            "job 1: optimizer.lr: expected 0.005, as in the sweep, got 0.5",
        ),
        (
            "-m model=perceptron,mlp seed=0 hydra.sweep.dir=other",
            "hydra.sweep.dir: expected whole, as in sweep.resume, or no value, got other",
        ),
        ("model=mlp seed=0", "sweep.resume: not supported without -m."),
        ("-m model=mlp seed=0 sweep.resume=whole,other", "sweep.resume: expected one folder, got other whole"),
        ("-m model=mlp seed=0 sweep.resume=[whole]", "sweep.resume: expected one value, got ['whole']"),
        ("-m model=mlp seed=0 sweep.resume=3", "sweep.resume: expected the folder of a sweep, with sweep.json, got 3"),
        ("-m model=mlp seed=0 sweep.resume=hole", "with sweep.json, got hole. Did you mean "),
        ("-m model=mlp seed=0 sweep.resume=whole/0_model=mlp", "sweep.resume"),
        ("-m model=mlp seed=0 ~sweep", "sweep: expected a value, got nothing"),
        ("-m model=mlp seed=0 sweep.reusme=whole", "sweep.reusme: unknown key. Did you mean sweep.resume?"),
        ("-m model=mlp seed=0 sweep=whole", "sweep: expected a group of keys, got whole"),
    ],
)
def test_resuming_with_another_command_or_an_invalid_sweep_resume_is_rejected(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str, message: str
) -> None:
    monkeypatch.chdir(finished)
    before = state(finished)
    resume = [] if "sweep" in command.replace("hydra.sweep", "") else ["sweep.resume=whole"]
    assert main.main([*command.split(), *SMALL, *resume]) == 2
    assert message in capsys.readouterr().err
    assert state(finished) == before


def test_a_sweep_whose_yaml_has_changed_is_not_resumed(model_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*USER_MODELS, "-m", "model=broken", "seed=0,1", *SMALL]
    assert main.main([*arguments, "hydra.sweep.dir=whole"]) == 1
    file = model_folder / "my_conf" / "model" / "broken.yaml"
    file.write_text(file.read_text().replace("hidden_size: 8", "hidden_size: 9"))
    assert main.main([*arguments, "sweep.resume=whole"]) == 2
    assert "job 0: model.hidden_size: expected 8, as in the sweep, got 9" in capsys.readouterr().err


def test_a_sweep_resumes_despite_damaged_summary_and_result_files(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished / "whole", "whole", symlinks=True)
    seconds = {row["job"]: row["seconds"] for row in summary_rows(tmp_path / "whole", without=())}
    for text in ('{"jobs": [1]}', '{"jobs": [{"job": 0, "seconds": "x"}]}', '{"jobs": 3}', "[" * 100_000):
        (tmp_path / "whole" / "summary.json").write_text(text)
        assert main.main([*DONE, "sweep.resume=whole"]) == 0
    result = json.loads((tmp_path / "whole" / "0_model=perceptron" / "result.json").read_text())
    found = {row["job"]: row["seconds"] for row in summary_rows(tmp_path / "whole", without=())}
    assert found == {**seconds, "0": f"{result['seconds']:.3f}", "1": found["1"]}
    for text in ('{"test": [1], "metric": "mae"}', '{"test": {"mae": "x"}, "metric": ["mae"], "seconds": "x"}'):
        (tmp_path / "whole" / "0_model=perceptron" / "result.json").write_text(text)
        assert main.main([*DONE, "sweep.resume=whole"]) == 0
        assert summary_rows(tmp_path / "whole")[0]["mae/test"] == ""
    (tmp_path / "whole" / "0_model=perceptron" / "status.json").write_text('{"state": "diverged", "error": "\\ud800"}')
    assert main.main([*DONE, "sweep.resume=whole"]) == 1
    assert "Traceback" not in capsys.readouterr().err
