"""Images and masks in the layout of Pascal VOC, where a list of names defines each split."""

from pathlib import Path

from dltrain.datasets.mask_files import Pair
from dltrain.datasets.text_content import not_utf8
from dltrain.errors import ConfigError, format_error

IMAGES, MASKS, LISTS = "JPEGImages", "SegmentationClass", Path("ImageSets", "Segmentation")
PARTS = ("train", "val", "test")


def has_voc_layout(root: Path) -> bool:
    """Return whether a folder has the subfolders of Pascal VOC for images, masks and lists."""
    return all((root / folder).is_dir() for folder in (IMAGES, MASKS, LISTS))


def find_voc_pairs(root: Path) -> dict[str, list[Pair]]:
    """Return the images and masks of each split, as listed in ``train.txt``, ``val.txt`` and ``test.txt``.

    A split without a list or with an empty list is left out. The test split is also left out if it has no masks,
    because the test masks of Pascal VOC 2012 are not public.

    Raises:
        ConfigError: ``train.txt`` is missing or empty, a listed file is missing, or a list is not UTF-8.
    """
    found = {part: read_list(root / LISTS / f"{part}.txt") for part in PARTS}
    if not found["train"]:
        raise ConfigError(format_error("data.path", f"names in {root / LISTS / 'train.txt'}", "none"))
    if not any(_mask(root, name).is_file() for name in found["test"]):
        found["test"] = []
    return {part: [_pair(root, name) for name in names] for part, names in found.items() if names}


def read_list(file: Path) -> list[str]:
    """Return the first word of each line of a UTF-8 file; [] if the file does not exist."""
    if not file.is_file():
        return []
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise not_utf8(file, error, hint="") from error
    return [line.split()[0] for line in lines if line.strip()]


def _mask(root: Path, name: str) -> Path:
    return root / MASKS / f"{name}.png"


def _pair(root: Path, name: str) -> Pair:
    pair = root / IMAGES / f"{name}.jpg", _mask(root, name)
    for file in pair:
        if not file.is_file():
            raise ConfigError(format_error("data.path", f"the file {file}, which is listed in {root / LISTS}", "none"))
    return pair
