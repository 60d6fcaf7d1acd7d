"""Files in the run folder, including TensorBoard events."""

import hashlib
import os

import pytest
import torch
from omegaconf import OmegaConf
from run_examples import events, lines, model_of, read

from dltrain.runs.launch import Outcome
from dltrain.storage.checkpoints import Checkpoints

FILES = [".lock", "command.txt", "config.yaml", "environment.json", "job.yaml"]
FILES += ["metrics.jsonl", "result.json", "status.json", "train.log"]


@pytest.mark.parametrize(
    ("kind", "described"),
    [
        ("classification_run", []),
        ("forecasting_run", ["data.txt", "fitted.pt"]),
        ("regression_run", ["data.txt", "fitted.pt"]),
        ("language_model_run", ["data.txt", "fitted.pt"]),
    ],
)
def test_a_run_writes_exactly_the_listed_files(kind: str, described: list[str], request: pytest.FixtureRequest) -> None:
    outcome = request.getfixturevalue(kind)
    found = sorted(str(f.relative_to(outcome.folder)) for f in outcome.folder.rglob("*") if f.is_file())
    event_files = [name for name in found if name.startswith("events.out.tfevents.")]
    assert len(event_files) == 1
    steps = [f"checkpoints/{name}" for name in Checkpoints(outcome.folder).read_manifest()]
    checkpoints = [f"checkpoints/{name}" for name in ("best.pt", "last.pt", "manifest.json")]
    assert sorted(set(found) - set(event_files)) == sorted([*FILES, *described, *checkpoints, *steps])
    assert 1 <= len(steps) <= 3


def test_the_status_the_result_and_the_environment_match_the_run(classification_run: Outcome) -> None:
    folder = classification_run.folder
    status, result, environment = (read(folder / f"{name}.json") for name in ("status", "result", "environment"))
    assert (status["state"], status["exit_code"], status["step"], status["error"]) == ("finished", 0, 6, None)
    assert status["pid"] == os.getpid()
    assert environment["packages"]["torch"] == torch.__version__.split("+")[0]
    assert result["steps"] == 6 and result["device"] == "cpu" and result["precision"] == "fp32"
    model = model_of(classification_run)
    assert result["parameters"] == sum(value.numel() for value in model.values())
    for name in ("seconds", "training_seconds", "samples_per_second", "seconds_to_first_step", "peak_memory_mb"):
        assert result[name] > 0, name
    evaluated = {line["step"]: line["accuracy"] for line in lines(classification_run) if line["split"] == "val"}
    best = max(evaluated, key=lambda step: evaluated[step])
    assert result["best"] == {"step": best, "accuracy": evaluated[best]}
    tests = [line for line in lines(classification_run) if line["split"] == "test"]
    assert len(tests) == 1 and tests[0]["accuracy"] == result["test"]["accuracy"]
    assert classification_run.result == result


def test_config_yaml_is_resolved(classification_run: Outcome) -> None:
    text = (classification_run.folder / "config.yaml").read_text()
    assert "${" not in text and "???" not in text
    config = OmegaConf.load(classification_run.folder / "config.yaml")
    assert config.model.outputs == 10 and config.model.dropout == 0.2
    assert config.trainer.max_steps == 6 and config.seed == 0


def test_the_log_contains_messages_as_plain_text(classification_run: Outcome) -> None:
    log = (classification_run.folder / "train.log").read_text()
    assert "\x1b" not in log and "\r" not in log
    for word in (
        "model",
        "digits",
        "fp32",
        "step 6/6",
        "accuracy",
        f"tensorboard --logdir {classification_run.folder}",
    ):
        assert word in log, word


def test_manifest_hashes_are_correct_and_checkpoints_load_with_weights_only(classification_run: Outcome) -> None:
    folder = classification_run.folder / "checkpoints"
    manifest = read(folder / "manifest.json")
    checkpoints = Checkpoints(classification_run.folder)
    assert checkpoints.read_entry("last.pt")["step"] == 6
    assert checkpoints.read_entry("best.pt")["step"] == classification_run.result["best"]["step"]
    for name, entry in manifest.items():
        content = (folder / name).read_bytes()
        assert (entry["sha256"], entry["bytes"]) == (hashlib.sha256(content).hexdigest(), len(content))
        saved = torch.load(folder / name, weights_only=True)
        assert saved["loop"]["step"] == entry["step"]


def test_training_is_logged_at_step_1_and_at_every_interval_and_evaluation(classification_run: Outcome) -> None:
    steps = {
        split: [line["step"] for line in lines(classification_run) if line["split"] == split]
        for split in ("train", "val")
    }
    assert steps == {"train": [1, 2, 3, 4, 6], "val": [3, 6]}


# --- TensorBoard ----------------------------------------------------------------------------------------------------

SCALARS = {
    "loss/train",
    "loss/val",
    "loss/test",
    "lr",
    "grad/norm",
    "throughput/samples_per_s",
    "throughput/data_wait",
    "memory/peak_mb",
}
# Tags of each run: metrics, images per split, images without a split, texts per split.
TAGS = {
    "classification_run": ({"accuracy", "macro_f1"}, {"confusion", "worst_mistakes"}, {"filters"}, set()),
    "forecasting_run": ({"mae", "rmse", "skill"}, {"forecasts"}, set(), set()),
    "regression_run": ({"mae", "rmse"}, set(), set(), set()),
    "language_model_run": ({"perplexity", "bits_per_token"}, set(), set(), {"sample"}),
}


@pytest.mark.parametrize("kind", TAGS)
def test_tensorboard_has_every_tag_with_ascending_steps(kind: str, request: pytest.FixtureRequest) -> None:
    outcome = request.getfixturevalue(kind)
    metrics, images, unsplit, texts = TAGS[kind]
    found = events(outcome)
    tags = found.Tags()
    assert SCALARS | {f"{m}/{split}" for m in metrics for split in ("val", "test")} <= set(tags["scalars"])
    assert set(tags["images"]) == {f"{p}/{split}" for p in images for split in ("val", "test")} | unsplit
    text = {tag for tag in tags["tensors"] if not tag.startswith("_hparams_")}
    assert text == {"config", "command"} | {f"{t}/{split}" for t in texts for split in ("val", "test")}
    for kinds, reader in (("scalars", found.Scalars), ("images", found.Images), ("tensors", found.Tensors)):
        for tag in tags[kinds]:
            steps = [event.step for event in reader(tag)]
            assert steps == sorted(set(steps)), tag
            assert max(steps) <= outcome.result["steps"], "TensorBoard steps must be optimizer steps"
    last = outcome.result["steps"]
    for tag in ("loss/train", "loss/val", "loss/test", "lr"):
        assert found.Scalars(tag)[-1].step == last


def test_tensorboard_scalars_equal_the_values_in_metrics_jsonl(classification_run: Outcome) -> None:
    found = events(classification_run)
    for split, name in (("train", "loss"), ("val", "loss"), ("val", "accuracy"), ("test", "macro_f1")):
        expected = [(line["step"], line[name]) for line in lines(classification_run) if line["split"] == split]
        curve = [(event.step, event.value) for event in found.Scalars(f"{name}/{split}")]
        assert [step for step, _ in curve] == [step for step, _ in expected]
        assert [value for _, value in curve] == pytest.approx([value for _, value in expected], rel=1e-6)


def test_tensorboard_has_the_configuration_the_command_and_the_hparams(classification_run: Outcome) -> None:
    found = events(classification_run)
    text = {tag: found.Tensors(tag)[0].tensor_proto.string_val[0].decode() for tag in ("config", "command")}
    assert "max_steps: 6" in text["config"]
    assert (classification_run.folder / "command.txt").read_text().strip() in text["command"]
    assert set(found.PluginTagToContent("hparams")) == {
        "_hparams_/session_start_info",
        "_hparams_/session_end_info",
    }
    assert found.Scalars("accuracy/test")[-1].value == pytest.approx(classification_run.result["test"]["accuracy"])
