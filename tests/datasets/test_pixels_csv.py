"""CSV files with the gray values of an image in a cell, as in FER-2013: splits, classes, rejected rows."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dltrain.cli.main import main
from dltrain.data.inputs import InputFiles
from dltrain.data.loader import Batches
from dltrain.datasets.pixels_csv import PixelsCsv
from dltrain.errors import ConfigError

USAGES = ["Training"] * 6 + ["PublicTest"] * 2 + ["PrivateTest"] * 3


def picture(number: int, side: int = 3) -> str:
    return " ".join(str((17 * number + pixel) % 256) for pixel in range(side * side))


def write(path: Path, rows: list[str] | None = None, header: str = "emotion,pixels,Usage") -> str:
    rows = rows or [f"{number % 2},{picture(number)},{usage}" for number, usage in enumerate(USAGES)]
    path.write_text("\n".join([header, *rows]) + "\n")
    return str(path)


def test_the_usage_column_selects_the_split_and_pixels_are_in_row_major_order(tmp_path: Path) -> None:
    data = PixelsCsv(write(tmp_path / "a.csv"), mean=0, std=1)
    assert data.spec.shape == (1, 3, 3) and data.spec.class_names == ("0", "1")
    splits = data.load()
    assert [len(part) for part in (splits.train, splits.val, splits.test)] == [6, 2, 3]
    batch = next(iter(Batches(splits.test, 3)))
    expected = np.array([picture(number).split() for number in (8, 9, 10)], dtype=float).reshape(3, 1, 3, 3) / 255
    np.testing.assert_allclose(batch["inputs"], expected, atol=1e-6)
    assert batch["targets"].tolist() == [0, 1, 0]
    assert data.describe() == [
        f"11 images of 3 x 3 pixels in {tmp_path / 'a.csv'}: train 6, val 2, test 3",
        "classes: 0 (6), 1 (5)",
    ]


def test_names_of_classes_and_columns_can_be_set_and_columns_may_have_another_order(tmp_path: Path) -> None:
    rows = [f'{usage};"{picture(number)}";x;{number % 2}' for number, usage in enumerate(USAGES)]
    path = write(tmp_path / "a.csv", rows, "part;gray;more;label")
    data = PixelsCsv(path, column="label", pixels="gray", usage="part", class_names=["angry", "happy", "sad"])
    assert data.spec.classes == 3 and data.spec.class_names == ("angry", "happy", "sad")
    assert data.load().test.rows["labels"].tolist() == [0, 1, 0]


def test_class_labels_may_be_words_or_nonconsecutive_numbers(tmp_path: Path) -> None:
    for values, names in ((["happy", "angry"], ("angry", "happy")), (["10", "2"], ("2", "10"))):
        rows = [f"{values[number % 2]},{picture(number)},Training" for number in range(40)]
        assert PixelsCsv(write(tmp_path / "a.csv", rows)).spec.class_names == names


@pytest.mark.parametrize("usage", ["Usage", None])
def test_splits_without_rows_are_taken_from_the_training_rows(usage: str | None, tmp_path: Path) -> None:
    rows = [f"{number % 2},{picture(number)},Training" for number in range(40)]
    splits = PixelsCsv(write(tmp_path / "a.csv", rows), usage=usage, validation=0.25, test=0.1).load()
    assert [len(part) for part in (splits.train, splits.val, splits.test)] == [27, 9, 4]
    assert splits.test.rows["labels"].sum() == 2


BAD_ROWS = {
    "few pixels": ("1,1 2 3,Training", "expected 9 pixels (3 x 3) in line 4 of {}, got 3"),
    "no pixels": ("1,,Training", "expected 9 pixels (3 x 3) in line 4 of {}, got 0"),
    "above 255": (f"1,256 {picture(0)[2:]},Training", "expected pixels from 0 to 255 in line 4 of {}, got 256"),
    "below 0": (f"1,-3 {picture(0)[2:]},Training", "expected pixels from 0 to 255 in line 4 of {}, got -3"),
    "a word": (
        f"1,x {picture(0)[2:]},Training",
        "expected whole numbers separated by spaces as pixels in line 4 of {}, got x",
    ),
    "a fraction": (
        f"1,0.5 {picture(0)[2:]},Training",
        "expected whole numbers separated by spaces as pixels in line 4 of {}, got 0.5",
    ),
    "usage": (
        f"1,{picture(0)},Trainig",
        "expected one of Training, PublicTest, PrivateTest in line 4 of {}, got Trainig. data.on_bad_sample=skip",
    ),
    "cells": (f"1,{picture(0)}", "expected 3 cells in line 4 of {}, got 2"),
}


@pytest.mark.parametrize("kind", BAD_ROWS)
def test_a_row_that_cannot_be_read_is_rejected_with_its_line_number_or_skipped(kind: str, tmp_path: Path) -> None:
    row, message = BAD_ROWS[kind]
    rows = [f"{number % 2},{picture(number)},{usage}" for number, usage in enumerate(USAGES)]
    path = write(tmp_path / "a.csv", [*rows[:2], row, *rows[2:]])
    with pytest.raises(ConfigError) as caught:
        PixelsCsv(path)
    assert str(caught.value).startswith(f"data.path: {message.format(path)}")
    data = PixelsCsv(path, on_bad_sample="skip")
    assert len(data.bad.found) == 1 and len(data.load().train) == 6


@pytest.mark.parametrize(
    ("rows", "arguments", "message"),
    [
        (["0,1 2 3,Training"], {}, "data.path: expected the pixels of a square image in line 2 of {}, got 3 pixels"),
        ([f"0,{picture(0)},PublicTest"], {}, "data.path: expected Training rows in {}, got none"),
        ([], {"pixels": "gray"}, "data.pixels: expected one of the columns of {}: emotion, pixels, Usage, got gray"),
        ([], {"usage": "Split"}, "data.usage: expected one of the columns of {}: emotion, pixels, Usage, got Split"),
        ([], {"class_names": ["a", "a"]}, "data.class_names: expected different names, got ['a', 'a']"),
        (
            [f"0,{picture(0)},Training", f"2,{picture(0)},Training"],
            {"class_names": ["a", "b"]},
            "data.path: expected one of the classes (0, 1) in line 3 of {}, got 2",
        ),
        (
            [f"0,{picture(0)},Training", f"1,{picture(0)},PrivateTest"],
            {},
            "data.path: expected one of the classes (0) in line 3 of {}, got 1",
        ),
    ],
)
def test_unusable_images_classes_and_column_names_are_rejected(
    rows: list[str], arguments: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "a.csv", rows or None)
    with pytest.raises(ConfigError) as caught:
        PixelsCsv(path, **arguments)
    assert str(caught.value).startswith(message.format(path))


def test_an_empty_file_and_a_file_without_rows_are_rejected(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("")
    with pytest.raises(ConfigError, match=r"data.path: expected a header with .* in .*a.csv, got an empty file"):
        PixelsCsv(str(tmp_path / "a.csv"))
    (tmp_path / "a.csv").write_text("emotion,pixels,Usage\n")
    with pytest.raises(ConfigError, match=r"data.path: expected rows of images in .*a.csv, got none"):
        PixelsCsv(str(tmp_path / "a.csv"))


def test_a_cell_may_exceed_the_default_limit_of_the_csv_module(tmp_path: Path) -> None:
    rows = [f"{number % 2},{picture(number, 224)},Training" for number in range(4)]
    assert PixelsCsv(write(tmp_path / "a.csv", rows)).spec.shape == (1, 224, 224)


def test_csv_files_and_image_files_are_accepted_for_prediction(tmp_path: Path) -> None:
    data = PixelsCsv(write(tmp_path / "a.csv"))
    new = write(tmp_path / "new.csv", [picture(5), "", picture(6)], "pixels")
    Image.new("L", (30, 30), 100).save(tmp_path / "face.png")
    (read,) = data.inputs(InputFiles((new, str(tmp_path / "face.png"))))
    assert read.names == [
        {"input": new, "line": 2},
        {"input": new, "line": 4},
        {"input": str(tmp_path / "face.png")},
    ]
    own = torch.tensor([int(value) for value in picture(6).split()], dtype=torch.uint8)
    assert torch.equal(read.rows["pixels"][1].flatten(), own) and (read.rows["pixels"][2] == 100).all()
    write(tmp_path / "new.csv", [picture(5), picture(6, 4)], "pixels")
    pieces = data.inputs(InputFiles((new,)))
    assert len(next(pieces).names) == 1
    with pytest.raises(ConfigError, match=r"INPUT 1: expected 9 pixels \(3 x 3\) in line 3 of .*new.csv, got 16"):
        next(pieces)


def test_the_command_line_trains_on_a_table_and_predicts_its_rows(
    finished_run: Callable[..., Path], own_files: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    table = own_files["pixels_csv"]
    names = "data.class_names=[dark,bright]"
    run = finished_run("model=mlp", "data=pixels_csv", f"data.path={table}", names, "trainer.epochs=5")
    assert json.loads((run / "result.json").read_text())["test"]["accuracy"] == 1
    assert main(["predict", str(run), str(table)]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 60 and lines[3]["line"] == 5
    assert [line["class_name"] for line in lines] == ["dark", "bright"] * 30
