"""From what a user typed to one composed configuration, or to all mistakes at once. Never imports torch."""

import copy
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
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from dltrain.config import interpolation, overrides, schema, validation
from dltrain.config.groups import conf_dir, search_dirs
from dltrain.config.plain import resolve
from dltrain.errors import ConfigError, format_error

# Of Hydra's own keys a user may set one, in a run or in a sweep; its plugins, callbacks and loggers would run whatever
# they name.
OURS_IN_HYDRA = {False: "hydra.run.dir", True: "hydra.sweep.dir"}
# Where a run goes is not part of what it is.
PLACES = ("hydra", "sweep")
# What differs from run to run without meaning anything to dltrain.
FREE_IN_HYDRA = ("run", "sweep", "runtime", "overrides", "job", "searchpath")


@dataclass(frozen=True)
class Job:
    """One composed run.

    Args:
        config: Everything below the root except ``hydra``, interpolations as they are written.
        choices: Group -> the option chosen, e.g. ``{"model": "lstm"}``.
        overrides: What the user typed, as Hydra reads it; where the run goes is not part of it.
        run_dir: The run folder the user named, or None for a fresh one.
        sweep_dir: The sweep's folder the user named, or None for a fresh one.
        config_dirs: Folders searched before dltrain's own.
        allow: Module prefixes that the command line allows YAML to name.
        sweep_resume: The folder of the sweep to go on with, or None for a new one.
    """

    config: dict[str, Any]
    choices: dict[str, str]
    overrides: tuple[str, ...]
    run_dir: str | None
    sweep_dir: str | None
    config_dirs: tuple[str, ...] = ()
    allow: tuple[str, ...] = ()
    sweep_resume: str | None = None

    def __post_init__(self) -> None:
        interpolation.register_secrets(self.config)

    @functools.cached_property
    def resolved(self) -> dict[str, Any]:
        """The configuration with its interpolations resolved; a `Fact` stands for what data and task will state."""
        with explained():
            return resolve(self.config)

    def title(self) -> str:
        """What was chosen, as a user would type it."""
        first = [group for group in ("experiment", "model", "data", "task") if group in self.choices]
        groups = dict.fromkeys([*first, *reversed(self.choices)])
        return " ".join(["dltrain", *(f"{group}={self.choices[group]}" for group in groups)])

    def ready(self) -> None:
        """Put into the environment what must be there before torch is imported."""
        if self.resolved["device"]["deterministic"]:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def checkout() -> Path | None:
    """The checkout that the current folder lies in, if dltrain runs from one."""
    root = Path(__file__).parents[2]
    inside = (root / "conf" / "config.yaml").is_file() and Path.cwd().is_relative_to(root)
    return root if inside else None


@contextmanager
def session(config_dirs: tuple[str, ...], sweep: bool) -> Iterator["Composer"]:
    """Hydra, initialised for dltrain's groups and the user's own.

    Raises:
        ConfigError: When a folder is not there.
    """
    search_dirs(config_dirs)
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(config_dir=str(conf_dir()), version_base="1.3", job_name="dltrain"):
        yield Composer(config_dirs, sweep)


def compose(typed: list[str], config_dirs: tuple[str, ...] = ()) -> Job:
    """Compose one run.

    Raises:
        ConfigError: With one line for each mistake of the command.
    """
    return expand(typed, config_dirs, sweep=False)[0]


def expand(typed: list[str], config_dirs: tuple[str, ...] = (), sweep: bool = True) -> list[Job]:
    """All runs that a command asks for: one, or with ``sweep`` every combination of the values given.

    Raises:
        ConfigError: With one line for each mistake of the command, whichever job it is in.
    """
    jobs: list[Job] = []
    with session(config_dirs, sweep) as composer:
        parsed, problems = overrides.parse(typed, composer.options)
        values, wrong = overrides.spread(parsed, composer.options) if sweep else overrides.single(parsed)
        problems += wrong
        for combination in itertools.product(*values):
            try:
                jobs.append(composer.job(combination))
            except ConfigError as error:
                problems += error.problems
    if problems:
        raise ConfigError(*dict.fromkeys(problems))
    return jobs


class Composer:
    """Composes runs; each choice of options only once. Hydra must be initialised.

    Args:
        config_dirs: Folders of the user's own YAML groups.
        sweep: Whether the run is one of several.
    """

    def __init__(self, config_dirs: tuple[str, ...], sweep: bool) -> None:
        self.config_dirs, self.sweep = config_dirs, sweep
        self.folders = search_dirs(config_dirs)
        self.groups = sorted({entry.name for folder in self.folders for entry in folder.iterdir() if entry.is_dir()})
        self.options = functools.cache(self.find_options)
        self.base = functools.cache(self.call_hydra)

    def find_options(self, group: str) -> list[str]:
        """The names that may be chosen in a group."""
        files = (file for folder in self.folders for file in (folder / group).glob("*.yaml")) if group else ()
        return sorted({file.stem for file in files})

    def job(self, parsed: Sequence[Override]) -> Job:
        """Compose one run, collecting every mistake first.

        Raises:
            ConfigError: With one line for each.
        """
        chosen = [o for o in parsed if not is_hydras(o) and self.options(o.key_or_group)]
        values = [o for o in parsed if o not in chosen]
        found = {id(o): self.wrong_option(o) for o in chosen}
        # What is right so far is composed even when something is wrong, so that all mistakes are said together.
        base = self.base(*(str(o.input_line) for o in chosen if not found[id(o)]))
        content = plain(base)
        found |= {id(o): self.wrong_value(o, content) for o in values}
        whole = changed(base, [o for o in values if not found[id(o)]])
        content = plain(whole)
        problems = [text for text in found.values() if text]
        problems += [*interpolation.unresolvable(content), *schema.out_of_range(content), *validation.endless(content)]
        if self.config_dirs or any(o.type is not OverrideType.CHANGE or isinstance(o.value(), dict) for o in parsed):
            problems += self.foreign(whole, content)
        allow, wrong = allowed(parsed, content)
        problems += self.resumes_nothing(whole)
        if problems or wrong:
            raise ConfigError(*problems, *wrong)
        return self.as_job(whole, parsed, allow)

    def call_hydra(self, *overrides: str) -> DictConfig:
        """Compose with Hydra; its exceptions become ours."""
        with explained():
            return hydra.compose("config", [*overrides, *search_path(self.config_dirs)], return_hydra_config=True)

    def wrong_option(self, override: Override) -> str | None:
        """The mistake in ``group=option``, or None; a group that must not be taken away is seen in the whole."""
        if override.is_delete():
            return None
        return validation.wrong_option(override.key_or_group, override.value(), self.options(override.key_or_group))

    def wrong_value(self, override: Override, content: dict[str, Any]) -> str | None:
        """The mistake in ``key=value``, or None; whether somebody reads a key that is added is seen in the whole."""
        key, value = override.key_or_group, override.value()
        if is_hydras(override):
            ours = OURS_IN_HYDRA[self.sweep]
            return None if key == ours else format_error(key, f"{ours}, the only key of Hydra's to set here", value)
        missing = validation.unknown(key, content, self.groups)
        if missing:
            return None if override.is_add() or override.is_force_add() else missing
        return None if override.is_delete() else validation.wrong_value(key, value, content, self.groups)

    def foreign(self, whole: DictConfig, content: dict[str, Any]) -> list[str]:
        """What YAML of the user's own, or keys added and taken away, may not change."""
        own, refused = self.base(), "refused, dltrain runs no plugins, callbacks or loggers of Hydra's"
        touched = [k for k in whole.hydra if k not in FREE_IN_HYDRA and plain(whole.hydra[k]) != plain(own.hydra[k])]
        hydras = [f"hydra.{name}: {refused}" for name in touched]
        shape = list(validation.misshapen(content, plain(own)))
        return [*hydras, *(shape or validation.misplaced(content, plain(own), self.groups))]

    def resumes_nothing(self, whole: DictConfig) -> list[str]:
        """The mistake of naming a sweep to go on with where there is none."""
        name = OmegaConf.select(whole, "sweep.resume")
        if self.sweep or name is None:
            return []
        return [format_error("sweep.resume", "-m with it", name, "A single run goes on with: dltrain resume RUN")]

    def as_job(self, whole: DictConfig, parsed: Sequence[Override], allow: list[str]) -> Job:
        """Take apart what Hydra composed."""
        choices = {k: v for k, v in whole.hydra.runtime.choices.items() if v is not None and not k.startswith("hydra/")}
        with explained():
            places = (whole.hydra.run.dir, whole.hydra.sweep.dir)
        run_dir, sweep_dir = (None if place in ("auto", "", None) else str(place) for place in places)
        typed = tuple(str(o.input_line) for o in parsed if head(o) not in PLACES)
        config = {key: value for key, value in plain(whole).items() if key not in PLACES}
        named = OmegaConf.select(whole, "sweep.resume")
        resumed = None if named is None else str(named)
        return Job(config, choices, typed, run_dir, sweep_dir, self.config_dirs, tuple(allow), resumed)


def head(override: Override) -> str:
    """The first name of an override's key."""
    return override.key_or_group.replace("/", ".").split(".")[0]


def is_hydras(override: Override) -> bool:
    """Whether an override is about Hydra itself."""
    return head(override) == "hydra"


def allowed(parsed: Sequence[Override], content: dict[str, Any]) -> tuple[list[str], list[str]]:
    """The modules that the command line allows YAML to name, and the mistake if YAML allows some itself."""
    typed = next((o.value() for o in reversed(parsed) if o.key_or_group == "allow_targets"), None)
    allow, found = (
        [str(n) for n in (v if isinstance(v, list) else [v] if v else [])]
        for v in (typed, content.get("allow_targets"))
    )
    wrong = format_error("allow_targets", "this key on the command line only", found, "No YAML may set it.")
    return allow, [] if found in ([], allow) else [wrong]


def search_path(config_dirs: tuple[str, ...]) -> list[str]:
    """The override that makes Hydra look into the user's own folders."""
    folders = ",".join(f"'file://{Path(folder).resolve()}'" for folder in config_dirs)
    return [f"hydra.searchpath=[{folders}]"] if folders else []


@contextmanager
def explained() -> Iterator[None]:
    """What Hydra, OmegaConf and YAML complain about, as our own errors."""
    try:
        yield
    except (HydraException, OmegaConfBaseException, YAMLError, ValueError) as error:
        raise ConfigError(" ".join(line.strip() for line in str(error).splitlines() if line.strip())) from None


def changed(base: DictConfig, values: list[Override]) -> DictConfig:
    """A copy with keys set, added and taken away."""
    whole = copy.deepcopy(base)
    for override in values:
        key, value = override.key_or_group, override.value()
        with explained():
            if override.is_delete():
                parent, _, name = key.rpartition(".")
                with open_dict(whole):
                    del (OmegaConf.select(whole, parent) if parent else whole)[name]
            else:
                OmegaConf.update(whole, key, value, force_add=override.is_add() or override.is_force_add())
    return whole


def without_hydra(whole: DictConfig) -> DictConfig:
    """The configuration of dltrain itself."""
    return OmegaConf.masked_copy(whole, [key for key in whole if key != "hydra"])  # type: ignore[misc]


def plain(node: Any) -> Any:
    """A configuration as dictionaries and lists; interpolations stay as they are written."""
    if not OmegaConf.is_config(node):
        return node
    return OmegaConf.to_container(without_hydra(node) if "hydra" in node else node)


@functools.cache
def options(group: str, config_dirs: tuple[str, ...]) -> Mapping[str, dict[str, Any]]:
    """The YAML of every option of a group, as written; what a message about pairs needs."""
    found: dict[str, dict[str, Any]] = {}
    for folder in (conf_dir(), *map(Path, config_dirs)):
        for file in sorted((folder / group).glob("*.yaml")):
            found[file.stem] = OmegaConf.to_container(OmegaConf.load(file))  # type: ignore[assignment]
    return found


def default_root() -> Path:
    """Where runs go by default: the checkout's outputs/, else that of the current folder."""
    return (checkout() or Path(os.getcwd())) / "outputs"
