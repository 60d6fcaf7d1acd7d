"""Apply overrides to a stored configuration."""

import copy
from collections.abc import Iterable
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

from dltrain import redaction
from dltrain.config import compose, interpolation, overrides, validation
from dltrain.config.compose import Job
from dltrain.config.composer import SETTABLE_IN_HYDRA, Composer, hydra_errors, plain
from dltrain.errors import ConfigError, format_error

RUN_DIR = SETTABLE_IN_HYDRA[False]
Changes = dict[str, tuple[Any, Any]]


def revise_job(job: Job, typed: list[str]) -> tuple[Job, Changes]:
    """Return a stored job with overrides applied, and the changes: key -> old and new value.

    Args:
        job: The job stored in the run folder.
        typed: Overrides, each ``KEY=VALUE`` or ``GROUP=OPTION``; ``hydra.run.dir=PATH`` sets `Job.run_dir`.
    """
    with compose.session((), sweep=False) as composer:
        parsed, problems = overrides.parse(typed, composer.options)
        values, wrong = overrides.single_values(parsed)
        problems += wrong
        before = job.config
        _check_shape(before, plain(composer.base()), composer.groups)
        content, choices, run_dir = copy.deepcopy(before), dict(job.choices), None
        found = [value[0] for value in values]
        groups = [override for override in found if composer.options(override.key_or_group)]
        groups.sort(key=lambda override: override.key_or_group.count("/"))
        # Apply GROUP=OPTION before KEY=VALUE, regardless of the order on the command line.
        for override in [*groups, *(override for override in found if override not in groups)]:
            key, value = override.key_or_group, override.value()
            if mistake := _override_error(composer, override, content):
                problems.append(mistake)
            elif override in groups:
                _select_group(content, choices, key, composer.base(f"{key}={value}"))
            elif key == RUN_DIR:
                run_dir = None if value in ("auto", None) else str(value)
            elif key != "allow_targets" and (mistake := overrides.apply(override, content, merge=False)):
                problems.append(mistake)
        with hydra_errors():
            resolved, wrong = interpolation.check_values(content)
        problems += [*wrong, *composer.resolved_errors(found, resolved, before)]
    problems += _missing_secrets(content, typed)
    if problems:
        raise ConfigError(*dict.fromkeys(problems))
    kept = [text for text in job.overrides if not _is_overridden(_override_key(text), typed)]
    new = [text for text in typed if _override_key(text) != RUN_DIR]
    changes = config_differences(before, content) | ({RUN_DIR: ("the run folder", run_dir)} if run_dir else {})
    return Job(content, choices, (*kept, *new), run_dir, None, job.config_dirs, job.allow), changes


def config_differences(before: Any, after: Any, prefix: str = "") -> Changes:
    """Return the differences between two configurations: key -> both values, with secrets masked."""
    if not (isinstance(before, dict) and isinstance(after, dict)):
        shown = redaction.mask(after, prefix)
        return {} if before in (after, shown) else {prefix: (redaction.mask(before, prefix), shown)}
    found: Changes = {}
    for name in dict.fromkeys([*before, *after]):
        key = f"{prefix}.{name}" if prefix else str(name)
        found |= config_differences(before.get(name), after.get(name), key)
    return found


def _check_shape(content: dict[str, Any], own: dict[str, Any], groups: list[str]) -> None:
    if wrong := list(validation.misshapen_groups(content, own)):
        raise ConfigError(*wrong)
    if wrong := list(validation.misplaced_keys({**content, "sweep": own["sweep"]}, own, groups)):
        raise ConfigError(*wrong)


def _select_group(content: dict[str, Any], choices: dict[str, str], key: str, base: DictConfig) -> None:
    """Replace a group and its subgroups by those in `base`, which was composed with the new option."""
    path = key.replace("/", ".")
    parent, _, name = path.rpartition(".")
    owner = validation.lookup(parent, content) if parent else content
    owner[name] = validation.lookup(path, plain(base))
    chosen = base.hydra.runtime.choices
    choices.update({name: chosen[name] for name in chosen if f"{name}/".startswith(f"{key}/")})


def _override_error(composer: Composer, override: Override, content: dict[str, Any]) -> str | None:
    """Return the error in an override, or None."""
    key = override.key_or_group
    if override.is_delete() or override.is_add():
        return format_error(str(override.input_line), "KEY=VALUE for a key that the run has", override.input_line)
    if not composer.options(key):
        return composer.wrong_value(override, content)
    hint = f"For a new run: dltrain {key}={override.value()}"
    mistake = f"{key}: not supported because it changes several groups. {hint}"
    return composer.wrong_option(override) or (None if key.split("/")[0] in content else mistake)


def _missing_secrets(content: dict[str, Any], typed: list[str]) -> list[str]:
    """Return an error for each secret that no override sets; run folders do not store secrets."""
    hint = "Secrets are not stored. Set it with {}=VALUE, or train with {}='${{oc.env:NAME}}'"
    masked = [key for key, value in validation.leaves(content) if redaction.MASK in str(value)]
    missing = [key for key in masked if not _is_overridden(key, typed)]
    return [format_error(key, "its value", None, hint.format(key, key)) for key in missing]


def _is_overridden(key: str, typed: Iterable[str]) -> bool:
    """Return whether an override sets a key or a group that contains the key."""
    return any(f"{key}.".startswith(f"{_override_key(text)}.") for text in typed)


def _override_key(text: str) -> str:
    return text.lstrip("+~").split("=", 1)[0].replace("/", ".")
