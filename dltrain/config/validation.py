"""What may be typed: groups, options and keys that exist, with values of their kind. Works on plain dictionaries."""

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from dltrain.config import renamed, schema
from dltrain.errors import format_error, suggest

Node = Mapping[str, Any]

# Groups of plain values: their keys are those of dltrain's own YAML, no more and no fewer.
PLAIN = ("trainer", "regularization", "device", "sweep")


def wrong_option(group: str, option: Any, options: Sequence[str]) -> str | None:
    """The mistake in ``group=option``, or None."""
    if isinstance(option, list):
        hint = f"To run all of them, add -m: dltrain -m {group}={','.join(map(str, option))}"
        return format_error(group, "one option", ",".join(map(str, option)), hint)
    if option in options:
        return None
    return format_error(group, f"one of {' '.join(options)}", option, suggest(str(option), options))


def find(key: str, content: Node) -> Any:
    """What stands at a key.

    Raises:
        LookupError: With the key of the last node that is there.
    """
    node: Any = content
    parts = key.split(".")
    for number, part in enumerate(parts):
        if isinstance(node, list) and part.isdigit() and int(part) < len(node):
            node = node[int(part)]
        elif isinstance(node, Mapping) and part in node:
            node = node[part]
        else:
            raise LookupError(".".join(parts[:number]))
    return node


def unknown(key: str, content: Node, groups: Sequence[str]) -> str | None:
    """Say that a key does not exist, and which one may have been meant; None if it is there."""
    try:
        find(key, content)
        return None
    except LookupError as error:
        parent = str(error)
    if new := renamed.new_key(key):
        return f"{key}: unknown key. It is called {new} now."
    part = key.removeprefix(f"{parent}.").split(".", 1)[0]
    node = find(parent, content) if parent else dict.fromkeys(groups) | dict(content)
    inside = node if isinstance(node, Mapping) else range(len(node)) if isinstance(node, list) else ()
    names = [str(name) for name in inside if not str(name).startswith("_")]
    if not parent:
        listing = f"The groups and keys are: {' '.join(names)}."
        return f"{key}: unknown key. {suggest(part, names) or elsewhere(part, content) or listing}"
    close = get_close_matches(part, names, 1, cutoff=0.5)
    hint = f"Did you mean {parent}.{close[0]}?" if close else f"The keys of {parent} are: {' '.join(names) or 'none'}."
    return f"{key}: unknown key. {hint}"


def wrong_value(key: str, value: Any, content: Node, groups: Sequence[str]) -> str | None:
    """The mistake in a value, and in those it contains; None if there is none. The key is there."""
    node = find(key, content)
    if value is None and key in PLAIN:
        return format_error(key, "a group of keys", None)
    if isinstance(value, Mapping) and isinstance(node, Mapping):
        pairs = [(f"{key}.{name}", item) for name, item in value.items()]
        found = (unknown(k, content, groups) or wrong_value(k, v, content, groups) for k, v in pairs)
        return next((mistake for mistake in found if mistake), None)
    return schema.mistyped(key, value, node)


def elsewhere(name: str, content: Node) -> str:
    """The key of some group that ends with a name: who types ``lr`` means ``optimizer.lr``."""
    owners = {
        str(key): f"{group}.{key}"
        for group, node in content.items()
        if isinstance(node, Mapping)
        for key, value in node.items()
        if not str(key).startswith("_") and not schema.unsettled(value)
    }
    close = get_close_matches(name, owners, 1)
    return f"Did you mean {owners[close[0]]}?" if close else ""


def misplaced(content: Node, own: Node, groups: Sequence[str]) -> Iterator[str]:
    """Keys that nobody reads, and those that every run needs and somebody took away.

    Args:
        content: The configuration.
        own: dltrain's own, with nothing changed.
        groups: All groups; what they hold is for the constructors to judge.
    """
    pulled = str(content)
    for prefix, node, known in (("", content, own), *((f"{g}.", content.get(g, {}), own[g]) for g in PLAIN)):
        for name in node:
            if name == "experiment":
                yield 'experiment: expected a first line "# @package _global_" in this YAML, or nobody reads it'
            elif name not in known and (prefix or name not in groups) and f"${{{prefix}{name}" not in pulled:
                new = renamed.new_key(f"{prefix}{name}")
                hint = f"It is called {new} now." if new else suggest(name, known)
                yield f"{prefix}{name}: unknown key. {hint}".rstrip()
        yield from (f"{prefix}{name}: expected a value, got nothing" for name in known if name not in node)


def misshapen(content: Node, own: Node) -> Iterator[str]:
    """Groups where a value belongs, values where a group does, and what every run needs and is not there.

    Args:
        content: The configuration.
        own: dltrain's own, with nothing changed.
    """
    for key, default in [(k, v) for k, v in own.items() if k != "sweep"] + [("optimizer.schedule", {})]:
        found = _at(key, content)
        if found is None and default is not None:
            yield f"{key}: expected a value, got nothing"
        elif isinstance(found, Mapping) != isinstance(default, Mapping):
            yield format_error(key, "a group of keys" if isinstance(default, Mapping) else "a value", found)
    for group in PLAIN:
        node = _at(group, content)
        if isinstance(node, Mapping):
            wrong = [f"{group}.{name}" for name, value in node.items() if isinstance(value, Mapping)]
            yield from (format_error(key, "a value", "a group of keys") for key in wrong)


def _at(key: str, content: Node) -> Any:
    try:
        return find(key, content)
    except LookupError:
        return None


def leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Key and value of everything that contains nothing."""
    if isinstance(node, Mapping | list):
        for name, item in node.items() if isinstance(node, Mapping) else enumerate(node):
            yield from leaves(item, f"{prefix}.{name}" if prefix else str(name))
    else:
        yield prefix, node


def endless(content: Node) -> Iterator[str]:
    """A training that would never end."""
    trainer = content.get("trainer", {})
    if trainer.get("epochs", 1) is None and trainer.get("max_steps", 1) is None:
        yield format_error("trainer.epochs", "a whole number of at least 1", "null", "trainer.max_steps is null too.")
