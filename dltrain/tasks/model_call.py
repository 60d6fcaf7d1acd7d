"""Call of a model with the fields of a batch that its `forward` accepts."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dltrain.errors import ConfigError

KEYWORDS = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)

# Fields that a model must not ignore -> what a model would do without them.
INDISPENSABLE = {
    "lengths": "read the padding of short sequences as data",
    "state": "forget what it read before",
    "documents": "read one document as the continuation of another",
}


def call_model(model: nn.Module, batch: Mapping[str, Any], **more: Any) -> Any:
    """Return the model's outputs for a batch.

    The first argument of `forward`, whatever its name, receives the field ``inputs``. Each further argument receives
    the field of the same name, if the batch has it.

    Args:
        more: Fields that are added to the batch or replace its fields.

    Raises:
        ConfigError: The fields include ``lengths``, ``state`` or ``documents``, and `forward` has no such argument.
    """
    fields = {**batch, **more} if more else batch
    named = _named_fields(type(model).forward, tuple(fields))
    return model(fields["inputs"], **{name: fields[name] for name in named})


def reads(model: nn.Module, field: str) -> bool:
    """Return whether `forward` has an argument named `field` after the inputs.

    Raises:
        ConfigError: There is no such argument, and `field` is ``lengths``, ``state`` or ``documents``.
    """
    return field in _named_fields(type(model).forward, (field,))


@functools.cache
def _named_fields(forward: Callable[..., Any], fields: tuple[str, ...]) -> tuple[str, ...]:
    """Return the fields, except the inputs, that `forward` has an argument for."""
    parameters = list(inspect.signature(forward).parameters.values())[2:]  # after self and the inputs
    names = {parameter.name for parameter in parameters if parameter.kind in KEYWORDS}
    for field, consequence in INDISPENSABLE.items():
        if field in fields and field not in names:
            reason = f"{forward.__qualname__} has no argument {field}: it would {consequence}"
            raise ConfigError(f"model: not supported for these data because {reason}")
    return tuple(name for name in fields if name in names)


def example_inputs(facts: Mapping[str, Any], batch_size: int) -> dict[str, Tensor]:
    """Return the field ``inputs`` of a batch on the meta device, from the spec values of the data."""
    dtype = torch.float32 if facts.get("tokens") is None else torch.int64
    return {"inputs": torch.empty((batch_size, *(facts.get("shape") or ())), dtype=dtype, device="meta")}
