"""Sweeps run every combination in one process, each job independently, and write a summary."""

import csv
import json
import os
import statistics
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from sweep_examples import SMALL, USER_MODELS, summary_rows, write_models

from dltrain.cli import main


class SweepResult(NamedTuple):
    """The folder, exit code and output of a sweep."""

    home: Path
    code: int
    out: str
    err: str

    def rows(self) -> list[dict[str, str]]:
        return list(csv.DictReader((self.home / "summary.csv").open()))

    def summary(self) -> Any:
        return json.loads((self.home / "summary.json").read_text())


@pytest.fixture(scope="module")
def finished_sweep(tmp_path_factory: pytest.TempPathFactory) -> SweepResult:
    """Run a sweep over two working models and a failing one, with two seeds each."""
    folder = tmp_path_factory.mktemp("sweep")
    write_models(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "path", list(sys.path))
        out, err = (folder / "out").open("w+"), (folder / "err").open("w+")
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        code = main.main(
            [*USER_MODELS, "-m", "model=gru,broken,lstm", "seed=range(0,2)", "model.hidden_size=8", *SMALL]
        )
    (home,) = (folder / "outputs" / "sweep").iterdir()
    return SweepResult(home, code, (folder / "out").read_text(), (folder / "err").read_text())


def test_a_sweep_prints_its_number_of_jobs_and_continues_after_a_failed_job(finished_sweep: SweepResult) -> None:
    assert "sweep of 6 jobs over model, seed" in finished_sweep.err
    assert [f"job {number} ({number + 1} of 6)" in finished_sweep.err for number in range(6)] == [True] * 6
    assert [row["state"] for row in finished_sweep.rows()] == ["finished"] * 2 + ["failed"] * 2 + ["finished"] * 2
    assert finished_sweep.code == 1


def test_the_summary_lists_overrides_metrics_seconds_and_folders(finished_sweep: SweepResult) -> None:
    rows, models = finished_sweep.rows(), ["gru", "gru", "broken", "broken", "lstm", "lstm"]
    assert [(row["job"], row["model"], row["seed"]) for row in rows] == [
        (str(number), model, str(number % 2)) for number, model in enumerate(models)
    ]
    jobs = finished_sweep.summary()["jobs"]
    assert [row["seconds"] for row in rows] == [f"{job['seconds']:.3f}" for job in jobs]
    for row in rows:
        if row["state"] == "failed":
            assert (row["error"], row["folder"], row["mae/test"]) == ("OSError: the model is broken", "", "")
        else:
            result = json.loads((Path(row["folder"]) / "result.json").read_text())
            assert float(row["mae/test"]) == result["test"]["mae"]
            assert row["error"] == ""
    assert [job["test"] for job in jobs][2:4] == [{}, {}]


def test_the_table_on_standard_output_shows_every_job(finished_sweep: SweepResult) -> None:
    sweep, seeds = finished_sweep.out.split("over seeds")
    assert [line.split()[:3] for line in sweep.splitlines()[3:]] == [
        [row["job"], row["model"], row["seed"]] for row in finished_sweep.rows()
    ]
    assert [line.split()[0] for line in seeds.splitlines()[3:]] == ["gru", "lstm"]


def test_the_best_job_on_validation_is_marked_and_its_rerun_command_is_printed(
    finished_sweep: SweepResult,
) -> None:
    rows, summary = finished_sweep.rows(), finished_sweep.summary()
    values = {row["job"]: float(row["mae/val"]) for row in rows if row["mae/val"]}
    best = min(values, key=lambda job: values[job])
    assert len(values) == 4 and [row["job"] for row in rows if row["best"]] == [best] == [str(summary["best"])]
    (folder,) = (row["folder"] for row in rows if row["job"] == best)
    result = json.loads((Path(folder) / "result.json").read_text())
    assert values[best] == result["best"]["mae"] == summary["jobs"][int(best)]["validation"]
    header = finished_sweep.out.splitlines()[1]
    assert header.index("mae (val)") < header.index("mae (test)") and finished_sweep.out.count("finished, best") == 1
    assert (
        f"best mae on validation: job {best}. Repeat it: dltrain rerun" in finished_sweep.err
        and folder in finished_sweep.err
    )


def test_metrics_of_several_seeds_are_summarized_as_mean_and_standard_deviation(finished_sweep: SweepResult) -> None:
    rows, groups = finished_sweep.rows(), finished_sweep.summary()["over_seeds"]
    assert [group["choices"] for group in groups] == [{"model": "gru"}, {"model": "lstm"}]
    for group in groups:
        values = [
            float(row["mae/test"]) for row in rows if row["model"] == group["choices"]["model"] and row["mae/test"]
        ]
        assert group["seeds"] == len(set(values)) == 2
        assert group["mean"] == pytest.approx(statistics.fmean(values), rel=1e-12)
        assert group["deviation"] == pytest.approx(abs(values[0] - values[1]) / 2**0.5, rel=1e-9)


def test_a_sweep_job_has_the_same_results_and_weights_as_a_single_run(
    finished_sweep: SweepResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    job = finished_sweep.rows()[5]
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


def test_a_sweep_stopped_by_ctrl_c_starts_no_further_jobs(model_folder: Path) -> None:
    arguments = [*USER_MODELS, "-m", "model=stopped", "seed=0,1", *SMALL, "hydra.sweep.dir=exactly/here"]
    assert main.main(arguments) == 130
    with (model_folder / "exactly" / "here" / "summary.csv").open() as file:
        assert [row["state"] for row in csv.DictReader(file)] == ["interrupted"]
    # The folder now contains a sweep, so a second sweep is rejected.
    assert main.main(arguments) == 2
    left = [".lock", "status.json", "summary.csv", "summary.json", "sweep.json"]
    assert sorted(os.listdir(model_folder / "exactly" / "here")) == left


FAULTS = "none,raise,memory,loss,metric,'none'"


def test_a_job_that_ends_with_an_error_does_not_affect_the_next_job(
    model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*USER_MODELS, "-m", "model=faulty", f"model.fault={FAULTS}", *SMALL]
    assert main.main([*arguments, "hydra.sweep.dir=whole"]) == 1
    rows, captured = summary_rows(model_folder / "whole"), capsys.readouterr()
    states = ["finished", "failed", "out_of_memory", "diverged", "diverged", "finished"]
    assert [row["state"] for row in rows] == states
    assert [bool(row["error"]) for row in rows] == [state != "finished" for state in states]
    assert [bool(row["mae/test"]) for row in rows] == [True, False, False, False, False, True]
    assert rows[0]["mae/test"] == rows[5]["mae/test"]
    for number, why in ((1, "the third step is broken"), (2, "out of memory"), (3, "nan"), (4, "test split: ")):
        assert f"job {number} {states[number]}" in captured.err
        assert why in rows[number]["error"]
    # Memory is freed: when a job builds its model, the model of the previous job no longer exists.
    alive = [line.split() for line in (model_folder / "alive").read_text().splitlines()]
    assert dict(reversed(alive)) == dict.fromkeys(("none", "raise", "memory", "loss", "metric"), "1")
    first, last = (model_folder / "whole" / rows[number]["folder"] for number in (0, 5))
    files = [sorted(path.glob("checkpoints/step-*.pt")) for path in (first, last)]
    assert [file.read_bytes() for file in files[0]] == [file.read_bytes() for file in files[1]]


def test_an_error_in_any_job_is_reported_before_the_first_job_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main.main(["-m", "model=gru,lsmt", "optimizer.lr=0.1,-1", *SMALL]) == 2
    stderr = capsys.readouterr().err
    assert stderr.count("Did you mean lstm?") == 1
    assert "optimizer.lr: expected a number above 0, got -1" in stderr
    assert not list(tmp_path.iterdir())
