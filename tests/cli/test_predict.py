"""``dltrain predict``: every data option, the output formats and the command line."""

import json
import os
import select
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from prediction_examples import TEXT, Predict, SmallData, Train, both_formats
from test_main import child, imported_libraries

from dltrain.cli.main import main
from dltrain.config import groups
from dltrain.datasets.time_series import BUNDLED
from dltrain.runs.inference import json_values

# `sentence_pairs` draws its examples from one text and has no input files.
OPTIONS = sorted({file.stem for file in (groups.conf_dir() / "data").glob("*.yaml")} - {"sentence_pairs"})
# Options that faster tests in this folder cover; they are marked `slow` here.
ELSEWHERE = {"cifar10", "csv", "detection_folder", "digits", "fashion_mnist", "image_folder", "image_masks", "midi"}
ELSEWHERE |= {"midi_events", "mnist", "npz", "parallel", "pianoroll", "ring", "speech", "squad", "summaries", "text"}
ELSEWHERE |= {"text_table", "text_to_text", "timeseries", "video_folder"}
PAIRS = ("parallel", "reversal", "random_pairs", "summaries", "text_to_text")


def input_file(option: str, folder: Path, own_files: dict[str, Path]) -> Path:
    """Return an input file for a data option. A new option needs its own branch."""
    if option in {"digits", "mnist", "fashion_mnist", "cifar10", "npz", "image_folder", "image_masks", "shapes"} | {
        "detection_folder"
    }:
        Image.new("RGB", (40, 31), (200, 30, 90)).save(folder / "mine.jpg")
        return folder / "mine.jpg"
    if option in ("ring", "gates"):
        np.save(folder / "mine.npy", np.eye(2, dtype=np.float32))
        return folder / "mine.npy"
    if option == "adding_problem":
        np.save(folder / "mine.npy", np.ones((6, 2), dtype=np.float32))
        return folder / "mine.npy"
    if option == "copy_memory":
        (folder / "mine.txt").write_text("ab\nhc\n")
        return folder / "mine.txt"
    if option == "reversal":
        (folder / "mine.txt").write_text("abcab\nbca\n")
        return folder / "mine.txt"
    if option == "random_pairs":
        (folder / "mine.txt").write_text("3 1 4 1\n2 2\n")
        return folder / "mine.txt"
    if option in ("midi", "midi_events"):
        return own_files["midi"] / "03.mid"
    if option == "text":
        (folder / "mine.txt").write_text("Call me Ishmael.")
        return folder / "mine.txt"
    if option == "squad":
        (folder / "mine.jsonl").write_text('{"question": "Who sleeps?", "context": "The dog sleeps in Rome."}\n')
        return folder / "mine.jsonl"
    if option == "speech":
        return own_files["speech"].parent / "wav" / "1.wav"
    clips = {"moving_shapes": own_files["video_folder"]}
    return {"timeseries": BUNDLED / "elnino.csv", **own_files, **clips}[option]


@pytest.mark.parametrize(
    "option", [pytest.param(name, marks=pytest.mark.slow) if name in ELSEWHERE else name for name in OPTIONS]
)
def test_predict_works_with_every_data_option_that_has_input_files(
    option: str, train: Train, predict: Predict, small_data: SmallData, own_files: dict[str, Path], tmp_path: Path
) -> None:
    unet = ["model=unet", "model.hidden_size=[4,4]"]
    models = {"text": TEXT, "text_table": ["model=lstm"], "image_masks": unet, "shapes": unet}
    models["adding_problem"] = models["copy_memory"] = ["model=lstm"]
    models |= {"pianoroll": ["model=gru"], "midi": ["model=gru"], "midi_events": TEXT}
    models |= {key: ["model=seq2seq", "model.hidden_size=8"] for key in PAIRS}
    models["text_pairs"] = ["model=lstm", "model.hidden_size=8"]
    models["speech"] = models["conll"] = ["model=gru", "model.hidden_size=8"]
    models["squad"] = ["model=bert", "model.hidden_size=8", "model.num_heads=2", "model.num_layers=1"]
    models["detection_folder"] = ["model=fcos", "model.backbone=narrow", "model.fpn_width=32", "model.min_score=0"]
    models["detection_folder"] += ["task.min_score=0"]
    models["video_folder"] = models["moving_shapes"] = ["model=cnn_lstm", "model.hidden_size=8"]
    model = models.get(option, ["model=mlp"])
    result = predict(train(*model, *small_data(option)), input_file(option, tmp_path, own_files))
    assert result.lines and "best checkpoint, step 2" in result.err
    for line in result.lines:
        assert line["input"].startswith(str(tmp_path)) or Path(line["input"]).exists()
        listed = [line.pop("objects")[0]] if "objects" in line else []
        nested = [found["score"] for found in listed]
        nested += [value for shares in line.values() if isinstance(shares, dict) for value in shares.values()]
        numbers = [value for value in [*line.values(), *nested] if isinstance(value, float)]
        assert "tags" in line or (numbers and np.isfinite(numbers).all())


def test_predict_is_rejected_for_data_without_input_files(
    train: Train, predict: Predict, small_data: SmallData, tmp_path: Path
) -> None:
    sizes = ["model.hidden_size=8", "model.num_heads=2", "model.num_layers=1"]
    run = train("model=bert", *sizes, *small_data("sentence_pairs"))
    result = predict(run, input_file("text", tmp_path, {}))
    assert result.code == 2 and "INPUT: not supported because SentencePairs has no method" in result.err


def test_infinity_and_nan_are_null_in_json() -> None:
    line = {"outputs": [float("inf"), 1.0, [float("nan")]], "probabilities": {"cat": float("-inf")}, "class": 1}
    assert json_values(line) == {"outputs": [None, 1.0, [None]], "probabilities": {"cat": None}, "class": 1}


def test_a_list_has_one_csv_column_per_element(
    train: Train, predict: Predict, small_data: SmallData, tmp_path: Path
) -> None:
    folder = train("model=perceptron", "data=ring", "task=perceptron_rule")
    np.save(tmp_path / "x.npy", np.eye(2, dtype=np.float32))
    for line, row in both_formats(predict, folder, tmp_path / "x.npy"):
        assert [row[f"outputs.{number}"] for number in range(8)] == [str(value) for value in line["outputs"]]


def test_a_missing_input_is_reported_without_importing_torch(
    train: Train, small_data: SmallData, tmp_path: Path
) -> None:
    process = child(tmp_path, "predict", str(train("model=mlp", *small_data("digits"))), "nowhere.png")
    assert process.returncode == 2 and "torch" not in imported_libraries(process)


def test_predictions_are_written_while_standard_input_is_open(
    train: Train, small_data: SmallData, own_files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = train("model=mlp", *small_data("csv"))
    rows = own_files["csv"].read_bytes().splitlines(keepends=True)
    (stdin, feed), (results, stdout) = os.pipe(), os.pipe()
    found: list[int] = []

    def write_a_row_and_read_a_line() -> None:
        with os.fdopen(feed, "wb", buffering=0) as to_command, os.fdopen(results, "rb") as from_command:
            for part in (rows[0] + rows[1], rows[2]):
                to_command.write(part)
                if select.select([from_command], [], [], 300)[0]:
                    found.append(json.loads(from_command.readline())["line"])

    user = threading.Thread(target=write_a_row_and_read_a_line)
    user.start()
    with os.fdopen(stdin) as source, os.fdopen(stdout, "w") as target:
        monkeypatch.setattr(sys, "stdin", source)
        monkeypatch.setattr(sys, "stdout", target)
        code = main(["predict", str(folder), "-", "--batch", "1"])
        monkeypatch.undo()
    user.join()
    assert (code, found) == (0, [2, 3])


def test_a_file_may_have_an_equals_sign_in_its_name(
    train: Train, predict: Predict, small_data: SmallData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = train("model=mlp", *small_data("digits"))
    monkeypatch.chdir(tmp_path)
    Image.new("L", (8, 8)).save("data.x=1.png")
    assert [line["input"] for line in predict(folder, "data.x=1.png", "data.batch_size=3").lines] == ["data.x=1.png"]


def test_every_argument_after_two_dashes_is_an_input(
    train: Train, predict: Predict, small_data: SmallData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = train("model=mlp", *small_data("digits"))
    monkeypatch.chdir(tmp_path)
    names = ["-m", "-x.png", "--top", "data.x=1"]
    for name in names:
        Image.new("L", (8, 8)).save(name, format="png")
    assert [line["input"] for line in predict(folder, "--top", 1, "--", *names).lines] == names
    result = predict(folder, "--", "data.batch_size=3", "--tpo")
    assert result.code == 2 and "INPUT 1: expected an existing file or folder, got data.batch_size=3" in result.err


def test_csv_and_json_lines_have_the_same_values(train: Train, predict: Predict, small_data: SmallData) -> None:
    for line, row in both_formats(predict, train("model=mlp", *small_data("timeseries"))):
        assert row == {name: str(value) for name, value in line.items()}
    for line, row in both_formats(predict, train(*TEXT, *small_data("text")), "--text", "It was"):
        assert row == {name: str(value) for name, value in line.items()}


def test_large_numbers_are_not_rounded_in_json() -> None:
    assert json_values({"far": [2000000510.125, 0.1 + 0.2], "lost": float("inf")}) == {
        "far": [2000000510.125, 0.3],
        "lost": None,
    }
