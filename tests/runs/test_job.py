"""Jobs of existing runs: found by name, loaded, and revised with overrides."""

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


def error_of(call: Callable[[], Any]) -> str:
    with pytest.raises(ConfigError) as error:
        call()
    return str(error.value)


@pytest.fixture
def outputs(plain_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder ``outputs`` in the working directory, with three runs; the second was written last."""
    for number, name in enumerate(("20260101-101500-aaaa", "20260101-101501-bbbb", "20260202-090000-cccc")):
        run = tmp_path / "outputs" / "mlp-digits" / name
        shutil.copytree(plain_run, run, symlinks=True, ignore=shutil.ignore_patterns("*.pt", "events*"))
        age = 10 if number == 1 else 1000 * (number + 1)
        for file in ("status.json", "metrics.jsonl", "checkpoints/manifest.json"):
            os.utime(run / file, (time.time() - age,) * 2)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "outputs"


# --- finding ------------------------------------------------------------------------------------------------------


def test_latest_is_the_run_with_the_newest_file(outputs: Path) -> None:
    assert stored.find_run("latest") == outputs / "mlp-digits" / "20260101-101501-bbbb"
    # The newest file of a killed run may be metrics.jsonl.
    (outputs / "mlp-digits" / "20260202-090000-cccc" / "metrics.jsonl").touch()
    assert stored.find_run("latest") == outputs / "mlp-digits" / "20260202-090000-cccc"


def test_a_run_is_found_by_its_relative_or_absolute_path(outputs: Path) -> None:
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
def test_an_unknown_run_is_rejected_with_the_nearest_names(outputs: Path, name: str, message: str) -> None:
    text = error_of(lambda: stored.find_run(name))
    assert text.startswith("RUN: expected the folder of a run, or latest") and message in text


def test_latest_is_rejected_if_there_are_no_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "There is none." in error_of(lambda: stored.find_run("latest"))


def test_jobs_of_sweeps_are_listed_but_not_the_sweep_itself(outputs: Path) -> None:
    sweep = outputs / "sweep" / "then"
    shutil.copytree(outputs / "mlp-digits" / "20260101-101500-aaaa", sweep / "0_seed=0", symlinks=True)
    (sweep / "status.json").write_text("{}")
    assert stored.list_runs(outputs)[-1] == sweep / "0_seed=0"
    assert len(stored.list_runs(outputs)) == 4


# --- reading ------------------------------------------------------------------------------------------------------


def test_a_loaded_job_equals_the_composed_job_that_was_saved(tmp_path: Path) -> None:
    job = compose.compose(["model=gru", "data=timeseries", "optimizer/schedule=cosine", "optimizer.lr=0.01"])
    (tmp_path / run_files.JOB).write_text(stored.dump_job(job))
    found = stored.load_job(tmp_path)
    assert found.config == job.config
    assert (found.choices, found.overrides, found.config_dirs) == (job.choices, job.overrides, job.config_dirs)
    assert found.allow == ()


def test_allow_targets_is_not_read_from_the_run_folder(tmp_path: Path) -> None:
    job = compose.compose(["allow_targets=[mine]"])
    (tmp_path / run_files.JOB).write_text(stored.dump_job(job))
    assert "mine" in (tmp_path / run_files.JOB).read_text()
    assert (stored.load_job(tmp_path).allow, stored.load_job(tmp_path).config["allow_targets"]) == ((), [])
    assert stored.load_job(tmp_path, ["mine"]).allow == ("mine",)


def test_a_folder_without_a_job_is_rejected(tmp_path: Path) -> None:
    text = error_of(lambda: stored.load_job(tmp_path))
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
        "5",
        "choices: [",
        "choices: {}\noverrides: []\nconfig_dirs: []\nconfig: {}\n",
        "choices: {model: a, data: b, task: 3}\noverrides: []\nconfig_dirs: []\nconfig: {}\n",
        "choices: {model: a, data: b, task: c, 3: d}\noverrides: []\nconfig_dirs: []\nconfig: {}\n",
        "choices: &a {model: a, data: b, task: c}\noverrides: []\nconfig_dirs: []\nconfig: *a\n",
        "choices: &a {model: a, data: b, task: c}\noverrides: []\nconfig_dirs: []\nconfig: {}\n",
        "choices: {model: a, data: b, task: c}\noverrides: []\nconfig_dirs: []\nconfig: {}\n" + "#" * 2**20,
    ],
)
def test_a_damaged_job_is_rejected_with_one_line_that_names_the_file(tmp_path: Path, content: str) -> None:
    (tmp_path / run_files.JOB).write_text(content)
    text = error_of(lambda: stored.load_job(tmp_path))
    assert "RUN: expected a job.yaml that can be read" in text and "\n" not in text


def test_the_error_for_a_job_without_a_key_names_the_key(tmp_path: Path) -> None:
    (tmp_path / run_files.JOB).write_text("choices: {}\n")
    assert "job.yaml (the key 'config_dirs' is missing)" in error_of(lambda: stored.load_job(tmp_path))


def test_yaml_aliases_that_expand_to_gigabytes_are_rejected(tmp_path: Path, plain_run: Path) -> None:
    laughs = ["a0: &a0 [ha, ha, ha, ha, ha, ha, ha, ha, ha]"]
    laughs += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]
    (tmp_path / run_files.JOB).write_text("\n".join([*laughs, (plain_run / run_files.JOB).read_text()]))
    assert "it has anchors or aliases" in error_of(lambda: stored.load_job(tmp_path))


def test_arguments_of_a_target_may_be_mappings_with_numbers_as_keys(tmp_path: Path, plain_run: Path) -> None:
    config = "config: {model: {_target_: x, names: {0: cat, 1: dog}}}"
    text = f"choices: {{model: a, data: b, task: c}}\noverrides: []\nconfig_dirs: []\n{config}\n"
    (tmp_path / run_files.JOB).write_text(text)
    assert stored.load_job(tmp_path).config["model"]["names"] == {0: "cat", 1: "dog"}


def test_a_truncated_job_is_loaded_or_rejected_as_a_configuration_error(tmp_path: Path, plain_run: Path) -> None:
    content = (plain_run / run_files.JOB).read_bytes()
    for length in range(0, len(content), 97):
        (tmp_path / run_files.JOB).write_bytes(content[:length])
        try:
            stored.load_job(tmp_path)
        except ConfigError as error:
            assert "RUN" in str(error)


# --- revising -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def job() -> compose.Job:
    overrides = ["model=mlp", "data=digits", "optimizer.lr=0.3", "optimizer/schedule=step", "trainer.epochs=1"]
    return compose.compose(overrides)


def changed(job: compose.Job, *overrides: str) -> tuple[compose.Job, dict[str, tuple[Any, Any]]]:
    return revise.revise_job(job, list(overrides))


def test_an_override_changes_only_its_key(job: compose.Job) -> None:
    new, found = changed(job, "trainer.epochs=3", "data.batch_size=64")
    assert found == {"trainer.epochs": (1, 3)}  # 64 is the default, so batch_size does not change
    assert (job.config["trainer"]["epochs"], new.config["trainer"]["epochs"]) == (1, 3)
    overrides = ("model=mlp", "data=digits", "optimizer.lr=0.3", "optimizer/schedule=step")
    assert new.overrides == (*overrides, "trainer.epochs=3", "data.batch_size=64")


@pytest.mark.parametrize(
    "overrides",
    [
        ["optimizer.lr=0.01", "optimizer=sgd"],
        ["optimizer.schedule.warmup=3", "optimizer/schedule=cosine", "optimizer=sgd"],
        ["model.hidden_size=8", "regularization=dropout", "device=cpu"],
        ["model=cnn", "seed=4"],
    ],
)
def test_a_revised_job_equals_the_job_composed_from_its_overrides(job: compose.Job, overrides: list[str]) -> None:
    new, found = changed(job, *overrides)
    composed = compose.compose(list(new.overrides))
    assert new.config == composed.config
    assert new.choices == composed.choices
    assert found == revise.config_differences(job.config, composed.config)


def test_the_run_folder_is_not_part_of_the_configuration(job: compose.Job) -> None:
    new, found = changed(job, "hydra.run.dir=/somewhere")
    assert (new.run_dir, new.overrides) == ("/somewhere", job.overrides)
    assert found == {revise.RUN_DIR: ("the run folder", "/somewhere")}
    assert new.config == job.config


def test_all_errors_are_reported_together(job: compose.Job) -> None:
    overrides = [
        "modle=cnn",
        "trainer.epochs=-1",
        "+model.more=1",
        "~model.hidden_size",
        "hydra.sweep.dir=x",
        "model=lsmt",
    ]
    text = error_of(lambda: changed(job, *overrides))
    for message in (
        "modle: unknown key",
        "trainer.epochs: expected a whole number of at least 1, got -1",
        "+model.more=1: expected KEY=VALUE for a key that the run has",
        "~model.hidden_size: expected KEY=VALUE for a key that the run has",
        "hydra.sweep.dir: not supported because hydra.run.dir is the only key",
        "Did you mean lstm?",
    ):
        assert message in text
