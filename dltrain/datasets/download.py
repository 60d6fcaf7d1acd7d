"""Download data sets with torchvision: one process at a time, verified by hash, without partial files."""

import os
import shlex
import shutil
import socket
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any

from filelock import FileLock

from dltrain.errors import ConfigError, format_error

TIMEOUT_S = 60  # maximum wait for data from the server


def missing_files_error(name: str, root: Path, missing: Path) -> ConfigError:
    """Return the error for missing files of a data set, with a hint on how to download them."""
    hint = f"{missing.relative_to(root)} is missing. Add data.download=true to the command to download the files."
    return ConfigError(format_error("data.root", f"a folder with the files of {name}", root, hint))


def download_dataset(dataset: str, root: Path, is_complete: Callable[[], bool]) -> None:
    """Download a torchvision data set into ``root``; concurrent downloads of the same data set wait for each other.

    Files are moved into ``root`` after all of them are complete, so an interrupted download leaves no partial file.

    Args:
        dataset: Name of the class in torchvision.datasets.
        root: Folder of all data sets.
        is_complete: Function that returns whether all files are complete; called after waiting for other downloads.

    Raises:
        ConfigError: The download failed; the message has a command to download the files by hand.
    """
    # torchvision takes seconds to import, and only a download needs it.
    from torchvision import datasets

    kind, temporary = getattr(datasets, dataset), root / f".fetching-{dataset}"
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f".{dataset}.lock"), _empty_folder(temporary), _safe_network():
            if not is_complete():
                kind(temporary, download=True)
                _move_files(temporary, root)
    except (OSError, RuntimeError, HTTPException, tarfile.TarError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
        hint = f"Check the network and the folder. To download by hand: {shell_command(kind, root)}"
        raise ConfigError(f"data.download: downloading {dataset} into {root} failed: {reason}. {hint}") from error


def shell_command(kind: Any, root: Path) -> str:
    """Return a shell command that downloads and unpacks the files from the URLs in torchvision's class."""
    folder = shlex.quote(str(root))
    if hasattr(kind, "mirrors"):
        raw = shlex.quote(str(root / kind.__name__ / "raw"))
        urls = " ".join(f"{kind.mirrors[0]}{name}" for name, _ in kind.resources)
        return f"mkdir -p {raw} && cd {raw} && curl -fL --remote-name-all {urls} && gunzip *.gz"
    return f"mkdir -p {folder} && curl -fL {kind.url} | tar xz -C {folder}"


@contextmanager
def _empty_folder(folder: Path) -> Iterator[None]:
    """Remove the folder on exit, and on entry if a killed process has left it."""
    shutil.rmtree(folder, ignore_errors=True)
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _safe_network() -> Iterator[None]:
    """Set a network timeout, and prevent archives from writing outside their folder.

    torchvision itself restricts archives only from version 0.29 on.
    """
    if hasattr(tarfile, "data_filter"):  # from Python 3.11.4 on
        tarfile.TarFile.extraction_filter = staticmethod(tarfile.data_filter)
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT_S)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _move_files(source: Path, target: Path) -> None:
    for file in sorted(path for path in source.rglob("*") if path.is_file()):
        destination = target / file.relative_to(source)
        destination.parent.mkdir(parents=True, exist_ok=True)
        os.replace(file, destination)
