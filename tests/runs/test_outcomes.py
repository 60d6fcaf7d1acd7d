"""Outcomes of runs: states, exit codes, messages and metrics."""

import io
import json
import math
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from run_examples import INTERVALS, equal, events, hashes, lines, model_of, read

from dltrain.config import compose
from dltrain.data.loader import Batches
from dltrain.data.splits import permutation
from dltrain.datasets.image_folder import ImageFiles
from dltrain.errors import ConfigError
from dltrain.loggers.console import Console
from dltrain.runs import assemble, dry_run, launch, report
from dltrain.runs.launch import Outcome
from dltrain.storage import run_dir
from dltrain.storage.checkpoints import Checkpoints

FAULTY = '''
import os
import signal

import torch
from dltrain.tasks.classification import Classification


class Faulty(Classification):
    """Classification that fails after ``after`` training steps, or reports a NaN accuracy."""

    def __init__(self, classes, fault, after):
        super().__init__(classes)
        self.fault, self.left = fault, after

    def loss(self, model, batch, progress):
        loss = super().loss(model, batch, progress)
        self.left -= torch.is_grad_enabled()
        if self.left >= 0:
            return loss
        if self.fault == "poison":
            return loss._replace(total=loss.total * float("nan"))
        if self.fault == "key":
            os.kill(os.getpid(), signal.SIGINT)
            return loss
        raise {
            "memory": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB\\nmore"),
            "bug": ZeroDivisionError("a bug in the step"),
        }[self.fault]

    def evaluate(self, model, batches):
        evaluation = super().evaluate(model, batches)
        if self.fault == "metric":
            evaluation.metrics["accuracy"] = float("nan")
        return evaluation
'''
YAML = "# A task that fails.\n_target_: faulty.Faulty\nclasses: ${spec.classes}\nfault: none\nafter: 5\n"


@pytest.fixture
def train_with_fault(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    train: Callable[..., Outcome],
    small_data: Callable[[str], list[str]],
) -> Callable[..., Outcome]:
    """Return a function that trains with a user-defined task that has the given fault."""
    (tmp_path / "faulty.py").write_text(FAULTY)
    (tmp_path / "conf" / "task").mkdir(parents=True)
    (tmp_path / "conf" / "task" / "faulty.yaml").write_text(YAML)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "faulty", raising=False)
    common = ["model=mlp", *small_data("digits"), "task=faulty", "allow_targets=[faulty]", "trainer.eval_every=2"]
    return lambda fault, *more: train(*common, f"task.fault={fault}", *more, config_dirs=(str(tmp_path / "conf"),))


@pytest.mark.parametrize(
    ("fault", "state", "code", "message"),
    [
        ("poison", "diverged", 3, "loss became nan"),
        ("key", "interrupted", 130, "SIGINT"),
        ("memory", "out_of_memory", 4, "CUDA out of memory. Tried to allocate 9 GiB"),
        ("bug", "failed", 1, "ZeroDivisionError: a bug in the step"),
    ],
)
def test_a_failed_run_reports_the_error_and_keeps_its_best_weights(
    fault: str, state: str, code: int, message: str, train_with_fault: Callable[..., Outcome]
) -> None:
    outcome = train_with_fault(fault)
    assert (outcome.state, outcome.exit_code) == (state, code)
    status = read(outcome.folder / "status.json")
    assert (status["state"], status["exit_code"]) == (state, code)
    assert message in status["error"]
    log = (outcome.folder / "train.log").read_text()
    assert message in log and str(outcome.folder) in log
    assert ("Traceback" in log) == (fault == "bug")
    best = model_of(outcome, "best.pt")
    assert all(value.isfinite().all() for value in best.values())
    assert Checkpoints(outcome.folder).read_entry("best.pt")["step"] in (2, 4)
    assert not (outcome.folder / "result.json").exists()
    assert not run_dir.is_locked(outcome.folder)
    # An interrupted run has no final metrics in the HParams tab yet.
    assert ("_hparams_/session_end_info" in events(outcome).summary_metadata) == (state != "interrupted")


def test_an_out_of_memory_error_suggests_only_settings_that_the_run_does_not_have(
    train_with_fault: Callable[..., Outcome],
) -> None:
    for more, suggested in (((), True), (("trainer.on_oom=shrink", "device.precision=bf16"), False)):
        error = read(train_with_fault("memory", *more).folder / "status.json")["error"]
        assert ("trainer.on_oom=shrink" in error) == ("device.precision=bf16" in error) == suggested
        assert "data.batch_size=" in error and error.endswith(", or a smaller model")


@pytest.mark.parametrize(("limit", "suggested"), [(64, True), (32, False)])
def test_an_out_of_memory_error_suggests_half_of_max_tokens_unless_a_text_may_be_longer(
    limit: int, suggested: bool, train_with_fault: Callable[..., Outcome], small_data: Callable[[str], list[str]]
) -> None:
    texts = [*small_data("text_table"), "data.max_length=32", f"data.max_tokens={limit}"]
    outcome = train_with_fault("memory", "model=gru", *texts)
    error = str(read(outcome.folder / "status.json")["error"])
    assert f"data.max_tokens={limit}, peak memory" in error and "data.batch_size" not in error
    hint = "data.max_tokens=32 trainer.accumulate=2 (nearly the same effective batch size)"
    assert (hint in error) == suggested


def test_a_diverged_run_does_not_affect_the_next_run_in_the_same_process(
    train_with_fault: Callable[..., Outcome],
    train: Callable[..., Outcome],
    small_data: Callable[[str], list[str]],
    regression_run: Outcome,
) -> None:
    train_with_fault("poison")
    again = train("model=mlp", "task=regression", *small_data("csv"), "data.column=price", *INTERVALS)
    assert hashes(again) == hashes(regression_run)


def test_a_nan_test_metric_ends_the_run_as_diverged_without_a_result(train_with_fault: Callable[..., Outcome]) -> None:
    outcome = train_with_fault("metric", "task.after=1000", "trainer.max_steps=4")
    assert (outcome.state, outcome.exit_code) == ("diverged", 3)
    assert "not finite on the test split: accuracy" in str(outcome.error)
    assert not (outcome.folder / "result.json").exists()


def test_the_saved_command_includes_config_dir_and_allow_targets(tmp_path: Path) -> None:
    (tmp_path / "task").mkdir()
    (tmp_path / "task" / "faulty.yaml").write_text(YAML)
    job = compose.compose(["model=mlp", "data=digits", "task=faulty", "allow_targets=[faulty]"], (str(tmp_path),))
    words = shlex.split(report.command_line(job))
    assert words[:3] == ["dltrain", "--config-dir", str(tmp_path)] and "allow_targets=[faulty]" in words


def test_training_without_a_limit_is_rejected_and_writes_nothing(
    train: Callable[..., Outcome], tmp_path: Path, small_data: Callable[[str], list[str]]
) -> None:
    overrides = ["model=mlp", *small_data("digits"), "trainer.epochs=null", f"hydra.run.dir={tmp_path}/run"]
    with pytest.raises(ConfigError, match=r"trainer\.epochs"):
        launch.train(compose.compose(overrides), Console(io.StringIO()), 0.0)
    assert list(tmp_path.iterdir()) == []


def test_an_unreadable_image_ends_the_run_as_failed(
    train: Callable[..., Outcome], own_files: dict[str, Path], tmp_path: Path
) -> None:
    for number in range(40):
        folder = tmp_path / ("red" if number % 2 else "blue")
        folder.mkdir(exist_ok=True)
        (folder / f"{number}.png").write_bytes(next(own_files["image_folder"].rglob(f"{number}.png")).read_bytes())
    overrides = ["model=mlp", "data=image_folder", f"data.path={tmp_path}", "data.image_size=8", "data.workers=0"]
    components = assemble.build_components(compose.compose([*overrides, "data.batch_size=4", "device=cpu"]))
    source = components.data.load().train
    last = int(Batches(source, 4, training=True).plan(0)[-1][-1])
    assert isinstance(source.rows, ImageFiles)
    damaged = source.rows.listing[last][0]
    content = damaged.read_bytes()
    # The header and the end of the file stay intact, so the error occurs only during training.
    damaged.write_bytes(content[:50] + bytes(len(content) - 62) + content[-12:])
    outcome = train(*overrides, "data.batch_size=4", "trainer.epochs=1")
    assert (outcome.state, outcome.exit_code) == ("failed", 1)
    status = read(outcome.folder / "status.json")
    assert status["state"] == "failed" and status["step"] > 0 and ".png" in status["error"]


def test_without_validation_the_last_weights_are_evaluated_on_the_test_split(
    train: Callable[..., Outcome], small_data: Callable[[str], list[str]]
) -> None:
    outcome = train("model=mlp", *small_data("digits"), "data.validation=0", "trainer.max_steps=12")
    assert outcome.exit_code == 0
    assert {line["split"] for line in lines(outcome)} == {"train", "test"}
    assert outcome.result["best"] == {"step": 12, "accuracy": None}
    assert (outcome.folder / "checkpoints" / "best.pt").is_file()
    components = assemble.build_components(
        compose.compose(["model=mlp", *small_data("digits"), "data.validation=0", "device=cpu"])
    )
    components.model.load_state_dict(model_of(outcome))
    components.model.eval()
    with torch.inference_mode():
        metrics = components.task.evaluate(
            components.model, dry_run.build_batches(components, components.data.load())["test"]
        ).metrics
    assert metrics == outcome.result["test"]


def test_eval_examples_limits_the_validation_split_but_not_the_test_split(
    tmp_path: Path, small_data: Callable[[str], list[str]]
) -> None:
    overrides = [
        "model=mlp",
        *small_data("digits"),
        "device=cpu",
        "trainer.eval_examples=30",
        "trainer.log_media=false",
        f"hydra.run.dir={tmp_path}/run",
    ]
    job, output = compose.compose([*overrides, "trainer.epochs=2"]), io.StringIO()
    outcome = launch.train(job, Console(output), 0.0)
    components = assemble.build_components(job)
    components.model.load_state_dict(model_of(outcome, "best.pt"))
    components.model.eval()
    splits = components.data.load()
    assert splits.val is not None
    sample = permutation(len(splits.val))[:30]
    with torch.inference_mode():
        whole = {
            name: next(iter(Batches(part, len(part)))) for name, part in (("val", splits.val), ("test", splits.test))
        }
        right = {name: components.model(batch["inputs"]).argmax(1) == batch["targets"] for name, batch in whole.items()}
    assert outcome.result["best"]["accuracy"] == pytest.approx(float(right["val"][sample].double().mean()))
    assert outcome.result["test"]["accuracy"] == pytest.approx(float(right["test"].double().mean()))
    assert output.getvalue().count(f"the same 30 of {len(splits.val)} examples") == 1


def test_configured_regularization_and_schedule_are_used_in_training(
    train: Callable[..., Outcome], small_data: Callable[[str], list[str]]
) -> None:
    outcome = train(
        "model=mlp",
        *small_data("digits"),
        "regularization=standard",
        "regularization.early_stopping_patience=2",
        "regularization.ema_decay=0.5",
        "optimizer.lr=1e-30",
        "optimizer/schedule=plateau",
        "optimizer.schedule.patience=0",
        "trainer.eval_every=2",
        "trainer.log_every=1",
    )
    # At this learning rate the weights do not change, so the first evaluation is the best.
    assert outcome.result["stopped_early"] and outcome.result["steps"] == 6
    assert outcome.result["best"]["step"] == 2
    rates = [line["lr"] for line in lines(outcome) if line["split"] == "train"]
    assert rates == pytest.approx([1e-30] * 4 + [1e-31] * 2)
    saved = Checkpoints(outcome.folder).load("best.pt")
    assert saved["average"]["updates"] == 2
    assert not equal(saved["average"]["model"], {k: v + 1 for k, v in saved["model"].items()})


@pytest.mark.parametrize(
    "overrides",
    [
        ["model=gan", "model.hidden_size=8", "data=digits"],
        pytest.param(
            ["model=lstm", "model.hidden_size=8", "data=text", "data.context_length=64", "data.test=0.01"],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_log_media_changes_only_images_texts_and_animations(
    overrides: list[str], train: Callable[..., Outcome]
) -> None:
    quiet, whole = (
        train(*overrides, "trainer.max_steps=2", "trainer.eval_every=1", f"trainer.log_media={value}")
        for value in ("false", "true")
    )
    assert equal(model_of(quiet), model_of(whole)) and lines(quiet) == lines(whole)
    film = {"frames", "film.gif"} if "model=gan" in overrides else set()
    assert names(whole) - names(quiet) == film
    drawn = [tag for tag in events(whole).Tags()["images"] + events(whole).Tags()["tensors"] if "/" in tag]
    assert drawn and not [tag for tag in events(quiet).Tags()["images"] + events(quiet).Tags()["tensors"] if "/" in tag]


def names(outcome: Outcome) -> set[str]:
    return {path.name for path in outcome.folder.iterdir() if not path.name.startswith("events")}


def test_non_finite_numbers_are_null_in_result_json() -> None:
    values = {"a": math.nan, "b": {"c": -math.inf, "d": 1.5}, "e": None, "f": "x"}
    assert report.finite_or_none(values) == {"a": None, "b": {"c": None, "d": 1.5}, "e": None, "f": "x"}


CHILD = """
import json, sys
from dltrain.cli.main import main
code = main(sys.argv[2:])
open(sys.argv[1], "w").write(json.dumps(sorted(sys.modules)))
sys.exit(code)
"""


def test_the_default_model_imports_no_unused_libraries_and_logs_plain_lines_to_standard_error(
    tmp_path: Path,
) -> None:
    overrides = ["trainer.max_steps=2", "trainer.log_media=false", "device=cpu"]
    command = [sys.executable, "-c", CHILD, str(tmp_path / "modules"), *overrides]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=300, check=False)
    error = done.stderr.decode()
    assert done.returncode == 0, error
    output = done.stdout.decode()
    lines = [line.split()[0] for line in output.splitlines() if line.strip()]
    assert lines == ["loss", "-" * 18, "test", "repeat", "last", "season", "ridge"], (
        "standard output has only the results table"
    )
    assert not {"\r", "\x1b"} & set(error + output)
    modules = set(json.loads((tmp_path / "modules").read_text()))
    for name in ("torchvision", "torch.utils.tensorboard", "torch._dynamo", "tensorflow", "sklearn"):
        assert name not in modules, name
    (folder,) = re.findall(r"^run +(\S+)$", error, re.MULTILINE)
    assert Path(folder).is_relative_to(tmp_path / "outputs" / "lstm-timeseries"), (
        "outputs must be in the user's folder and not in the package"
    )
    assert f"tensorboard --logdir {folder}" in error
    result = read(Path(folder) / "result.json")
    assert {"seconds", "seconds_to_first_step"} <= result.keys()
    for word in ("best baseline (ridge regression)", "mae", "step 2/2"):
        assert word in error, word
