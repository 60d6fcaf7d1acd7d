"""Runs of detectors: resuming in the middle of an epoch, and predictions with images that show the boxes."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from dltrain.cli.main import main
from dltrain.storage.checkpoints import Checkpoints

FCOS = ["model=fcos", "model.backbone=narrow", "model.fpn_width=32", "model.num_convs=1"]
FASTER_RCNN = ["model=fasterrcnn", "model.backbone=narrow", "model.fpn_width=32", "model.hidden_size=16"]
SETTINGS = [
    "augment=resized_crop",
    "augment.rotation=10",
    "trainer.checkpoint_every=1",
    "trainer.log_media=false",
    "device=cpu",
]


@pytest.mark.parametrize(
    ("model", "workers"),
    [(FCOS, 0), *(pytest.param(*case, marks=pytest.mark.slow) for case in ((FASTER_RCNN, 0), (FCOS, 2)))],
)
def test_a_detector_resumed_within_an_epoch_has_the_weights_of_an_uninterrupted_run(
    model: list[str], workers: int, small_data: Callable[[str], list[str]], tmp_path: Path
) -> None:
    whole, run = tmp_path / "whole", tmp_path / "run"
    common = [*model, *small_data("detection_folder"), *SETTINGS]
    assert main([*common, "trainer.max_steps=3", f"hydra.run.dir={whole}"]) == 0
    assert main([*common, "trainer.max_steps=1", f"data.workers={workers}", f"hydra.run.dir={run}"]) == 0
    assert main(["resume", str(run), "trainer.max_steps=3", "data.workers=0"]) == 0
    expected, found = (Checkpoints(folder).load("last.pt")["model"] for folder in (whole, run))
    assert all(torch.equal(value, found[name]) for name, value in expected.items())


def test_predicted_boxes_lie_within_the_image_and_written_images_have_the_size_of_the_input(
    finished_run: Callable[..., Path],
    small_data: Callable[[str], list[str]],
    own_files: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = finished_run(*FCOS, *small_data("detection_folder"), "trainer.max_steps=2", "task.min_score=0.0")
    images = own_files["detection_folder"] / "images"
    assert main(["predict", str(run), str(images), "--out", str(tmp_path / "out")]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 24
    for line in lines:
        assert Image.open(line["picture"]).size == (line["width"], line["height"]) == (24, 20)
        for found in line["objects"]:
            left, top, right, bottom = found["box"]
            assert 0 <= left <= right <= 24.001 and 0 <= top <= bottom <= 20.001
            assert found["class"] in ("bright", "dark") and 0 <= found["score"] <= 1
    capsys.readouterr()
    assert main(["predict", str(run), str(images / "01.png"), "--format", "csv"]) == 2
    assert "--format csv: not supported because the number of objects or words differs" in capsys.readouterr().err
