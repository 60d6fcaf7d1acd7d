"""Normalization and augmentation of images, compared with their formulas."""

import numpy as np
import pytest
import torch

from dltrain.datasets.images import ImageTransform
from dltrain.errors import ConfigError
from dltrain.keyed_random import key, mix, uniform


def random_images(count=64, channels=3, image_size=9):
    pixels = torch.from_numpy(
        np.random.default_rng(0).integers(0, 256, (count, channels, image_size, image_size), dtype=np.uint8)
    )
    return {"pixels": pixels, "labels": torch.arange(count) % 10}


def keys(count, epoch=0):
    return mix(torch.arange(count) + key(0, epoch))


def prepare_images(augment, mean=0.5, std=0.25):
    rows = random_images()
    source = ImageTransform(3, mean, std, augment).splits(rows, None, rows, 10).train
    return source, source.prepare(rows)


def test_pixels_are_normalized_by_mean_and_standard_deviation_per_channel():
    rows = random_images()
    mean, std = [0.1, 0.5, 0.9], [0.2, 0.3, 0.4]
    batch = ImageTransform(3, mean, std, []).splits(rows, None, rows, 10).test.prepare(rows)
    expected = (rows["pixels"].double() / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    assert batch["inputs"].dtype == torch.float32 and batch["targets"].dtype == torch.int64
    torch.testing.assert_close(batch["inputs"].double(), expected, atol=1e-5, rtol=0)


def test_uint8_and_float_pixels_in_any_memory_format_are_scaled_into_new_contiguous_memory():
    prepare = ImageTransform(3, 0.4, 0.3, []).scaling()
    for pixels in (random_images()["pixels"], random_images()["pixels"].float()):
        before, expected = pixels.clone(), (pixels.double() / 255 - 0.4) / 0.3
        for stored in (pixels, pixels.contiguous(memory_format=torch.channels_last)):
            inputs = prepare({"pixels": stored})["inputs"]
            assert inputs.is_contiguous() and torch.equal(stored, before)
            torch.testing.assert_close(inputs.double(), expected, atol=1e-5, rtol=0)


def test_pixels_range_from_minus_one_to_one_if_mean_and_std_are_0_5():
    rows = {"pixels": torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1), "labels": torch.tensor([0, 1])}
    inputs = ImageTransform(1, 0.5, 0.5, []).splits(rows, None, rows, 10).test.prepare(rows)["inputs"]
    assert inputs.flatten().tolist() == pytest.approx([-1, 1], abs=1e-6)


def test_flip_mirrors_about_half_of_the_images_horizontally():
    source, batch = prepare_images(["flip"])
    found = source.augment(batch, keys(64))["inputs"]
    flipped = uniform(keys(64), 3)[:, 0] < 0.5
    assert 16 < int(flipped.sum()) < 48
    assert torch.equal(found[flipped], batch["inputs"][flipped].flip(3))
    assert torch.equal(found[~flipped], batch["inputs"][~flipped])


@pytest.mark.parametrize("names", [["flip"], ["crop"], ["flip", "crop"]])
def test_augmentations_listed_by_name_have_the_same_effect_as_the_keys_of_the_augment_group(names):
    keys_of = {"flip": {"flip": True}, "crop": {"shift": 4}}
    (one, batch), (other, _) = (
        prepare_images(names),
        prepare_images({k: v for name in names for k, v in keys_of[name].items()}),
    )
    assert torch.equal(*(source.augment(batch, keys(64))["inputs"] for source in (one, other)))


def test_crop_equals_cropping_the_image_padded_with_black():
    source, batch = prepare_images(["crop"], mean=[0.2, 0.3, 0.4], std=[0.5, 0.6, 0.7])
    found = source.augment(batch, keys(64))["inputs"]
    black = source.prepare({"pixels": torch.zeros(1, 3, 17, 17, dtype=torch.uint8), "labels": torch.zeros(1)})["inputs"]
    offsets = set()
    for number in range(64):
        padded = black[0].clone()
        padded[:, 4:13, 4:13] = batch["inputs"][number]
        crops = {(y, x): padded[:, y : y + 9, x : x + 9] for y in range(9) for x in range(9)}
        matching = [offset for offset, crop in crops.items() if torch.equal(crop, found[number])]
        assert len(matching) == 1
        offsets.update(matching)
    assert {y for y, _ in offsets} == {x for _, x in offsets} == set(range(9))


def test_augmentation_depends_only_on_the_keys_and_keeps_the_targets():
    source, batch = prepare_images(["flip", "crop"])
    one, again, other = (source.augment(batch, keys(64, epoch)) for epoch in (0, 0, 1))
    assert torch.equal(one["inputs"], again["inputs"])
    assert not torch.equal(one["inputs"], other["inputs"])
    assert one["targets"] is batch["targets"]
    single = source.augment({name: value[5:6] for name, value in batch.items()}, keys(64)[5:6])
    assert torch.equal(single["inputs"][0], one["inputs"][5])


def test_only_training_images_are_augmented():
    rows = random_images()
    splits = ImageTransform(3, 0.5, 0.5, ["flip"]).splits(rows, rows, rows, 10)
    assert splits.train.augment is not None and splits.val.augment is None and splits.test.augment is None


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ({"augment": ["flp"]}, "Did you mean flip?"),
        ({"mean": [0.5, 0.5]}, "data.mean"),
        ({"std": [0.5, 0.0, 0.5]}, "data.std"),
    ],
)
def test_invalid_image_settings_are_rejected(arguments, part):
    with pytest.raises(ConfigError, match=part.replace("?", r"\?")):
        ImageTransform(**{"channels": 3, "mean": 0.5, "std": 0.5, "augment": [], **arguments})
