"""Spec values: values of ``${spec.NAME}``, such as the number of classes, known only after data and task are built."""

import re
from collections.abc import Mapping
from typing import Any

from dltrain.errors import ConfigError, format_error, suggest

FACT = re.compile(r"\$\{spec\.(\w+(?:\.\w+)*)")
# Name of a spec value in earlier versions -> its new name.
RENAMED = {
    "vocabulary": "tokens.size",
    "pad": "tokens.pad",
    "encode": "tokens.encode",
    "decode": "tokens.decode",
    "normalise": "normalize",
}
# Groups and keys that are needed before the spec values are known.
BEFORE_FACTS = ("data", "trainer", "regularization", "augment", "transfer", "device", "seed", "allow_targets")


class Fact:
    """Placeholder for a value that the data or the task provides: ``${spec.NAME}`` or ``${spec.NAME.PART}``."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __str__(self) -> str:
        return f"${{spec.{self.name}}}"


def find_fact(facts: Mapping[str, Any], name: str) -> Any:
    """Return a spec value or its attribute ``PART``; None if it does not exist.

    Args:
        facts: Spec values by name; True for a value that is not known yet.
        name: ``NAME`` or ``NAME.PART``.
    """
    name, *parts = name.split(".")
    value = facts.get(name)
    for part in parts:
        value = value if value is True else getattr(value, part, None)
    return value


def fill_facts(node: Any, facts: Mapping[str, Any], key: str = "") -> Any:
    """Return a copy of a resolved configuration with every `Fact` replaced by its value."""
    if isinstance(node, Mapping):
        return {name: fill_facts(value, facts, f"{key}.{name}".lstrip(".")) for name, value in node.items()}
    if isinstance(node, list):
        return [fill_facts(value, facts, f"{key}.{number}") for number, value in enumerate(node)]
    if not isinstance(node, Fact):
        return node
    name, _, part = node.name.partition(".")
    if name not in facts:
        raise ConfigError(format_error(key, "a value that the data or the task provides", node, suggest(name, facts)))
    if part and facts[name] is not None and not hasattr(facts[name], part):
        known = [name for name in dir(facts[name]) if not name.startswith("_")]
        raise ConfigError(format_error(key, f"an attribute of {name}", node, suggest(part, known)))
    return find_fact(facts, node.name)


def renamed_fact(key: str, value: Any) -> str | None:
    """Return the error if the resolved value of a key is a spec value under its old name."""
    if isinstance(value, Fact) and value.name in RENAMED:
        return format_error(key, str(Fact(RENAMED[value.name])), value, "It was renamed.")
    return None


def misplaced_fact(key: str, value: Any) -> str | None:
    """Return the error if a spec value is known too late for its key, or is only part of a value."""
    if isinstance(value, Fact) and key.partition(".")[0] in BEFORE_FACTS:
        return format_error(key, "a value that is known before the data are read", value)
    if isinstance(value, str) and FACT.search(value):
        return format_error(key, "${spec.NAME} alone, without other text", value)
    return None
