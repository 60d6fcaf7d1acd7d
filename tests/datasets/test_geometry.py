"""Geometric augmentation of images, masks and boxes, compared with shapes drawn at the transformed position."""

import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from dltrain.datasets.augmentation import Augmentation, crop_window, crop_windows
from dltrain.datasets.geometry import Frame, Geometry, move_boxes
from dltrain.errors import ConfigError
from dltrain.keyed_random import draw, mix, uniform

HEIGHT, WIDTH, COUNT, IGNORED = 48, 64, 16, 255
BOX = (16, 12, 36, 30)  # left, top, right, bottom
AUGMENTATIONS = {
    "flip": {"flip": True},
    "flip_vertical": {"flip_vertical": True},
    "shift": {"shift": 6},
    "rotation": {"rotation": 30.0},
    "zoom": {"zoom": 0.3},
    "crop": {"min_area": 0.4},
    "all": {"flip": True, "flip_vertical": True, "shift": 3, "min_area": 0.7, "rotation": 15.0, "zoom": 0.1},
}


def drawn(box: tuple[float, float, float, float] = BOX) -> Tensor:
    """Return a rectangle of ones in an image of zeros, (height, width)."""
    canvas = Image.new("L", (WIDTH, HEIGHT))
    left, top, right, bottom = box
    ImageDraw.Draw(canvas).rectangle((left, top, right - 1, bottom - 1), fill=1)
    return torch.from_numpy(np.array(canvas))


def moved(settings: dict[str, float]) -> tuple[dict[str, Tensor], Tensor]:
    """Return a rectangle as image, mask and box after random transforms, and the matrices of the transforms."""
    frame = Frame({"inputs": torch.full((2, 1, 1), -1.0)}, {"mask": IGNORED}, ("boxes",))
    geometry, keys = Geometry(Augmentation(**settings), frame), mix(torch.arange(COUNT))
    batch = {
        "inputs": (2.0 * drawn() - 1).expand(COUNT, 2, -1, -1).contiguous(),
        "mask": drawn().long().expand(COUNT, -1, -1).contiguous(),
        "boxes": torch.tensor([BOX, (0, 0, 0, 0)]).float().expand(COUNT, -1, -1),
        "labels": torch.arange(COUNT),
    }
    return geometry(batch, keys), geometry.matrix(keys, HEIGHT, WIDTH)


def polygon(matrix: Tensor) -> Tensor:
    """Return an image of the rectangle whose corners are transformed by the inverse of `matrix`."""
    left, top, right, bottom = BOX
    whole = np.vstack([matrix.double().numpy(), [0, 0, 1]])
    corners = np.array([[left, top, 1], [right, top, 1], [right, bottom, 1], [left, bottom, 1]]).T
    transformed = np.linalg.solve(whole, corners)[:2].T
    scale = 8  # draw at eight times the resolution, then average
    canvas = Image.new("F", (WIDTH * scale, HEIGHT * scale))
    ImageDraw.Draw(canvas).polygon([tuple(scale * corner - 0.5) for corner in transformed], fill=1)
    return torch.from_numpy(np.array(canvas)).view(HEIGHT, scale, WIDTH, scale).mean((1, 3))


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_transformed_images_masks_and_boxes_equal_a_drawn_shape(name: str) -> None:
    found, matrices = moved(AUGMENTATIONS[name])
    assert torch.equal(found["labels"], torch.arange(COUNT))
    for picture, mask, boxes, matrix in zip(found["inputs"], found["mask"], found["boxes"], matrices, strict=True):
        expected = polygon(matrix)
        shape = (picture[0] + 1) / 2
        assert (shape - expected).abs().mean() < 0.02
        known = mask != IGNORED
        certain = known & ((expected < 0.02) | (expected > 0.98))
        assert torch.equal(mask[certain].bool(), expected[certain] > 0.5)
        assert not shape[~known].gt(0.6).any()
        rows, columns = (expected > 0.5).nonzero().unbind(1)
        edges = torch.tensor([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        assert (boxes[0] - edges).abs().max() < 1.6, (boxes[0], edges)
        assert not boxes[1].any(), "padding boxes stay empty"


@pytest.mark.parametrize("name", ["flip", "flip_vertical", "shift"])
def test_flipped_and_shifted_images_have_no_new_pixel_values(name: str) -> None:
    found, _ = moved(AUGMENTATIONS[name])
    assert set(found["inputs"].unique().tolist()) == {-1.0, 1.0}
    assert len(found["inputs"].flatten(1).unique(dim=0)) > 1


def test_transformed_masks_have_no_new_classes() -> None:
    found, _ = moved(AUGMENTATIONS["all"])
    assert found["mask"].dtype == torch.int64 and set(found["mask"].unique().tolist()) <= {0, 1, IGNORED}


def test_crops_have_the_configured_area_and_aspect_ratio_and_stay_inside_the_image() -> None:
    geometry = Geometry(Augmentation(min_area=0.3, max_stretch=2.0), Frame({"inputs": torch.zeros(1, 1, 1)}))
    matrix = geometry.matrix(mix(torch.arange(4000)), HEIGHT, WIDTH)
    across, along = matrix[:, 0, 0], matrix[:, 1, 1]
    free = (across < 1) & (along < 1)
    area, ratio = (across * along)[free], (across / along)[free]
    assert 0.3 <= area.min() < 0.32 and area.max() <= 1
    assert ratio.min() >= 0.5 - 1e-5 and ratio.max() <= 2 + 1e-5
    left, top = matrix[:, 0, 2], matrix[:, 1, 2]
    assert left.min() > -1e-3 and (left + across * WIDTH).max() < WIDTH + 1e-3
    assert top.min() > -1e-3 and (top + along * HEIGHT).max() < HEIGHT + 1e-3


def test_the_crop_of_an_image_is_bitwise_equal_to_its_crop_in_a_batch_of_one_image() -> None:
    augmentation, keys = Augmentation(min_area=0.3, max_stretch=2.0), mix(torch.arange(200))
    # In larger batches, vectorized arithmetic may round differently.
    for key in keys:
        expected = torch.stack(crop_windows(augmentation, uniform(key[None], 4).unbind(1), HEIGHT, WIDTH))[:, 0]
        found = crop_window(augmentation, draw(int(key), 4), HEIGHT, WIDTH)
        assert [float(part) for part in found] == expected.tolist()


def test_a_crop_without_stretch_is_a_square_unless_it_is_as_high_as_the_image() -> None:
    augmentation = Augmentation(min_area=0.2, max_stretch=1.0)
    for key in range(20):
        _, _, across, along = crop_window(augmentation, draw(key, 4), 100, 160, 100 / 160)
        # The crop is a square if its relative width is 100 / 160 of its relative height.
        assert across == pytest.approx(0.625 * along, rel=1e-6) or along == 1


@pytest.mark.parametrize("settings", [{"flip": True}, {"flip_vertical": True}, {"flip": True, "flip_vertical": True}])
def test_flips_of_data_without_boxes_equal_flips_by_the_matrix(settings: dict[str, bool]) -> None:
    random = torch.Generator().manual_seed(0)
    batch = {
        "inputs": torch.randn(COUNT, 3, 7, 5, generator=random),
        "mask": torch.randint(9, (COUNT, 7, 5), generator=random),
        "boxes": torch.tensor([[[1.0, 2, 3, 4]]]).expand(COUNT, -1, -1),
    }
    before, keys = {name: value.clone() for name, value in batch.items()}, mix(torch.arange(COUNT))
    frame = Frame({"inputs": torch.zeros(3, 1, 1)}, {"mask": IGNORED})
    found = Geometry(Augmentation(**settings), frame)(batch, keys)
    by_matrix = Geometry(Augmentation(**settings), frame._replace(boxes=("boxes",)))(batch, keys)
    for name in ("inputs", "mask"):
        assert torch.equal(found[name], by_matrix[name]) and torch.equal(batch[name], before[name])
        assert not torch.equal(found[name], batch[name])


def test_rotations_preserve_lengths_and_stay_within_the_configured_angle() -> None:
    geometry = Geometry(Augmentation(rotation=25.0), Frame({"inputs": torch.zeros(1, 1, 1)}))
    matrix = geometry.matrix(mix(torch.arange(4000)), HEIGHT, WIDTH)[:, :, :2]
    torch.testing.assert_close(matrix @ matrix.mT, torch.eye(2).expand(4000, 2, 2), atol=1e-5, rtol=0)
    angles = torch.atan2(matrix[:, 1, 0], matrix[:, 0, 0]).mul(180 / math.pi)
    assert 24 < angles.max() <= 25.001 and -25.001 <= angles.min() < -24


def test_boxes_are_clipped_to_the_image_or_become_empty() -> None:
    right = torch.tensor([[[1.0, 0, -40], [0, 1, 0]]])  # moves boxes by 40 pixels to the right
    found = move_boxes(torch.tensor([[[0.0, 5, 10, 9], [20, 5, 30, 9], [30, 5, 60, 9]]]), right, HEIGHT, WIDTH)
    assert found.tolist() == [[[40, 5, 50, 9], [60, 5, 64, 9], [0, 0, 0, 0]]]


@pytest.mark.parametrize("value", ["flip", {"flp": True}, ["flop"], {"mixup": 0.2, "cutmix": 1.0}])
def test_an_invalid_augmentation_is_rejected(value: object) -> None:
    from dltrain.datasets.augmentation import read_augmentation

    with pytest.raises(ConfigError, match="augment"):
        read_augmentation(value)
