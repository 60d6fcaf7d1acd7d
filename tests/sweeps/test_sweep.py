"""A sweep: every combination in one process, each job as if it were alone, and a summary that tells all."""

import contextlib
import csv
import json
import os
import shlex
import shutil
import signal
import statistics
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from dltrain.cli import main
from dltrain.loggers.console import Console
from dltrain.storage import run_dir

SMALL = ["data.series=sunspots", "data.window=12", "data.horizon=3", "trainer.max_steps=4", "device=cpu"]
OWN = ["--config-dir", "my_conf", "allow_targets=[failing_models]"]
THEIRS = """
import os
import pathlib
import signal
import weakref

import torch

from dltrain.models.feedforward import MLP

ALIVE = weakref.WeakSet()

class Faulty(MLP):
    def __init__(self, size: int, outputs: int, hidden: int, trouble: str = "none") -> None:
        super().__init__(size, outputs, hidden)
        ALIVE.add(self)
        with open("alive", "a") as file:
            print(trouble, len(ALIVE), file=file)
        self.trouble, self.steps = trouble, 0

    def forward(self, inputs):
        found = super().forward(inputs)
        if torch.is_grad_enabled():
            self.steps += 1
        elif self.trouble == "metric":
            return found * float("nan")
        return found * self.meet_trouble() if self.steps == 3 else found

    def meet_trouble(self) -> float:
        if self.trouble == "raise":
            raise RuntimeError("the third step is broken")
        if self.trouble == "memory":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 PiB")
        if self.trouble in ("SIGTERM", "SIGINT") and not pathlib.Path("met").exists():
            pathlib.Path("met").touch()
            os.kill(os.getpid(), getattr(signal, self.trouble))
        return float("nan") if self.trouble == "loss" else 1.0

class Broken(torch.nn.Module):
    def __init__(self, outputs: int, hidden: int) -> None:
        raise OSError("the model is broken")

class Stopped(torch.nn.Module):
    def __init__(self, outputs: int, hidden: int) -> None:
        raise KeyboardInterrupt
"""


class Swept(NamedTuple):
    """What a sweep left behind."""

    home: Path
    code: int
    out: str
    err: str

    def rows(self) -> list[dict[str, str]]:
        return list(csv.DictReader((self.home / "summary.csv").open()))

    def summary(self) -> Any:
        return json.loads((self.home / "summary.json").read_text())


def write_models(folder: Path) -> None:
    """Models of a user's own that fail in different ways."""
    (folder / "failing_models.py").write_text(THEIRS)
    (folder / "my_conf" / "model").mkdir(parents=True)
    for name, more in (("Broken", ""), ("Stopped", ""), ("Faulty", "size: ${spec.size}\ntrouble: none\n")):
        text = f"_target_: failing_models.{name}\noutputs: ${{spec.outputs}}\nhidden: 8\n{more}"
        (folder / "my_conf" / "model" / f"{name.lower()}.yaml").write_text(text)


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Swept:
    """Two models that work and one that does not, with two seeds each."""
    folder = tmp_path_factory.mktemp("sweep")
    write_models(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "path", list(sys.path))
        out, err = (folder / "out").open("w+"), (folder / "err").open("w+")
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        code = main.main([*OWN, "-m", "model=gru,broken,lstm", "seed=range(0,2)", "model.hidden_size=8", *SMALL])
    (home,) = (folder / "outputs" / "sweep").iterdir()
    return Swept(home, code, (folder / "out").read_text(), (folder / "err").read_text())


def test_a_sweep_says_how_many_jobs_and_goes_on_after_a_failed_one(swept: Swept) -> None:
    assert "sweep of 6 jobs over model, seed" in swept.err
    assert [f"job {number} of 6" in swept.err for number in range(1, 7)] == [True] * 6
    assert [row["state"] for row in swept.rows()] == ["finished"] * 2 + ["failed"] * 2 + ["finished"] * 2
    assert swept.code == 1


def test_the_summary_names_choices_metrics_seconds_and_folders(swept: Swept) -> None:
    rows, models = swept.rows(), ["gru", "gru", "broken", "broken", "lstm", "lstm"]
    assert [(row["job"], row["model"], row["seed"]) for row in rows] == [
        (str(number), model, str(number % 2)) for number, model in enumerate(models)
    ]
    for row in rows:
        if row["state"] == "failed":
            assert (row["error"], row["folder"], row["mae/test"]) == ("OSError: the model is broken", "", "")
        else:
            result = json.loads((Path(row["folder"]) / "result.json").read_text())
            assert float(row["mae/test"]) == result["test"]["mae"]
            assert float(row["seconds"]) > result["training_seconds"]
            assert row["error"] == ""
    assert [row["test"] for row in swept.summary()["jobs"]][2:4] == [{}, {}]


def test_the_table_is_a_result_and_shows_every_job(swept: Swept) -> None:
    sweep, seeds = swept.out.split("over seeds")
    assert [line.split()[:3] for line in sweep.splitlines()[3:]] == [
        [row["job"], row["model"], row["seed"]] for row in swept.rows()
    ]
    assert [line.split()[0] for line in seeds.splitlines()[3:]] == ["gru", "lstm"]


def test_seeds_add_up_to_a_mean_and_a_deviation(swept: Swept) -> None:
    rows, groups = swept.rows(), swept.summary()["over_seeds"]
    assert [group["choices"] for group in groups] == [{"model": "gru"}, {"model": "lstm"}]
    for group in groups:
        values = [
            float(row["mae/test"]) for row in rows if row["model"] == group["choices"]["model"] and row["mae/test"]
        ]
        assert group["seeds"] == len(values) == 2
        assert group["mean"] == pytest.approx(statistics.fmean(values), rel=1e-12)
        assert group["deviation"] == pytest.approx(abs(values[0] - values[1]) / 2**0.5, rel=1e-9)


def test_a_job_of_a_sweep_equals_the_same_run_alone_bit_for_bit(
    swept: Swept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    job = swept.rows()[5]
    assert (job["model"], job["seed"]) == ("lstm", "1")
    torch.rand(3)
    assert main.main(["model=lstm", "seed=1", "model.hidden_size=8", *SMALL, "hydra.run.dir=alone"]) == 0
    results = [json.loads((folder / "result.json").read_text()) for folder in (Path(job["folder"]), Path("alone"))]
    for key in ("test", "best", "baselines", "steps"):
        assert results[0][key] == results[1][key]
    files = [folder / "checkpoints" / "best.pt" for folder in (Path(job["folder"]), Path("alone"))]
    weights = [torch.load(file, weights_only=True)["model"] for file in files]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_seeds_make_a_difference(swept: Swept) -> None:
    first, second = (row["mae/test"] for row in swept.rows()[:2])
    assert first != second


def test_a_sweep_ended_from_the_keyboard_begins_no_other_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "failing_models", raising=False)
    write_models(tmp_path)
    typed = [*OWN, "-m", "model=stopped", "seed=0,1", *SMALL, "hydra.sweep.dir=exactly/here"]
    assert main.main(typed) == 130
    with (tmp_path / "exactly" / "here" / "summary.csv").open() as file:
        assert [row["state"] for row in csv.DictReader(file)] == ["interrupted"]
    # The folder holds a sweep now: it is not used again.
    assert main.main(typed) == 2
    left = [".lock", "status.json", "summary.csv", "summary.json", "sweep.json"]
    assert sorted(os.listdir(tmp_path / "exactly" / "here")) == left


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with models that fail."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "failing_models", raising=False)
    write_models(tmp_path)
    return tmp_path


def told(home: Path, but: tuple[str, ...] = ("seconds",)) -> list[dict[str, str]]:
    """The summary of a sweep, without what differs from time to time."""
    rows = list(csv.DictReader((home / "summary.csv").open()))
    return [{k: Path(v).name if k == "folder" else v for k, v in row.items() if k not in but} for row in rows]


def state(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file of a folder: when it was written, and what it holds."""
    return {
        str(file.relative_to(folder)): (file.stat().st_mtime_ns, file.read_bytes())
        for file in folder.rglob("*")
        if file.is_file()
    }


def checkpoints(home: Path) -> dict[str, bytes]:
    """The last checkpoint of each job, and its best."""
    names = [file for name in ("last.pt", "best.pt") for file in home.glob(f"*/checkpoints/{name}")]
    return {str(file.relative_to(home)): file.read_bytes() for file in names}


TROUBLES = "none,raise,memory,loss,metric,'none'"


def test_a_job_that_fails_diverges_or_runs_out_of_memory_does_not_touch_the_next(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = [*OWN, "-m", "model=faulty", f"model.trouble={TROUBLES}", *SMALL]
    assert main.main([*typed, "hydra.sweep.dir=whole"]) == 1
    rows, said = told(here / "whole"), capsys.readouterr()
    states = ["finished", "failed", "out_of_memory", "diverged", "finished", "finished"]
    assert [row["state"] for row in rows] == states
    assert [bool(row["error"]) for row in rows] == [state != "finished" for state in states]
    assert [bool(row["mae/test"]) for row in rows] == [True, False, False, False, False, True]
    assert rows[0]["mae/test"] == rows[5]["mae/test"]
    for number, why in ((1, "the third step is broken"), (2, "out of memory"), (3, "nan")):
        assert f"job {number} {states[number]}" in said.err
        assert why in rows[number]["error"]
    assert "not finite" in said.out.splitlines()[7]
    # Memory is given back: when a job makes its model, that of the job before is gone.
    made = [line.split() for line in (here / "alive").read_text().splitlines()]
    assert dict(reversed(made)) == dict.fromkeys(("none", "raise", "memory", "loss", "metric"), "1")
    first, last = (here / "whole" / rows[number]["folder"] for number in (0, 5))
    files = [sorted(path.glob("checkpoints/step-*.pt")) for path in (first, last)]
    assert [file.read_bytes() for file in files[0]] == [file.read_bytes() for file in files[1]]


def test_what_ended_as_it_would_end_again_is_kept_and_what_failed_is_tried_again(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = [*OWN, "-m", "model=faulty", "model.trouble=none,raise,memory,loss", *SMALL, "hydra.sweep.dir=whole"]
    assert main.main(typed) == 1
    home = here / "whole"
    rows, before = told(home), {path.name: state(path) for path in home.iterdir() if path.is_dir()}
    asked = capsys.readouterr().err
    assert "To try again what failed: dltrain --config-dir my_conf -m" in asked
    assert f"sweep.resume={home}" in asked
    assert main.main([*typed, "sweep.resume=whole"]) == 1
    said = capsys.readouterr().err
    for number, end in ((1, "finished"), (3, "out_of_memory"), (4, "diverged")):
        assert f"job {number} of 4: model.trouble={rows[number - 1]['model.trouble']} ({end}, not run again)" in said
    assert told(home) == rows
    for path in (home / row["folder"] for row in rows):
        assert (state(path) == before[path.name]) == ("raise" not in path.name)


@pytest.mark.parametrize(("trouble", "code"), [("SIGTERM", 143), pytest.param("SIGINT", 130, marks=pytest.mark.slow)])
def test_a_signal_ends_the_sweep_and_the_same_command_goes_on(
    here: Path, capsys: pytest.CaptureFixture[str], trouble: str, code: int
) -> None:
    typed = [*OWN, "-m", "model=faulty", "seed=0,1", f"model.trouble={trouble}", *SMALL]
    (here / "met").touch()  # the first sweep is left in peace
    assert main.main([*typed, "hydra.sweep.dir=whole"]) == 0
    (here / "met").unlink()
    assert main.main([*typed, "hydra.sweep.dir=cut"]) == code
    assert [row["state"] for row in told(here / "cut")] == ["interrupted"]
    assert json.loads((here / "cut" / "status.json").read_text())["exit_code"] == code
    said = capsys.readouterr().err
    again = shlex.split(next(line for line in said.splitlines() if line.startswith("Go on with: dltrain -"))[12:])
    assert main.main(again[1:]) == 0
    assert told(here / "cut") == told(here / "whole")
    assert checkpoints(here / "cut") == checkpoints(here / "whole")
    assert len(checkpoints(here / "whole")) == 4
    assert [group["seeds"] for group in json.loads((here / "cut" / "summary.json").read_text())["over_seeds"]] == [2]


def test_a_signal_between_two_jobs_is_not_lost(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The signal comes when the first job has written its last word, which nothing reads any more.
    class Ends(Console):
        def close_log(self) -> None:
            super().close_log()
            if list(here.glob("cut/0*/result.json")) and not (here / "cut" / "summary.csv").exists():
                os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("dltrain.cli.train.Console", Ends)
    # As a scheduler types it, which repeats a command word by word.
    typed = ["-m", "model=perceptron", "seed=0,1", *SMALL, "hydra.sweep.dir=cut", "trainer.resume=auto"]
    assert main.main(typed) == 143
    assert [row["state"] for row in told(here / "cut")] == ["finished"]
    assert main.main(typed) == 0
    assert [row["state"] for row in told(here / "cut")] == ["finished"] * 2


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The current folder of a sweep that is done; the tests that use it change nothing there."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main.main([*DONE, "hydra.sweep.dir=whole"]) == 0
    return folder


DONE = ["-m", "model=perceptron,mlp", "seed=0", *SMALL]


def test_a_finished_sweep_has_nothing_left_to_do(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(finished)
    before = {path.name: state(path) for path in (finished / "whole").iterdir() if path.is_dir()}
    table = told(finished / "whole", but=())
    assert main.main([*DONE, "hydra.sweep.dir=whole", "sweep.resume=whole"]) == 0
    said = capsys.readouterr()
    assert said.err.count("(finished, not run again)") == 2
    assert "Go on with" not in said.err
    assert {path.name: state(path) for path in (finished / "whole").iterdir() if path.is_dir()} == before
    assert told(finished / "whole", but=()) == table
    # A sweep is no run, and a command that asks for something else does not go on with it.
    assert main.main(["resume", "whole"]) == 2
    assert "a sweep, which its own command resumes with -m sweep.resume=whole" in capsys.readouterr().err
    assert main.main([*DONE, "hydra.sweep.dir=whole", "trainer.resume=auto"]) == 2
    assert "job 0: trainer.resume: the sweep has never, the configuration now auto" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("-m model=perceptron,mlp seed=1", "job 0: the sweep has model=perceptron seed=0"),
        ("-m model=perceptron,mlp seed=1", "job 1: seed: the sweep has 0, the configuration now 1"),
        ("-m model=mlp,perceptron seed=0", "job 0: the sweep has model=perceptron seed=0"),
        ("-m model=perceptron,mlp,gru seed=0", "expected the 2 jobs of the sweep in whole, got 3. It was begun with: "),
        ("-m model=perceptron,mlp seed=0 optimizer.lr=0.5", "job 1: optimizer.lr: the sweep has 0.001"),
        ("-m model=perceptron,mlp seed=0 hydra.sweep.dir=other", "hydra.sweep.dir: expected whole as sweep.resume"),
        ("model=mlp seed=0", "sweep.resume: expected -m with it, got whole"),
        ("-m model=mlp seed=0 sweep.resume=whole,other", "sweep.resume: expected one folder, got other whole"),
        ("-m model=mlp seed=0 sweep.resume=[whole]", "sweep.resume: expected the folder of a sweep, with"),
        ("-m model=mlp seed=0 sweep.resume=3", "sweep.resume: expected the folder of a sweep, with sweep.json, got 3"),
        ("-m model=mlp seed=0 sweep.resume=hole", "with sweep.json, got hole. Did you mean "),
        ("-m model=mlp seed=0 sweep.resume=whole/0_model=mlp", "sweep.resume"),
        ("-m model=mlp seed=0 ~sweep", "sweep: expected a value, got nothing"),
        ("-m model=mlp seed=0 sweep.reusme=whole", "sweep.reusme: unknown key. Did you mean sweep.resume?"),
        ("-m model=mlp seed=0 sweep=whole", "sweep: expected a group of keys, got whole"),
    ],
)
def test_another_command_is_refused_with_the_difference(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], typed: str, said: str
) -> None:
    monkeypatch.chdir(finished)
    before = state(finished)
    named = [] if "sweep" in typed.replace("hydra.sweep", "") else ["sweep.resume=whole"]
    assert main.main([*typed.split(), *SMALL, *named]) == 2
    assert said in capsys.readouterr().err
    assert state(finished) == before


def test_yaml_that_changed_under_a_sweep_is_seen(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    typed = [*OWN, "-m", "model=broken", "seed=0,1", *SMALL]
    assert main.main([*typed, "hydra.sweep.dir=whole"]) == 1
    file = here / "my_conf" / "model" / "broken.yaml"
    file.write_text(file.read_text().replace("hidden: 8", "hidden: 9"))
    assert main.main([*typed, "sweep.resume=whole"]) == 2
    assert "job 0: model.hidden_size: the sweep has 8, the configuration now 9" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "{}", '{"jobs": 3, "command": ""}', '{"jobs": [{}], "command": ""}', "[" * 100_000),
        '{"jobs": [{"overrides": [1], "config": {}}, {"overrides": [], "config": {}}], "command": ""}',
    ],
)
def test_a_damaged_sweep_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / "sweep.json").write_text(text)
    assert main.main([*DONE, "sweep.resume=whole"]) == 2
    assert "sweep.resume: expected a sweep.json that can be read, got whole/sweep.json" in capsys.readouterr().err
    assert os.listdir(tmp_path / "whole") == ["sweep.json"]


def test_two_sweeps_never_work_in_one_folder(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(finished)
    # The lock is the system's: another open file of this very process is as good as another process.
    with contextlib.closing(run_dir.reopen(finished / "whole")) as other:
        other.write_status("running")
        assert main.main([*DONE, "sweep.resume=whole"]) == 2
    assert f"It is in use by process {os.getpid()} on " in capsys.readouterr().err
    assert main.main([*DONE, "sweep.resume=whole"]) == 0


def test_what_an_earlier_command_wrote_is_shown_as_far_as_it_can_be_read(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished / "whole", "whole", symlinks=True)
    seconds = {row["job"]: row["seconds"] for row in told(tmp_path / "whole", but=())}
    for text in ('{"jobs": [1]}', '{"jobs": [{"job": 0, "seconds": "x"}]}', '{"jobs": 3}', "[" * 100_000):
        (tmp_path / "whole" / "summary.json").write_text(text)
        assert main.main([*DONE, "sweep.resume=whole"]) == 0
    result = json.loads((tmp_path / "whole" / "0_model=perceptron" / "result.json").read_text())
    found = {row["job"]: row["seconds"] for row in told(tmp_path / "whole", but=())}
    assert found == {**seconds, "0": f"{result['seconds']:.3f}", "1": found["1"]}
    for text in ('{"test": [1], "metric": "mae"}', '{"test": {"mae": "x"}, "metric": ["mae"], "seconds": "x"}'):
        (tmp_path / "whole" / "0_model=perceptron" / "result.json").write_text(text)
        assert main.main([*DONE, "sweep.resume=whole"]) == 0
        assert told(tmp_path / "whole")[0]["mae/test"] == ""
    (tmp_path / "whole" / "0_model=perceptron" / "status.json").write_text('{"state": "diverged", "error": "\\ud800"}')
    assert main.main([*DONE, "sweep.resume=whole"]) == 1
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("name", ["1_model=mlp", "0_model=perceptron", "status.json", "summary.csv", "sweep.json"])
def test_a_sweep_whose_folders_or_files_are_links_is_refused_and_nothing_is_written_there(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished / "whole", "whole", symlinks=True)
    shutil.move(f"whole/{name}", "victim")
    os.symlink(tmp_path / "victim", f"whole/{name}")
    if Path("victim").is_dir():
        Path("victim/status.json").unlink()  # as if there were something left to do
    before = state(tmp_path)
    assert main.main([*DONE, "sweep.resume=whole"]) == 2
    said = f"sweep.resume: expected files and folders that lie in the sweep's folder, got whole/{name}. It is a link."
    assert said in capsys.readouterr().err
    assert state(tmp_path) == before


@pytest.mark.parametrize("name", ["status.json", "config.yaml", "sweep.json", "summary.csv", "1_model=mlp"])
def test_a_sweep_does_not_go_where_something_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / name).write_text("{}")
    assert main.main([*DONE, "hydra.sweep.dir=taken"]) == 2
    assert f"It has {name}." in capsys.readouterr().err
    assert os.listdir(tmp_path / "taken") == [name]


def test_where_a_sweep_goes_on_is_not_part_of_what_its_jobs_are(finished: Path) -> None:
    for file in ("job.yaml", "config.yaml", "command.txt"):
        assert "sweep" not in (finished / "whole" / "0_model=perceptron" / file).read_text()


def test_a_mistake_in_any_job_is_said_before_the_first_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main.main(["-m", "model=gru,lsmt", "optimizer.lr=0.1,-1", *SMALL]) == 2
    said = capsys.readouterr().err
    assert said.count("Did you mean lstm?") == 1
    assert "optimizer.lr: expected a number above 0, got -1" in said
    assert not list(tmp_path.iterdir())
