"""What a checkpoint holds: the same bytes for the same state, in this format or an earlier one, of this model."""

import sys
from collections.abc import Mapping
from typing import Any

import torch

from dltrain.errors import CheckpointError

FORMAT = 2
# All that a run needs to go on; who made a file by hand may have left something out.
PARTS = ("model", "average", "optimizers", "schedules", "record", "parts", "task", "loop", "bad_samples", "rng")
# What torch and others raise for a state that is not theirs.
STATE_ERRORS = (RuntimeError, ValueError, TypeError, LookupError, AttributeError)
MISFITS = 6  # how many differences are named


def canonical(value: Any) -> Any:
    """``value`` on the CPU, such that equal states have equal bytes.

    What pickle writes depends on which parts of a state are one object, so everything but the tensors is made anew and
    words are interned.
    """
    if isinstance(value, torch.Tensor):
        found = value.detach().cpu()
        # A view would bring all that it is a view of.
        alone = found.untyped_storage().nbytes() == found.numel() * found.element_size()
        return found if alone else found.clone()
    if isinstance(value, dict):
        return {canonical(key): canonical(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(canonical, value))
    return sys.intern(value) if type(value) is str else value


def upgraded(found: Any) -> dict[str, Any]:
    """What was loaded, as this dltrain writes it.

    Format 1 kept the schedule of each optimizer within it; since format 2 schedules stand beside optimizers.

    Args:
        found: Whatever lay in the file.

    Raises:
        ValueError: When it is of no format that this dltrain knows, or lacks something.
    """
    number = found.get("format") if isinstance(found, dict) else None
    if number not in (1, FORMAT):
        newer = ", which a newer one has written" if isinstance(number, int) and number > FORMAT else ""
        raise ValueError(f"expected checkpoint format 1 or {FORMAT} of this dltrain, got {number}{newer}")
    if number == 1 and isinstance(found.get("optimizers"), dict):
        found["schedules"] = {turn: state.pop("schedule", {}) for turn, state in found["optimizers"].items()}
        found["format"] = FORMAT
    if missing := [part for part in PARTS if part not in found]:
        raise ValueError(f"it lacks {', '.join(missing)}")
    if not isinstance(found["model"], dict) or not isinstance(found["average"], dict | None):
        raise ValueError("it holds no weights by name")
    if not isinstance(found["loop"], dict) or type(found["loop"].get("step")) is not int:
        raise ValueError("it does not say at which step it was written")
    return found


def effective_weights(state: dict[str, Any]) -> dict[str, Any]:
    """The weights of a checkpoint that count: the averaged ones where there are some."""
    return state["model"] if state["average"] is None else state["average"]["model"]


def refuse_mismatch(file: str, saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Refuse weights that are not those of this model.

    Args:
        file: Where they come from.
        saved: Name -> tensor, of the checkpoint.
        wanted: Name -> tensor, of the model.

    Raises:
        CheckpointError: Naming what differs.
    """
    lines = [f"{name} is missing" for name in wanted if name not in saved]
    lines += [f"{name} is not in this model" for name in saved if name not in wanted]
    lines += [
        f"{name} has shape {shape(saved[name])}, this model's has {shape(value)}"
        for name, value in wanted.items()
        if name in saved and shape(saved[name]) != shape(value)
    ]
    if lines:
        shown = lines[:MISFITS] + ([f"and {len(lines) - MISFITS} more"] if len(lines) > MISFITS else [])
        raise CheckpointError(f"{file}: refused, it is of another model: {'; '.join(shown)}")


def shape(value: Any) -> tuple[int, ...] | None:
    """The shape of a tensor; None of anything else."""
    return tuple(value.shape) if isinstance(value, torch.Tensor) else None
