"""A node of configuration becomes an object: allowed targets only, names and types checked, all mistakes at once."""

import functools
import importlib
import inspect
import sys
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from dltrain.config import renamed
from dltrain.config.plain import Fact
from dltrain.errors import ConfigError, format_error, suggest

Node = Mapping[str, Any]
# Annotation -> the types that fit it, and how it is called.
KINDS: dict[Any, tuple[tuple[type, ...], str]] = {
    bool: ((bool,), "true or false"),
    int: ((int,), "a whole number"),
    float: ((int, float), "a number"),
    str: ((str,), "text"),
    type(None): ((type(None),), "null"),
}
NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)

# Where a target may come from: anywhere in dltrain's own families, and exactly one name below a library's package.
OURS = ("dltrain.datasets.", "dltrain.models.", "dltrain.tasks.", "dltrain.optim.muon.", "dltrain.optim.schedules.")
MODELS = "torchvision.models."
LIBRARIES = ("torch.nn.", "torch.optim.", MODELS)
# Where a class stands -> what it must be able to do, and how it is called.
ROLES = {
    "data": ("load", "a data set"),
    "task": ("evaluate", "a task"),
    "model": ("forward", "a model"),
    "optimizer": ("step", "an optimizer"),
    "optimizer.schedule": ("factor", "a schedule"),
}
ALLOWED = "a class of dltrain, torch.nn, torch.optim or torchvision.models"


def build(node: Node, key: str, allow: tuple[str, ...] = ()) -> Any:
    """Build the object a node describes, and first those it contains.

    Args:
        node: ``_target_`` and the arguments of its constructor; other keys with a leading underscore are notes.
        key: Where the node stands, for messages.
        allow: Module prefixes the user trusts, beside dltrain's own and those of torch.

    Raises:
        ConfigError: With every mistake of the node.
    """
    return partial(node, key, allow)()


def partial(node: Node, key: str, allow: tuple[str, ...] = ()) -> functools.partial[Any]:
    """The constructor of a node with its arguments bound; what lies deeper is built at once.

    Raises:
        ConfigError: With every mistake of the node; when it is called, too.
    """
    problems = list(mistakes(node, key, allow))
    if problems:
        raise ConfigError(*problems)
    made = target(node["_target_"], key, allow)
    if str(node["_target_"]).startswith(LIBRARIES):
        made = explained(made, key)
    return functools.partial(made, **arguments(node, key, allow))


def explained(made: Callable[..., Any], key: str) -> Callable[..., Any]:
    """A library's constructor, with its complaints about arguments as ours."""

    @functools.wraps(made)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return made(*args, **kwargs)
        except (ValueError, TypeError, RuntimeError, AssertionError, LookupError, OSError, UnpicklingError) as error:
            raise ConfigError(f"{key}: {made.__name__} refuses these values: {error}") from error

    return call


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
        made = target(node.get("_target_"), key, allow)
    except ConfigError as error:
        yield from error.problems
        return
    method, role = ROLES.get(key, ("__init__", ""))
    if isinstance(made, type) and not hasattr(made, method):
        yield format_error(f"{key}._target_", role, node["_target_"])
        return
    known = {name: p for name, p in parameters(made).items() if name not in ("self", "params")}
    given = {name: value for name, value in node.items() if not name.startswith("_")}
    open_ended = any(p.kind is p.VAR_KEYWORD for p in known.values())
    names = [name for name, p in known.items() if p.kind in NAMED]
    hints = annotations(made)
    for name, value in given.items():
        if name not in names and not open_ended:
            new = renamed.new_key(f"{key}.{name}")
            takes = f"{made.__name__} takes {' '.join(names) or 'none'}."
            hint = f"It is called {new} now." if new else suggest(name, names) or takes
            yield f"{key}.{name}: unknown argument. {hint}"
        else:
            yield from wrong_argument(f"{key}.{name}", value, hints.get(name, Any), allow)
    missing = [name for name in names if known[name].default is inspect.Parameter.empty and name not in given]
    yield from (f"{key}.{name}: expected a value, got nothing" for name in missing)


def wrong_argument(key: str, value: Any, hint: Any, allow: tuple[str, ...]) -> Iterator[str]:
    """What is wrong with one argument, or with what it contains."""
    if value == "???":
        yield f"{key}: expected a value, got nothing. Set it: {key}=..."
    elif is_node(value):
        yield from mistakes(value, key, allow)
    elif not fits(value, hint):
        yield format_error(key, readable(hint), value)


def parameters(made: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """The arguments of a constructor; anything goes where they cannot be read."""
    try:
        return inspect.signature(made).parameters
    except (ValueError, TypeError):
        return {"anything": inspect.Parameter("anything", inspect.Parameter.VAR_KEYWORD)}


def target(path: Any, key: str, allow: tuple[str, ...]) -> Callable[..., Any]:
    """The class or function a ``_target_`` names, if YAML may name it.

    Raises:
        ConfigError: When it may not, or does not exist. What is not allowed is not imported.
    """
    path = str(path)
    if new := renamed.new_target(path):
        raise ConfigError(format_error(f"{key}._target_", new, path, "The class has moved."))
    module, _, name = path.rpartition(".")
    trusted = next((prefix for prefix in allow if path.startswith(f"{prefix}.")), None)
    library = next((prefix for prefix in LIBRARIES if prefix == f"{module}."), None)
    if not (trusted or library or path.startswith(OURS)) or name.startswith("_"):
        raise ConfigError(format_error(f"{key}._target_", ALLOWED, path, trust_hint(path.split(".", maxsplit=1)[0])))
    try:
        if trusted:
            trust_folder()
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, SyntaxError) as error:
        raise ConfigError(
            format_error(f"{key}._target_", "something that can be imported", path, f"{error}.")
        ) from None
    # A name that a module has merely imported from elsewhere is not its own.
    root = f"{trusted}." if trusted else library or "dltrain."
    own = callable(found) and f"{getattr(found, '__module__', '')}.".startswith(root)
    if not own or not (trusted or isinstance(found, type) or (library == MODELS and makes_model(found))):
        raise ConfigError(format_error(f"{key}._target_", f"a class of {root.rstrip('.')}", path))
    return found


def makes_model(found: Any) -> bool:
    """Whether a function of torchvision.models makes one of its models; others of its functions do other things."""
    models = importlib.import_module("torchvision.models")
    return getattr(found, "__name__", "") in models.list_models(module=models)


def trust_hint(package: str) -> str:
    """How to allow a module of the user's own; nobody means to build a model from Python's library."""
    known = {"dltrain", "torch", "torchvision", *sys.stdlib_module_names}
    return "" if package in known else f"If you trust that code, add allow_targets=[{package}] to the command."


def trust_folder() -> None:
    """A user's own module lies in the current folder, which an installed command does not search by itself."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)


def annotations(made: Callable[..., Any]) -> dict[str, Any]:
    """The types of a constructor's arguments; nothing where a library's cannot be read."""
    try:
        return typing.get_type_hints(made.__init__ if isinstance(made, type) else made)  # type: ignore[misc]
    except (NameError, TypeError, AttributeError):
        return {}


def fits(value: Any, hint: Any) -> bool:
    """Whether a plain value may be passed where ``hint`` is asked for; unusual hints admit everything but None."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, part) for part in plain(parts))
    if origin is typing.Literal:
        return value in parts
    if origin in (list, tuple):
        return isinstance(value, list | tuple) and fits_each(value, origin, parts)
    if hint in KINDS:
        return isinstance(value, KINDS[hint][0]) and (hint is bool or not isinstance(value, bool))
    return value is not None or hint is Any or not isinstance(hint, type)


def fits_each(values: list[Any] | tuple[Any, ...], origin: type, parts: tuple[Any, ...]) -> bool:
    """Whether the items of a list are what ``list[...]`` or ``tuple[...]`` asks for."""
    if origin is tuple and parts and Ellipsis not in parts:
        return len(values) == len(parts) and all(map(fits, values, parts))
    return all(fits(value, part) for part in parts[:1] for value in values)


def plain(parts: tuple[Any, ...]) -> list[Any]:
    """The alternatives that YAML can say: it has no tensors."""
    return [part for part in parts if getattr(part, "__module__", "") != "torch"]


def readable(hint: Any) -> str:
    """A type in words."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(readable, plain(parts)))
    if origin is typing.Literal:
        return "one of " + " ".join(map(str, parts))
    if origin is tuple and Ellipsis not in parts:
        return f"a list of {len(parts)}"
    if origin in (list, tuple):
        return "a list"
    return KINDS[hint][1] if hint in KINDS else getattr(hint, "__name__", str(hint))


def needs(node: Node, key: str, allow: tuple[str, ...] = ()) -> list[str]:
    """The facts a node cannot do without: a `Fact` given to an argument that does not admit None."""
    hints = annotations(target(node["_target_"], key, allow))
    facts = {name: value.name for name, value in node.items() if isinstance(value, Fact)}
    return [fact for name, fact in facts.items() if name in hints and not fits(None, hints[name])]
