"""Build an object from its configuration: allowed classes only, arguments checked, all errors reported together."""

import functools
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from dltrain.config import renamed
from dltrain.config.facts import FACT, Fact
from dltrain.config.signatures import annotations, describe, fits, parameters
from dltrain.errors import ConfigError, format_error, suggest

Node = Mapping[str, Any]
NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
# Arguments that YAML cannot set, such as the parameters of an optimizer and the fitted state of a data set.
NOT_CONFIGURED = ("self", "params", "fitted")

# Allowed targets: classes in modules of `OURS`, and names directly in `LIBRARIES`, such as torch.nn.Linear.
OURS = ("dltrain.datasets.", "dltrain.models.", "dltrain.tasks.", "dltrain.optim.muon.", "dltrain.optim.schedules.")
MODELS = "torchvision.models."
LIBRARIES = ("torch.nn.", "torch.optim.", MODELS)
# Key -> the method that its class must have, and a description of the class for messages.
ROLES = {
    "data": ("load", "a data set"),
    "task": ("evaluate", "a task"),
    "model": ("forward", "a model"),
    "optimizer": ("step", "an optimizer"),
    "optimizer.schedule": ("observe", "a subclass of dltrain.optim.schedules.Schedule"),
}
ALLOWED = "a class of dltrain, torch.nn, torch.optim or torchvision.models"


def build(node: Node, key: str, allow: tuple[str, ...] = (), **given: Any) -> Any:
    """Build the object that a node describes, and the objects nested in it.

    Args:
        node: ``_target_`` and the arguments of its constructor; other keys with a leading underscore are ignored.
        key: The key of the node, for messages and for the required method in `ROLES`.
        allow: Modules and packages that the user trusts, in addition to dltrain, torch and torchvision.
        given: Arguments that are not part of the configuration.

    Raises:
        ConfigError: The node is invalid, and the message lists all of its errors; or a constructor of torch or
            torchvision rejects the arguments.
    """
    return partial(node, key, allow)(**given)


def partial(node: Node, key: str, allow: tuple[str, ...] = ()) -> functools.partial[Any]:
    """Return the constructor of a node with its arguments bound; nodes inside it are built."""
    errors = list(node_errors(node, key, allow))
    if errors:
        raise ConfigError(*errors)
    constructor = find_target(node["_target_"], key, allow)
    if str(node["_target_"]).startswith(LIBRARIES):
        constructor = _library_errors(key, constructor.__name__)(constructor)
    arguments = {
        name: build(value, f"{key}.{name}", allow) if _is_node(value) else value
        for name, value in node.items()
        if not name.startswith("_")
    }
    return functools.partial(constructor, **arguments)


@contextmanager
def _library_errors(key: str, name: str) -> Iterator[None]:
    """Turn an error of a library's constructor into a `ConfigError`."""
    try:
        yield
    except (ValueError, TypeError, RuntimeError, AssertionError, LookupError, OSError, UnpicklingError) as error:
        raise ConfigError(f"{key}: not supported because {name} rejects these values: {error}") from error


def _is_node(value: Any) -> bool:
    return isinstance(value, Mapping) and "_target_" in value


def node_errors(node: Node, key: str, allow: tuple[str, ...] = ()) -> Iterator[str]:
    """Yield the errors in a node and in the nodes nested in it."""
    try:
        constructor = find_target(node.get("_target_"), key, allow)
    except ConfigError as error:
        yield from error.problems
        return
    method, role = ROLES.get(key, ("__init__", ""))
    if isinstance(constructor, type) and not hasattr(constructor, method):
        yield format_error(f"{key}._target_", role, node["_target_"])
        return
    known = {name: p for name, p in parameters(constructor).items() if name not in NOT_CONFIGURED}
    given = {name: value for name, value in node.items() if not name.startswith("_")}
    open_ended = any(p.kind is p.VAR_KEYWORD for p in known.values())
    names = [name for name, p in known.items() if p.kind in NAMED]
    hints = annotations(constructor)
    unknown: dict[str, str] = {}
    for name, value in given.items():
        argument, hint = f"{key}.{name}", hints.get(name, Any)
        if name not in names and not open_ended:
            new = renamed.new_key(argument)
            unknown[argument] = f"It is called {new} now." if new else suggest(name, names)
        elif value == "???":
            yield f"{argument}: expected a value, got nothing. Set it: {argument}=..."
        elif _is_node(value):
            yield from node_errors(value, argument, allow)
        elif not fits(value, hint):
            yield format_error(argument, describe(hint), value)
    yield from _unknown_arguments(unknown, f"{constructor.__name__} takes {' '.join(names) or 'no arguments'}")
    missing = [name for name in names if known[name].default is inspect.Parameter.empty and name not in given]
    yield from (f"{key}.{name}: expected a value, got nothing" for name in missing)


def _unknown_arguments(advice: Mapping[str, str], takes: str) -> Iterator[str]:
    """Yield one line per unknown argument if all have a suggestion, otherwise a single line for all of them."""
    if all(advice.values()):
        yield from (f"{argument}: unknown argument. {text}" for argument, text in advice.items())
    else:
        remove = " ".join(f"~{argument}" for argument in advice)
        yield f"{' '.join(advice)}: unknown argument{'s' * (len(advice) > 1)}. {takes}. To remove: {remove}"


def find_target(path: Any, key: str, allow: tuple[str, ...]) -> Callable[..., Any]:
    """Return the class or function that a ``_target_`` names; a module that is not allowed is not imported."""
    if path is None:
        raise ConfigError(f"{key}._target_: expected a class, got nothing. Set it in the YAML: _target_: module.Class")
    path = str(path)
    if new := renamed.new_target(path):
        raise ConfigError(format_error(f"{key}._target_", new, path, "The class has moved."))
    module, _, name = path.rpartition(".")
    trusted = next((prefix for prefix in allow if path.startswith(f"{prefix}.")), None)
    library = next((prefix for prefix in LIBRARIES if prefix == f"{module}."), None)
    if not (trusted or library or path.startswith(OURS)) or name.startswith("_"):
        package = path.split(".", maxsplit=1)[0]
        known = package in {"dltrain", "torch", "torchvision", *sys.stdlib_module_names}
        advice = "" if known else f"If you trust that code, add allow_targets=[{package}] to the command."
        if not library and (root := next((prefix for prefix in LIBRARIES if path.startswith(prefix)), None)):
            advice = f"Names in submodules of {root.rstrip('.')} are not allowed."
        raise ConfigError(format_error(f"{key}._target_", ALLOWED, path, advice))
    if trusted and (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)  # an installed command does not have it in sys.path
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, SyntaxError) as error:
        expected = "an importable class or function"
        searched = f" Searched: {Path.cwd()} and PYTHONPATH." if trusted and isinstance(error, ImportError) else ""
        raise ConfigError(format_error(f"{key}._target_", expected, path, f"{error}.{searched}")) from None
    # Reject names that the module imports from outside the allowed package.
    root = f"{trusted}." if trusted else library or "dltrain."
    own = callable(found) and f"{getattr(found, '__module__', '')}.".startswith(root)
    if not own or not (trusted or isinstance(found, type) or (library == MODELS and _is_model_builder(found))):
        raise ConfigError(format_error(f"{key}._target_", f"a class of {root.rstrip('.')}", path))
    return found


def _is_model_builder(found: Any) -> bool:
    """Return whether a function of torchvision.models builds a model; others, such as `list_models`, do not."""
    models = importlib.import_module("torchvision.models")
    return getattr(found, "__name__", "") in models.list_models(module=models)


def required_facts(node: Node, key: str, allow: tuple[str, ...] = ()) -> list[str]:
    """Return the spec values that a node requires: those passed to arguments that do not accept None."""
    hints = annotations(find_target(node.get("_target_"), key, allow))
    facts = {name: value.name for name, value in node.items() if isinstance(value, Fact)}
    return [fact for name, fact in facts.items() if name in hints and not fits(None, hints[name])]


def facts_of_yaml(node: Node, allow: tuple[str, ...] = ()) -> list[str]:
    """Return the spec values that a model's unresolved YAML requires; an empty list if its class is not available."""
    found = {name: FACT.match(str(value)) for name, value in node.items()}
    facts = {name: Fact(match[1]) for name, match in found.items() if match is not None}
    try:
        return required_facts({"_target_": node.get("_target_"), **facts}, "model", allow)
    except ConfigError:
        return []
