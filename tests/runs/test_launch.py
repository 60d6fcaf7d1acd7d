"""Whole runs: what they leave in their folder, that they repeat themselves, and how they end."""

import contextlib
import gc
import hashlib
import io
import json
import math
import multiprocessing
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor
from torch.nn import functional as F

from dltrain.config import compose, groups
from dltrain.data.loader import Batches
from dltrain.datasets.image_folder import Pictures
from dltrain.datasets.time_series import TimeSeries
from dltrain.errors import CheckpointError, ConfigError
from dltrain.loggers.console import Console
from dltrain.models.recurrent import Recurrent
from dltrain.runs import assemble, dry_run, launch, report
from dltrain.runs.launch import Outcome
from dltrain.storage import run_dir
from dltrain.storage.checkpoints import Checkpoints

STEPS = 20
PICTURES = [
    "model=cnn",
    "model.hidden_size=[16]",
    "model.blocks=[{channels: 4, pool: max}]",
    "regularization.dropout=0.2",
]
SPANS = ["trainer.max_steps=6", "trainer.log_every=2", "trainer.eval_every=3 steps", "trainer.checkpoint_every=1 epoch"]
TEXT = ["model=gpt", "model.hidden_size=16", "model.num_heads=2", "model.num_layers=1", "regularization.dropout=0.1"]


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Outcome]]:
    """Runs a command in a fresh folder, with the current folder empty."""
    with contextlib.chdir(tmp_path_factory.mktemp("cwd")):

        def run_it(*typed: str, config_dirs: tuple[str, ...] = ()) -> Outcome:
            path = tmp_path_factory.mktemp("runs") / "run"
            job = compose.compose(["device=cpu", *typed, f"hydra.run.dir={path}"], config_dirs)
            return launch.train(job, Console(io.StringIO()), 0.0)

        yield run_it


@pytest.fixture(scope="module")
def classified(train: Callable[..., Outcome], small: Callable[[str], list[str]]) -> Outcome:
    return train(*PICTURES, *small("digits"), *SPANS)


@pytest.fixture(scope="module")
def forecast(train: Callable[..., Outcome], small: Callable[[str], list[str]]) -> Outcome:
    typed = ["model=lstm", "regularization.dropout=0.2", "trainer.log_every=4", "seed=7"]
    return train(*typed, *small("timeseries"), f"trainer.max_steps={STEPS}")


@pytest.fixture(scope="module")
def regressed(train: Callable[..., Outcome], small: Callable[[str], list[str]]) -> Outcome:
    return train("model=mlp", "task=regression", *small("csv"), "data.column=price", *SPANS)


@pytest.fixture(scope="module")
def written(train: Callable[..., Outcome], small: Callable[[str], list[str]]) -> Outcome:
    return train(*TEXT, *small("text"), *SPANS)


def read(path: Path) -> Any:
    """JSON as every reader knows it: without NaN and infinities."""

    def refuse(token: str) -> None:
        raise AssertionError(f"{path}: {token} is not JSON")

    return json.loads(path.read_text(), parse_constant=refuse)


def lines(outcome: Outcome) -> list[dict[str, Any]]:
    """The log without what a stopwatch and the machine say."""
    found = [json.loads(line) for line in (outcome.folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.startswith(("throughput", "memory"))} for line in found]


def model_of(outcome: Outcome, name: str = "last.pt") -> dict[str, Tensor]:
    return Checkpoints(outcome.folder).load(name)["model"]


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, second[name]) for name, value in first.items())


def hashes(outcome: Outcome) -> dict[str, str]:
    return {name: Checkpoints(outcome.folder).read_entry(name)["sha256"] for name in ("last.pt", "best.pt")}


# --- the folder -----------------------------------------------------------------------------------------------------

FILES = [".lock", "command.txt", "config.yaml", "environment.json", "job.yaml"]
FILES += ["metrics.jsonl", "result.json", "status.json", "train.log"]


@pytest.mark.parametrize("kind", ["classified", "forecast", "regressed", "written"])
def test_a_run_leaves_exactly_the_files_of_the_design(kind: str, request: pytest.FixtureRequest) -> None:
    outcome = request.getfixturevalue(kind)
    found = sorted(str(f.relative_to(outcome.folder)) for f in outcome.folder.rglob("*") if f.is_file())
    events = [name for name in found if name.startswith("events.out.tfevents.")]
    assert len(events) == 1
    kept = [f"checkpoints/{name}" for name in Checkpoints(outcome.folder).read_manifest()]
    checkpoints = [f"checkpoints/{name}" for name in ("best.pt", "last.pt", "manifest.json")]
    assert sorted(set(found) - set(events)) == sorted([*FILES, *checkpoints, *kept])
    assert 1 <= len(kept) <= 3


def test_what_the_files_say_is_true(classified: Outcome) -> None:
    home = classified.folder
    status, result, environment = (read(home / f"{name}.json") for name in ("status", "result", "environment"))
    assert (status["state"], status["exit_code"], status["step"], status["error"]) == ("finished", 0, 6, None)
    assert status["pid"] == os.getpid()
    assert environment["packages"]["torch"] == torch.__version__.split("+")[0]
    assert result["steps"] == 6 and result["device"] == "cpu" and result["precision"] == "fp32"
    model = model_of(classified)
    assert result["parameters"] == sum(value.numel() for value in model.values())
    for name in ("seconds", "training_seconds", "samples_per_second", "seconds_to_first_step", "peak_memory_mb"):
        assert result[name] > 0, name
    evaluated = {line["step"]: line["accuracy"] for line in lines(classified) if line["split"] == "val"}
    best = max(evaluated, key=lambda step: evaluated[step])
    assert result["best"] == {"step": best, "accuracy": evaluated[best]}
    tests = [line for line in lines(classified) if line["split"] == "test"]
    assert len(tests) == 1 and tests[0]["accuracy"] == result["test"]["accuracy"]
    assert classified.result == result


def test_the_configuration_is_kept_as_composed_and_resolved(classified: Outcome) -> None:
    text = (classified.folder / "config.yaml").read_text()
    assert "${" not in text and "???" not in text
    config = OmegaConf.load(classified.folder / "config.yaml")
    assert config.model.outputs == 10 and config.model.dropout == 0.2
    assert config.trainer.max_steps == 6 and config.seed == 0


def test_the_log_holds_all_messages_as_plain_text(classified: Outcome) -> None:
    log = (classified.folder / "train.log").read_text()
    assert "\x1b" not in log and "\r" not in log
    for word in ("model", "digits", "fp32", "step 6/6", "accuracy", f"tensorboard --logdir {classified.folder}"):
        assert word in log, word


def test_the_manifests_hashes_are_those_of_files_that_load_as_data_only(classified: Outcome) -> None:
    home = classified.folder / "checkpoints"
    manifest = read(home / "manifest.json")
    checkpoints = Checkpoints(classified.folder)
    assert checkpoints.read_entry("last.pt")["step"] == 6
    assert checkpoints.read_entry("best.pt")["step"] == classified.result["best"]["step"]
    for name, entry in manifest.items():
        content = (home / name).read_bytes()
        assert (entry["sha256"], entry["bytes"]) == (hashlib.sha256(content).hexdigest(), len(content))
        saved = torch.load(home / name, weights_only=True)
        assert saved["loop"]["step"] == entry["step"]


def test_spans_in_steps_and_epochs_are_read_from_the_configuration(classified: Outcome) -> None:
    steps = {
        split: [line["step"] for line in lines(classified) if line["split"] == split] for split in ("train", "val")
    }
    assert steps == {"train": [1, 2, 3, 4, 6], "val": [3, 6]}


# --- TensorBoard ----------------------------------------------------------------------------------------------------

SCALARS = {"loss/train", "loss/val", "loss/test", "lr", "grad/norm", "throughput/samples_per_s", "memory/peak_mb"}
TAGS = {
    "classified": ({"accuracy", "macro_f1"}, {"confusion", "worst_mistakes"}, {"filters"}, set()),
    "forecast": ({"mae", "rmse", "skill"}, {"forecasts"}, set(), set()),
    "regressed": ({"mae", "rmse"}, set(), set(), set()),
    "written": ({"perplexity", "bits_per_token"}, set(), set(), {"sample"}),
}


def events(outcome: Outcome) -> EventAccumulator:
    accumulator = EventAccumulator(str(outcome.folder), size_guidance={"scalars": 0, "images": 0, "tensors": 0})
    accumulator.Reload()
    return accumulator


@pytest.mark.parametrize("kind", TAGS)
def test_tensorboard_reads_back_every_tag_with_rising_steps(kind: str, request: pytest.FixtureRequest) -> None:
    outcome = request.getfixturevalue(kind)
    metrics, pictures, whole, texts = TAGS[kind]
    found = events(outcome)
    tags = found.Tags()
    assert SCALARS | {f"{m}/{split}" for m in metrics for split in ("val", "test")} <= set(tags["scalars"])
    assert set(tags["images"]) == {f"{p}/{split}" for p in pictures for split in ("val", "test")} | whole
    text = {tag for tag in tags["tensors"] if not tag.startswith("_hparams_")}
    assert text == {"config", "command"} | {f"{t}/{split}" for t in texts for split in ("val", "test")}
    for kinds, reader in (("scalars", found.Scalars), ("images", found.Images), ("tensors", found.Tensors)):
        for tag in tags[kinds]:
            steps = [event.step for event in reader(tag)]
            assert steps == sorted(set(steps)), tag
            assert max(steps) <= outcome.result["steps"], "the x axis counts optimizer steps"
    last = outcome.result["steps"]
    for tag in ("loss/train", "loss/val", "loss/test", "lr"):
        assert found.Scalars(tag)[-1].step == last


def test_tensorboards_curves_are_those_of_the_log(classified: Outcome) -> None:
    found = events(classified)
    for split, name in (("train", "loss"), ("val", "loss"), ("val", "accuracy"), ("test", "macro_f1")):
        wanted = [(line["step"], line[name]) for line in lines(classified) if line["split"] == split]
        curve = [(event.step, event.value) for event in found.Scalars(f"{name}/{split}")]
        assert [step for step, _ in curve] == [step for step, _ in wanted]
        assert [value for _, value in curve] == pytest.approx([value for _, value in wanted], rel=1e-6)


def test_tensorboard_has_the_configuration_the_command_and_the_hparams(classified: Outcome) -> None:
    found = events(classified)
    text = {tag: found.Tensors(tag)[0].tensor_proto.string_val[0].decode() for tag in ("config", "command")}
    assert "max_steps: 6" in text["config"]
    assert (classified.folder / "command.txt").read_text().strip() in text["command"]
    assert set(found.PluginTagToContent("hparams")) == {
        "_hparams_/session_start_info",
        "_hparams_/session_end_info",
    }
    assert found.Scalars("accuracy/test")[-1].value == pytest.approx(classified.result["test"]["accuracy"])


# --- the same again -------------------------------------------------------------------------------------------------


def test_the_command_that_is_kept_gives_the_same_bytes_in_a_fresh_folder(
    classified: Outcome, train: Callable[..., Outcome]
) -> None:
    program, *words = shlex.split((classified.folder / "command.txt").read_text())
    assert program == "dltrain" and not any("hydra.run.dir" in word for word in words)
    torch.rand(100)  # what happened before in the process does not matter
    again = train(*words)
    assert hashes(again) == hashes(classified)
    assert lines(again) == lines(classified)
    assert again.result["test"] == classified.result["test"]
    texts = [(o.folder / "config.yaml").read_text() for o in (classified, again)]
    assert texts[0] == texts[1]


def test_looking_closely_does_not_change_training(
    classified: Outcome, written: Outcome, train: Callable[..., Outcome], small: Callable[[str], list[str]]
) -> None:
    busy = ["trainer.log_every=1", "trainer.eval_every=1", "trainer.checkpoint_every=1", "trainer.max_steps=6"]
    assert equal(model_of(train(*PICTURES, *small("digits"), *busy)), model_of(classified))
    seldom = ["trainer.max_steps=6", "trainer.log_every=1000", "trainer.eval_every=1000"]
    assert equal(model_of(train(*TEXT, *small("text"), *seldom)), model_of(written))


def test_another_seed_gives_other_weights_and_another_order(
    regressed: Outcome, train: Callable[..., Outcome], small: Callable[[str], list[str]]
) -> None:
    other = train("model=mlp", "task=regression", *small("csv"), "data.column=price", *SPANS, "seed=1")
    assert not equal(model_of(other), model_of(regressed))
    assert lines(other)[0]["loss"] != lines(regressed)[0]["loss"]


def test_a_whole_run_equals_a_plain_pytorch_loop_bit_for_bit(forecast: Outcome) -> None:
    data = TimeSeries(series="elnino", window=24, horizon=6)
    batches = Batches(data.load().train, 64, seed=7, training=True)
    torch.manual_seed(7)
    model = Recurrent(cell="lstm", features=1, outputs=6, hidden_size=64, num_layers=2, dropout=0.2)
    torch.manual_seed(7)  # the seed names the weights and, anew, what training draws
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    order = (batch for epoch in range(STEPS) for batch in batches.epoch(epoch))
    losses = []
    for _, batch in zip(range(STEPS), order, strict=False):
        loss = F.mse_loss(model(batch["inputs"]).view(-1, 6, 1), batch["targets"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert len(batches) < STEPS, "more than one epoch"
    assert equal(model.state_dict(), model_of(forecast))
    assert lines(forecast)[0]["loss"] == losses[0]


def test_the_number_of_data_workers_changes_no_byte(
    train: Callable[..., Outcome], small: Callable[[str], list[str]]
) -> None:
    common = ["model=mlp", *small("image_folder"), "data.augment=[flip,crop]", "trainer.epochs=3"]
    found = [train(*common, f"data.workers={workers}") for workers in (0, 2)]
    assert hashes(found[0]) == hashes(found[1])
    assert lines(found[0]) == lines(found[1])
    assert multiprocessing.active_children() == [], "a sweep's next job finds no workers of the last"


def test_a_rehearsal_leaves_random_numbers_and_running_statistics_as_they_were(
    small: Callable[[str], list[str]],
) -> None:
    job = compose.compose([*PICTURES, "model.norm=batch", *small("digits"), "data.augment=[crop]", "device=cpu"])
    made = assemble.build_components(job)
    before = {name: value.clone() for name, value in made.model.state_dict().items()}
    state = torch.get_rng_state()
    dry_run.dry_run(made, dry_run.build_batches(made, made.data.load()), job)
    assert torch.equal(torch.get_rng_state(), state)
    assert equal(before, made.model.state_dict())
    assert any("running_mean" in name for name in before)
    assert made.model.training and all(p.grad is None for p in made.model.parameters())


# --- precision and layout -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("precision", "deterministic"), [("bf16", True), ("fp16", False)])
def test_lower_precision_trains_and_is_recorded(
    precision: str, deterministic: bool, train: Callable[..., Outcome], small: Callable[[str], list[str]]
) -> None:
    outcome = train(
        "model=mlp",
        *small("digits"),
        "trainer.epochs=3",
        f"device.precision={precision}",
        f"device.deterministic={str(deterministic).lower()}",
    )
    assert outcome.result["precision"] == precision
    assert f"CPU in {precision}" in (outcome.folder / "train.log").read_text()
    losses = [line["loss"] for line in lines(outcome) if line["split"] == "train"]
    assert losses[-1] < 0.3 * losses[0]
    assert outcome.result["test"]["accuracy"] > 0.85
    assert all(value.dtype == torch.float32 for value in model_of(outcome).values())
    assert torch.are_deterministic_algorithms_enabled() == deterministic, "set and reset from run to run"


def test_channels_last_gives_nearly_the_same_numbers(
    classified: Outcome, train: Callable[..., Outcome], small: Callable[[str], list[str]]
) -> None:
    plain = train(*PICTURES, *small("digits"), *SPANS, "device.channels_last=false")
    assert "channels_last" in (classified.folder / "train.log").read_text()
    assert "channels_last" not in (plain.folder / "train.log").read_text()
    first, second = model_of(classified), model_of(plain)
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_a_compiled_model_learns_the_same(train: Callable[..., Outcome], small: Callable[[str], list[str]]) -> None:
    common = ["model=mlp", *small("digits"), "trainer.max_steps=30", "trainer.log_every=5"]
    found = [train(*common, f"device.compile={on}") for on in ("false", "true")]
    assert "compiled" in (found[1].folder / "train.log").read_text()
    losses = [[line["loss"] for line in lines(outcome)] for outcome in found]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert set(model_of(found[0])) == set(model_of(found[1])), "checkpoints of both load into either"


OPTIMIZERS = sorted(file.stem for file in (groups.conf_dir() / "optimizer").glob("*.yaml"))
SCHEDULES = sorted(file.stem for file in (groups.conf_dir() / "optimizer" / "schedule").glob("*.yaml"))


@pytest.mark.parametrize(
    "typed", [f"optimizer={name}" for name in OPTIMIZERS] + [f"optimizer/schedule={name}" for name in SCHEDULES]
)
def test_every_optimizer_and_schedule_moves_every_weight_of_the_configured_model(
    typed: str, small: Callable[[str], list[str]]
) -> None:
    # Noam's factor is the paper's whole rate, which the optimizer's own only scales.
    scale = ["optimizer.lr=1"] if "noam" in typed else []
    job = compose.compose(["model=mlp", "model.hidden_size=8", *small("digits"), "device=cpu", typed, *scale])
    made = assemble.build_components(job)
    (turn,) = made.task.stages(made.model)[0].turns
    optimizer = made.build_optimizer(turn, 10)
    batch = next(dry_run.build_batches(made, made.data.load())["train"].epoch(0))
    before = [p.detach().clone() for p in turn.parameters]
    for number in range(3):
        optimizer.backward(turn.loss(batch, 0.0))
        optimizer.step(number)
    for old, new in zip(before, turn.parameters, strict=True):
        assert new.isfinite().all() and not torch.equal(old, new)
    assert optimizer.lr > 0


# --- how runs end ---------------------------------------------------------------------------------------------------

FAULTY = '''
import os
import signal

import torch
from dltrain.tasks.classification import Classification


class Faulty(Classification):
    """Goes wrong in the step after ``after``."""

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
YAML = "# A task that goes wrong.\n_target_: faulty.Faulty\nclasses: ${spec.classes}\nfault: none\nafter: 5\n"


@pytest.fixture
def go_wrong(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    train: Callable[..., Outcome],
    small: Callable[[str], list[str]],
) -> Callable[..., Outcome]:
    """Trains with a user's own task, which goes wrong as it is told."""
    (tmp_path / "faulty.py").write_text(FAULTY)
    (tmp_path / "conf" / "task").mkdir(parents=True)
    (tmp_path / "conf" / "task" / "faulty.yaml").write_text(YAML)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "faulty", raising=False)
    common = ["model=mlp", *small("digits"), "task=faulty", "allow_targets=[faulty]", "trainer.eval_every=2"]
    return lambda fault, *more: train(*common, f"task.fault={fault}", *more, config_dirs=(str(tmp_path / "conf"),))


@pytest.mark.parametrize(
    ("fault", "state", "code", "says"),
    [
        ("poison", "diverged", 3, "loss became nan"),
        ("key", "interrupted", 130, "SIGINT"),
        ("memory", "out_of_memory", 4, "CUDA out of memory. Tried to allocate 9 GiB"),
        ("bug", "failed", 1, "ZeroDivisionError: a bug in the step"),
    ],
)
def test_a_run_that_ends_badly_says_so_and_keeps_its_best_weights(
    fault: str, state: str, code: int, says: str, go_wrong: Callable[..., Outcome]
) -> None:
    outcome = go_wrong(fault)
    assert (outcome.state, outcome.exit_code) == (state, code)
    status = read(outcome.folder / "status.json")
    assert (status["state"], status["exit_code"]) == (state, code)
    assert says in status["error"]
    log = (outcome.folder / "train.log").read_text()
    assert says in log and str(outcome.folder) in log
    assert ("Traceback" in log) == (fault == "bug")
    best = model_of(outcome, "best.pt")
    assert all(value.isfinite().all() for value in best.values())
    assert Checkpoints(outcome.folder).read_entry("best.pt")["step"] in (2, 4)
    assert not (outcome.folder / "result.json").exists()
    assert not run_dir.is_locked(outcome.folder)
    assert gc.get_freeze_count() == 0
    # A run that may go on has no final figures yet.
    assert ("_hparams_/session_end_info" in events(outcome).summary_metadata) == (state != "interrupted")


def test_a_run_after_one_that_diverged_is_as_if_alone(
    go_wrong: Callable[..., Outcome],
    train: Callable[..., Outcome],
    small: Callable[[str], list[str]],
    regressed: Outcome,
) -> None:
    go_wrong("poison")
    again = train("model=mlp", "task=regression", *small("csv"), "data.column=price", *SPANS)
    assert hashes(again) == hashes(regressed)


def test_a_metric_that_is_no_number_ends_well_with_null_in_the_result(go_wrong: Callable[..., Outcome]) -> None:
    outcome = go_wrong("metric", "task.after=1000", "trainer.max_steps=4")
    assert outcome.exit_code == 0
    result = read(outcome.folder / "result.json")
    assert result["test"]["accuracy"] is None and result["best"]["accuracy"] is None
    assert not (outcome.folder / "checkpoints" / "best.pt").exists()
    assert equal(model_of(outcome), Checkpoints(outcome.folder).load("last.pt")["model"])


def test_a_run_keeps_the_command_with_a_users_own_folders(go_wrong: Callable[..., Outcome]) -> None:
    outcome = go_wrong("metric", "task.after=1000", "trainer.max_steps=1")
    words = shlex.split((outcome.folder / "command.txt").read_text())
    assert words[:2] == ["dltrain", "--config-dir"] and "allow_targets=[faulty]" in words


def test_training_without_an_end_is_refused_and_leaves_nothing(
    train: Callable[..., Outcome], tmp_path: Path, small: Callable[[str], list[str]]
) -> None:
    typed = ["model=mlp", *small("digits"), "trainer.epochs=null", f"hydra.run.dir={tmp_path}/run"]
    with pytest.raises(ConfigError, match=r"trainer\.epochs"):
        launch.train(compose.compose(typed), Console(io.StringIO()), 0.0)
    assert list(tmp_path.iterdir()) == []


def test_a_picture_that_cannot_be_read_in_mid_run_ends_it_with_a_status(
    train: Callable[..., Outcome], own_files: dict[str, Path], tmp_path: Path
) -> None:
    for number in range(40):
        folder = tmp_path / ("red" if number % 2 else "blue")
        folder.mkdir(exist_ok=True)
        (folder / f"{number}.png").write_bytes(next(own_files["image_folder"].rglob(f"{number}.png")).read_bytes())
    typed = ["model=mlp", "data=image_folder", f"data.path={tmp_path}", "data.image_size=8", "data.workers=0"]
    made = assemble.build_components(compose.compose([*typed, "data.batch_size=4", "device=cpu"]))
    source = made.data.load().train
    last = int(Batches(source, 4, training=True).order(0)[-1])
    assert isinstance(source.rows, Pictures)
    source.rows.listing[last][0].write_bytes(b"no picture")
    outcome = train(*typed, "data.batch_size=4", "trainer.epochs=1")
    assert (outcome.state, outcome.exit_code) == ("failed", 1)
    status = read(outcome.folder / "status.json")
    assert status["state"] == "failed" and status["step"] > 0 and ".png" in status["error"]


def test_without_validation_the_last_weights_are_tested(
    train: Callable[..., Outcome], small: Callable[[str], list[str]]
) -> None:
    outcome = train("model=mlp", *small("digits"), "data.validation=0", "trainer.max_steps=12")
    assert outcome.exit_code == 0
    assert {line["split"] for line in lines(outcome)} == {"train", "test"}
    assert outcome.result["best"] == {"step": 12, "accuracy": None}
    assert (outcome.folder / "checkpoints" / "best.pt").is_file()
    made = assemble.build_components(
        compose.compose(["model=mlp", *small("digits"), "data.validation=0", "device=cpu"])
    )
    made.model.load_state_dict(model_of(outcome))
    made.model.eval()
    with torch.inference_mode():
        metrics = made.task.evaluate(made.model, dry_run.build_batches(made, made.data.load())["test"]).metrics
    assert metrics == outcome.result["test"]


def test_regularization_and_schedule_of_the_configuration_reach_the_loop(
    train: Callable[..., Outcome], small: Callable[[str], list[str]]
) -> None:
    outcome = train(
        "model=mlp",
        *small("digits"),
        "regularization=standard",
        "regularization.early_stopping_patience=2",
        "regularization.ema_decay=0.5",
        "optimizer.lr=1e-30",
        "optimizer/schedule=plateau",
        "optimizer.schedule.patience=0",
        "trainer.eval_every=2",
        "trainer.log_every=1",
    )
    # Nothing is learned at such a rate, so the first evaluation stays the best.
    assert outcome.result["stopped_early"] and outcome.result["steps"] == 6
    assert outcome.result["best"]["step"] == 2
    rates = [line["lr"] for line in lines(outcome) if line["split"] == "train"]
    assert rates == pytest.approx([1e-30] * 4 + [1e-31] * 2)
    saved = Checkpoints(outcome.folder).load("best.pt")
    assert saved["average"]["updates"] == 2
    assert not equal(saved["average"]["model"], {k: v + 1 for k, v in saved["model"].items()})


def test_a_checkpoint_with_a_flipped_bit_is_refused(
    train: Callable[..., Outcome], small: Callable[[str], list[str]]
) -> None:
    outcome = train("model=perceptron", *small("digits"), "trainer.max_steps=1")
    file = outcome.folder / "checkpoints" / "best.pt"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged"):
        model_of(outcome, "best.pt")


def test_numbers_that_json_cannot_say_become_null() -> None:
    said = {"a": math.nan, "b": {"c": -math.inf, "d": 1.5}, "e": None, "f": "x"}
    assert report.finite_or_none(said) == {"a": None, "b": {"c": None, "d": 1.5}, "e": None, "f": "x"}


# --- a process of its own -------------------------------------------------------------------------------------------

CHILD = """
import json, sys
from dltrain.cli.main import main
code = main(sys.argv[2:])
open(sys.argv[1], "w").write(json.dumps(sorted(sys.modules)))
sys.exit(code)
"""


def test_the_default_command_imports_only_what_it_needs_and_writes_plain_lines_to_standard_error(
    tmp_path: Path,
) -> None:
    command = [sys.executable, "-c", CHILD, str(tmp_path / "modules"), "trainer.max_steps=2", "device=cpu"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=120, check=False)
    error = done.stderr.decode()
    assert done.returncode == 0, error
    output = done.stdout.decode()
    lines = [line.split()[0] for line in output.splitlines() if line.strip()]
    assert lines == ["loss", "-----------------", "test", "repeat", "last", "season"], "standard output is the result"
    assert not {"\r", "\x1b"} & set(error + output)
    modules = set(json.loads((tmp_path / "modules").read_text()))
    for name in ("torchvision", "torch.utils.tensorboard", "torch._dynamo", "tensorflow", "sklearn", "pandas"):
        assert name not in modules, name
    (folder,) = re.findall(r"^run +(\S+)$", error, re.MULTILINE)
    assert Path(folder).is_relative_to(tmp_path / "outputs" / "lstm-timeseries"), "beside the user, not in the package"
    assert f"tensorboard --logdir {folder}" in error
    result = read(Path(folder) / "result.json")
    assert 0 < result["seconds_to_first_step"] < result["seconds"]
    for word in ("best naive forecast (season plus drift)", "mae", "step 2/2"):
        assert word in error, word
