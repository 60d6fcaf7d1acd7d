"""Find files in folders, except for leftovers of operating systems and programs."""

import os
from collections.abc import Iterator
from pathlib import Path

from dltrain.errors import ConfigError, format_error

LEFTOVERS = ("__macosx", "@eadir", "$recycle.bin", "lost+found", "thumbs.db", "desktop.ini")


def is_leftover(name: str) -> bool:
    """Return whether a file or folder is hidden, or created by an operating system, a file server or an archiver."""
    return name.startswith(".") or name.casefold() in LEFTOVERS


def subfolders(root: Path) -> list[Path]:
    """Return the folders in `root` and the links to folders, without leftovers, in alphabetical order."""
    return sorted(entry for entry in root.iterdir() if entry.is_dir() and not is_leftover(entry.name))


def find_files(root: Path, leftovers: list[Path] | None = None) -> Iterator[Path]:
    """Yield the files below a folder at any depth, without leftovers, in no particular order.

    Links to folders are followed. Each folder is read once, and parents of `root` are skipped, so the search
    ends even if links form a cycle.

    Args:
        leftovers: List to which the skipped files and folders are added.

    Raises:
        ConfigError: A folder cannot be read.
    """
    seen = {os.path.realpath(parent) for start in (root.absolute(), root.resolve()) for parent in start.parents}
    folders, links = [str(root)], list[str]()
    while folders or links:
        folder = (folders or links).pop()  # folders before links to them
        real = os.path.realpath(folder)
        if real in seen:
            continue
        seen.add(real)
        for entry in _entries(folder):
            if is_leftover(entry.name):
                if leftovers is not None:
                    leftovers.append(Path(entry))
            elif entry.is_dir():
                (links if entry.is_symlink() else folders).append(entry.path)
            else:
                yield Path(entry)


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise ConfigError(format_error("data.path", f"a readable folder at {folder}", error.strerror)) from error
