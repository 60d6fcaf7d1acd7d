"""Labels, noise and interpolation paths for the generation of examples."""

import math
from collections.abc import Callable, Iterable

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import cosine_similarity

from dltrain.errors import ConfigError, format_error
from dltrain.tasks.base import Batch, GenerateRequest

BATCH_SIZE = 500  # examples per pass through a network
PATH_STEPS = 8  # maximum number of examples of an interpolation path, including both ends


def class_labels(batch: Batch) -> Tensor | None:
    """Return the class of each example, int64 (B,), or None if the targets are not one class per example."""
    targets = batch.get("targets")
    return targets if targets is not None and targets.dtype == torch.int64 and targets.dim() == 1 else None


def first_examples(batches: Iterable[Batch], limit: int) -> tuple[Tensor, Tensor | None]:
    """Return up to ``limit`` inputs, and their classes if there are any."""
    inputs, labels, count = [], [], 0
    for batch in batches:
        inputs.append(batch["inputs"])
        labels.append(class_labels(batch))
        count += len(inputs[-1])
        if count >= limit:
            break
    known = [found for found in labels if found is not None]
    return torch.cat(inputs)[:limit], torch.cat(known)[:limit] if known else None


def num_classes(model: nn.Module) -> int:
    """Return the number of classes that a generative model is conditioned on; 0 for none."""
    return getattr(model, "num_conditioning_classes", 0)


def training_noise(model: nn.Module, like: Tensor) -> Tensor:
    """Draw one noise vector per example, (B, latent), from torch's global generator on the device of ``like``."""
    return torch.randn(len(like), model.latent, device=like.device)  # type: ignore[call-overload]


def reproducible_noise(model: nn.Module, count: int, generator: Generator) -> Tensor:
    """Draw noise vectors (count, latent) on the CPU, so that they are the same for every device."""
    noise: Tensor = torch.randn(count, model.latent, generator=generator)  # type: ignore[call-overload]
    return noise.to(next(model.parameters()).device)


def cyclic_labels(model: nn.Module, count: int, limit: int | None = None) -> Tensor | None:
    """Return labels that cycle through the first ``limit`` classes (default: all); None for an unconditional model."""
    classes = num_classes(model)
    if not classes:
        return None
    return (torch.arange(count) % min(classes, limit or classes)).to(next(model.parameters()).device)


def requested_labels(model: nn.Module, request: GenerateRequest, count: int, draw: bool = True) -> Tensor | None:
    """Return the classes of examples to generate, int64 (count,); None for an unconditional model.

    Args:
        draw: Whether to draw random classes if no class is requested; False returns None instead.

    Raises:
        ConfigError: A class is requested, and the model is not conditional or does not have this class.
    """
    classes = num_classes(model)
    if request.label is None:
        drawn = torch.randint(classes, (count,), generator=request.noise) if classes and draw else None
        return None if drawn is None else drawn.to(request.device)
    if not classes:
        hint = "Train a model with model.conditional=true."
        raise ConfigError(f"--class: not supported because this model is not conditional. {hint}")
    if not 0 <= request.label < classes:
        raise ConfigError(format_error("--class", f"a class from 0 to {classes - 1}", request.label))
    return torch.full((count,), request.label, device=request.device)


def apply_in_batches(
    function: Callable[[nn.Module, Tensor, Tensor | None], Tensor],
    model: nn.Module,
    rows: Tensor,
    labels: Tensor | None,
) -> Tensor:
    """Return ``function(model, rows, labels)``, computed `BATCH_SIZE` rows at a time."""
    parts = [None] * len(rows) if labels is None else labels.split(BATCH_SIZE)
    return torch.cat([function(model, part, of) for part, of in zip(rows.split(BATCH_SIZE), parts, strict=False)])


def path_layout(request: GenerateRequest) -> tuple[int, int]:
    """Return the number of paths and the number of examples per path, which is 1 without interpolation."""
    steps = min(PATH_STEPS, request.count) if request.interpolate else 1
    return math.ceil(request.count / steps), steps


def lerp_path(start: Tensor, end: Tensor, steps: int) -> Tensor:
    """Return points on straight lines, both ends included: (N, D), (N, D) -> (N * steps, D)."""
    share = torch.linspace(0, 1, steps, device=start.device)[:, None]
    return torch.lerp(start[:, None], end[:, None], share).flatten(0, 1)


def slerp_path(start: Tensor, end: Tensor, steps: int) -> Tensor:
    """Return points of spherical interpolations, both ends included: (N, D), (N, D) -> (N * steps, D).

    A straight line would pass near the origin, where a high-dimensional normal distribution has almost no mass.

    Source: White 2016, "Sampling generative networks", section 2.1.
    """
    share = torch.linspace(0, 1, steps, device=start.device)[:, None]
    angle = cosine_similarity(start, end).clamp(-1, 1).acos().clamp(1e-4, math.pi - 1e-4)[:, None, None]
    path = ((1 - share) * angle).sin() * start[:, None] + (share * angle).sin() * end[:, None]
    return (path / angle.sin()).flatten(0, 1)
