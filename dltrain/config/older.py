"""Compatibility with stored configurations that lack newer groups or keys."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from dltrain.config import compose, validation
from dltrain.config.compose import Job

# Groups and keys of every stored run; a job.yaml without one of them is damaged.
ALWAYS = ("model", "data", "task", "optimizer", "regularization", "device", "trainer", "seed", "allow_targets")


def fill(config: dict[str, Any], choices: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return a stored configuration and its choices, completed with the defaults of newer groups and keys.

    Therefore the defaults of new groups, and of new keys in groups without ``_target_``, must keep the previous
    behavior. New arguments of a class are not added; the default in its constructor applies.
    """
    own = compose.defaults()
    new = {name: value for name, value in own.config.items() if name not in config and name not in ALWAYS}
    chosen = {group: option for group, option in own.choices.items() if group.partition("/")[0] in new}
    groups = [name for name in validation.PLAIN if name in own.config and isinstance(config.get(name), Mapping)]
    return {**config, **new, **{name: own.config[name] | config[name] for name in groups}}, {**choices, **chosen}


def without_newer_keys(job: Job, stored: Job) -> Job:
    """Return `job`, which resumes `stored`, with only the keys that `stored` has or that were typed as overrides."""
    typed = [override.lstrip("+~").partition("=")[0].replace("/", ".") for override in job.overrides]
    return replace(job, config=_common(job.config, stored.config, "", typed))


def _common(new: Any, old: Any, key: str, typed: list[str]) -> Any:
    if not (isinstance(new, Mapping) and isinstance(old, Mapping)):
        return new
    found = {}
    for name, value in new.items():
        inner = f"{key}.{name}".lstrip(".")
        if name in old or inner in typed:
            found[name] = _common(value, old.get(name), inner, typed)
        elif any(word.startswith(f"{inner}.") for word in typed):
            found[name] = _common(value, {}, inner, typed)
    return found
