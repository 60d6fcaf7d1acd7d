"""Cache of files that are computed from other files; incomplete or damaged files are computed again."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from dltrain.errors import ConfigError
from dltrain.storage.safe_read import read_mapping

MANIFEST = "manifest.json"
DIGITS = 32  # number of hexadecimal digits of the hash in a folder name


def cache_root() -> Path:
    """Return the folder of caches and downloaded data sets: ``$DLTRAIN_DATA``, or ``~/.cache/dltrain``."""
    return Path(os.environ.get("DLTRAIN_DATA", "~/.cache/dltrain")).expanduser()


def computed(kind: str, key: Mapping[str, Any], compute: Callable[[Path], None]) -> Path:
    """Return the folder of the files for `key`; compute the files unless they exist and are undamaged.

    Concurrent processes wait for each other. A killed process leaves no incomplete files in this folder.

    Args:
        kind: Folder in `cache_root` for caches of this kind.
        key: Values that the files depend on, which must be serializable as JSON.
        compute: Function that writes the files into an empty folder.

    Raises:
        ConfigError: The folder cannot be written.
    """
    root, name = cache_root() / kind, hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:DIGITS]
    folder, temporary = root / name, root / f".{name}.tmp"
    if _is_complete(folder, key):
        return folder
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f".{name}.lock"):
            if not _is_complete(folder, key):
                _replace(folder, temporary, key, compute)
    except OSError as error:
        hint = "Set the environment variable DLTRAIN_DATA to another folder, or data.map_above=null"
        got = error.strerror or str(error)
        raise ConfigError(f"data.path: writing a cache to {root} failed: {got}. {hint}") from error
    return folder


def _replace(folder: Path, temporary: Path, key: Mapping[str, Any], compute: Callable[[Path], None]) -> None:
    """Compute the files in a temporary folder, and rename it; the caller holds the lock of both folders."""
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir()
        compute(temporary)
        files = {file.name: _hash(file) for file in temporary.iterdir()}
        (temporary / MANIFEST).write_text(json.dumps({"key": key, "files": files}))
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _is_complete(folder: Path, key: Mapping[str, Any]) -> bool:
    """Return whether a folder has the files for this key, with the hashes of their manifest."""
    try:
        manifest = read_mapping(folder / MANIFEST)
        if manifest.get("key") != json.loads(json.dumps(key)) or not isinstance(manifest.get("files"), dict):
            return False
        return all(_hash(folder / Path(name).name) == sha256 for name, sha256 in manifest["files"].items())
    except (OSError, ConfigError, ValueError):
        return False


def _hash(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
