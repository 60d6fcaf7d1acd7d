"""Facts: ``${spec.NAME}`` in a configuration, known only when the data and the task are built."""

import re
from collections.abc import Mapping
from typing import Any

from dltrain.errors import ConfigError, format_error, suggest

FACT = re.compile(r"\$\{spec\.(\w+)")
# Groups and keys that are needed before the facts are known.
BEFORE_FACTS = ("data", "trainer", "regularization", "augment", "device", "seed", "allow_targets")


class Fact:
    """Placeholder for a value that the data or the task provides: ``${spec.NAME}``."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __str__(self) -> str:
        return f"${{spec.{self.name}}}"


def fill_facts(node: Any, facts: Mapping[str, Any], key: str = "") -> Any:
    """Return a copy of a resolved configuration with every `Fact` replaced by its value."""
    if isinstance(node, Mapping):
        return {name: fill_facts(value, facts, f"{key}.{name}".lstrip(".")) for name, value in node.items()}
    if isinstance(node, list):
        return [fill_facts(value, facts, f"{key}.{number}") for number, value in enumerate(node)]
    if not isinstance(node, Fact):
        return node
    if node.name not in facts:
        raise ConfigError(format_error(key, "a fact of the data or the task", node, suggest(node.name, facts)))
    return facts[node.name]


def misplaced_fact(key: str, value: Any) -> str | None:
    """Return the error if a fact is known too late for its key, or is only part of a value."""
    if isinstance(value, Fact) and key.partition(".")[0] in BEFORE_FACTS:
        return format_error(key, "a value that is known before the data are read", value)
    if isinstance(value, str) and FACT.search(value):
        return format_error(key, "a fact as the whole value", value)
    return None
