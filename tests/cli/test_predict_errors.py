"""``dltrain predict``: errors and their messages."""

import json
import os
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from prediction_examples import Predict, SmallData, Train


def test_all_missing_inputs_are_reported_before_any_input_is_read(
    train: Train, predict: Predict, small_data: SmallData, tmp_path: Path
) -> None:
    folder = train("model=mlp", *small_data("digits"))
    Image.new("L", (8, 8)).save(tmp_path / "there.png")
    result = predict(folder, tmp_path / "there.png", tmp_path / "their.png", "gone/x.png")
    assert result.code == 2 and result.out == ""
    hint = f"Did you mean {tmp_path / 'there.png'}?"
    assert result.err.splitlines() == [
        f"dltrain: INPUT 2: expected an existing file or folder, got {tmp_path / 'their.png'}. {hint}",
        "dltrain: INPUT 3: expected an existing file or folder, got gone/x.png",
    ]
    (tmp_path / "link.png").symlink_to("gone.png")
    assert predict(folder, tmp_path / "link.png").err.endswith("link.png. It is a broken link.\n")
    assert predict(folder, "-", "-").code == 2


def test_an_unreadable_image_is_reported_after_the_predictions_for_earlier_images(
    train: Train, predict: Predict, small_data: SmallData, tmp_path: Path
) -> None:
    folder = train("model=mlp", *small_data("digits"))
    noise = np.random.default_rng(0).integers(0, 256, (90, 90), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:4000])
    (tmp_path / "c.png").write_text("no picture")
    for bad in ("b.png", "c.png"):
        result = predict(folder, tmp_path / "a.png", tmp_path / bad, tmp_path / "a.png")
        assert result.code == 2
        assert [json.loads(line)["input"] for line in result.out.splitlines()] == [str(tmp_path / "a.png")]
        assert f"INPUT 2: expected a readable image at {tmp_path / bad}" in result.err
    (tmp_path / "empty").mkdir()
    result = predict(folder, tmp_path / "empty")
    assert result.code == 2 and "got a folder without .bmp" in result.err


def test_csv_output_is_rejected_if_a_later_prediction_has_more_fields_than_the_first(
    train: Train, predict: Predict, tmp_path: Path
) -> None:
    table = tmp_path / "a.csv"
    lines = [f"the film was {word} and long,{label}" for word, label in (("good", "yes"), ("bad", "no"))] * 20
    table.write_text("\n".join(["review,liked", *lines]))
    folder = train("model=bag_of_words", "data=text_table", f"data.path={table}")
    result = predict(folder, "--text", "a good film", table, "--format", "csv")
    assert result.code == 2 and len(result.out.splitlines()) == 2
    assert '--format csv: not supported because the first prediction has no field "line"' in result.err


def test_arrays_of_python_objects_are_rejected(
    train: Train, predict: Predict, small_data: SmallData, tmp_path: Path
) -> None:
    class Payload:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(tmp_path / "pwned"),)

    folder = train("model=mlp", *small_data("digits"))
    np.save(tmp_path / "x.npy", np.array([Payload()], dtype=object), allow_pickle=True)
    (tmp_path / "y.npy").write_bytes(pickle.dumps(Payload()))
    for name in ("x.npy", "y.npy"):
        result = predict(folder, tmp_path / name)
        assert result.code == 2 and "INPUT 1: expected readable arrays" in result.err and "pickle" not in result.err
    assert not (tmp_path / "pwned").exists()


def test_a_run_without_fitted_values_reads_its_training_data(
    train: Train, predict: Predict, small_data: SmallData, own_files: dict[str, Path], tmp_path: Path
) -> None:
    # Runs of earlier versions have no `fitted.pt`.
    content = own_files["csv"].read_bytes()
    (tmp_path / "here.csv").write_bytes(content)
    folder = train("model=mlp", *small_data("csv"), f"data.path={tmp_path}/here.csv")
    before = predict(folder, own_files["csv"]).out
    (folder / "fitted.pt").unlink()
    result = predict(folder, own_files["csv"])
    assert result.code == 5 and "fitted.pt: missing" in result.err
    manifest = folder / "checkpoints" / "manifest.json"
    manifest.write_text(re.sub(r'"fitted": "\w+",', "", manifest.read_text()))
    assert predict(folder, own_files["csv"]).out == before
    (tmp_path / "here.csv").rename(tmp_path / "there.csv")
    result = predict(folder, own_files["csv"])
    assert result.code == 2 and "data.path: expected an existing CSV file" in result.err
    assert "The run's own data are needed; data.path=... or data.root=... sets their location" in result.err
    result = predict(folder, own_files["csv"], f"data.path={tmp_path}/there.csv")
    assert result.out == before and "warning" not in result.err
    (tmp_path / "here.csv").write_bytes(content.replace(b"1", b"2"))
    result = predict(folder, own_files["csv"])
    assert result.code == 0 and "not the data that the run was trained on" in result.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["optimizer.lr=1"], "optimizer.lr: expected 0.001, got 1. After training, only"),
        (["model=lenet5"], "model."),
        (["data=csv"], "data._target_: expected dltrain.datasets.digits.Digits, got"),
        (["data.batchsize=3"], "Did you mean data.batch_size?"),
        (["--tpo", "3"], "--tpo: unknown flag. Did you mean --top?"),
        (["--top", "0"], "expected a whole number of at least 1, got 0"),
        (["--format", "jsonn"], "--format: expected one of jsonl csv, got jsonn. Did you mean jsonl?"),
        (["--batch", "1" * 30], "expected a whole number of at least 1 and at most 2,147,483,647"),
        (["--length", "3", "-"], "--length: not supported because dltrain predict does not generate. Use:"),
        (["--top-k", "3", "-"], "--top-k: not supported because dltrain predict does not generate."),
        (["--text", "hello"], "--text: not supported because the inputs of this run are files. Pass image files"),
        ([], "INPUT: expected image files, folders of them, or .npy and .npz files of images, or -"),
    ],
)
def test_invalid_flags_and_overrides_are_rejected(
    words: list[str], message: str, train: Train, predict: Predict, small_data: SmallData
) -> None:
    result = predict(train("model=mlp", *small_data("digits")), *words)
    assert result.code == 2 and message in result.err and result.out == ""


def test_a_generative_run_is_rejected_before_its_data_are_read(
    train: Train, predict: Predict, own_files: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "here.npz").write_bytes(own_files["npz"].read_bytes())
    folder = train("model=vae", "data=npz", f"data.path={tmp_path}/here.npz", "data.batch_size=16")
    with np.load(tmp_path / "here.npz") as arrays:
        wrong = {name: arrays[name] for name in arrays.files}
    wrong["y_train"] = wrong["y_train"][:-1]  # an error that is found only when the data are read
    np.savez(tmp_path / "here.npz", **wrong)
    result = predict(folder, tmp_path / "here.npz")
    assert result.code == 2 and "dltrain generate RUN" in result.err and len(result.err.splitlines()) == 1


def test_a_damaged_checkpoint_is_rejected_and_the_other_checkpoint_is_suggested(
    train: Train, predict: Predict, small_data: SmallData, tmp_path: Path
) -> None:
    folder = train("model=mlp", *small_data("digits"), "trainer.log_every=1")
    file = folder / "checkpoints" / "best.pt"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    result = predict(folder, tmp_path / "a.png")
    assert result.code == 5 and "it is damaged" in result.err and "--checkpoint last" in result.err


def test_overrides_that_change_the_inputs_of_the_model_are_rejected(
    train: Train, predict: Predict, small_data: SmallData
) -> None:
    folder = train("model=mlp", *small_data("timeseries"))
    for override in ("data.window=30", "data.normalize=train", "data.column=[temperature]"):
        result = predict(folder, override)
        assert result.code == 2 and f"{override.split('=')[0]}: expected" in result.err
        assert "After training, only" in result.err


def test_input_files_are_rejected_if_the_data_class_has_no_inputs_method(
    train: Train, predict: Predict, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = train("model=mlp", "data=digits", "trainer.max_steps=1")
    (tmp_path / "x.png").touch()
    monkeypatch.delattr("dltrain.datasets.digits.Digits.inputs")
    shown = predict(run, tmp_path / "x.png")
    assert shown.code == 2
    assert "INPUT: not supported because Digits has no method inputs(files)" in shown.err
