from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dltrain.errors import ConfigError
from dltrain.runs.predicted_masks import MaskFiles

MASK = torch.tensor([[0, 1], [2, 0]], dtype=torch.uint8)


def test_masks_are_written_as_indexed_png_files_of_the_image_size(tmp_path: Path) -> None:
    masks = MaskFiles(str(tmp_path / "new"))
    stored = masks.store({"input": "scans/a.jpg", "width": 6, "height": 4, "mask": MASK})
    assert stored == {"input": "scans/a.jpg", "width": 6, "height": 4, "mask": str(tmp_path / "new" / "a.png")}
    image = Image.open(stored["mask"])
    assert image.mode == "P"
    assert np.array_equal(np.array(image), MASK.numpy().repeat(2, 0).repeat(3, 1))


def test_images_with_the_same_name_get_separate_mask_files(tmp_path: Path) -> None:
    masks = MaskFiles(str(tmp_path))
    paths = [masks.store({"input": f"{folder}/a.jpg", "mask": MASK})["mask"] for folder in "xyz"]
    assert [Path(path).name for path in paths] == ["a.png", "a-2.png", "a-3.png"]


def test_without_a_folder_predictions_have_no_mask() -> None:
    assert MaskFiles(None).store({"input": "a.jpg", "mask": MASK, "shares": {"cell": 0.5}}) == {
        "input": "a.jpg",
        "shares": {"cell": 0.5},
    }


def test_a_mask_folder_that_is_not_empty_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ConfigError, match="--out: expected a new or empty folder"):
        MaskFiles(str(tmp_path))
