"""Real-world image folders: which folders are splits, which are classes, and which are ignored."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dltrain.datasets import image_report
from dltrain.datasets.image_folder import ImageFolder
from dltrain.errors import ConfigError

RANDOM = np.random.default_rng(7)


def write_images(folder: Path, count: int, start: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(start, start + count):
        Image.fromarray(RANDOM.integers(0, 256, (6, 8, 3), dtype=np.uint8)).save(folder / f"{number:02}.png")
    return folder


def write_cats_and_dogs(folder: Path, count: int) -> None:
    for name in ("cat", "dog"):
        write_images(folder / name, count)


def split_sizes(data: ImageFolder) -> list[int]:
    splits = data.load()
    return [len(part or ()) for part in (splits.train, splits.val, splits.test)]


def files_of(data: ImageFolder) -> set[str]:
    data.load()
    return {path.relative_to(data.path).as_posix() for part in data.parts.values() for path, _ in part}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["train", "val"], [34, 8, 6]),  # the test split is held out of train
        (["Train", "Test"], [34, 6, 8]),
        (["train"], [29, 5, 6]),
        (["train", "val", "test"], [40, 8, 8]),
        (["TRAINING", "Validation"], [34, 8, 6]),
        (["Training Set", "valid_set", "testset"], [40, 8, 8]),
        (["train", "dev", "testing"], [40, 8, 8]),
        (["seg_train", "seg_test"], [34, 6, 8]),
        (["training_set/training_set", "test_set/test_set"], [34, 6, 8]),
    ],
)
def test_folders_named_like_splits_are_used_and_a_missing_split_is_held_out_of_train(names, expected, tmp_path):
    for number, name in enumerate(names):
        write_cats_and_dogs(tmp_path / name, 4 if number else 20)
    data = ImageFolder(str(tmp_path), image_size=4)
    assert data.classes == ["cat", "dog"] and split_sizes(data) == expected
    description = data.describe()
    assert description[0] == f"{sum(expected):,} images in {tmp_path}"
    for split, count in zip(("train", "val", "test"), expected, strict=True):
        assert f"{split} {count} from" in description[1]
    assert description[1].count("folder with images") == 3 - len(names)
    assert description[2:] == [f"classes: cat ({sum(expected) // 2}), dog ({sum(expected) // 2})"]


@pytest.mark.parametrize("names", [("bus", "car", "train"), ("invalid", "valid")])
def test_a_class_may_have_the_name_of_a_split(names, tmp_path):
    for name in names:
        write_images(tmp_path / name, 5)
    assert ImageFolder(str(tmp_path), image_size=4).classes == list(names)


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (["train/cat", "train/dog", "test/cat", "test/owl"], "only the classes cat, dog in .*, got owl"),
        (["train/Cat", "train/dog", "val/cat"], "got cat. Did you mean Cat"),
        (["val/cat", "test/cat"], "one folder per class, or train, val and test .*, got test, val. Add a folder train"),
        (["train/cat", "training/cat"], "got train, training. Keep only one folder for each split"),
        (["train/cat", "train/dog", "holdout/cat"], "got holdout, train. Rename or move folders"),
        (["cat", "dog", "test"], "got cat, dog, test"),
        (["cat", "dog", "val/cat"], "got cat, dog, val"),
        (["train/cat", "train/dog", "test"], "one folder per class in .*test, got none. Images without a class"),
        (["train", "test"], "one folder per class in .*train, got none"),
        (
            ["cat/train", "cat/test", "dog/train", "dog/test"],
            "directly in .*, got cat/test, cat/train. Swap the levels",
        ),
        (["pets/train/cat", "pets/train/dog"], "got pets/train. Set data.path=.*/pets"),
    ],
)
def test_ambiguous_and_invalid_folders_are_rejected(folders, message, tmp_path):
    for folder in folders:
        write_images(tmp_path / folder, 5)
    with pytest.raises(ConfigError, match=f"^data.path: expected .*{message}"):
        ImageFolder(str(tmp_path)).load()


def test_other_folders_next_to_split_folders_are_ignored_and_reported(tmp_path):
    for split in ("train", "test"):
        write_cats_and_dogs(tmp_path / split, 5)
    write_images(tmp_path / "samples", 2)
    data = ImageFolder(str(tmp_path), image_size=4)
    assert sum(split_sizes(data)) == 20 and "left out: folder samples" in data.describe()


@pytest.mark.parametrize(
    ("leftover", "message"),
    [
        ("cat/.ipynb_checkpoints/a.png", "cat/.ipynb_checkpoints"),
        ("cat/sub/.ipynb_checkpoints/a.png", "cat/sub/.ipynb_checkpoints"),
        ("cat/._00.png", "cat/._00.png"),
        ("cat/deep/er/__MacOSX/a.png", "cat/deep/er/__MacOSX"),
        ("dog/@eaDir/00.png/thumb.jpg", "dog/@eaDir"),
        ("__MACOSX/cat/._00.png", None),
        (".git/a.png", None),
        ("cat/Thumbs.db", None),
        ("cat/.DS_Store", None),
    ],
)
def test_hidden_and_system_files_are_ignored_at_any_depth(leftover, message, tmp_path):
    write_cats_and_dogs(tmp_path, 10)
    whole = files_of(ImageFolder(str(tmp_path)))
    target = tmp_path / leftover
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes((tmp_path / "cat" / "00.png").read_bytes())
    data = ImageFolder(str(tmp_path))
    assert data.classes == ["cat", "dog"] and files_of(data) == whole and len(whole) == 20
    expected = [f"left out: 1 hidden or system path such as {message}"] if message else []
    assert data.describe()[3:] == expected


def test_files_that_are_ignored_are_counted_by_suffix(tmp_path):
    write_cats_and_dogs(tmp_path, 5)
    for name in ("cat/a.heic", "dog/b.HEIC", "cat/notes.txt", "stray.png"):
        (tmp_path / name).write_bytes(b"")
    data = ImageFolder(str(tmp_path))
    data.load()
    assert "left out: 2 .heic, 1 .txt, 1 image outside the class folders" in data.describe()


def test_links_to_folders_are_followed_except_in_cycles(tmp_path):
    write_cats_and_dogs(tmp_path / "set", 4)
    for name in ("cat", "dog"):
        write_images(tmp_path / "elsewhere" / name, 6, start=50)
        (tmp_path / "set" / name / "more").symlink_to(tmp_path / "elsewhere" / name)
    write_images(tmp_path / "elsewhere" / "owl", 3)
    (tmp_path / "set" / "owl").symlink_to(tmp_path / "elsewhere" / "owl")
    for circle, target in (("cat/up", ".."), ("cat/self", "."), ("cat/more/back", "../../set/cat"), ("loop", ".")):
        (tmp_path / "set" / circle).symlink_to(target, target_is_directory=True)
    (tmp_path / "set" / "dog" / "again").symlink_to("more")
    data = ImageFolder(str(tmp_path / "set"))
    found = files_of(data)
    assert data.classes == ["cat", "dog", "owl"] and len(found) == 23 and "cat/more/50.png" in found
    assert "folders without images, which are not classes: loop" in data.describe()


def test_a_link_to_a_sibling_folder_adds_no_files(tmp_path):
    write_cats_and_dogs(tmp_path, 4)
    write_images(tmp_path / "cat" / "z", 2)
    before = files_of(ImageFolder(str(tmp_path)))
    (tmp_path / "cat" / "a").symlink_to("z")
    assert files_of(ImageFolder(str(tmp_path))) == before


def test_a_class_without_images_gets_no_output_and_is_reported(tmp_path):
    for split in ("train", "val"):
        write_cats_and_dogs(tmp_path / split, 10)
        (tmp_path / split / "owl").mkdir()
    (tmp_path / "train" / "emu" / "deep").mkdir(parents=True)
    (tmp_path / "train" / "emu" / "deep" / "a.txt").write_text("")
    data = ImageFolder(str(tmp_path))
    assert data.spec.classes == 2 and sum(split_sizes(data)) == 40
    assert "folders without images, which are not classes: emu, owl" in data.describe()


def test_a_class_missing_from_a_split_is_reported(tmp_path):
    write_cats_and_dogs(tmp_path / "train", 10)
    write_images(tmp_path / "test" / "dog", 3)
    data = ImageFolder(str(tmp_path))
    data.load()
    assert "test has no image of cat" in data.describe()


def test_the_number_of_duplicate_images_across_splits_is_reported_with_an_example(tmp_path, monkeypatch):
    for split in ("train", "val", "test"):
        write_cats_and_dogs(tmp_path / split, 5)
    data = ImageFolder(str(tmp_path))
    data.load()
    assert not any("copies" in line for line in data.describe())
    for name, target in (("train/cat/00.png", "test/cat/x.png"), ("val/dog/01.png", "test/dog/y.png")):
        (tmp_path / target).write_bytes((tmp_path / name).read_bytes())
    (tmp_path / "train/cat/again.png").write_bytes((tmp_path / "train/cat/01.png").read_bytes())
    data.load()
    message = "copies: 2 images are in more than one split, such as train/cat/00.png (train) and test/cat/x.png (test)"
    assert message in data.describe()
    monkeypatch.setattr(image_report, "MAX_HASHED", 1)
    assert (
        "copies: no image is in more than one split among the first 1 images with equal file sizes" in data.describe()
    )


def test_the_description_of_many_classes_has_the_sizes_of_the_first_ten_and_the_range_of_all_sizes(tmp_path):
    for number in range(12):
        write_images(tmp_path / f"c{number:02}", 2 + number)
    data = ImageFolder(str(tmp_path))
    data.load()
    assert data.describe()[2].endswith("c09 (11), ... (12 classes of 2 to 13 examples)")
