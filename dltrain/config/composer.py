"""Compose one configuration with Hydra and check it. Hydra must be initialized."""

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import hydra
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from dltrain import redaction
from dltrain.config import interpolation, overrides, validation
from dltrain.config.groups import search_dirs
from dltrain.errors import ConfigError, format_error, shorten

# Whether the command is a sweep -> the only key of Hydra that may be set on the command line. Plugins, callbacks and
# loggers of Hydra can run arbitrary code.
SETTABLE_IN_HYDRA = {False: "hydra.run.dir", True: "hydra.sweep.dir"}
# Parts of Hydra's configuration that may differ from its defaults, because they cannot run code.
FREE_IN_HYDRA = ("run", "sweep", "runtime", "overrides", "job", "searchpath")
# Groups that configure how Hydra itself logs, starts jobs and prints help; composition is faster without them.
UNUSED_IN_HYDRA = ("env", "help", "hydra_help", "hydra_logging", "job_logging", "launcher", "output", "sweeper")


class Composer:
    """Composer of the configurations of a command's runs; caches what Hydra returns for each combination of options."""

    def __init__(self, config_dirs: tuple[str, ...], sweep: bool) -> None:
        self.config_dirs, self.sweep, self.folders = config_dirs, sweep, search_dirs(config_dirs)
        self.groups = sorted({entry.name for folder in self.folders for entry in folder.iterdir() if entry.is_dir()})
        self.options = functools.cache(self._find_options)
        self.base = functools.cache(self._call_hydra)

    def _find_options(self, group: str) -> list[str]:
        files = (file for folder in self.folders for file in (folder / group).glob("*.yaml")) if group else ()
        return sorted({file.stem for file in files})

    def _call_hydra(self, *options: str) -> DictConfig:
        with hydra_errors():
            return call_hydra(*options, *search_path(self.config_dirs)) if self.config_dirs else packaged(*options)

    def compose(self, parsed: Sequence[Override]) -> tuple[DictConfig, dict[str, Any], dict[str, Any]]:
        """Compose and check one run.

        Returns:
            The configuration that Hydra composes from the options, with Hydra's keys; the configuration with all values
            of `parsed`, without Hydra's keys; and the second configuration with interpolations resolved.
        """
        chosen = [o for o in parsed if first_name(o) != "hydra" and self.options(o.key_or_group)]
        values = [o for o in parsed if o not in chosen]
        found = {id(o): self.wrong_option(o) for o in chosen}
        # Compose the valid overrides even if others are wrong, so that all errors are reported together.
        found |= self.rejected(o for o in chosen if not found[id(o)])
        base = self.base(*(str(o.input_line) for o in chosen if not found[id(o)]))
        before, content = plain(base), plain(base)
        found |= {id(o): self.wrong_value(o, before) for o in values}
        values = [o for o in values if not found[id(o)]]
        found |= {id(o): overrides.apply(o, content) for o in values if first_name(o) != "hydra"}
        errors = [text for text in found.values() if text]
        with hydra_errors():
            resolved, wrong = interpolation.check_values(content)
        errors += [*wrong, *self.resolved_errors(values, resolved, before)]
        changes = (o.type is OverrideType.CHANGE and not isinstance(o.value(), dict) for o in parsed)
        if self.config_dirs or not all(changes) or any(map(is_interpolated, parsed)):
            errors += self._structure_errors(base, content)
        typed = next((o.value() for o in reversed(parsed) if o.key_or_group == "allow_targets"), None)
        allowed = module_names(content.get("allow_targets"))
        if allowed not in ([], module_names(typed)):
            reason = f"{shorten(' '.join(allowed))} could run arbitrary code"
            errors.append(f"allow_targets: not supported in YAML because {reason}. Set it on the command line.")
        if not self.sweep and sweep_to_resume(resolved) is not None:
            errors.append("sweep.resume: not supported without -m. Resume a single run with: dltrain resume RUN")
        if errors:
            raise ConfigError(*errors)
        return base, content, resolved

    def rejected(self, parsed: Iterable[Override]) -> dict[int, str | None]:
        """Return ``id(override)`` -> error, for each override that Hydra rejects in combination with earlier ones."""
        kept: list[str] = []
        found: dict[int, str | None] = {}
        typed = [(id(o), str(o.input_line)) for o in parsed]
        with suppress(ConfigError):  # usually all are valid
            self.base(*(text for _, text in typed))
            return found
        for key, text in typed:
            try:
                self.base(*kept, text)
                kept.append(text)
            except ConfigError as error:
                found[key] = f"{text}: {error}"
        return found

    def wrong_option(self, override: Override) -> str | None:
        """Return the error in ``group=option``, or None. Deleted groups are checked in the composed configuration."""
        if override.is_delete():
            return None
        return validation.wrong_option(override.key_or_group, override.value(), self.options(override.key_or_group))

    def wrong_value(self, override: Override, content: dict[str, Any]) -> str | None:
        """Return the error in ``key=value``, or None. Added keys are checked in the composed configuration."""
        key, value = override.key_or_group, override.value()
        if first_name(override) == "hydra":
            settable = SETTABLE_IN_HYDRA[self.sweep]
            reason = f"{settable} is the only key of Hydra that can be set here"
            return None if key == settable else f"{key}: not supported because {reason}"
        unknown = validation.unknown_key(key, content, self.groups)
        if unknown:
            return None if override.is_add() or override.is_force_add() else unknown
        if override.is_add():
            return f"+{key}: not supported because {key} exists. To change it: {key}={value}"
        if override.is_delete():
            current = validation.lookup(key, content)
            expected = f"its value, {redaction.mask(current, key)}"
            return None if value in (None, current) else format_error(f"~{key}", expected, value)
        return validation.wrong_value(key, value, content, self.groups)

    def resolved_errors(
        self, parsed: Iterable[Override], resolved: dict[str, Any], before: dict[str, Any]
    ) -> Iterator[str]:
        """Yield an error for each interpolation on the command line that resolves to a wrong value."""
        for key in (o.key_or_group for o in parsed if is_interpolated(o)):
            known = not validation.unknown_key(key, before, self.groups)
            if known and not isinstance(validation.lookup(key, before), dict):
                error = validation.wrong_value(key, validation.lookup(key, resolved), before, self.groups)
                yield from [error] if error else []

    def _structure_errors(self, base: DictConfig, content: dict[str, Any]) -> list[str]:
        """Return the errors in the structure of the user's own YAML and in added and deleted keys."""
        own, reason = self.base(), "not supported because dltrain runs no plugins, callbacks or loggers of Hydra"
        checked = [k for k in base.hydra if k not in FREE_IN_HYDRA] if self.config_dirs else []
        touched = [k for k in checked if plain(base.hydra[k]) != plain(own.hydra[k])]
        shape = list(validation.misshapen_groups(content, plain(own)))
        keys = shape or validation.misplaced_keys(content, plain(own), self.groups)
        return [*(f"hydra.{name}: {reason}" for name in touched), *keys]


def call_hydra(*options: str) -> DictConfig:
    """Return the configuration that Hydra composes, with Hydra's keys."""
    return hydra.compose("config", list(options), return_hydra_config=True)


@functools.cache  # not for the user's own YAML, which may change while the process runs
def packaged(*options: str) -> DictConfig:
    """Compose options of dltrain's own groups, without the groups of Hydra that dltrain never uses."""
    return call_hydra(*options, *(f"~hydra/{group}" for group in UNUSED_IN_HYDRA))


def is_interpolated(override: Override) -> bool:
    """Return whether an override sets a value that contains an interpolation."""
    return not override.is_delete() and "${" in str(override.value())


def first_name(override: Override) -> str:
    """Return the first part of an override's key."""
    return override.key_or_group.replace("/", ".").split(".")[0]


def module_names(value: Any) -> list[str]:
    """Return the module prefixes in a value of ``allow_targets``, which is a list, one name or null."""
    return [str(name) for name in (value if isinstance(value, list) else [value] if value else [])]


def sweep_to_resume(content: Mapping[str, Any]) -> Any:
    """Return the value of ``sweep.resume``, or None if there is none."""
    sweep = content.get("sweep")
    return sweep.get("resume") if isinstance(sweep, Mapping) else None


def search_path(config_dirs: tuple[str, ...]) -> list[str]:
    """Return a list with the override that adds `config_dirs` to Hydra's search path; empty without folders."""
    folders = ",".join(f"'file://{Path(folder).resolve()}'" for folder in config_dirs)
    return [f"hydra.searchpath=[{folders}]"] if folders else []


@contextmanager
def hydra_errors() -> Iterator[None]:
    """Raise errors of Hydra, OmegaConf and YAML, and `ValueError`, as a `ConfigError` of one line."""
    try:
        yield
    except (HydraException, OmegaConfBaseException, YAMLError, ValueError) as error:
        raise ConfigError(" ".join(line.strip() for line in str(error).splitlines() if line.strip())) from None


def plain(node: Any) -> Any:
    """Return a configuration as dictionaries and lists, without ``hydra`` and with interpolations unresolved."""
    if not OmegaConf.is_config(node):
        return node
    if "hydra" not in node:
        return OmegaConf.to_container(node)
    # OmegaConf.masked_copy would copy every node.
    kept = ((key, child) for key, child in node.items_ex(resolve=False) if key != "hydra")
    return {key: OmegaConf.to_container(child) if OmegaConf.is_config(child) else child for key, child in kept}
