"""Contents of a checkpoint: deterministic bytes, format versions, loading of tensors and plain Python values only."""

import hashlib
import io
import re
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import torch

from dltrain.errors import CheckpointError

FORMAT = 3
REQUIRED = ("model", "average", "optimizers", "schedules", "record", "parts", "task", "loop", "bad_samples", "rng")
# Errors that `load_state_dict` methods of torch and users' classes raise for a state that does not fit.
STATE_ERRORS = (RuntimeError, ValueError, TypeError, LookupError, AttributeError)
MAX_DIFFERENCES = 6  # shown in an error message


def canonical(value: Any) -> Any:
    """Copy a state to the CPU so that equal states are saved as equal bytes.

    Pickle encodes which objects are identical, so containers are rebuilt and strings interned. A tensor that views a
    larger storage is cloned, since torch.save would write the whole storage.
    """
    if isinstance(value, torch.Tensor):
        tensor = value.detach().cpu()
        owns_storage = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
        return tensor if owns_storage else tensor.clone()
    if isinstance(value, dict):
        return {canonical(key): canonical(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(canonical, value))
    return sys.intern(value) if type(value) is str else value


def load_file(file: Path | IO[bytes]) -> Any:
    """Load a torch file onto the CPU as tensors and plain Python values; invalid files raise almost any exception."""
    return torch.load(file, map_location="cpu", weights_only=True)


def load_error(value: Any) -> str | None:
    """Return the reason why a checkpoint with `value` could not be loaded, or None."""
    file = io.BytesIO()
    try:
        torch.save(canonical(value), file)
        file.seek(0)
        load_file(file)
    except Exception as error:  # pickle raises almost any exception
        return describe_load_error(error)
    return None


def describe_load_error(error: Exception) -> str:
    """Return the reason in an error of torch.load, without its advice to load the file unsafely."""
    text = str(error).strip()
    reason = re.search(r"(Trying to load|Unsupported) .*?(?=\. |\.?\n|$)", text)
    return reason[0] if reason else text.split(". ")[0].split("\n")[0] or type(error).__name__


def find_damage(file: Path, sha256: str | None) -> str | None:
    """Return what is wrong with a file, or None; without `sha256`, check the CRCs of its zip entries."""
    if not file.is_file():
        return "it is missing"
    try:
        if sha256 is None:
            with zipfile.ZipFile(file) as archive:
                entry = archive.testzip()
            return f"it is damaged: the checksum of {entry} does not match" if entry else None
        with open(file, "rb") as content:
            actual = hashlib.file_digest(content, "sha256").hexdigest()
    except (zipfile.BadZipFile, EOFError):
        return "it is damaged: the file is truncated or not a checkpoint"
    except OSError as error:
        return f"it cannot be read: {error.strerror}"
    return None if actual == sha256 else f"it is damaged: its sha256 is {actual[:12]}…, expected {sha256[:12]}…"


def upgrade(content: Any) -> dict[str, Any]:
    """Convert a loaded checkpoint to the current format; raise `ValueError` if it is invalid.

    Format 1 stored each schedule inside its optimizer. In formats 1 and 2, the keys of ``record`` were the
    names of losses; format 3 stores losses by turn, which is one optimizer's update within a step.
    """
    version = content.get("format") if isinstance(content, dict) else None
    if type(version) is not int or version not in range(1, FORMAT + 1):
        hint = ". A newer dltrain wrote it" if isinstance(version, int) and version > FORMAT else ""
        raise ValueError(f"its format is {version}, expected 1 to {FORMAT}{hint}")
    if version == 1 and isinstance(content.get("optimizers"), dict):
        states = {turn: state for turn, state in content["optimizers"].items() if isinstance(state, dict)}
        content["schedules"] = {turn: state.pop("schedule", {}) for turn, state in states.items()}
    if version < FORMAT and isinstance(content.get("record"), dict) and isinstance(content.get("optimizers"), dict):
        content["record"] = _by_turn(content["record"], list(content["optimizers"]))
    content["format"] = FORMAT
    if missing := [key for key in REQUIRED if key not in content]:
        raise ValueError(f"it lacks {', '.join(missing)}")
    average = content["average"]
    averaged = average.get("model") if isinstance(average, dict) else average
    if not isinstance(content["model"], dict) or not (average is None or isinstance(averaged, dict)):
        raise ValueError("it has no named weights")
    if not isinstance(content["loop"], dict) or type(content["loop"].get("step")) is not int:
        raise ValueError("it has no step")
    return content


def _by_turn(record: dict[str, Any], turns: list[str]) -> dict[str, Any]:
    """Convert losses stored by name to losses by turn; only the first turn of a task had loss parts."""
    names = {"loss" if turn == "train" else f"loss_{turn}": turn for turn in turns}
    losses = {names[name]: pairs for name, pairs in record.items() if name in names}
    parts = {name: pairs for name, pairs in record.items() if name not in names}
    return {"losses": losses, "parts": {turns[0]: parts} if parts and turns else {}}


def effective_weights(state: dict[str, Any]) -> dict[str, Any]:
    """Return the weights to evaluate: the moving average if the checkpoint has one."""
    return state["model"] if state["average"] is None else state["average"]["model"]


def reject_mismatch(file: str, saved: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Raise a `CheckpointError` if weights are missing, unexpected or of a different shape; the message names them."""
    lines = [f"{name} is missing" for name in expected if name not in saved]
    lines += [f"{name} is not in this model" for name in saved if name not in expected]
    lines += [
        f"{name} has shape {shape(saved[name])}, but {shape(value)} in this model"
        for name, value in expected.items()
        if name in saved and shape(saved[name]) != shape(value)
    ]
    if lines:
        more = [f"and {len(lines) - MAX_DIFFERENCES} more"] * (len(lines) > MAX_DIFFERENCES)
        shown = "; ".join(lines[:MAX_DIFFERENCES] + more)
        raise CheckpointError(f"{file}: rejected because it belongs to another model: {shown}")


def shape(value: Any) -> tuple[int, ...] | None:
    """Return the shape of a tensor, or None for anything else."""
    return tuple(value.shape) if isinstance(value, torch.Tensor) else None
