"""One folder of images per class: splits, decoding, colors, random crops and rejected folders."""

import numpy as np
import pytest
import torch
from PIL import Image

from dltrain.data.loader import Batches
from dltrain.datasets.image_folder import ImageFolder
from dltrain.datasets.image_inputs import read_upright
from dltrain.errors import ConfigError

COLORS = {"blue": (0, 0, 255), "green": (0, 255, 0), "red": (255, 0, 0)}


def write_images(folder, counts, size=(20, 20)):
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", size, COLORS[name]).save(folder / name / f"{number:03}.png")
    return str(folder)


def examples_of(source, workers=0, **arguments):
    batches = list(Batches(source, 4, workers=workers, **arguments))
    return [
        (batch["inputs"][row], int(batch["targets"][row])) for batch in batches for row in range(len(batch["inputs"]))
    ]


def test_class_folders_are_split_with_equal_fractions_of_each_class(tmp_path):
    data = ImageFolder(write_images(tmp_path, {"red": 20, "blue": 40}), image_size=8, validation=0.25, test=0.2)
    assert data.spec.shape == (3, 8, 8) and data.spec.class_names == ("blue", "red")
    splits = data.load()
    assert [len(part) for part in (splits.train, splits.val, splits.test)] == [36, 12, 12]
    assert [label for _, label in examples_of(splits.test)].count(1) == 4
    assert [label for _, label in examples_of(splits.val)].count(1) == 4
    listings = [set(part.rows.listing) for part in (splits.train, splits.val, splits.test)]
    assert len(set.union(*listings)) == 60


def test_train_and_test_folders_are_used_as_splits(tmp_path):
    write_images(tmp_path / "train", {"red": 8, "green": 8})
    write_images(tmp_path / "test", {"red": 2, "green": 3})
    splits = ImageFolder(str(tmp_path), image_size=4, validation=0).load()
    assert (len(splits.train), splits.val, len(splits.test)) == (16, None, 5)


def test_images_are_loaded_with_their_colors_and_labels(tmp_path):
    splits = ImageFolder(write_images(tmp_path, {"red": 6, "green": 6}), image_size=5).load()
    for pixels, label in examples_of(splits.train):
        expected = np.array(COLORS[["green", "red"][label]]) / 127.5 - 1
        np.testing.assert_allclose(pixels.numpy(), np.broadcast_to(expected[:, None, None], (3, 5, 5)), atol=1e-5)


def test_a_decoded_image_does_not_change_when_its_file_is_overwritten(tmp_path):
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    for name in ("a.pgm", "a.bmp"):  # Pillow maps files of these formats into memory
        Image.fromarray(levels).save(tmp_path / name)
        image = read_upright(tmp_path / name, "L")
        (tmp_path / name).write_bytes(bytes((tmp_path / name).stat().st_size))
        np.testing.assert_array_equal(np.asarray(image), levels)


def test_the_longer_side_is_cropped_at_the_center(tmp_path):
    (tmp_path / "a").mkdir()
    stripes = np.zeros((10, 30, 3), dtype=np.uint8)
    stripes[:, 10:20] = 255
    for number in range(5):
        Image.fromarray(stripes).save(tmp_path / "a" / f"{number}.png")
    pixels, _ = examples_of(ImageFolder(str(tmp_path), image_size=10).load().train)[0]
    np.testing.assert_allclose(pixels.numpy(), 1, atol=1e-5)


def test_gray_and_transparent_images_are_converted_to_rgb(tmp_path):
    (tmp_path / "a").mkdir()
    for number, mode in enumerate(["L", "RGBA", "P", "1", "LA"]):
        Image.new(mode, (9, 7)).save(tmp_path / "a" / f"{number}.png")
    splits = ImageFolder(str(tmp_path), image_size=4).load()
    examples = [example for part in (splits.train, splits.val, splits.test) for example in examples_of(part)]
    assert [tuple(pixels.shape) for pixels, _ in examples] == [(3, 4, 4)] * 5


def test_16_bit_images_are_scaled_and_transparent_images_blended_with_white(tmp_path):
    (tmp_path / "a").mkdir()
    for number in range(4):
        Image.fromarray(np.full((9, 9), 128 * 257, dtype=np.uint16)).save(tmp_path / "a" / f"deep{number}.png")
        Image.new("RGBA", (9, 9), (0, 0, 0, 127)).save(tmp_path / "a" / f"clear{number}.png")
    for pixels, _ in examples_of(ImageFolder(str(tmp_path), image_size=4, mean=0, std=1).load().train):
        np.testing.assert_allclose(pixels.numpy(), 128 / 255, atol=1e-6)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_corrupt_image_is_rejected_with_its_file_and_index(workers, tmp_path):
    write_images(tmp_path / "train", {"red": 5})
    write_images(tmp_path / "test", {"red": 2})
    broken = tmp_path / "test" / "red" / "001.png"
    broken.write_bytes(broken.read_bytes()[:40])
    splits = ImageFolder(str(tmp_path)).load()
    with pytest.raises(ConfigError) as caught:
        examples_of(splits.test, workers)
    assert "test/red/001.png (index 1 of its split)" in str(caught.value)


@pytest.mark.parametrize(
    ("make", "part"),
    [
        (lambda root: None, "one folder per class"),
        (lambda root: (root / "a").mkdir(), "none"),
        (
            lambda root: (write_images(root / "train", {"red": 3}), write_images(root / "test", {"blue": 3})),
            "the classes red",
        ),
    ],
)
def test_a_folder_without_usable_classes_is_rejected(make, part, tmp_path):
    make(tmp_path)
    with pytest.raises(ConfigError) as caught:
        ImageFolder(str(tmp_path)).load()
    assert part in str(caught.value)


def test_a_missing_folder_is_rejected(tmp_path):
    with pytest.raises(ConfigError, match=r"data\.path"):
        ImageFolder(str(tmp_path / "none"))


def gradient(folder, width=150, height=100):
    """Write images in which red increases from 0 to 255 over the columns, and green over the rows."""
    across = np.broadcast_to(np.linspace(0, 255, width)[None], (height, width))
    along = np.broadcast_to(np.linspace(0, 255, height)[:, None], (height, width))
    pixels = np.stack([across, along, 0 * along], -1).round().astype(np.uint8)
    for name in "ab":
        (folder / name).mkdir()
        for number in range(20):
            Image.fromarray(pixels).save(folder / name / f"{number:02}.png")
    return str(folder)


def test_random_crops_are_taken_at_full_resolution_with_the_configured_area_and_aspect_ratio(tmp_path):
    data = ImageFolder(gradient(tmp_path), image_size=32, augment={"min_area": 0.2, "max_stretch": 1.5})
    files, areas, ratios = data.load().train.rows, [], []
    for index in range(len(files)):
        for epoch in range(10):
            pixels = files.example(index, 1000 * epoch + index)[0].astype(float) / 255
            # A pixel covers 1/32 of a side of the crop, so the centers of the outer pixels are 31/32 of a side apart.
            across, along = ((pixels[..., c].max() - pixels[..., c].min()) * 32 / 31 for c in (0, 1))
            areas.append(across * along)
            ratios.append((150 * across) / (100 * along))
            assert np.ptp(pixels[..., 0], axis=0).max() < 0.01 and np.ptp(pixels[..., 1], axis=1).max() < 0.01
    assert 0.18 < min(areas) < 0.25 and 0.8 < max(areas) < 1.05
    assert 0.63 < min(ratios) < 0.75 and 1.35 < max(ratios) < 1.6


def test_random_crops_depend_only_on_their_key_and_are_not_used_in_evaluation(tmp_path):
    path = gradient(tmp_path)
    cropped, plain = (ImageFolder(path, image_size=8, augment=look).load() for look in ({"min_area": 0.1}, None))
    one, again, other = (cropped.train.rows.example(0, key)[0] for key in (5, 5, 6))
    assert np.array_equal(one, again) and not np.array_equal(one, other)
    assert np.array_equal(cropped.train.rows.example(0, None)[0], plain.train.rows.example(0, 5)[0])
    assert cropped.train.augment is None
    assert all(
        torch.equal(a, b) for (a, _), (b, _) in zip(examples_of(cropped.val), examples_of(plain.val), strict=True)
    )
