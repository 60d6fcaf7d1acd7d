"""What a configuration refers to: values elsewhere in it, and variables of the environment, some of them secret."""

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from omegaconf.resolvers import oc

from dltrain import redaction
from dltrain.config import schema, validation
from dltrain.errors import ConfigError, format_error

FACT = re.compile(r"\$\{spec\.(\w+)")
# ${oc.env:MY_${...}}, and the same with a resolver whose own name is put together: which variable it is nobody sees.
ASSEMBLED = re.compile(r"\$\{\s*oc\.env\s*:[^,}]*\$\{|\$\{[^{}:]*\$\{[^{}]*\}[^{}:]*:")


def unresolvable(written: dict[str, Any]) -> Iterator[str]:
    """What refers to nothing, to itself or to a value that does not fit; facts of the data are there later.

    Args:
        written: A configuration as plain Python, interpolations as they are written.
    """
    whole = OmegaConf.create({**written, "spec": dict.fromkeys(FACT.findall(str(written)))})
    for key, value in validation.leaves(written):
        if isinstance(value, str) and "${" in value:
            try:
                found = OmegaConf.select(whole, key)
                # Of the environment everything comes as text, which is no number.
                if "oc." in value and not OmegaConf.is_config(found) and (mistake := schema.check_range(key, found)):
                    yield mistake
            except (OmegaConfBaseException, RecursionError) as error:
                reason = re.sub(r"^.*while resolving interpolation: ", "", str(error).split("\n")[0])
                yield format_error(key, "a value", value, f"{reason.rstrip('.')}.")


def refuse_assembled(content: Any, file: Path) -> None:
    """Refuse variables of the environment whose names are put together: a folder could ask for any secret unseen.

    Raises:
        ConfigError: Naming the keys.
    """
    found = [(key, text) for key, text in validation.leaves(content) if ASSEMBLED.search(str(text))]
    if found:
        expected = f"${{oc.env:NAME}} with a name that stands there in {file}"
        raise ConfigError(*(format_error(key, expected, text) for key, text in found))


def register_secrets(written: dict[str, Any]) -> None:
    """Register the secrets of a configuration, as far as they can be resolved yet, for redaction.

    Args:
        written: A configuration as plain Python, with unresolved interpolations.
    """
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
