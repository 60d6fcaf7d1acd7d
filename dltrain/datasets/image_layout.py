"""Layout of a folder of images: the folders of its splits and classes, and the image files in them."""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from dltrain.data.folders import find_files, subfolders
from dltrain.data.splits import hold_out_stratified
from dltrain.datasets.image_inputs import SUFFIXES
from dltrain.errors import ConfigError, format_error, suggest

TRAIN, VAL, TEST = "train", "val", "test"
SPLIT_NAMES = {TRAIN: "training", VAL: "validation", TEST: "test"}  # in messages
# Split names that may also be class names: train (the vehicle), valid (as opposed to invalid).
ALSO_CLASSES = ("train", "valid")

# The name of a split, possibly after a prefix: Train, validation_set, seg_test.
_SPLIT = re.compile(
    r"(?P<prefix>.+[\W_])?"
    r"(?:(?P<train>train(?:ing)?)|(?P<val>val(?:id(?:ation)?)?|dev(?:elopment)?)|(?P<test>test(?:ing)?))"
    r"[\W_]*(?:(?:data)?set|data|images?|split)?",
    re.IGNORECASE,
)

Listing = list[tuple[Path, int]]  # each image file with the index of its class


@dataclass
class SkippedFiles:
    """Files in the class folders that are not read.

    Args:
        hidden: Hidden files and folders, and leftovers of operating systems and programs.
        suffixes: Number of files that are not images, by suffix, or by name if they have no suffix.
    """

    hidden: list[Path] = field(default_factory=list)
    suffixes: Counter[str] = field(default_factory=Counter)


def split_of(name: str, prefixed: bool = False) -> str | None:
    """Return the split that a folder is named after: ``train``, ``val`` or ``test``; None for any other name.

    Args:
        prefixed: Whether other words may precede the split, as in ``seg_train``.
    """
    match = _SPLIT.fullmatch(name)
    if match is None or (match["prefix"] and not prefixed):
        return None
    return next(split for split in (TRAIN, VAL, TEST) if match[split])


def is_image(file: Path) -> bool:
    """Return whether a file has the suffix of an image."""
    return file.suffix.casefold() in SUFFIXES


def has_images(folder: Path, wanted: Callable[[Path], bool] = is_image) -> bool:
    """Return whether a folder contains a `wanted` file, by default an image, at any depth."""
    return any(wanted(file) for file in find_files(folder))


def find_splits(root: Path, wanted: Callable[[Path], bool] = is_image) -> dict[str, Path]:
    """Return the folder of each split that has one; ``train`` is `root` if there are no split folders.

    Args:
        wanted: Function that returns whether a file belongs to an example; folders without such files are ignored.

    Raises:
        ConfigError: The folder names are ambiguous, the split folders are not directly in `root`, or there is no folder
            for training.
    """
    folders = [folder for folder in subfolders(root) if has_images(folder, wanted)]
    named = _named(folders)
    others = [folder for folder in folders if folder not in named]
    nested = {split for folder, split in named.items() if subfolders(folder)}
    if not nested and others and all(folder.name.casefold() in ALSO_CLASSES for folder in named):
        named = {}
    if not named:
        _reject_splits_below(root, folders)
        return {TRAIN: root}
    splits = {split: folder for folder, split in named.items()}
    if TRAIN not in splits or len(splits) < len(named) or (others and (len(named) == 1 or TRAIN not in nested)):
        expected = f"one folder per class, or train, val and test with one folder per class in each, in {root}"
        hint = "Rename or move folders so that all are splits or all are classes"
        if not others:
            hint = "Add a folder train" if TRAIN not in splits else "Keep only one folder for each split"
        raise ConfigError(format_error("data.path", expected, ", ".join(folder.name for folder in folders), hint))
    return {split: _unwrap(folder) for split, folder in splits.items()}


def _named(folders: list[Path]) -> dict[Path, str]:
    """Return the split of each folder named after a split.

    Prefixed names (``seg_train``) are recognized only if every folder is a different split with subfolders, and one is
    for training.
    """
    strict, prefixed = ({f: s for f in folders if (s := split_of(f.name, loose))} for loose in (False, True))
    only_splits = len(prefixed) == len(folders) == len(set(prefixed.values())) and TRAIN in prefixed.values()
    return prefixed if only_splits and all(map(subfolders, prefixed)) else strict


def _unwrap(folder: Path) -> Path:
    """Return the innermost folder of a chain such as ``train/train``."""
    inner = subfolders(folder)
    same = len(inner) == 1 and split_of(inner[0].name, True) == split_of(folder.name, True)
    return _unwrap(inner[0]) if same else folder


def _reject_splits_below(root: Path, folders: list[Path]) -> None:
    """Raise ConfigError if split folders are inside class folders, or one level too deep."""
    for folder in folders:
        named = [inner for inner in subfolders(folder) if split_of(inner.name)]
        if len({split_of(inner.name) for inner in named}) > 1 or any(map(subfolders, named)):
            expected = f"splits (train, val, test) directly in {root}"
            got = ", ".join(inner.relative_to(root).as_posix() for inner in named)
            hint = (
                f"Set data.path={folder}" if len(folders) == 1 else "Swap the levels: train/<class>, not <class>/train"
            )
            raise ConfigError(format_error("data.path", expected, got, hint))


def class_names(root: Path, split: str = TRAIN) -> tuple[list[str], list[str]]:
    """Return the names of a split's class folders with images, and the names of its class folders without images.

    Raises:
        ConfigError: No folder contains an image.
    """
    folders = subfolders(root)
    if not folders:
        unlabeled = f"Images without a class cannot be evaluated: move the folder {root.name} out of data.path"
        hint = "" if split == TRAIN else unlabeled
        raise ConfigError(format_error("data.path", f"one folder per class in {root}", "none", hint))
    with_images = [folder.name for folder in folders if has_images(folder)]
    if not with_images:
        raise ConfigError(format_error("data.path", f"images ({', '.join(SUFFIXES)}) in {root}", "none"))
    return with_images, [folder.name for folder in folders if folder.name not in with_images]


def list_images(root: Path, split: str, classes: list[str], skipped: SkippedFiles) -> Listing:
    """Return each image of a split with the index of its class, in alphabetical order.

    Raises:
        ConfigError: The split has no images, or a class folder is not in `classes`.
    """
    with_images, _ = class_names(root, split)
    if unknown := sorted(set(with_images) - set(classes)):
        expected = f"only the classes {', '.join(classes)} in {root}"
        raise ConfigError(format_error("data.path", expected, unknown[0], suggest(unknown[0], classes)))
    found: Listing = []
    for number, name in enumerate(classes):
        if name in with_images:
            files = list(find_files(root / name, skipped.hidden))
            skipped.suffixes.update(file.suffix.casefold() or file.name for file in files if not is_image(file))
            found.extend((file, number) for file in sorted(filter(is_image, files)))
    return found


def split_listing(listing: Listing, fraction: float) -> tuple[Listing, Listing]:
    """Return the examples to keep and the examples to hold out, with the same fraction of each class."""
    kept, held_out = hold_out_stratified(torch.tensor([label for _, label in listing]), fraction)
    return [listing[index] for index in kept.tolist()], [listing[index] for index in held_out.tolist()]
