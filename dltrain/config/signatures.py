"""Compare plain values with the annotations of a constructor."""

import inspect
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

from dltrain.config import schema

# Annotation -> the types that match it, and its name in messages.
KINDS: dict[Any, tuple[tuple[type, ...], str]] = {**schema.KINDS, type(None): ((type(None),), "null")}


def parameters(constructor: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """Return the parameters of a constructor, or ``**anything`` if they cannot be read."""
    try:
        return inspect.signature(constructor).parameters
    except (ValueError, TypeError):
        return {"anything": inspect.Parameter("anything", inspect.Parameter.VAR_KEYWORD)}


def annotations(constructor: Callable[..., Any]) -> dict[str, Any]:
    """Return the annotations of a constructor's arguments; empty if they cannot be resolved."""
    try:
        return typing.get_type_hints(constructor.__init__ if isinstance(constructor, type) else constructor)  # type: ignore[misc]
    except (NameError, TypeError, AttributeError):
        return {}


def fits(value: Any, hint: Any) -> bool:
    """Return whether a plain value matches an annotation.

    A class that is not in `KINDS` accepts any value except None. A type variable accepts any value.
    """
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, part) for part in _without_tensors(parts))
    if origin is typing.Literal:
        return value in parts
    if origin is tuple and parts and Ellipsis not in parts:
        return isinstance(value, list | tuple) and len(value) == len(parts) and all(map(fits, value, parts))
    if origin in (list, tuple):
        return isinstance(value, list | tuple) and all(fits(item, part) for part in parts[:1] for item in value)
    if hint in KINDS:
        return isinstance(value, KINDS[hint][0]) and (hint is bool or not isinstance(value, bool))
    return value is not None or hint is Any or not isinstance(hint, type)


def _without_tensors(parts: tuple[Any, ...]) -> list[Any]:
    """Return the members of a union, except for classes of torch, which match no plain value."""
    return [part for part in parts if getattr(part, "__module__", "") != "torch"]


def describe(hint: Any) -> str:
    """Return an annotation in words."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(describe, _without_tensors(parts)))
    if origin is typing.Literal:
        return "one of " + " ".join(map(str, parts))
    if origin is tuple and Ellipsis not in parts:
        return f"a list of {len(parts)} values"
    if origin in (list, tuple):
        return "a list"
    return KINDS[hint][1] if hint in KINDS else getattr(hint, "__name__", str(hint))
