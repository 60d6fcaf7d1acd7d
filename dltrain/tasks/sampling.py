"""The noise and the classes that a generator makes examples of."""

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import cosine_similarity

from dltrain.errors import ConfigError, format_error
from dltrain.tasks.base import GenerateRequest
from dltrain.tasks.told import chosen

ROWS = 500  # examples that pass through a network at a time
COLUMNS = 8  # steps of a way from one example to another


def fresh(model: nn.Module, like: Tensor) -> Tensor:
    """Noise for as many examples as there are, (B, latent), drawn from the generator that a checkpoint keeps."""
    return torch.randn(len(like), model.latent, device=like.device)  # type: ignore[call-overload]


def fixed(model: nn.Module, count: int, generator: Generator) -> Tensor:
    """Noise that is the same on every device, (count, latent)."""
    drawn: Tensor = torch.randn(count, model.latent, generator=generator)  # type: ignore[call-overload]
    return drawn.to(place_of(model))


def place_of(model: nn.Module) -> torch.device:
    """Where a model is."""
    return next(model.parameters()).device


def classes_told(model: nn.Module) -> int:
    """How many classes the generator is told; 0 for none."""
    return model.generator.classes  # type: ignore[return-value, union-attr]


def spread(model: nn.Module, count: int, classes: int | None = None) -> Tensor | None:
    """All classes in turn, or the first ones; None for a generator that is told none."""
    told = classes_told(model)
    return (torch.arange(count) % min(told, classes or told)).to(place_of(model)) if told else None


def in_rows(
    make: Callable[[nn.Module, Tensor, Tensor | None], Tensor], model: nn.Module, rows: Tensor, labels: Tensor | None
) -> Tensor:
    """``make(model, rows, labels)`` for some rows at a time."""
    told = [None] * len(rows) if labels is None else labels.split(ROWS)
    return torch.cat([make(model, part, of) for part, of in zip(rows.split(ROWS), told, strict=False)])


def wished(model: nn.Module, request: GenerateRequest) -> tuple[Tensor, Tensor | None]:
    """Noise and classes of what a user wants: single examples, or ways of at most eight steps between two of a class.

    Raises:
        ConfigError: When examples are given, of which a generator makes nothing, or a class is wished for that it is
            not told.
    """
    if request.given is not None:
        raise ConfigError(
            format_error("--given", "nothing, as a generator reads noise only", f"{len(request.given)} examples")
        )
    steps = min(COLUMNS, request.count) if request.interpolate else 1
    ways = math.ceil(request.count / steps)
    labels, noise = chosen(classes_told(model), request, ways), fixed(model, ways, request.noise)
    if request.interpolate:
        noise = between(noise, fixed(model, ways, request.noise), steps)
        labels = None if labels is None else labels.repeat_interleave(steps)
    return noise[: request.count], None if labels is None else labels[: request.count]


def between(start: Tensor, end: Tensor, steps: int) -> Tensor:
    """Points on great circles, both ends included: (N, D), (N, D) -> (N * steps, D).

    A straight line would lead through the middle, where a normal distribution of many dimensions has no points.

    Source: White 2016, "Sampling generative networks", section 2.1.
    """
    share = torch.linspace(0, 1, steps, device=start.device)[:, None]
    angle = cosine_similarity(start, end).clamp(-1, 1).acos().clamp(1e-4, math.pi - 1e-4)[:, None, None]
    way = ((1 - share) * angle).sin() * start[:, None] + (share * angle).sin() * end[:, None]
    return (way / angle.sin()).flatten(0, 1)
