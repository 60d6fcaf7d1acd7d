"""Configurations as plain dictionaries: read from YAML, written as YAML, interpolations resolved, facts filled in."""

from collections.abc import Mapping
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dltrain.config.interpolation import FACT
from dltrain.errors import ConfigError, format_error, suggest


class Fact:
    """Placeholder of a value that the data or the task state: ``${spec.NAME}``."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __str__(self) -> str:
        return f"${{spec.{self.name}}}"


def from_yaml(text: str) -> Any:
    """Return a YAML document, interpolations as they are written; a `ValueError` if it is not a configuration."""
    try:
        return OmegaConf.to_container(OmegaConf.create(text))
    except OmegaConfBaseException as error:
        raise ValueError(str(error)) from error


def to_yaml(content: Mapping[str, Any]) -> str:
    """Return a configuration as YAML."""
    return OmegaConf.to_yaml(OmegaConf.create(dict(content)))


def resolve(written: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy with every interpolation replaced by its value, and those of facts by a `Fact`."""
    whole = OmegaConf.create(dict(written), flags={"allow_objects": True})
    whole.spec = {name: Fact(name) for name in FACT.findall(str(written))}
    resolved: Any = OmegaConf.to_container(whole, resolve=True)
    del resolved["spec"]
    return resolved


def fill_facts(node: Any, facts: Mapping[str, Any], key: str = "") -> Any:
    """Return a copy of a resolved configuration with every `Fact` replaced by its value."""
    if isinstance(node, Mapping):
        return {name: fill_facts(value, facts, f"{key}.{name}".lstrip(".")) for name, value in node.items()}
    if isinstance(node, list):
        return [fill_facts(value, facts, f"{key}.{number}") for number, value in enumerate(node)]
    if not isinstance(node, Fact):
        return node
    if node.name not in facts:
        raise ConfigError(format_error(key, "a fact that the data or the task state", node, suggest(node.name, facts)))
    return facts[node.name]
