"""A node of configuration becomes an object: allowed targets only, names and types checked, all mistakes at once."""

import functools
import importlib
import inspect
import sys
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from dltrain.errors import ConfigError, nearest, problem

Node = Mapping[str, Any]

# Where a target may come from, and what it must be there: exactly one name below torch.nn and torch.optim.
OURS = ("dltrain.data.", "dltrain.models.", "dltrain.tasks.", "dltrain.optim.", "dltrain.schedule.")
LIBRARIES = ("torch.nn.", "torch.optim.", "torchvision.models.")


def build(node: Node, key: str, allow: tuple[str, ...] = ()) -> Any:
    """Build the object a node describes, and first those it contains.

    Args:
        node: ``_target_`` and the arguments of its constructor; other keys with a leading underscore are notes.
        key: Where the node stands, for messages.
        allow: Module prefixes the user trusts, beside dltrain's own and those of torch.

    Raises:
        ConfigError: With every mistake of the node.
    """
    problems = list(mistakes(node, key, allow))
    if problems:
        raise ConfigError(*problems)
    return partial(node, key, allow)()


def partial(node: Node, key: str, allow: tuple[str, ...] = ()) -> Callable[..., Any]:
    """The constructor of a node with its arguments bound; what lies deeper is built at once."""
    problems = list(mistakes(node, key, allow))
    if problems:
        raise ConfigError(*problems)
    return functools.partial(target(node["_target_"], key, allow), **arguments(node, key, allow))


def arguments(node: Node, key: str, allow: tuple[str, ...]) -> dict[str, Any]:
    """The arguments of a node, those that are nodes themselves built."""
    return {
        name: build(value, f"{key}.{name}", allow) if is_node(value) else value
        for name, value in node.items()
        if not name.startswith("_")
    }


def is_node(value: Any) -> bool:
    """Whether a value describes an object."""
    return isinstance(value, Mapping) and "_target_" in value


def mistakes(node: Node, key: str, allow: tuple[str, ...] = ()) -> Iterator[str]:
    """Everything that would keep a node from being built."""
    try:
        made = target(node["_target_"], key, allow)
    except ConfigError as error:
        yield from error.problems
        return
    known = inspect.signature(made).parameters
    hints = annotations(made)
    given = {name: value for name, value in node.items() if not name.startswith("_")}
    names = [n for n in known if n not in ("self", "params")]
    for name, value in given.items():
        if name not in known and not any(p.kind is p.VAR_KEYWORD for p in known.values()):
            yield problem(f"{key}.{name}", f"one of {' '.join(names)}", value, nearest(name, names))
        elif value == "???":
            yield f"{key}.{name}: expected a value, got nothing. Set it: {key}.{name}=..."
        elif is_node(value):
            yield from mistakes(value, f"{key}.{name}", allow)
        elif name in hints and not fits(value, hints[name]):
            yield problem(f"{key}.{name}", readable(hints[name]), value)
    required = [
        n for n, p in known.items() if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    ]
    yield from (f"{key}.{n}: expected a value, got nothing" for n in required if n not in given and n != "params")


def target(path: Any, key: str, allow: tuple[str, ...]) -> Callable[..., Any]:
    """The class or function a ``_target_`` names, if YAML may name it.

    Raises:
        ConfigError: When it may not, or does not exist. What is not allowed is not imported.
    """
    path = str(path)
    trusted = next((p for p in allow if path.startswith(f"{p}.")), None)
    if not (path.startswith(OURS) or path.startswith(LIBRARIES) or trusted):
        hint = f"If you trust that code, add allow_targets=[{path.split('.')[0]}] to the command."
        raise ConfigError(
            problem(f"{key}._target_", "a target in dltrain, torch.nn, torch.optim or torchvision.models", path, hint)
        )
    module, _, name = path.rpartition(".")
    try:
        if trusted:
            trust_folder()
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(problem(f"{key}._target_", "something that can be imported", path, f"{error}.")) from None
    root = next((p for p in ("dltrain.", *LIBRARIES) if path.startswith(p)), f"{trusted}.")
    if (
        not callable(found)
        or not f"{found.__module__}.".startswith(root)
        or (path.startswith(LIBRARIES) and name.startswith("_"))
    ):
        raise ConfigError(problem(f"{key}._target_", f"a class of {root.rstrip('.')}", path))
    return found


def trust_folder() -> None:
    """A user's own module lies in the current folder, which an installed command does not search by itself."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)


def annotations(made: Callable[..., Any]) -> dict[str, Any]:
    """The types of a constructor's arguments; nothing where a library's cannot be read."""
    try:
        return typing.get_type_hints(made.__init__ if isinstance(made, type) else made)
    except (NameError, TypeError, AttributeError):
        return {}


def fits(value: Any, hint: Any) -> bool:
    """Whether a plain value may be passed where ``hint`` is asked for; unusual hints admit everything."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, part) for part in typing.get_args(hint))
    if origin is typing.Literal:
        return value in typing.get_args(hint)
    if hint in (None, type(None)):
        return value is None
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint in (bool, str):
        return isinstance(value, hint)
    if origin in (list, tuple):
        part = next(iter(typing.get_args(hint)), Any)
        return isinstance(value, list | tuple) and all(fits(item, part) for item in value)
    return value is not None or hint is Any or not isinstance(hint, type)


def readable(hint: Any) -> str:
    """A type in words."""
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}
    if hint in names:
        return names[hint]
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(readable(part) for part in typing.get_args(hint))
    if origin is typing.Literal:
        return "one of " + " ".join(map(str, typing.get_args(hint)))
    if origin in (list, tuple):
        return "a list"
    return getattr(hint, "__name__", str(hint))


def needs(node: Node, key: str, allow: tuple[str, ...] = ()) -> list[str]:
    """The facts a node cannot do without: ``${spec.NAME}`` given to an argument that does not admit None."""
    hints = annotations(target(node["_target_"], key, allow))
    pulled = {n: v[7:-1] for n, v in node.items() if isinstance(v, str) and v.startswith("${spec.") and v.endswith("}")}
    return [fact for name, fact in pulled.items() if name in hints and not fits(None, hints[name])]
