"""Layout of a folder of annotated images: which annotation files belong to which split."""

from pathlib import Path

from dltrain.data.folders import find_files, subfolders
from dltrain.datasets.annotations import Annotated, ImageIndex, split_in
from dltrain.datasets.coco_files import is_coco, read_coco, read_json
from dltrain.datasets.image_layout import TRAIN, split_of
from dltrain.datasets.voc_files import read_voc
from dltrain.datasets.voc_layout import read_list
from dltrain.errors import ConfigError, format_error

HINT = "Use COCO JSON files with images and annotations, or one Pascal VOC XML file for each image"
LISTS = Path("ImageSets") / "Main"  # folder in which Pascal VOC lists the images of each split

Parts = dict[str, list[Annotated]]


def find_annotated(root: Path) -> Parts:
    """Return the annotated images of each split.

    The names of JSON files, folders or image lists determine the splits. All images are ``train`` if there is only one
    COCO file, or if Pascal VOC files have neither image lists nor split folders.

    Raises:
        ConfigError: There are no training annotations, a split has several JSON files or folders, or a file cannot be
            read or assigned to a split.
    """
    files = [path for path in find_files(root) if path.suffix.casefold() in (".json", ".xml")]
    found = {path: content for path in sorted(files) if _is_json(path) and is_coco(content := read_json(path))}
    images = ImageIndex(root)
    if found:
        return _by_json(root, found, images)
    xml = sorted(path for path in files if not _is_json(path))
    if not xml:
        raise ConfigError(format_error("data.path", f"annotations in {root}", "none", HINT))
    return _by_xml(root, xml, images)


def _is_json(path: Path) -> bool:
    return path.suffix.casefold() == ".json"


def _by_json(root: Path, found: dict[Path, dict[str, object]], images: ImageIndex) -> Parts:
    if len(found) == 1:
        ((path, content),) = found.items()
        return {TRAIN: read_coco(path, content, images, None)}
    parts: Parts = {}
    for path, content in found.items():
        split = _split_of_file(path, root)
        if split is None or split in parts:
            expected = (
                f"at most one annotation file for each of train, val and test in {root}, with the split in its path"
            )
            raise ConfigError(format_error("data.path", expected, path.relative_to(root)))
        parts[split] = read_coco(path, content, images, split)
    return _with_training(parts, root)


def _split_of_file(path: Path, root: Path) -> str | None:
    """Return the split in the name of a file or its folders, such as ``val`` in ``instances_val2017.json``, or None."""
    names = (path.stem, *reversed(path.relative_to(root).parts[:-1]))
    return next(filter(None, map(split_in, names)), None)


def _by_xml(root: Path, files: list[Path], images: ImageIndex) -> Parts:
    folders = {folder: split for folder in subfolders(root) if (split := split_of(folder.name))}
    lists = {split: root / LISTS / f"{split}.txt" for split in ("train", "val", "test")}
    if any(path.is_file() for path in lists.values()):
        by_name = {path.stem: path for path in files}
        parts = {
            split: read_voc(_listed(path, by_name), images, split) for split, path in lists.items() if path.is_file()
        }
        return _with_training({split: listed for split, listed in parts.items() if listed}, root)
    if not folders:
        return {TRAIN: read_voc(files, images)}
    inside: dict[str, list[Path]] = {}
    for folder, split in folders.items():
        own = [path for path in files if folder in path.parents]
        if own and split in inside:
            expected = f"at most one folder of annotations for each of train, val and test in {root}"
            raise ConfigError(format_error("data.path", expected, f"a second folder for {split}: {folder.name}"))
        inside |= {split: own} if own else {}
    return _with_training({split: read_voc(own, images, split) for split, own in inside.items()}, root)


def _listed(path: Path, by_name: dict[str, Path]) -> list[Path]:
    """Return the annotation files of the images in an image list; images without annotations are ignored."""
    return [by_name[name] for name in read_list(path) if name in by_name]


def _with_training(parts: Parts, root: Path) -> Parts:
    if TRAIN not in parts:
        expected = f"annotations for training in {root}"
        got = f"only annotations for {' and '.join(parts)}" if parts else "none"
        raise ConfigError(format_error("data.path", expected, got))
    return parts
