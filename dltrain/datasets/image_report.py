"""Report on a folder of images: classes missing in a split, files left out, and images in more than one split."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path

from dltrain.data.folders import subfolders
from dltrain.datasets.class_counts import shorten_names
from dltrain.datasets.describe import count
from dltrain.datasets.image_layout import Listing, SkippedFiles, has_images, is_image, split_of

MAX_HASHED = 20_000  # maximum number of files to compare; more would delay the start of training
HEAD_BYTES = 4096  # bytes at the start of each file that are hashed first, so that few files are read completely

SplitFile = tuple[str, Path]  # split and a file in it


def missing_classes(splits: Mapping[str, Listing], classes: list[str], noun: str = "image") -> list[str]:
    """Return a line for each non-empty split without examples of some class; `noun` names an example."""
    lines = []
    for split, listing in splits.items():
        present = {label for _, label in listing}
        if listing and (absent := [name for number, name in enumerate(classes) if number not in present]):
            lines.append(f"{split} has no {noun} of {shorten_names(absent)}")
    return lines


def describe_skipped(root: Path, train: Path, skipped: SkippedFiles) -> list[str]:
    """Return a line about the files and folders that are not read, if there are any."""
    found = [f"{number:,} {suffix}" for suffix, number in skipped.suffixes.most_common()]
    if hidden := [path for path in skipped.hidden if path.is_dir() or is_image(path)]:
        found.append(f"{count(len(hidden), 'hidden or system path')} such as {hidden[0].relative_to(root)}")
    if stray := sum(is_image(file) for file in train.iterdir() if not file.is_dir()):
        found.append(f"{count(stray, 'image')} outside the class folders")
    if train != root:
        unread = [f.name for f in subfolders(root) if not split_of(f.name, prefixed=True) and has_images(f)]
        found.extend(f"folder {name}" for name in unread)
    return [f"left out: {shorten_names(found)}"] if found else []


def describe_copies(splits: Mapping[str, Listing], root: Path) -> list[str]:
    """Return a line about images with the same content in different splits.

    The list is empty if there are no such images and at most `MAX_HASHED` images had to be compared.
    """
    files = [(split, path) for split, listing in splits.items() for path, _ in listing if path.is_file()]
    candidates = [file for group in _regroup([files], _size) for file in group]
    groups = [candidates[:MAX_HASHED]]
    for key in (_size, lambda path: _digest(path, HEAD_BYTES), lambda path: _digest(path, -1)):
        groups = _regroup(groups, key)
    capped = f" among the first {MAX_HASHED:,} images with equal file sizes" if len(candidates) > MAX_HASHED else ""
    if not groups:
        return [f"copies: no image is in more than one split{capped}"] if capped else []
    first = dict(reversed(groups[0]))  # split -> its first file in the group
    pair = " and ".join(f"{first[split].relative_to(root).as_posix()} ({split})" for split in [*first][:-3:-1])
    if len(groups) > 1:
        return [f"copies: {len(groups):,} images are in more than one split{capped}, such as {pair}"]
    return [f"copies: 1 image is in more than one split{capped}: {pair}"]


def _regroup(groups: list[list[SplitFile]], key: Callable[[Path], object]) -> list[list[SplitFile]]:
    """Divide groups of files by a key, and keep the groups with files of at least two splits."""
    kept = []
    for group in groups:
        by_key: dict[object, list[SplitFile]] = defaultdict(list)
        for split, path in group:
            by_key[key(path)].append((split, path))
        kept += [files for files in by_key.values() if len({split for split, _ in files}) > 1]
    return kept


def _size(path: Path) -> int:
    return path.stat().st_size


def _digest(path: Path, size: int) -> bytes:
    with path.open("rb") as file:
        return hashlib.sha256(file.read(size)).digest()
