"""Compose a command line into one configuration per run, or report all of its errors. Never imports torch."""

import functools
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dltrain.config import interpolation, overrides
from dltrain.config.composer import (
    SETTABLE_IN_HYDRA,
    Composer,
    first_name,
    hydra_errors,
    module_names,
    plain,
    sweep_to_resume,
)
from dltrain.config.groups import conf_dir, search_dirs
from dltrain.errors import ConfigError, format_error

LOCATIONS = ("hydra", "sweep")  # the location of a run is not part of its configuration


@dataclass(frozen=True)
class Job:
    """Composed configuration and folders of one run."""

    config: dict[str, Any]  # without ``hydra`` and ``sweep``, interpolations unresolved
    choices: dict[str, str]  # group -> the option chosen: {"model": "lstm"}
    overrides: tuple[str, ...]  # in Hydra's syntax, without overrides of the run's location
    run_dir: str | None  # the run folder given, or None for a new one
    sweep_dir: str | None  # the sweep folder given, or None for a new one
    config_dirs: tuple[str, ...] = ()  # folders searched after dltrain's own
    allow: tuple[str, ...] = ()  # value of allow_targets: prefixes of the user's modules that YAML may name
    sweep_resume: str | None = None  # the folder of the sweep to resume, or None for a new one

    def __post_init__(self) -> None:
        interpolation.register_secrets(self.config)

    @functools.cached_property
    def resolved(self) -> dict[str, Any]:
        """The configuration with interpolations resolved; ``${spec.NAME}`` becomes a `Fact`."""
        with hydra_errors():
            return interpolation.resolve(self.config)

    def title(self) -> str:
        """Return the chosen option of every group, written as a command."""
        groups = dict.fromkeys(["experiment", "model", "data", "task", *reversed(self.choices)])
        return " ".join(["dltrain", *(f"{group}={self.choices[group]}" for group in groups if group in self.choices)])

    def set_environment(self) -> None:
        """Make cuBLAS deterministic if `device.deterministic` is true; call this before torch is imported."""
        if self.resolved["device"]["deterministic"]:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def compose(typed: list[str], config_dirs: tuple[str, ...] = ()) -> Job:
    """Compose one run, or raise a `ConfigError` with one line per error."""
    return expand(typed, config_dirs, sweep=False)[0]


def expand(typed: list[str], config_dirs: tuple[str, ...] = (), sweep: bool = True) -> list[Job]:
    """Compose the runs of a command: one or, with `sweep`, one per combination of the given values."""
    jobs: list[Job] = []
    with session(config_dirs, sweep) as composer:
        parsed, errors = overrides.parse(typed, composer.options)
        values, wrong = overrides.sweep_values(parsed, composer.options) if sweep else overrides.single_values(parsed)
        errors += wrong
        for combination in itertools.product(*values):
            try:
                base, content, resolved = composer.compose(combination)
                jobs.append(_job_of(base, content, combination, config_dirs, sweep_to_resume(resolved)))
                # `Composer.compose` has resolved the configuration; keep the result as `Job.resolved`.
                vars(jobs[-1])["resolved"] = {k: v for k, v in resolved.items() if k not in LOCATIONS}
            except ConfigError as error:
                errors += error.problems
    if errors:
        raise ConfigError(*dict.fromkeys(errors))
    return jobs


@functools.cache
def defaults() -> Job:
    """Return dltrain's own configuration without overrides."""
    with session((), sweep=False) as composer:
        base = composer.base()
        return _job_of(base, plain(base))


def _job_of(
    base: DictConfig,
    content: dict[str, Any],
    parsed: Sequence[Override] = (),
    config_dirs: tuple[str, ...] = (),
    sweep_resume: Any = None,
) -> Job:
    """Return the job of a composed configuration.

    Args:
        base: The configuration that Hydra composes from the chosen options, with Hydra's keys.
        content: `base` with the values of the command line, without Hydra's keys.
        parsed: The overrides.
    """
    choices = {k: v for k, v in base.hydra.runtime.choices.items() if v is not None and not k.startswith("hydra/")}
    run_dir, sweep_dir = (_folder_of(base, content, parsed, key) for key in SETTABLE_IN_HYDRA.values())
    typed = tuple(str(o.input_line) for o in parsed if first_name(o) not in LOCATIONS)
    config = {key: value for key, value in content.items() if key not in LOCATIONS}
    allow = tuple(module_names(config.get("allow_targets")))
    return Job(config, choices, typed, run_dir, sweep_dir, config_dirs, allow, sweep_resume and str(sweep_resume))


def _folder_of(base: DictConfig, content: dict[str, Any], parsed: Sequence[Override], key: str) -> str | None:
    """Return the folder that ``hydra.run.dir`` or ``hydra.sweep.dir`` names, or None for a new one."""
    folder = OmegaConf.select(base, key.removesuffix(".dir"))._get_node("dir")._value()
    folder = next((o.value() for o in reversed(parsed) if o.key_or_group == key), folder)
    if "${" in str(folder):
        whole = OmegaConf.create({**content, "hydra": base.hydra})
        try:
            OmegaConf.update(whole, key, folder)
            folder = OmegaConf.select(whole, key)
        except OmegaConfBaseException as error:
            raise ConfigError(format_error(key, "a folder", folder, f"{str(error).splitlines()[0]}.")) from None
    if isinstance(folder, list | dict):
        raise ConfigError(format_error(key, "a folder", folder))
    return None if folder in ("auto", "", None) else str(folder)


@contextmanager
def session(config_dirs: tuple[str, ...], sweep: bool) -> Iterator[Composer]:
    """Initialize Hydra for dltrain's groups and the user's own, and yield the composer."""
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(config_dir=str(conf_dir()), version_base="1.3", job_name="dltrain"):
        yield Composer(config_dirs, sweep)


@functools.cache
def options(group: str, config_dirs: tuple[str, ...]) -> Mapping[str, dict[str, Any]]:
    """Return the unresolved YAML of every option of a group; dltrain's own options take precedence, as in Hydra."""
    found: dict[str, dict[str, Any]] = {}
    for folder in search_dirs(config_dirs):
        for file in sorted((folder / group).glob("*.yaml")):
            found.setdefault(file.stem, OmegaConf.to_container(OmegaConf.load(file)))  # type: ignore[arg-type]
    return found


def default_root() -> Path:
    """Return ``outputs`` in dltrain's checkout if it contains the current folder, else in the current folder."""
    root = Path(__file__).parents[2]
    in_checkout = (root / "conf" / "config.yaml").is_file() and Path.cwd().is_relative_to(root)
    return (root if in_checkout else Path.cwd()) / "outputs"
