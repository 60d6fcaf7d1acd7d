"""Masks that ``dltrain predict`` writes for images."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dltrain.cli.main import main

WORDS = ("model=unet", "model.hidden_size=[8,16]", "data=image_masks", "data.image_size=16", "data.batch_size=5")


@pytest.fixture
def run(finished_run: Callable[..., Path], own_files: dict[str, Path]) -> Path:
    names = "data.class_names=[rest,bright,dark]"
    return finished_run(*WORDS, names, f"data.path={own_files['image_masks']}", "trainer.max_steps=60")


def test_predicted_masks_have_the_image_size_and_the_class_numbers_as_pixels(
    run: Path, own_files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = own_files["image_masks"]
    assert main(["predict", str(run), str(folder / "images"), "--out", str(tmp_path / "out")]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 24
    right = total = 0
    for line in lines:
        name = Path(line["input"]).stem
        assert line["mask"] == str(tmp_path / "out" / f"{name}.png")
        mask = np.array(Image.open(line["mask"]))
        truth = np.array(Image.open(folder / "masks" / f"{name}.png"))
        assert mask.shape == truth.shape == (line["height"], line["width"]) == (20, 24)
        assert sum(line["shares"].values()) == pytest.approx(1, abs=1e-5)
        right, total = right + int((mask == truth).sum()), total + mask.size
    assert right > 0.7 * total


def test_without_the_out_flag_each_line_has_the_fraction_of_pixels_in_each_class(
    run: Path, own_files: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    image = own_files["image_masks"] / "images" / "00.png"
    assert main(["predict", str(run), str(image)]) == 0
    (line,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert set(line) == {"input", "width", "height", "shares"} and set(line["shares"]) == {"rest", "bright", "dark"}
    assert main(["predict", str(run), str(image), "--top", "1", "--format", "csv"]) == 0
    assert capsys.readouterr().out.splitlines()[0].startswith("input,width,height,shares.")


def test_the_test_metrics_include_the_iou_of_each_class(run: Path) -> None:
    test = json.loads((run / "result.json").read_text())["test"]
    assert set(test) == {"loss", "miou", "dice", "pixel_accuracy", "iou rest", "iou bright", "iou dark"}
    assert test["miou"] == pytest.approx(np.mean([test[f"iou {name}"] for name in ("rest", "bright", "dark")]))
