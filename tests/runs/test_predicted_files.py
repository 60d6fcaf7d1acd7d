"""Files written for predictions: masks, and images with drawn objects."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dltrain.errors import ConfigError
from dltrain.runs.predicted_files import PredictedFiles

MASK = torch.tensor([[0, 1], [2, 0]], dtype=torch.uint8)


def test_masks_are_written_as_indexed_png_files_of_the_image_size(tmp_path: Path) -> None:
    masks = PredictedFiles(str(tmp_path / "new"))
    stored = masks.store({"input": "scans/a.jpg", "width": 6, "height": 4, "mask": MASK})
    assert stored == {"input": "scans/a.jpg", "width": 6, "height": 4, "mask": str(tmp_path / "new" / "a.png")}
    image = Image.open(stored["mask"])
    assert image.mode == "P"
    assert np.array_equal(np.array(image), MASK.numpy().repeat(2, 0).repeat(3, 1))


def test_images_with_the_same_name_get_separate_mask_files(tmp_path: Path) -> None:
    masks = PredictedFiles(str(tmp_path))
    paths = [masks.store({"input": f"{folder}/a.jpg", "mask": MASK})["mask"] for folder in "xyz"]
    assert [Path(path).name for path in paths] == ["a.png", "a-2.png", "a-3.png"]


def test_predictions_have_no_mask_without_an_output_folder() -> None:
    assert PredictedFiles(None).store({"input": "a.jpg", "mask": MASK, "shares": {"cell": 0.5}}) == {
        "input": "a.jpg",
        "shares": {"cell": 0.5},
    }


def test_an_output_folder_that_is_not_empty_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ConfigError, match="--out: expected a new or empty folder"):
        PredictedFiles(str(tmp_path))


def test_objects_are_drawn_on_a_copy_of_their_image(tmp_path: Path) -> None:
    file = tmp_path / "street.jpg"
    Image.new("RGB", (60, 40), "white").save(file)
    objects = [{"class": "car", "score": 0.91, "box": [10.0, 20.0, 50.0, 35.0]}]
    record = {"input": str(file), "width": 60, "height": 40, "objects": objects}
    stored = PredictedFiles(str(tmp_path / "out")).store(record)
    assert stored == {**record, "picture": str(tmp_path / "out" / "street.png")}
    drawn = np.array(Image.open(stored["picture"]))
    assert drawn.shape == (40, 60, 3) and (drawn[30, 20] == 255).all(), "the inside of a box is unchanged"
    assert all((drawn[point] != 255).any() for point in ((27, 10), (27, 49), (20, 40), (34, 30))), (
        "the edges of the box are drawn"
    )


def test_no_image_is_written_for_inputs_from_standard_input_or_arrays(tmp_path: Path) -> None:
    files = PredictedFiles(str(tmp_path))
    for record in ({"input": "-", "width": 6, "height": 4}, {"input": "x.npy[0]"}):
        assert "picture" not in files.store({**record, "objects": []})
