"""Data sets that torchvision downloads: once, whole, with the hash that it knows, and into their own folder only."""

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

SILENCE_S = 60  # a server that says nothing for so long is given up


def not_there(name: str, root: Path, missing: Path) -> ConfigError:
    """The refusal of a set whose files are not there, with the command that fetches them."""
    command = f"dltrain data={name} data.download=true data.root={shlex.quote(str(root))}"
    hint = f"{missing.relative_to(root)} is not there. This command downloads the files: {command}"
    return ConfigError(format_error("data.root", f"the folder that holds the files of {name}", root, hint))


def fetch(dataset: str, root: Path, whole: Callable[[], bool]) -> None:
    """Download one of torchvision's sets into ``root``; processes that want the same wait for each other.

    A file gets its place when all of them are whole, so nobody meets half of one, whatever ends the download.

    Args:
        dataset: Its class in torchvision.
        root: The folder of all sets.
        whole: Whether its files are there: while this process waited, another may have fetched them.

    Raises:
        ConfigError: With what went wrong, and the command that fetches the files by hand.
    """
    # torchvision takes seconds to import, and only a download needs it.
    from torchvision import datasets

    kind, fresh = getattr(datasets, dataset), root / f".fetching-{dataset}"
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f".{dataset}.lock"), _empty(fresh), _careful():
            if not whole():
                kind(fresh, download=True)
                _publish(fresh, root)
    except (OSError, RuntimeError, HTTPException, tarfile.TarError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
        wanted = format_error("data.download", f"to download {dataset} into {root}", reason)
        hint = f"Check the network and the folder. By hand: {by_hand(kind, root)}"
        raise ConfigError(f"{wanted}. {hint}") from error


def by_hand(kind: Any, root: Path) -> str:
    """The command that does the same on a machine with a network, as torchvision's class describes it."""
    folder = shlex.quote(str(root))
    if hasattr(kind, "mirrors"):
        raw = shlex.quote(str(root / kind.__name__ / "raw"))
        urls = " ".join(f"{kind.mirrors[0]}{name}" for name, _ in kind.resources)
        return f"mkdir -p {raw} && cd {raw} && curl -fL --remote-name-all {urls} && gunzip *.gz"
    return f"mkdir -p {folder} && curl -fL {kind.url} | tar xz -C {folder}"


@contextmanager
def _empty(folder: Path) -> Iterator[None]:
    """A folder without what a process that was killed has left in it; afterwards it is gone."""
    shutil.rmtree(folder, ignore_errors=True)
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _careful() -> Iterator[None]:
    """Wait for no server without end, and let no archive write outside its folder (torchvision before 0.29 would)."""
    if hasattr(tarfile, "data_filter"):  # Python 3.11.4
        tarfile.TarFile.extraction_filter = staticmethod(tarfile.data_filter)
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SILENCE_S)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _publish(fresh: Path, root: Path) -> None:
    """Move every file to its place."""
    for file in sorted(path for path in fresh.rglob("*") if path.is_file()):
        place = root / file.relative_to(fresh)
        place.parent.mkdir(parents=True, exist_ok=True)
        os.replace(file, place)
