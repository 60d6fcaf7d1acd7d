"""A run's folder as a job again: found by name, read as data, changed by hand."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dltrain.config import compose, revise
from dltrain.errors import ConfigError
from dltrain.runs import job as stored
from dltrain.storage import run_files

FinishedRun = Callable[..., Path]


def refused(call: Callable[[], Any]) -> str:
    with pytest.raises(ConfigError) as error:
        call()
    return str(error.value)


@pytest.fixture
def outputs(plain_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three runs where runs go by default, seen from the folder above; the second was at work last."""
    for number, name in enumerate(("20260101-101500-aaaa", "20260101-101501-bbbb", "20260202-090000-cccc")):
        run = tmp_path / "outputs" / "mlp-digits" / name
        shutil.copytree(plain_run, run, symlinks=True)
        age = 10 if number == 1 else 1000 * (number + 1)
        for file in ("status.json", "metrics.jsonl", "checkpoints/manifest.json"):
            os.utime(run / file, (time.time() - age,) * 2)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "outputs"


# --- finding ------------------------------------------------------------------------------------------------------


def test_latest_is_the_run_that_was_at_work_last(outputs: Path) -> None:
    assert stored.find_run("latest") == outputs / "mlp-digits" / "20260101-101501-bbbb"
    # A process that was killed meanwhile could only log that it was at work.
    (outputs / "mlp-digits" / "20260202-090000-cccc" / "metrics.jsonl").touch()
    assert stored.find_run("latest") == outputs / "mlp-digits" / "20260202-090000-cccc"


def test_a_run_is_found_by_its_path_from_here_or_from_anywhere(outputs: Path) -> None:
    run = outputs / "mlp-digits" / "20260202-090000-cccc"
    assert stored.find_run(str(run)) == run
    assert stored.find_run("outputs/mlp-digits/20260202-090000-cccc").resolve() == run.resolve()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("outputs/mlp-digits/20260202-090000-ccc", "Did you mean outputs/mlp-digits/20260202-090000-cccc?"),
        ("20260202-090000-cccc", "mlp-digits/20260202-090000-cccc?"),
        ("elsewhere/20260101-101500-aaab", "mlp-digits/20260101-101500-aaaa?"),
        ("outputs/mlp-digits", "It contains outputs/mlp-digits/20260101-101500-aaaa"),
        ("zzz", "dltrain runs"),
    ],
)
def test_the_wrong_name_is_answered_with_the_nearest_runs(outputs: Path, name: str, message: str) -> None:
    text = refused(lambda: stored.find_run(name))
    assert text.startswith("RUN: expected the folder of a run, or latest") and message in text


def test_without_runs_there_is_no_latest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "There is none." in refused(lambda: stored.find_run("latest"))


def test_the_runs_of_sweeps_are_found_and_the_sweep_itself_is_no_run(outputs: Path) -> None:
    sweep = outputs / "sweep" / "then"
    shutil.copytree(outputs / "mlp-digits" / "20260101-101500-aaaa", sweep / "0_seed=0", symlinks=True)
    (sweep / "status.json").write_text("{}")
    assert stored.list_runs(outputs)[-1] == sweep / "0_seed=0"
    assert len(stored.list_runs(outputs)) == 4


# --- reading ------------------------------------------------------------------------------------------------------


def test_a_job_comes_back_as_it_was_composed(tmp_path: Path) -> None:
    job = compose.compose(["model=gru", "data=timeseries", "optimizer/schedule=cosine", "optimizer.lr=0.01"])
    (tmp_path / run_files.JOB).write_text(stored.dump_job(job))
    found = stored.load_job(tmp_path)
    assert found.config == job.config
    assert (found.choices, found.overrides, found.config_dirs) == (job.choices, job.overrides, job.config_dirs)
    assert found.allow == ()


def test_the_folder_trusts_no_module_whatever_it_says(tmp_path: Path) -> None:
    job = compose.compose(["allow_targets=[mine]"])
    (tmp_path / run_files.JOB).write_text(stored.dump_job(job))
    assert "mine" in (tmp_path / run_files.JOB).read_text()
    assert (stored.load_job(tmp_path).allow, stored.load_job(tmp_path).config["allow_targets"]) == ((), [])
    assert stored.load_job(tmp_path, ["mine"]).allow == ("mine",)


def test_a_folder_without_a_job_is_refused(tmp_path: Path) -> None:
    text = refused(lambda: stored.load_job(tmp_path))
    assert f"RUN: expected the folder of a run, with job.yaml, got {tmp_path}" in text


@pytest.mark.parametrize(
    "content",
    [
        "",
        "- a\n- list\n",
        "choices: {}\n",
        "choices: {model: lstm}\noverrides: []\nconfig_dirs: []\nconfig: 3\n",
        "choices: 3\noverrides: []\nconfig_dirs: []\nconfig: {}\n",
        "choices: {\n",
        "config: !!python/object/apply:os.system ['true']\nchoices: {}\noverrides: []\nconfig_dirs: []\n",
        "a: ${b\n",
        "\x00\x01",
        *(
            f"choices: {{model: a, data: b, task: c}}\noverrides: {o}\nconfig_dirs: {d}\nconfig: {c}\n"
            for o, d, c in [
                ("[1]", "[]", "{}"),
                ("[]", "[3]", "{}"),
                ("[]", "[]", "{true: 4}"),
                ("[]", "[]", "{trainer: {4: 4}}"),
                ("[]", "[]", "{model: {_target_: x, layers: [{_target_: y, 3: 4}]}}"),
                ("[]", "[]", "[model]"),
                ("[]", "[]", "{model: " + "{a: " * 600 + "1" + "}" * 601),
                ("[]", "[]", "[" * 100_000),
                ("[]", "[]", '{model: "\\ud800"}'),
            ]
        ),
        "choices: {}\noverrides: []\nconfig_dirs: []\nconfig: {}\n",
        "choices: {model: a, data: b, task: 3}\noverrides: []\nconfig_dirs: []\nconfig: {}\n",
        "choices: {model: a, data: b, task: c, 3: d}\noverrides: []\nconfig_dirs: []\nconfig: {}\n",
        "choices: &a {model: a, data: b, task: c}\noverrides: []\nconfig_dirs: []\nconfig: *a\n",
        "choices: &a {model: a, data: b, task: c}\noverrides: []\nconfig_dirs: []\nconfig: {}\n",
        "choices: {model: a, data: b, task: c}\noverrides: []\nconfig_dirs: []\nconfig: {}\n" + "#" * 2**20,
    ],
)
def test_a_damaged_job_is_refused_in_one_line_that_names_the_file(tmp_path: Path, content: str) -> None:
    (tmp_path / run_files.JOB).write_text(content)
    text = refused(lambda: stored.load_job(tmp_path))
    assert "RUN: expected a job.yaml that can be read" in text and "\n" not in text


def test_a_few_lines_that_expand_to_gigabytes_are_refused_for_their_aliases(tmp_path: Path, plain_run: Path) -> None:
    laughs = ["a0: &a0 [ha, ha, ha, ha, ha, ha, ha, ha, ha]"]
    laughs += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]
    (tmp_path / run_files.JOB).write_text("\n".join([*laughs, (plain_run / run_files.JOB).read_text()]))
    assert "it has anchors or aliases" in refused(lambda: stored.load_job(tmp_path))


def test_keys_of_a_users_own_mapping_may_be_numbers(tmp_path: Path, plain_run: Path) -> None:
    config = "config: {model: {_target_: x, names: {0: cat, 1: dog}}}"
    text = f"choices: {{model: a, data: b, task: c}}\noverrides: []\nconfig_dirs: []\n{config}\n"
    (tmp_path / run_files.JOB).write_text(text)
    assert stored.load_job(tmp_path).config["model"]["names"] == {0: "cat", 1: "dog"}


def test_a_job_that_was_cut_off_anywhere_is_refused_or_read(tmp_path: Path, plain_run: Path) -> None:
    content = (plain_run / run_files.JOB).read_bytes()
    for length in range(0, len(content), 97):
        (tmp_path / run_files.JOB).write_bytes(content[:length])
        try:
            stored.load_job(tmp_path)
        except ConfigError as error:
            assert "RUN" in str(error)


# --- changing -----------------------------------------------------------------------------------------------------


@pytest.fixture
def job(finished_run: FinishedRun) -> compose.Job:
    overrides = ["model=mlp", "data=digits", "optimizer.lr=0.3", "optimizer/schedule=step", "trainer.epochs=1"]
    return compose.compose(overrides)


def changed(job: compose.Job, *overrides: str) -> tuple[compose.Job, dict[str, tuple[Any, Any]]]:
    return revise.revise_job(job, list(overrides))


def test_a_key_is_changed_and_nothing_else(job: compose.Job) -> None:
    new, found = changed(job, "trainer.epochs=3", "data.batch_size=64")
    assert found == {"trainer.epochs": (1, 3)}  # batches had 64 before
    assert (job.config["trainer"]["epochs"], new.config["trainer"]["epochs"]) == (1, 3)
    overrides = ("model=mlp", "data=digits", "optimizer.lr=0.3", "optimizer/schedule=step")
    assert new.overrides == (*overrides, "trainer.epochs=3", "data.batch_size=64")


@pytest.mark.parametrize(
    "overrides",
    [
        ["optimizer=sgd"],
        ["optimizer.lr=0.01", "optimizer=sgd"],
        ["optimizer.schedule.warmup=3", "optimizer/schedule=cosine", "optimizer=sgd"],
        ["optimizer/schedule=cosine"],
        ["model.hidden_size=8", "regularization=dropout", "device=cpu"],
        ["model=cnn", "seed=4"],
    ],
)
def test_what_is_revised_is_what_its_own_overrides_compose(job: compose.Job, overrides: list[str]) -> None:
    new, found = changed(job, *overrides)
    composed = compose.compose(list(new.overrides))
    assert new.config == composed.config
    assert new.choices == composed.choices
    assert found == revise.config_differences(job.config, composed.config)


def test_the_place_of_a_new_run_is_no_part_of_what_it_is(job: compose.Job) -> None:
    new, found = changed(job, "hydra.run.dir=/somewhere")
    assert (new.run_dir, new.overrides) == ("/somewhere", job.overrides)
    assert found == {revise.RUN_DIR: ("its own", "/somewhere")}
    assert new.config == job.config


def test_all_mistakes_are_said_together(job: compose.Job) -> None:
    overrides = [
        "modle=cnn",
        "trainer.epochs=-1",
        "+model.more=1",
        "~model.hidden_size",
        "hydra.sweep.dir=x",
        "model=lsmt",
    ]
    text = refused(lambda: changed(job, *overrides))
    for message in (
        "modle: unknown key",
        "trainer.epochs: expected a whole number of at least 1, got -1",
        "+model.more=1: expected KEY=VALUE for a key that the run has",
        "~model.hidden_size: expected KEY=VALUE for a key that the run has",
        "hydra.sweep.dir: expected hydra.run.dir",
        "Did you mean lstm?",
    ):
        assert message in text
