"""Read and write ``fitted.pt``: the fitted state of the data, for prediction without the training files."""

import hashlib
import io
from pathlib import Path
from typing import Any

import torch

from dltrain.errors import CheckpointError
from dltrain.storage.atomic import write_durable
from dltrain.storage.checkpoint_format import canonical, describe_load_error, find_damage, load_file
from dltrain.storage.checkpoints import Checkpoints
from dltrain.storage.run_files import FITTED

FORMAT = 1


def save(folder: Path, content: dict[str, Any]) -> str:
    """Write tensors and plain Python values, without masking secrets, and return the SHA-256 of the file."""
    buffer = io.BytesIO()
    torch.save(canonical({"format": FORMAT, "data": content}), buffer)
    write_durable(folder / FITTED, buffer.getvalue())
    return hashlib.sha256(buffer.getvalue()).hexdigest()


def intact_sha256(folder: Path) -> str | None:
    """Return the SHA-256 of a run's ``fitted.pt``, or None if it is missing or damaged."""
    file = folder / FITTED
    if find_damage(file, Checkpoints(folder).fitted_sha256()):
        return None
    return hashlib.sha256(file.read_bytes()).hexdigest()


def load(folder: Path) -> dict[str, Any] | None:
    """Load a run's ``fitted.pt``; return None if the run has none (an earlier version, or data without `fit`).

    Raises:
        CheckpointError: The file is damaged or invalid, or the manifest lists it and it is missing.
    """
    file, known = folder / FITTED, Checkpoints(folder).fitted_sha256()
    if known is None and not file.exists():
        return None
    more = f"dltrain resume {folder} trainer.epochs=N"
    hint = f"To write it again from the training data, train for more epochs: {more}"
    if not file.is_file():
        raise CheckpointError(f"{file}: missing. {hint}")
    if damage := find_damage(file, known):
        raise CheckpointError(f"{file}: rejected because {damage}. {hint}")
    try:
        content = load_file(file)
        if content["format"] != FORMAT or not isinstance(content["data"], dict):
            raise ValueError("it has another format")
        return content["data"]
    except Exception as error:  # torch raises almost any exception for an invalid file
        raise CheckpointError(f"{file}: rejected because it cannot be loaded: {describe_load_error(error)}") from None
