"""The manifest of a checkpoints folder: step, metric, SHA-256 and size of each file."""

import re
from pathlib import Path
from typing import Any

from dltrain.storage import safe_read
from dltrain.storage.run_files import MANIFEST

# Files listed in the manifest may be deleted, so a manifest must not name anything else.
CHECKPOINT_NAME = re.compile(r"step-[\d-]+\.pt")


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return file name -> entry of a checkpoints folder; empty if the manifest is missing or invalid."""
    entries = safe_read.read_mapping(folder / MANIFEST)
    return entries if all(is_entry(name, entry) for name, entry in entries.items()) else {}


def is_entry(name: str, entry: Any) -> bool:
    """Return whether a manifest entry is valid: a checkpoint's name, and numbers or null except for the hash."""
    if not (CHECKPOINT_NAME.fullmatch(name) and name.isascii() and isinstance(entry, dict)):
        return False
    complete = entry.keys() >= {"step", "best", "sha256"} and type(entry["step"]) is int
    values = [value for key, value in entry.items() if key not in ("step", "best", "sha256") and value is not None]
    numeric = all(isinstance(value, float) or safe_read.is_number(value) for value in values)
    return complete and numeric and isinstance(entry["sha256"], str)


def sort_by_step(files: dict[str, Any]) -> list[str]:
    """Return file names, oldest first; checkpoints of the same step in the order they were written."""
    return sorted(files, key=lambda name: (files[name]["step"], len(name), name))


def step_of(name: str) -> int:
    """Return the step in a checkpoint's file name, or -1."""
    digits = name.removeprefix("step-").split("-")[0].split(".")[0]
    return int(digits) if digits.isascii() and digits.isdigit() else -1
