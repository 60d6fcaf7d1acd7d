"""Interpolations: references to other keys, to environment variables (some are secret), and to facts of the data."""

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from omegaconf.resolvers import oc

from dltrain import redaction
from dltrain.config import schema, validation
from dltrain.errors import ConfigError, format_error, suggest

FACT = re.compile(r"\$\{spec\.(\w+)")
# ${oc.env:MY_${...}}, also with a computed resolver name: it cannot be seen which variable is read.
ASSEMBLED = re.compile(r"\$\{\s*oc\.env\s*:[^,}]*\$\{|\$\{[^{}:]*\$\{[^{}]*\}[^{}:]*:")


def unresolvable(written: dict[str, Any]) -> Iterator[str]:
    """Yield an error for each interpolation without a value, in a cycle, or with a value out of range.

    Facts, ``${spec.NAME}``, are known only later and always accepted.
    """
    whole = OmegaConf.create({**written, "spec": dict.fromkeys(FACT.findall(str(written)))})
    for key, value in validation.leaves(written):
        if isinstance(value, str) and "${" in value:
            try:
                found = OmegaConf.select(whole, key)
                # Environment variables are text even where a number is expected.
                if "oc." in value and not OmegaConf.is_config(found) and (wrong := schema.check_range(key, found)):
                    yield wrong
            except (OmegaConfBaseException, RecursionError) as error:
                reason = re.sub(r"^.*while resolving interpolation: ", "", str(error).split("\n")[0])
                yield format_error(key, "a value", value, f"{reason.rstrip('.')}.")


def refuse_assembled(content: Any, file: Path) -> None:
    """Reject environment variables with computed names: a run folder could read any secret unnoticed."""
    found = [(key, text) for key, text in validation.leaves(content) if ASSEMBLED.search(str(text))]
    if found:
        expected = f"${{oc.env:NAME}} with a literal name in {file}"
        raise ConfigError(*(format_error(key, expected, text) for key, text in found))


def register_secrets(written: dict[str, Any]) -> None:
    """Register the secrets of a configuration for redaction, as far as they can be resolved yet."""
    OmegaConf.register_new_resolver("oc.env", resolve_env, replace=True)
    config = OmegaConf.create(written)
    for key, value in validation.leaves(written):
        if redaction.is_secret(key) or "oc.env" in str(value):
            with suppress(OmegaConfBaseException, RecursionError):
                redaction.register_secrets(OmegaConf.select(config, key), key)


def resolve_env(name: str, *default: Any) -> Any:
    """Return the value of an environment variable, registered for redaction if its name marks it as a secret."""
    value = oc.env(name, *default)
    if redaction.is_secret_variable(str(name)):
        redaction.register_secrets(value, "secret")
    return value


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
