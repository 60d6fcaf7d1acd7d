"""The classes that a conditional model is told."""

import torch
from torch import Tensor

from dltrain.errors import ConfigError, format_error
from dltrain.tasks.base import Batch, GenerateRequest


def classes_of(batch: Batch) -> Tensor | None:
    """The class of each example, int64 (B,), where data have classes."""
    targets = batch.get("targets")
    return targets if targets is not None and targets.dtype == torch.int64 and targets.dim() == 1 else None


def chosen(classes: int, request: GenerateRequest, count: int, known: bool = True) -> Tensor | None:
    """The classes of examples to be made: the one wished for, or drawn; None for a model that is told none.

    Args:
        classes: How many the model is told; 0 for none.
        request: What to generate.
        count: How many examples.
        known: Draw classes where none is wished for.

    Raises:
        ConfigError: When the class is none that the model is told.
    """
    if request.label is None:
        drawn = torch.randint(classes, (count,), generator=request.noise) if classes and known else None
        return None if drawn is None else drawn.to(request.device)
    if not classes:
        hint = "Train one with model.conditional=true."
        raise ConfigError(format_error("--class", "none, as this model is told no classes", request.label, hint))
    if not 0 <= request.label < classes:
        raise ConfigError(format_error("--class", f"a class from 0 to {classes - 1}", request.label))
    return torch.full((count,), request.label, device=request.device)
