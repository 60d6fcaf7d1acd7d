"""Interpolations: references to other keys, to environment variables (some are secret), and to facts of the data."""

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from omegaconf.resolvers import oc

from dltrain import redaction
from dltrain.config import facts, schema, validation
from dltrain.config.facts import FACT, Fact
from dltrain.errors import ConfigError, format_error

# ${oc.env:MY_${...}}, also with a computed resolver name: it cannot be seen which variable is read.
ASSEMBLED = re.compile(r"\$\{\s*oc\.env\s*:[^,}]*\$\{|\$\{[^{}:]*\$\{[^{}]*\}[^{}:]*:")


def unresolvable(written: dict[str, Any]) -> Iterator[str]:
    """Yield an error for each interpolation without a value, or in a cycle. Facts are known only later."""
    whole = _with_placeholders(written)
    for key, value in validation.leaves(written):
        if isinstance(value, str) and "${" in value:
            try:
                found = OmegaConf.select(whole, key)
                OmegaConf.to_container(found, resolve=True) if OmegaConf.is_config(found) else None
            except (OmegaConfBaseException, RecursionError) as error:
                reason = re.sub(r"^.*while resolving interpolation: ", "", str(error).split("\n")[0])
                yield format_error(key, "a value", value, f"{reason.rstrip('.')}.")


def check_values(written: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return a configuration with its interpolations resolved, as far as possible, and every error in its values."""
    errors, wrong, resolved = list(unresolvable(written)), list(schema.out_of_range(written)), written
    if not errors:
        resolved = resolve(written)
        errors += filter(None, (facts.misplaced_fact(*leaf) for leaf in validation.leaves(resolved)))
        known = {error.partition(": ")[2] for error in wrong}  # a key that refers to a wrong one is not wrong itself
        wrong += (error for error in schema.out_of_range(resolved) if error.partition(": ")[2] not in known)
    return resolved, [*errors, *wrong, *validation.endless(resolved)]


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
    resolved: Any = OmegaConf.to_container(_with_placeholders(written), resolve=True)
    del resolved["spec"]
    return resolved


def _with_placeholders(written: Mapping[str, Any]) -> DictConfig:
    """Return a configuration in which a `Fact` stands for each value that it takes from the data or the task."""
    whole = OmegaConf.create(dict(written), flags={"allow_objects": True})
    whole.spec = {name: Fact(name) for name in FACT.findall(str(written))}
    return whole
