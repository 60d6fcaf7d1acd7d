import numpy as np
import pytest
from PIL import Image

from dltrain.data.loader import Batches
from dltrain.datasets.image_folder import ImageFolder
from dltrain.errors import ConfigError

COLOURS = {"blue": (0, 0, 255), "green": (0, 255, 0), "red": (255, 0, 0)}


def paint(folder, counts, size=(20, 20)):
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", size, COLOURS[name]).save(folder / name / f"{number:03}.png")
    return str(folder)


def joined(source, workers=0, **arguments):
    batches = list(Batches(source, 4, workers=workers, **arguments))
    return [
        (batch["inputs"][row], int(batch["targets"][row])) for batch in batches for row in range(len(batch["inputs"]))
    ]


def test_one_level_of_classes_is_split_by_fraction_within_each_class(tmp_path):
    data = ImageFolder(paint(tmp_path, {"red": 20, "blue": 40}), image_size=8, validation=0.25, test=0.2)
    assert data.spec.shape == (3, 8, 8) and data.spec.class_names == ("blue", "red")
    splits = data.load()
    assert [len(part) for part in (splits.train, splits.val, splits.test)] == [36, 12, 12]
    assert [label for _, label in joined(splits.test)].count(1) == 4
    assert [label for _, label in joined(splits.val)].count(1) == 4
    listings = [set(part.rows.listing) for part in (splits.train, splits.val, splits.test)]
    assert len(set.union(*listings)) == 60


def test_train_and_test_folders_are_kept_apart(tmp_path):
    paint(tmp_path / "train", {"red": 8, "green": 8})
    paint(tmp_path / "test", {"red": 2, "green": 3})
    splits = ImageFolder(str(tmp_path), image_size=4, validation=0).load()
    assert (len(splits.train), splits.val, len(splits.test)) == (16, None, 5)


def test_a_picture_reaches_the_model_in_its_colours_with_its_label(tmp_path):
    splits = ImageFolder(paint(tmp_path, {"red": 6, "green": 6}), image_size=5).load()
    for pixels, label in joined(splits.train):
        expected = np.array(COLOURS[["green", "red"][label]]) / 127.5 - 1
        np.testing.assert_allclose(pixels.numpy(), np.broadcast_to(expected[:, None, None], (3, 5, 5)), atol=1e-5)


def test_the_longer_side_is_cut_in_equal_parts(tmp_path):
    (tmp_path / "a").mkdir()
    stripes = np.zeros((10, 30, 3), dtype=np.uint8)
    stripes[:, 10:20] = 255
    for number in range(5):
        Image.fromarray(stripes).save(tmp_path / "a" / f"{number}.png")
    pixels, _ = joined(ImageFolder(str(tmp_path), image_size=10).load().train)[0]
    np.testing.assert_allclose(pixels.numpy(), 1, atol=1e-5)


def test_grey_and_transparent_pictures_become_colour(tmp_path):
    (tmp_path / "a").mkdir()
    for number, mode in enumerate(["L", "RGBA", "P", "1", "LA"]):
        Image.new(mode, (9, 7)).save(tmp_path / "a" / f"{number}.png")
    splits = ImageFolder(str(tmp_path), image_size=4).load()
    assert {tuple(pixels.shape) for pixels, _ in joined(splits.train)} == {(3, 4, 4)}


def test_training_sees_the_shades_of_16_bits_and_white_below_what_is_transparent(tmp_path):
    (tmp_path / "a").mkdir()
    for number in range(4):
        Image.fromarray(np.full((9, 9), 128 * 257, dtype=np.uint16)).save(tmp_path / "a" / f"deep{number}.png")
        Image.new("RGBA", (9, 9), (0, 0, 0, 127)).save(tmp_path / "a" / f"clear{number}.png")
    for pixels, _ in joined(ImageFolder(str(tmp_path), image_size=4, mean=0, std=1).load().train):
        np.testing.assert_allclose(pixels.numpy(), 128 / 255, atol=1e-6)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_corrupt_picture_is_refused_with_its_file_and_index(workers, tmp_path):
    paint(tmp_path / "train", {"red": 5})
    paint(tmp_path / "test", {"red": 2})
    broken = tmp_path / "test" / "red" / "001.png"
    broken.write_bytes(broken.read_bytes()[:40])
    splits = ImageFolder(str(tmp_path)).load()
    with pytest.raises(ConfigError) as caught:
        joined(splits.test, workers)
    assert "test/red/001.png (number 1 of its split)" in str(caught.value)


@pytest.mark.parametrize(
    ("make", "part"),
    [
        (lambda root: None, "one folder per class"),
        (lambda root: (root / "a").mkdir(), "none"),
        (lambda root: (paint(root / "train", {"red": 3}), paint(root / "test", {"blue": 3})), "the classes red"),
    ],
)
def test_a_folder_that_makes_no_sense_is_refused(make, part, tmp_path):
    make(tmp_path)
    with pytest.raises(ConfigError) as caught:
        ImageFolder(str(tmp_path)).load()
    assert part in str(caught.value)


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"data\.path"):
        ImageFolder(str(tmp_path / "none"))
