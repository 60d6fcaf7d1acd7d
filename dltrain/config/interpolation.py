"""Interpolations: references to other keys, to environment variables (some are secret) and to spec values."""

import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from omegaconf.resolvers import oc

from dltrain import redaction
from dltrain.config import facts, schema, validation
from dltrain.config.facts import FACT, Fact
from dltrain.errors import ConfigError, format_error

# Computed names of environment variables, ${oc.env:MY_${...}}, and of resolvers, ${oc.${...}:NAME}.
COMPUTED_NAME = re.compile(r"\$\{\s*oc\.env\s*:[^,}]*\$\{|\$\{[^{}:]*\$\{[^{}]*\}[^{}:]*:")


def check_values(config: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the configuration and the errors in its values.

    Interpolations are resolved only if all of them have values.
    """
    wrong, errors = list(schema.out_of_range(config)), list[str]()
    resolved = _resolve(config, _with_placeholders(config), errors)
    if errors:
        resolved = config
    else:
        errors += filter(None, (facts.misplaced_fact(*leaf) for leaf in validation.leaves(resolved)))
        errors += filter(None, (facts.renamed_fact(*leaf) for leaf in validation.leaves(resolved)))
        # Report a wrong value at its own key, and not again at the keys that refer to it.
        known = {error.partition(": ")[2] for error in wrong}
        wrong += (error for error in schema.out_of_range(resolved) if error.partition(": ")[2] not in known)
    return resolved, [*errors, *wrong, *validation.endless(resolved)]


def reject_computed_names(content: Any, file: Path) -> None:
    """Reject computed names of environment variables and resolvers, because they hide which variable is read."""
    found = [(key, text) for key, text in validation.leaves(content) if COMPUTED_NAME.search(str(text))]
    if found:
        expected = f"${{oc.env:NAME}} with a literal name in {file}"
        raise ConfigError(*(format_error(key, expected, text) for key, text in found))


def register_secrets(config: dict[str, Any]) -> None:
    """Register the secrets of a configuration for redaction; skip secrets that cannot be resolved yet."""
    OmegaConf.register_new_resolver("oc.env", resolve_env, replace=True)
    found = [key for key, value in validation.leaves(config) if redaction.is_secret(key) or "oc.env" in str(value)]
    root = OmegaConf.create(config if found else {})
    for key in found:
        with suppress(OmegaConfBaseException, RecursionError):
            redaction.register_secrets(OmegaConf.select(root, key), key)


def resolve_env(name: str, *default: Any) -> Any:
    """Return the value of an environment variable, registered for redaction if its name marks it as a secret."""
    value = oc.env(name, *default)
    if redaction.is_secret_variable(str(name)):
        redaction.register_secrets(value, "secret")
    return value


def from_yaml(text: str) -> Any:
    """Parse YAML without resolving interpolations; raise `ValueError` if it is not a configuration."""
    try:
        return OmegaConf.to_container(OmegaConf.create(text))
    except (OmegaConfBaseException, AssertionError, yaml.YAMLError) as error:
        raise ValueError(str(error)) from error


class Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """YAML writer that also quotes strings that only OmegaConf would read as numbers, such as ``1e3``."""

    def ignore_aliases(self, data: Any) -> bool:
        """Return True, so that a repeated object is written again, not as an alias."""
        return True

    def represent_str(self, data: str) -> yaml.ScalarNode:
        """Return the node of a string."""
        return self.represent_scalar("tag:yaml.org,2002:str", data, style="'" if _is_number(data) else None)


Dumper.add_representer(str, Dumper.represent_str)


def _is_number(text: str) -> bool:
    with suppress(ValueError):
        float(text)
        return True
    return False


def to_yaml(content: Mapping[str, Any]) -> str:
    """Return a configuration as YAML."""
    return yaml.dump(dict(content), Dumper=Dumper, default_flow_style=False, allow_unicode=True, sort_keys=False)


def resolve(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy with every interpolation replaced by its value, or by a `Fact` if it refers to a spec value."""
    resolved: Any = OmegaConf.to_container(_with_placeholders(config), resolve=True)
    del resolved["spec"]
    return resolved


def _resolve(config: Any, node: Any, errors: list[str], prefix: str = "") -> Any:
    """Return a copy of a configuration with every interpolation replaced by its value.

    Args:
        config: The configuration as dictionaries and lists.
        node: `config` as a node of OmegaConf, with placeholders for spec values.
        errors: A list to which an error is added for each interpolation that has no value or is part of a cycle.
    """
    found: dict[Any, Any] = {}
    for name, value in config.items() if isinstance(config, Mapping) else enumerate(config):
        key = f"{prefix}{name}"
        if isinstance(value, Mapping | list):
            found[name] = _resolve(value, node._get_node(name), errors, f"{key}.")
        elif isinstance(value, str) and "${" in value:
            try:
                result = node[name]
                found[name] = OmegaConf.to_container(result, resolve=True) if OmegaConf.is_config(result) else result
            except (OmegaConfBaseException, RecursionError) as error:
                reason = re.sub(r"^.*while resolving interpolation: ", "", str(error).split("\n")[0])
                errors.append(format_error(key, "a value", value, f"{reason.rstrip('.')}."))
        else:
            found[name] = value
    return found if isinstance(config, Mapping) else list(found.values())


def _with_placeholders(config: Mapping[str, Any]) -> DictConfig:
    """Return the configuration with a `Fact` for each value that the data or the task will provide."""
    names = FACT.findall(str(config))
    if any("." in name for name in names):
        config = _with_flat_names(config)
    root = OmegaConf.create(dict(config), flags={"allow_objects": True})
    root.spec = {_flat(name): Fact(name) for name in names}
    return root


def _with_flat_names(node: Any) -> Any:
    """Return a copy in which ``${spec.NAME.PART}`` is replaced by ``${spec.NAME__PART}``.

    OmegaConf cannot hold a value for NAME and values for its parts at the same time.
    """
    if isinstance(node, Mapping):
        return {name: _with_flat_names(value) for name, value in node.items()}
    if isinstance(node, list):
        return [_with_flat_names(value) for value in node]
    return FACT.sub(lambda match: f"${{spec.{_flat(match[1])}", node) if isinstance(node, str) else node


def _flat(name: str) -> str:
    return name.replace(".", "__")
