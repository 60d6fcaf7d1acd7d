"""Errors in a configuration: unknown groups, options and keys, missing keys, wrong types. Works on plain dicts."""

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from dltrain.config import renamed, schema
from dltrain.errors import format_error, suggest

Node = Mapping[str, Any]

# Groups of plain values: their keys are exactly the keys in dltrain's own YAML.
PLAIN = ("trainer", "regularization", "augment", "transfer", "device", "sweep")
LISTED = 40  # maximum number of options to list in a message
NO_SCHEDULE = "Add this line to the defaults list in the optimizer's YAML: - schedule: constant"


def wrong_option(group: str, option: Any, options: Sequence[str]) -> str | None:
    """Return the error in ``group=option``, or None."""
    if isinstance(option, list):
        hint = f"To run all of them, add -m: dltrain -m {group}={','.join(map(str, option))}"
        return format_error(group, "one option", ",".join(map(str, option)), hint)
    if option in options:
        return None
    if len(options) <= LISTED:
        return format_error(group, f"one of {' '.join(options)}", option, suggest(str(option), options))
    hint = suggest(str(option), options) or "dltrain --help lists them."
    return format_error(group, f"one of the {len(options)} options of {group}", option, hint)


def lookup(key: str, content: Node) -> Any:
    """Return the value at a dotted key.

    Raises:
        LookupError: The key does not exist; the message is the longest existing parent key, such as ``optimizer``.
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


def unknown_key(key: str, content: Node, groups: Sequence[str]) -> str | None:
    """Return the error if a key does not exist, with a suggestion, else None."""
    try:
        lookup(key, content)
        return None
    except LookupError as error:
        parent = str(error)
    if new := renamed.new_key(key):
        return f"{key}: unknown key. It is called {new} now."
    part = key.removeprefix(f"{parent}.").split(".", 1)[0]
    node = lookup(parent, content) if parent else dict.fromkeys(groups) | dict(content)
    if isinstance(node, str | int | float):
        return f"{key}: unknown key. {parent} is not a mapping. Set {parent} itself."
    inside = node if isinstance(node, Mapping) else range(len(node)) if isinstance(node, list) else ()
    names = [str(name) for name in inside if not str(name).startswith("_")]
    if not parent:
        listing = f"The groups and keys are: {' '.join(names)}."
        return f"{key}: unknown key. {suggest(part, names) or _in_some_group(part, content) or listing}"
    close = get_close_matches(part, names, 1, cutoff=0.5)
    if close:
        return f"{key}: unknown key. Did you mean {parent}.{close[0]}?"
    # Not all arguments of nested objects are in YAML.
    add = f" To add it: +{key}=..." if "." in parent and not isinstance(node, list) else ""
    return f"{key}: unknown key. The keys of {parent} are: {' '.join(names) or 'none'}.{add}"


def wrong_value(key: str, value: Any, content: Node, groups: Sequence[str]) -> str | None:
    """Return the first error in a new value for an existing key, else None."""
    node = lookup(key, content)
    owner = lookup(key.rpartition(".")[0], content) if "." in key else content
    target = str(owner.get("_target_", "")) if isinstance(owner, Mapping) else ""
    if value is None and key in PLAIN:
        return format_error(key, "a group of keys", None)
    if isinstance(value, Mapping) and isinstance(node, Mapping):
        pairs = [(f"{key}.{name}", item) for name, item in value.items()]
        errors = (unknown_key(k, content, groups) or wrong_value(k, v, content, groups) for k, v in pairs)
        return next((error for error in errors if error), None)
    if key.partition(".")[0] in PLAIN and isinstance(value, Mapping | list) and not isinstance(node, Mapping):
        listed = isinstance(value, list) and schema.may_be_list(key, node)
        wrong = None if listed else format_error(key, "one value" if isinstance(value, list) else "a value", value)
        return schema.check_type(key, value, node, target) or wrong
    return schema.check_type(key, value, node, target)


def _in_some_group(name: str, content: Node) -> str:
    """Suggest the most similar key of any group: ``optimizer.lr`` for ``lr``."""
    owners = {
        str(key): f"{group}.{key}"
        for group, node in content.items()
        if isinstance(node, Mapping)
        for key, value in node.items()
        if not str(key).startswith("_") and not schema.is_deferred(value)
    }
    close = get_close_matches(name, owners, 1)
    return f"Did you mean {owners[close[0]]}?" if close else ""


def misplaced_keys(content: Node, own: Node, groups: Sequence[str]) -> Iterator[str]:
    """Yield an error for each unknown key and each missing key, at the top level and in the groups of `PLAIN`.

    An unknown key that an interpolation refers to is accepted. Other groups are checked later, by their constructors.

    Args:
        content: The configuration.
        own: dltrain's own configuration, unchanged.
        groups: Names of all groups.
    """
    text = str(content)
    for prefix, node, known in (("", content, own), *((f"{g}.", content.get(g, {}), own[g]) for g in PLAIN)):
        for name in node:
            if name == "experiment":
                yield 'experiment: expected the line "# @package _global_" at the start of its YAML, got none'
            elif name not in known and (prefix or name not in groups) and f"${{{prefix}{name}" not in text:
                new = renamed.new_key(f"{prefix}{name}")
                hint = f"It is called {new} now." if new else suggest(name, known)
                yield f"{prefix}{name}: unknown key. {hint}".rstrip()
        yield from (f"{prefix}{name}: expected a value, got nothing" for name in known if name not in node)


def misshapen_groups(content: Node, own: Node) -> Iterator[str]:
    """Yield an error where a group replaces a value, a value replaces a group, or a required key is missing."""
    optimizer = content.get("optimizer")
    schedule = optimizer.get("schedule") if isinstance(optimizer, Mapping) else None
    nodes = {**content, "optimizer.schedule": schedule}
    for key, default in [(k, v) for k, v in own.items() if k != "sweep"] + [("optimizer.schedule", {})]:
        found = nodes.get(key)
        if found is None and default is not None:
            hint = f". {NO_SCHEDULE}" if key == "optimizer.schedule" else ""
            yield f"{key}: expected a value, got nothing{hint}"
        elif isinstance(found, Mapping) != isinstance(default, Mapping):
            yield format_error(key, "a group of keys" if isinstance(default, Mapping) else "a value", found)
    for group in PLAIN:
        node = content.get(group)
        if isinstance(node, Mapping):
            wrong = [f"{group}.{name}" for name, value in node.items() if isinstance(value, Mapping)]
            yield from (format_error(key, "a value", "a group of keys") for key in wrong)


def leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted key and the value of each entry that is neither a mapping nor a list."""
    if isinstance(node, Mapping | list):
        for name, item in node.items() if isinstance(node, Mapping) else enumerate(node):
            yield from leaves(item, f"{prefix}.{name}" if prefix else str(name))
    else:
        yield prefix, node


def endless(content: Node) -> Iterator[str]:
    """Yield an error if neither ``trainer.epochs`` nor ``trainer.max_steps`` is set."""
    trainer = content.get("trainer")
    if isinstance(trainer, Mapping) and trainer.get("epochs", 1) is None and trainer.get("max_steps", 1) is None:
        yield format_error("trainer.epochs", "a whole number of at least 1", "null", "trainer.max_steps is null too.")
