"""From what a user typed to one composed configuration, or to all mistakes at once. Never imports torch."""

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, ValueType
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dltrain import words
from dltrain.errors import ConfigError, nearest, problem

# Hydra runs whatever a callback, launcher or sweeper names; a run of dltrain needs none of them.
REFUSED = ("hydra.callbacks", "hydra.launcher", "hydra.sweeper", "hydra/launcher", "hydra/sweeper")


@dataclass(frozen=True)
class Job:
    """One composed run.

    Args:
        config: Everything below the root except ``hydra``.
        choices: Group -> the option chosen, e.g. ``{"model": "lstm"}``.
        overrides: What the user typed, after the dot-for-slash convenience.
        run_dir: The run folder the user named, or None for a fresh one.
        sweep_dir: The sweep's folder the user named, or None for a fresh one.
        config_dirs: Folders searched before dltrain's own.
        allow: Module prefixes that the command line allows YAML to name.
    """

    config: DictConfig
    choices: dict[str, str]
    overrides: tuple[str, ...]
    run_dir: str | None
    sweep_dir: str | None
    config_dirs: tuple[str, ...] = ()
    allow: tuple[str, ...] = ()

    def title(self) -> str:
        """What was chosen, as a user would type it."""
        return "dltrain " + " ".join(f"{group}={option}" for group, option in self.choices.items())


def conf_dir() -> Path:
    """The folder of YAML groups: beside the package in a checkout, inside it in a wheel."""
    package = Path(__file__).parent
    beside = package.parent / "conf"
    return beside if (beside / "config.yaml").is_file() else package / "conf"


def checkout() -> Path | None:
    """The checkout that the current folder lies in, if dltrain runs from one."""
    root = Path(__file__).parent.parent
    inside = (root / "conf" / "config.yaml").is_file() and Path.cwd().is_relative_to(root)
    return root if inside else None


@contextmanager
def session(config_dirs: tuple[str, ...]) -> Iterator[ConfigLoader]:
    """Hydra, initialised for dltrain's groups and the user's own."""
    for folder in config_dirs:
        if not Path(folder).is_dir():
            raise ConfigError(problem("--config-dir", "an existing folder of YAML groups", folder))
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(config_dir=str(conf_dir()), version_base="1.3", job_name="dltrain"):
        yield GlobalHydra.instance().config_loader()


def compose(overrides: list[str], config_dirs: tuple[str, ...] = ()) -> Job:
    """Compose one run.

    Raises:
        ConfigError: With one line for each mistake of the command.
    """
    jobs = expand(overrides, config_dirs, sweep=False)
    return jobs[0]


def expand(overrides: list[str], config_dirs: tuple[str, ...] = (), sweep: bool = True) -> list[Job]:
    """All runs that a command asks for: one, or with ``sweep`` every combination of the values given.

    Raises:
        ConfigError: With one line for each mistake of the command, whichever job it is in.
    """
    with session(config_dirs) as loader:
        parsed = parse(overrides, loader)
        problems = [] if sweep else [ambiguous(o) for o in parsed if o.is_sweep_override()]
        if problems:
            parsed = [o for o in parsed if not o.is_sweep_override()]
        jobs: list[Job] = []
        for combination in combinations(parsed, loader):
            try:
                jobs.append(compose_one(combination, config_dirs, loader))
            except ConfigError as error:
                problems += error.problems
    if problems:
        raise ConfigError(*dict.fromkeys(problems))
    return jobs


def parse(overrides: list[str], loader: ConfigLoader) -> list[Override]:
    """The overrides as Hydra reads them; ``optimizer.schedule=cosine`` is taken for ``optimizer/schedule=cosine``."""
    parsed, problems = [], []
    for text in overrides:
        key, equals, value = text.partition("=")
        slashed = key.replace(".", "/")
        if equals and "." in key and value.replace(",", "").isidentifier() and loader.get_group_options(slashed):
            text = f"{slashed}={value}"
        if not equals and not text.startswith("~"):
            problems.append(problem(text, "KEY=VALUE or GROUP=OPTION", text, verb_hint(text)))
            continue
        try:
            parsed.append(OverridesParser.create().parse_override(text))
        except HydraException as error:
            problems.append(f"{text}: cannot be read: {str(error).splitlines()[0]}")
    problems += [
        problem(o.key_or_group, "no plugin of Hydra's", o.value(), "dltrain runs sweeps itself: add -m.")
        for o in parsed
        if o.key_or_group.startswith(REFUSED)
    ]
    if problems:
        raise ConfigError(*problems)
    return parsed


def verb_hint(text: str) -> str:
    """What a lone word may have meant."""
    return nearest(text, ("summary", "train", "--help", "--multirun"))


def ambiguous(override: Override) -> str:
    """A list of values where one is needed."""
    text = str(override.input_line)
    key, _, value = text.partition("=")
    return problem(key, "one value", value, f"To run all of them, add -m: dltrain -m {text}")


def combinations(parsed: list[Override], loader: ConfigLoader) -> Iterator[list[str]]:
    """Every combination of the swept values, the last one changing fastest, as plain overrides."""
    lists = []
    for override in parsed:
        if override.is_sweep_override():
            key = override.get_key_element()
            if override.value_type is ValueType.GLOB_CHOICE_SWEEP:
                values = iter(override.value().filter(loader.get_group_options(override.key_or_group)))  # type: ignore[union-attr]
            else:
                values = override.sweep_string_iterator()
            lists.append([f"{key}={value}" for value in values])
        else:
            lists.append([str(override.input_line)])
    yield from (list(choice) for choice in itertools.product(*lists))


def compose_one(overrides: list[str], config_dirs: tuple[str, ...], loader: ConfigLoader) -> Job:
    """Compose one run from plain overrides, collecting every mistake first."""
    parsed = [OverridesParser.create().parse_override(text) for text in overrides]
    groups = set(loader.list_groups("")) | {"optimizer/schedule"}
    chosen = [o for o in parsed if loader.get_group_options(o.key_or_group) or o.key_or_group in groups]
    found = {id(o): wrong_option(o, loader) for o in chosen}
    search = search_path(config_dirs)
    base = call_hydra([str(o.input_line) for o in chosen if not found[id(o)]] + search)
    found |= {id(o): wrong_value(o, base, loader) for o in parsed if o not in chosen}
    # What is right so far is composed even when something is wrong, so that all mistakes are said together.
    whole = call_hydra([str(o.input_line) for o in parsed if not found[id(o)]] + search)
    problems = [text for text in found.values() if text] + out_of_range(whole)
    if problems:
        raise ConfigError(*problems)
    return as_job(whole, overrides, config_dirs, parsed)


def as_job(whole: DictConfig, overrides: list[str], config_dirs: tuple[str, ...], parsed: list[Override]) -> Job:
    """Take apart what Hydra composed."""
    choices = {k: v for k, v in whole.hydra.runtime.choices.items() if v is not None and not k.startswith("hydra/")}
    allow = next((o.value() for o in parsed if o.key_or_group == "allow_targets"), [])
    allow = [allow] if isinstance(allow, str) else allow
    typed = list(whole.get("allow_targets") or [])
    if sorted(map(str, typed)) != sorted(map(str, allow)):  # type: ignore[arg-type]
        raise ConfigError(problem("allow_targets", "this key on the command line only", typed, "No YAML may set it."))
    run_dir, sweep_dir = (None if d == "auto" else str(d) for d in (whole.hydra.run.dir, whole.hydra.sweep.dir))
    config = OmegaConf.masked_copy(whole, [k for k in whole if k != "hydra"])
    return Job(config, choices, tuple(overrides), run_dir, sweep_dir, config_dirs, tuple(map(str, allow)))  # type: ignore[arg-type]


def search_path(config_dirs: tuple[str, ...]) -> list[str]:
    """The override that makes Hydra look into the user's own folders."""
    folders = ",".join(f"'file://{Path(folder).resolve()}'" for folder in config_dirs)
    return [f"hydra.searchpath=[{folders}]"] if folders else []


def call_hydra(overrides: list[str]) -> DictConfig:
    """Compose with Hydra; its exceptions become ours."""
    try:
        whole = hydra.compose("config", overrides, return_hydra_config=True)
        HydraConfig.instance().set_config(whole)
        return whole
    except (HydraException, OmegaConfBaseException) as error:
        text = " ".join(line.strip() for line in str(error).splitlines() if line.strip())
        raise ConfigError(text) from None


def wrong_option(override: Override, loader: ConfigLoader) -> str | None:
    """The mistake in ``group=option``, or None."""
    group, value = override.key_or_group, override.value()
    if value is None or override.is_delete():
        return None
    options = loader.get_group_options(group, ObjectType.CONFIG)
    if isinstance(value, list):
        hint = f"To run all of them, add -m: dltrain -m {group}={','.join(map(str, value))}"
        return problem(group, "one option", value, hint)
    if value in options:
        return None
    return problem(group, f"one of {' '.join(options)}", value, nearest(str(value), options))


def wrong_value(override: Override, base: DictConfig, loader: ConfigLoader) -> str | None:
    """The mistake in ``key=value``, or None."""
    key, value = override.key_or_group, override.value()
    if override.is_add() or override.is_force_add() or override.is_delete() or key.startswith("hydra."):
        return None
    node: Any = base
    for part in key.split("."):
        known = list(node) if isinstance(node, DictConfig) else []
        if isinstance(node, ListConfig) and part.isdigit() and int(part) < len(node):
            node = node._get_node(int(part))
            continue
        if part not in known:
            return unknown(key, part, known, loader, base)
        node = node._get_node(part)
    default = OmegaConf.to_container(node) if OmegaConf.is_config(node) else node._value()
    value = str(value) if type(value).__name__ == "QuotedString" else value
    return words.mistyped(key, value, default)


def unknown(key: str, part: str, known: list[str], loader: ConfigLoader, base: DictConfig) -> str:
    """Say that a key does not exist, and which one may have been meant."""
    parent = key.split(part, maxsplit=1)[0].rstrip(".")
    top = not parent
    groups = [g for g in loader.list_groups("") if g != "hydra"]
    names = [k for k in known if k != "hydra" and not str(k).startswith("_")]
    close = nearest(part, [*names, *groups] if top else names)
    if not close and top:
        close = nearest(part, flat_keys(base))
    place = f"keys of {parent}" if parent else "groups and keys"
    listed = " ".join(dict.fromkeys([*groups, *names] if top else names)) or "none"
    return f"{key}: unknown. {close or f'The {place} are: {listed}.'}"


def flat_keys(node: DictConfig) -> list[str]:
    """Every key below the root, dotted."""
    return [
        f"{group}.{name}"
        for group, content in node.items_ex(resolve=False)
        if isinstance(content, DictConfig) and group != "hydra"
        for name in content
        if not str(name).startswith("_")
    ]


def out_of_range(whole: DictConfig) -> list[str]:
    """Hold every value of the composed configuration against its word."""
    content = OmegaConf.to_container(OmegaConf.masked_copy(whole, [k for k in whole if k != "hydra"]))
    return [found for key, value in leaves(content) if (found := words.check(key, value))]


def leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Key and value of every leaf; lists of plain values count as leaves."""
    if isinstance(node, dict):
        for name, value in node.items():
            yield from leaves(value, f"{prefix}.{name}" if prefix else str(name))
    elif isinstance(node, list) and any(isinstance(item, dict) for item in node):
        for number, item in enumerate(node):
            yield from leaves(item, f"{prefix}.{number}")
    else:
        yield prefix, node


def options(group: str, config_dirs: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """The YAML of every option of a group, as written; what a message about pairs needs."""
    found: dict[str, dict[str, Any]] = {}
    for folder in (conf_dir(), *map(Path, config_dirs)):
        for file in sorted((folder / group).glob("*.yaml")):
            found[file.stem] = OmegaConf.to_container(OmegaConf.load(file))  # type: ignore[assignment]
    return found


def default_root() -> Path:
    """Where runs go by default: the checkout's outputs/, else that of the current folder."""
    return (checkout() or Path(os.getcwd())) / "outputs"
