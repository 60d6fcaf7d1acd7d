"""Synthetic clips of moving shapes: the class is the motion, which a single frame does not reveal."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.ensemble import RandomForestClassifier
from torch import Tensor

from dltrain.data.inputs import InputFiles
from dltrain.data.loader import Batches
from dltrain.datasets.moving_shapes import MOTIONS, MovingShapes, draw_clips
from dltrain.errors import ConfigError


def test_clips_are_the_same_each_time_they_are_loaded_and_classes_are_equally_frequent() -> None:
    one, other = (MovingShapes(clips=80, frames=3, image_size=12).load() for _ in range(2))
    assert torch.equal(one.train.rows["pixels"], other.train.rows["pixels"])
    assert [len(part) for part in (one.train, one.val, one.test)] == [56, 8, 16]
    for part in (one.train, one.val, one.test):
        assert torch.bincount(part.rows["labels"].long()).tolist() == [len(part) // 8] * 8


def shapes_of(clips: Tensor) -> np.ndarray:
    """Return a mask of the shape: pixels above the midpoint between the clip's median and maximum."""
    levels = clips.float().numpy()
    middle = (levels.max((1, 2, 3), keepdims=True) + np.median(levels, (1, 2, 3), keepdims=True)) / 2
    return levels > middle


def turns(values: np.ndarray, period: float) -> np.ndarray:
    """Return the total change over all frames; each step takes the shortest way around a circle of length `period`."""
    return ((np.diff(values, axis=1) + period / 2) % period - period / 2).sum(1)


def test_shapes_move_and_change_size_as_the_name_of_their_class_says() -> None:
    size = 48
    drawn = draw_clips(80, 8, size)
    shape, labels = shapes_of(drawn["pixels"][:, 0]), drawn["labels"].numpy()
    area = shape.sum((2, 3))
    angles = 2 * np.pi * (np.arange(size) + 0.5) / size
    circle = np.exp(1j * angles)  # a shape that leaves the image reenters on the other side
    x, y = (np.angle((shape.sum(axis) * circle).sum(2)) * size / (2 * np.pi) for axis in (2, 3))
    moved = {"right": turns(x, size), "down": turns(y, size)}
    moved |= {"left": -moved["right"], "up": -moved["down"]}
    for number, name in enumerate(MOTIONS):
        own = labels == number
        if name in moved:
            assert (moved[name][own] > 0.8 * size).all() and (moved[name][own] < 0.95 * size).all(), name
        else:
            assert all(np.abs(values[own]).max() < 0.2 * size for values in moved.values()), name
        growth = area[own, -1] / area[own, 0]
        assert {"grow": growth.min() > 2, "shrink": growth.max() < 0.5}.get(name, True), name
        assert name in ("grow", "shrink") or (growth.min() > 0.6 and growth.max() < 1.6), name


def test_shapes_of_the_two_rotation_classes_rotate_in_opposite_directions_and_other_shapes_do_not_rotate() -> None:
    drawn = draw_clips(160, 8, 48)
    shape, labels = shapes_of(drawn["pixels"][:, 0]), drawn["labels"].numpy()
    turned = {
        name: turns(np.array([[orientation(frame) for frame in clip] for clip in shape[labels == number]]), np.pi)
        for number, name in enumerate(MOTIONS)
    }
    # The axis of a triangle is not well defined, so only 80 percent of the clips must meet each condition.
    assert np.mean(turned.pop("clockwise") > 1) > 0.8 and np.mean(turned.pop("counter-clockwise") < -1) > 0.8
    assert all(np.mean(np.abs(values) < 0.5) > 0.8 for values in turned.values())


def orientation(mask: np.ndarray) -> float:
    """Return the angle of the longest axis in radians, from second moments around the circular mean of the pixels."""
    size = len(mask)
    rows, columns = np.nonzero(mask)
    centered = []
    for values in (columns, rows):
        middle = np.angle(np.exp(2j * np.pi * values / size).sum()) * size / (2 * np.pi)
        centered.append((values - middle + size / 2) % size - size / 2)
    across, down = centered
    return 0.5 * np.arctan2(2 * (across * down).mean(), (across**2).mean() - (down**2).mean())


def test_a_single_frame_does_not_reveal_the_motion() -> None:
    frames = draw_clips(1600, 1, 10)
    x, y = frames["pixels"].flatten(1).numpy(), frames["labels"].numpy()
    shape = shapes_of(frames["pixels"][:, 0]).sum((1, 2, 3))
    x = np.concatenate([x, shape[:, None]], 1)
    forest = RandomForestClassifier(30, random_state=0).fit(x[:800], y[:800])
    assert forest.score(x[800:], y[800:]) < 1 / 8 + 3 * (7 / 64 / 800) ** 0.5


def test_a_shift_is_the_same_for_all_frames_of_a_clip() -> None:
    source = MovingShapes(clips=40, frames=3, image_size=12, augment={"shift": 4}).load().train
    plain = next(iter(Batches(source, 28)))
    moved = source.augment(plain, torch.arange(28))
    together = source.augment(plain | {"inputs": plain["inputs"][:, :, [0, 0, 0]]}, torch.arange(28))["inputs"]
    assert not torch.equal(moved["inputs"], plain["inputs"])
    assert torch.equal(moved["inputs"][:, :, 0], together[:, :, 0])
    assert torch.equal(together[:, :, 0], together[:, :, 1]) and torch.equal(together[:, :, 0], together[:, :, 2])


@pytest.mark.parametrize("name", ["flip", "flip_vertical"])
def test_flips_are_rejected_because_they_change_the_class(name: str) -> None:
    with pytest.raises(ConfigError, match=f"augment.{name}: not supported by data=moving_shapes because"):
        MovingShapes(augment={name: True})


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "randaugment", "erase"])
def test_color_changes_randaugment_and_cutout_are_rejected(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"^augment\.{name}: not supported because"):
        MovingShapes(clips=40, frames=3, image_size=12, augment={name: 1}).load()


def test_clips_written_as_frames_are_read_for_prediction(tmp_path: Path) -> None:
    data, drawn = MovingShapes(clips=8, frames=4, image_size=12), draw_clips(2, 4, 12)["pixels"]
    for number, clip in enumerate(drawn):
        (tmp_path / str(number)).mkdir()
        for position, frame in enumerate(clip[0]):
            Image.fromarray(frame.numpy()).save(tmp_path / str(number) / f"{position}.png")
    (read,) = data.inputs(InputFiles((str(tmp_path),)))
    assert torch.equal(read.rows["pixels"], drawn)
