"""``dltrain evaluate``: the metrics of a run, computed from its folder."""

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from in_process import Result, run_command
from PIL import Image
from torch import nn

from dltrain.cli import main
from dltrain.runs import assemble, job
from dltrain.storage import checkpoint_format, run_dir
from dltrain.storage.checkpoints import Checkpoints

FinishedRun = Callable[..., Path]


@pytest.fixture
def evaluate(capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Return a function that runs ``dltrain evaluate`` in this process."""
    return lambda *words: run_command(capsys, "evaluate", *words)


def content_of(root: Path) -> dict[str, tuple[int, bytes]]:
    """Return the modification time and content of every file below a folder."""
    files = (file for file in root.rglob("*") if file.is_file())
    return {str(file): (file.stat().st_mtime_ns, file.read_bytes()) for file in files}


def copy_of(run: Path, to: Path) -> Path:
    shutil.copytree(run, to / "copy", symlinks=True)
    return to / "copy"


def last_validation(run: Path) -> dict[str, Any]:
    """Return the last logged metrics of the validation split."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["split"] == "val"][-1]


# --- metrics ------------------------------------------------------------------------------------------------------


def test_json_metrics_equal_those_in_result_json_exactly(any_run: Path, evaluate: Callable[..., Result]) -> None:
    evaluation, result = evaluate(any_run, "--json"), json.loads((any_run / "result.json").read_text())
    found = json.loads(evaluation.out)
    assert evaluation.code == 0 and "warning" not in evaluation.err
    assert (found["metrics"], found["baselines"]) == (result["test"], result["baselines"])
    assert (found["metric"], found["step"], found["split"]) == (result["metric"], result["best"]["step"], "test")


def test_the_table_equals_the_one_that_training_printed(any_run: Path, evaluate: Callable[..., Result]) -> None:
    assert evaluate(any_run).out == any_run.with_name("printed").read_text()


def test_evaluate_uses_averaged_weights_if_the_run_has_them(
    finished_run: FinishedRun, evaluate: Callable[..., Result]
) -> None:
    run = finished_run("average")
    state, components = Checkpoints(run).load("best.pt"), assemble.build_components(job.load_job(run))
    test = components.data.load().test
    batch = test.prepare(test.rows)
    losses = []
    for weights in (state["average"]["model"], state["model"]):
        components.model.load_state_dict(weights)
        with torch.inference_mode():
            losses.append(
                float(nn.functional.cross_entropy(components.model.eval()(batch["inputs"]), batch["targets"]))
            )
    reported = json.loads(evaluate(run, "--json").out)["metrics"]["loss"]
    assert reported == pytest.approx(losses[0], rel=1e-5)
    assert abs(losses[1] - losses[0]) > 0.01


def test_evaluating_the_validation_split_gives_the_metric_that_selected_the_checkpoint(
    finished_run: FinishedRun, evaluate: Callable[..., Result]
) -> None:
    run = finished_run("average")
    best = json.loads((run / "result.json").read_text())["best"]["accuracy"]
    assert json.loads(evaluate(run, "--split", "val", "--json").out)["metrics"]["accuracy"] == best


@pytest.mark.parametrize("kind", ["average", "forecast"])
def test_evaluating_the_last_checkpoint_gives_the_last_logged_validation_metrics(
    finished_run: FinishedRun, evaluate: Callable[..., Result], kind: str
) -> None:
    run = finished_run(kind)
    expected, found = (
        last_validation(run),
        json.loads(evaluate(run, "--split=val", "--checkpoint", "last", "--json").out),
    )
    assert found["step"] == expected["step"] == json.loads((run / "status.json").read_text())["step"]
    assert found["metrics"] == {name: expected[name] for name in found["metrics"]}


def test_the_training_split_is_evaluated_without_augmentation(
    finished_run: FinishedRun, evaluate: Callable[..., Result]
) -> None:
    run = finished_run("augmented")
    components = assemble.build_components(job.load_job(run))
    train = components.data.load().train
    assert train.augment is not None
    components.model.load_state_dict(Checkpoints(run).load("best.pt")["model"])
    batch = train.prepare(train.rows)
    with torch.inference_mode():
        right = (components.model.eval()(batch["inputs"]).argmax(1) == batch["targets"]).float().mean()
    reported = json.loads(evaluate(run, "--split", "train", "--json").out)["metrics"]["accuracy"]
    assert reported == pytest.approx(float(right), abs=1e-6)


def test_a_forecaster_can_be_evaluated_on_its_training_split(
    finished_run: FinishedRun, evaluate: Callable[..., Result]
) -> None:
    found = json.loads(evaluate(finished_run("forecast"), "--split", "train", "--json").out)
    assert 0 < found["metrics"]["mae"] < 5 and "repeat last" in found["baselines"]


def test_a_checkpoint_can_be_selected_by_its_file_name(plain_run: Path, evaluate: Callable[..., Result]) -> None:
    file = plain_run / "checkpoints" / Checkpoints(plain_run).resolve("best.pt")
    for name in (file, file.name):
        assert evaluate(plain_run, "--checkpoint", name).out == evaluate(plain_run).out


def test_a_copy_of_the_data_is_accepted_and_changed_data_are_rejected(
    own_files: dict[str, Path], finished_run: FinishedRun, evaluate: Callable[..., Result], tmp_path: Path
) -> None:
    path, same = tmp_path / "own.csv", tmp_path / "same.csv"
    for copy in (path, same):
        shutil.copy(own_files["csv"], copy)
    run = finished_run("model=mlp", "data=csv", f"data.path={path}", "data.column=kind", "trainer.epochs=1")
    assert "warning" not in evaluate(run, f"data.path={same}").err
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], *reversed(lines[1:])]) + "\n")
    result = evaluate(run)
    assert (result.code, result.out) == (2, "")
    assert "data (train, val, test): expected the data that the run was trained on, got other data" in result.err
    assert f"For predictions on other data: dltrain predict {run} INPUT" in result.err


def test_changed_data_are_rejected_even_if_the_data_class_has_an_attribute_named_fitted(
    own_files: dict[str, Path],
    finished_run: FinishedRun,
    evaluate: Callable[..., Result],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = "from dltrain.datasets.table import CsvTable\n\nclass Keeping(CsvTable):\n"
    source += "    def __init__(self, fitted=None, **options):\n"
    source += "        super().__init__(fitted=fitted, **options)\n        self.fitted = fitted\n"
    (tmp_path / "keeping_data.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    path, trusted = tmp_path / "own.csv", "allow_targets=[keeping_data]"
    shutil.copy(own_files["csv"], path)
    data = ["data=csv", "data._target_=keeping_data.Keeping", trusted, f"data.path={path}", "data.column=kind"]
    run = finished_run("model=mlp", *data, "trainer.epochs=1")
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], *reversed(lines[1:])]) + "\n")
    result = evaluate(run, trusted)
    assert result.code == 2 and "expected the data that the run was trained on, got other data" in result.err


def test_other_images_of_the_same_classes_are_accepted_and_other_classes_are_rejected(
    evaluate: Callable[..., Result], tmp_path: Path
) -> None:
    # The first class has gray level 40, the second 200. In `other`, half of the test labels are wrong.
    for name, classes, wrong in (("own", "ab", False), ("other", "ab", True), ("strange", "cd", False)):
        for number in range(40):
            shown = classes[number % 2]
            folder = tmp_path / name / "test" / (classes[number // 2 % 2] if wrong else shown)
            for target in (folder, tmp_path / name / "train" / shown):
                target.mkdir(parents=True, exist_ok=True)
                picture = Image.new("RGB", (8, 8), (40 + 160 * (number % 2),) * 3)
                picture.save(target / f"{number}.png")
    run = tmp_path / "run"
    data = [
        "data=image_folder",
        f"data.path={tmp_path / 'own'}",
        "data.image_size=8",
        "data.batch_size=8",
        "data.workers=0",
    ]
    overrides = ["model=perceptron", *data, "optimizer.lr=0.05", "device=cpu", f"hydra.run.dir={run}"]
    assert main.main([*overrides, "trainer.log_media=false"]) == 0
    assert json.loads(evaluate(run, "--json").out)["metrics"]["accuracy"] == 1
    other = evaluate(run, "--json", f"data.path={tmp_path / 'other'}")
    assert json.loads(other.out)["metrics"]["accuracy"] == 0.75
    assert json.loads(other.out)["split"] == "all"
    assert f"all 80 examples of {tmp_path / 'other'} are evaluated" in other.err
    strange = evaluate(run, f"data.path={tmp_path / 'strange'}")
    assert (strange.code, strange.out) == (2, "")
    assert "data.path: expected only the classes a, b in" in strange.err


def test_a_run_whose_folder_name_looks_like_an_override_can_be_evaluated(
    plain_run: Path, evaluate: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy_of(plain_run, tmp_path).rename(tmp_path / "model=mlp,lr=0.1")
    monkeypatch.chdir(tmp_path)
    assert evaluate("model=mlp,lr=0.1", "data.batch_size=64").out == evaluate(plain_run).out


# --- runs in progress ---------------------------------------------------------------------------------------------


def test_evaluating_a_run_in_progress_writes_nothing(
    plain_run: Path, evaluate: Callable[..., Result], tmp_path: Path
) -> None:
    run = copy_of(plain_run, tmp_path)
    home = run_dir.reopen(run)
    before = content_of(tmp_path)
    result = evaluate(run)
    home.close()
    assert result.code == 0, result.err
    assert content_of(tmp_path) == before


def test_reading_a_checkpoint_succeeds_while_training_replaces_it(tmp_path: Path) -> None:
    saved, over, steps = Checkpoints(tmp_path, keep_last=1, keep_best=1), threading.Event(), set()
    saved.open()

    def save_checkpoints() -> None:
        step = 0
        while not over.is_set():
            required = dict.fromkeys(checkpoint_format.REQUIRED)
            state = {**required, "model": {"w": torch.zeros(20_000)}, "loop": {"step": step}}
            saved.save(state, step, float(step), best=True)
            saved.wait()
            step += 1

    training = threading.Thread(target=save_checkpoints)
    training.start()
    try:
        while training.is_alive() and len(steps) < 20:
            if (tmp_path / "checkpoints" / "best.pt").exists():
                steps.add(Checkpoints(tmp_path).load("best.pt")["loop"]["step"])
    finally:
        over.set()
        training.join()
        saved.close()
    assert len(steps) == 20


# --- errors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["evaluate", "resume"])
def test_changing_the_model_gives_one_error_and_none_for_its_keys(
    plain_run: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = run_command(capsys, command, str(plain_run), "model=cnn")
    lines = [line for line in found.err.splitlines() if "expected" in line]
    assert found.code == 2 and len(lines) == 1, lines
    classes = "dltrain.models.feedforward.MLP, got dltrain.models.convolutional.CNN"
    assert f"model._target_: expected {classes}" in lines[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["model.hidden_size=8"],
            "model.hidden_size: expected 128, got 8. After training, only data.{path,root,",
        ),
        (["data.mean=0.9"], "data.mean: expected 0.305, got 0.9. After training, only data.{path,"),
        (["data.validation=0.2"], "data.validation: expected 0.16, got 0.2. After training, only"),
        (["seed=1", "trainer.epochs=9"], "trainer.epochs: expected 1, got 9. After training, only"),
        (
            ["data=timeseries"],
            "data._target_: expected dltrain.datasets.digits.Digits, got",
        ),
        (["data.batchsize=8"], "Did you mean data.batch_size?"),
        (["device.name=tpu"], "device.name: expected one of auto cpu cuda mps"),
        (["--split", "tset"], "--split: expected one of test val train, got tset. Did you mean test?"),
        (["--spilt", "test"], "--spilt: unknown flag. Did you mean --split?"),
        (["--checkpoint", "step-00000020.pt"], "Did you mean step-00000021.pt?"),
        (["--checkpoint", "bst"], "Did you mean best?"),
        (["--checkpoint", "/etc/passwd"], "--checkpoint: expected best, last or a file of"),
        (["another"], "evaluate: expected dltrain evaluate RUN"),
    ],
)
def test_invalid_overrides_and_flags_are_rejected(
    plain_run: Path, evaluate: Callable[..., Result], arguments: list[str], message: str
) -> None:
    found = evaluate(plain_run, *arguments)
    assert found.code == 2
    assert message in found.err and "Traceback" not in found.err


def test_a_split_that_the_run_does_not_have_is_rejected(
    finished_run: FinishedRun, evaluate: Callable[..., Result]
) -> None:
    result = evaluate(finished_run("unvalidated"), "--split", "val")
    assert result.code == 2
    assert "--split: expected test or train, because the run has no validation split, got val" in result.err


def test_a_damaged_checkpoint_is_rejected_and_the_other_checkpoint_is_suggested(
    finished_run: FinishedRun, evaluate: Callable[..., Result], tmp_path: Path
) -> None:
    run = copy_of(finished_run("forecast"), tmp_path)
    file = run / "checkpoints" / Checkpoints(run).resolve("best.pt")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    result = evaluate(run)
    assert result.code == 5
    assert "it is damaged" in result.err and "--checkpoint last" in result.err


def test_a_run_that_has_not_written_a_checkpoint_is_rejected_with_ways_to_continue(
    plain_run: Path, evaluate: Callable[..., Result], tmp_path: Path
) -> None:
    run = copy_of(plain_run, tmp_path)
    shutil.rmtree(run / "checkpoints")
    for name in ("best", "last"):
        result = evaluate(run, "--checkpoint", name)
        assert result.code == 5 and "--checkpoint" not in result.err
        ways = f"Resume the run with dltrain resume {run}, or start it again with dltrain rerun {run}"
        assert f"{run}: no checkpoint was written yet. {ways}" in result.err


def test_a_missing_folder_is_rejected_with_the_nearest_name_without_importing_torch(plain_run: Path) -> None:
    script = (
        "import sys; from dltrain.cli import main; code = main.main(sys.argv[1:]); print('torch' in sys.modules, code)"
    )
    completed = subprocess.run(
        [sys.executable, "-c", script, "evaluate", f"{plain_run}s"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert completed.stdout.split() == ["False", "2"]
    assert f"Did you mean {plain_run}?" in completed.stderr
