"""Images with masks in two folders, and the synthetic shapes."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dltrain.data.loader import Batches
from dltrain.datasets.image_masks import ImageMasks
from dltrain.datasets.shapes import Shapes
from dltrain.errors import ConfigError


def write(root: Path, masks: dict[str, Image.Image], size: tuple[int, int] = (12, 8)) -> str:
    """Write each mask and an image for it; the gray level of the image is the position of the mask in `masks`."""
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for number, (name, mask) in enumerate(masks.items()):
        Image.new("RGB", size, (number, number, number)).save(root / "images" / f"{name}.jpg", quality=100)
        mask.save(root / "masks" / f"{name}.png")
    return str(root)


def checkered(values: tuple[int, ...] = (0, 1, 2), size: tuple[int, int] = (12, 8)) -> Image.Image:
    return Image.fromarray(np.resize(np.repeat(np.array(values, np.uint8), 2), size[::-1]))


def many(root: Path, count: int = 20, values: tuple[int, ...] = (0, 1, 2)) -> str:
    return write(root, {f"{number:02}": checkered(values) for number in range(count)})


def decoded(data: ImageMasks) -> np.ndarray:
    return data.load().train.rows.example(0, None)[1]


def test_classes_are_palette_indices_and_not_colors(tmp_path: Path) -> None:
    mask = checkered()
    indices = np.array(mask)
    mask.putpalette([9, 9, 9, 200, 0, 0, 1, 2, 3])
    data = ImageMasks(write(tmp_path, {f"{n:02}": mask for n in range(20)}), image_size=24)
    assert data.spec.pixel_classes == 3 and data.spec.pixel_class_names == ("0", "1", "2")
    expected = np.array(Image.fromarray(indices).resize((24, 24), Image.Resampling.NEAREST))
    assert np.array_equal(decoded(data), expected)


def test_mask_values_with_gaps_become_consecutive_classes_and_the_ignored_value_becomes_minus_one(
    tmp_path: Path,
) -> None:
    data = ImageMasks(many(tmp_path, values=(10, 40, 255)), image_size=24, workers=0)
    assert data.spec.pixel_class_names == ("10", "40")
    targets = next(iter(Batches(data.load().train, 4)))["targets"]
    assert set(targets.unique().tolist()) == {-1, 0, 1}


def test_both_values_of_a_mask_of_0_and_255_are_classes(tmp_path: Path) -> None:
    data = ImageMasks(many(tmp_path, values=(0, 255)))
    assert data.spec.pixel_class_names == ("0", "255") and set(np.unique(decoded(data))) == {0, 1}


@pytest.mark.parametrize("ignore", [255, None])
def test_two_class_names_are_assigned_to_the_mask_values_0_and_255(tmp_path: Path, ignore: int | None) -> None:
    data = ImageMasks(many(tmp_path, values=(0, 255)), class_names=["background", "cell"], ignore=ignore)
    assert data.spec.pixel_class_names == ("background", "cell") and set(np.unique(decoded(data))) == {0, 1}


def test_two_class_names_are_assigned_to_0_and_1_if_255_marks_pixels_without_a_class(tmp_path: Path) -> None:
    data = ImageMasks(many(tmp_path, values=(0, 1, 255)), class_names=["background", "cell"])
    assert set(np.unique(decoded(data))) == {0, 1, 255}


def test_class_names_are_assigned_to_consecutive_mask_values_from_0(tmp_path: Path) -> None:
    data = ImageMasks(many(tmp_path, values=(0, 2)), class_names=["rest", "cell", "wall"])
    assert data.spec.pixel_classes == 3 and set(np.unique(decoded(data))) == {0, 2}


def test_all_images_of_a_block_are_in_one_split(tmp_path: Path) -> None:
    data = ImageMasks(many(tmp_path, 40), block=5, validation=0.25, test=0.25)
    numbers = {part: [int(image.stem) for image, _ in pairs] for part, pairs in data.pairs.items()}
    assert sorted(itertools.chain(*numbers.values())) == list(range(40))
    assert {part: len(found) for part, found in numbers.items()} == {"train": 20, "test": 10, "val": 10}
    blocks = {part: {number // 5 for number in found} for part, found in numbers.items()}
    assert sum(map(len, blocks.values())) == 8


def test_folders_named_like_splits_contain_the_images_and_masks_of_these_splits(tmp_path: Path) -> None:
    for part, count in (("train", 10), ("val", 3), ("test", 4)):
        many(tmp_path / part, count)
    splits = ImageMasks(str(tmp_path)).load()
    assert [len(part) for part in (splits.train, splits.val, splits.test)] == [10, 3, 4]


def test_image_and_mask_have_the_same_crop_at_full_resolution(tmp_path: Path) -> None:
    across = np.broadcast_to(np.arange(240, dtype=np.uint8), (160, 240))
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    for number in range(10):
        Image.fromarray(across).save(tmp_path / "images" / f"{number}.png")
        Image.fromarray(across // 24).save(tmp_path / "masks" / f"{number}.png")
    data = ImageMasks(str(tmp_path), image_size=32, channels=1, augment={"min_area": 0.1})
    files, starts = data.load().train.rows, set()
    for key in range(20):
        pixels, mask = files.example(0, key)
        # Pixels near the boundary between two classes are not compared.
        near = np.abs(pixels[..., 0].astype(int) - 24 * np.round(pixels[..., 0] / 24)) < 8
        assert np.array_equal(mask[~near], (pixels[..., 0] // 24)[~near])
        starts.add(int(pixels[0, 0, 0]))
    assert len(starts) > 10
    assert np.array_equal(files.example(0, 3)[1], files.example(0, 3)[1])


def test_images_and_masks_are_transformed_together() -> None:
    data = Shapes(examples=200, augment={"flip": True, "shift": 3, "rotation": 10.0})
    source = data.load().train
    plain = next(iter(Batches(source, 200)))
    moved = source.augment(plain, torch.arange(200))
    # Shapes are brighter than the background, also within the transformed masks.
    for batch in (plain, moved):
        shape, rest = batch["targets"] > 0, batch["targets"] == 0
        assert batch["inputs"][:, 0][shape].mean() > batch["inputs"][:, 0][rest].mean() + 1
    assert not torch.equal(plain["targets"], moved["targets"])
    assert (moved["targets"] == -1).any()


def test_shapes_are_the_same_each_time_they_are_loaded_and_every_class_occurs() -> None:
    one, other = (Shapes(examples=100).load() for _ in range(2))
    assert torch.equal(one.train.rows["pixels"], other.train.rows["pixels"])
    for split in (one.train, one.val, one.test):
        assert set(split.rows["masks"].unique().tolist()) == {0, 1, 2, 3}


def test_validation_and_test_images_do_not_depend_on_the_number_of_training_images() -> None:
    few, many = Shapes(examples=50).load(), Shapes(examples=500).load()
    for one, other in ((few.val, many.val), (few.test, many.test)):
        assert torch.equal(one.rows["pixels"], other.rows["pixels"])
    pictures = torch.cat([part.rows["pixels"] for part in (many.train, many.val, many.test)]).flatten(1)
    assert len(many.train) == 500 and len(pictures.unique(dim=0)) == 700


def test_mixup_is_rejected_for_masks() -> None:
    with pytest.raises(ConfigError, match=r"augment\.mixup augment\.cutmix: not supported because"):
        Shapes(augment={"mixup": 0.2}).load()


def rgb_mask(root: Path) -> None:
    Image.new("RGB", (12, 8)).save(root / "masks" / "00.png")


def larger_mask(root: Path) -> None:
    checkered(size=(14, 8)).save(root / "masks" / "00.png")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (rgb_mask, "colors (RGB), but"),
        (larger_mask, "a mask of 14 x 8 pixels for an image of 12 x 8"),
        (
            lambda root: checkered((0, 7)).save(root / "masks" / "00.png"),
            "the value 7 in the mask, which is none of 0 1 2",
        ),
        (lambda root: (root / "masks" / "00.png").write_bytes(b"none"), "cannot identify"),
    ],
)
def test_an_unusable_mask_is_rejected_with_the_path_of_its_image(damage: object, message: str, tmp_path: Path) -> None:
    path = many(tmp_path)
    damage(tmp_path)  # type: ignore[operator]
    files = ImageMasks(path, class_names=["a", "b", "c"]).load()
    (listing,) = [part.rows for part in (files.train, files.val, files.test) if "00.png" in str(part.rows.pairs)]
    with pytest.raises(ConfigError) as caught:
        listing.example(next(n for n, (image, _) in enumerate(listing.pairs) if image.stem == "00"), None)
    assert message in str(caught.value) and "images/00.jpg" in str(caught.value)


def test_an_image_without_a_mask_is_rejected_with_its_name(tmp_path: Path) -> None:
    path = many(tmp_path)
    (tmp_path / "masks" / "07.png").unlink()
    with pytest.raises(ConfigError, match="for each image, got none for 07"):
        ImageMasks(path)


@pytest.mark.parametrize(
    ("arguments", "key"), [({"ignore": 300}, "ignore"), ({"channels": 2}, "channels"), ({"block": 30}, "block")]
)
def test_an_invalid_argument_is_rejected_with_its_key(arguments: dict[str, int], key: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"data.{key}: "):
        ImageMasks(many(tmp_path), **arguments)


@pytest.mark.parametrize(
    ("block", "message"), [(5, "data.block: expected a size .*, got 5"), (1, "data.path: expected at least one image")]
)
def test_splits_that_leave_no_training_images_are_rejected(block: int, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"^{message}"):
        ImageMasks(many(tmp_path, 2 * block), block=block)


def test_masks_in_another_folder_are_read_with_the_classes_of_the_fitted_data(tmp_path: Path) -> None:
    fitted = ImageMasks(many(tmp_path / "own", values=(10, 40, 255))).fit()
    other = ImageMasks(many(tmp_path / "other", count=7, values=(40,)), fitted=fitted)
    assert other.spec.pixel_class_names == ("10", "40")
    source = other.evaluation()
    batch = next(iter(Batches(source, 7)))
    assert len(source) == 7 and batch["targets"].unique().tolist() == [1]
    assert ImageMasks(str(tmp_path / "none"), fitted=fitted).spec == other.spec


def test_a_test_folder_next_to_the_training_images_is_the_test_split(tmp_path: Path) -> None:
    many(tmp_path)
    many(tmp_path / "test", 3)
    data = ImageMasks(str(tmp_path), validation=0.25)
    assert {part: len(pairs) for part, pairs in data.pairs.items()} == {"train": 15, "val": 5, "test": 3}
