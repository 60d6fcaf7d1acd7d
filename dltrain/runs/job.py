"""A run's folder read back as a job. What stands in it is data: it names no module that may be imported."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from dltrain import redaction
from dltrain.config import compose, interpolation, overrides, renamed, schema, validation
from dltrain.config.compose import Composer, Job
from dltrain.errors import ConfigError, format_error, suggest
from dltrain.runs import index
from dltrain.storage import run_dir as folder
from dltrain.storage import run_files, safe_read

JOB = "job.yaml"
RUN_DIR = compose.OURS_IN_HYDRA[False]


def dump_job(job: Job) -> str:
    """A job as YAML, interpolations as they are written and secrets masked."""
    typed = [redaction.mask_override(word) for word in job.overrides]
    parts = {"choices": job.choices, "overrides": typed, "config_dirs": redaction.mask(list(job.config_dirs))}
    return OmegaConf.to_yaml({**parts, "config": redaction.mask(OmegaConf.to_container(job.config))})


def load_job(path: Path, allow: Iterable[str] = ()) -> Job:
    """The job of the run in a folder.

    Args:
        path: The run's folder.
        allow: Module prefixes that this command's own line trusts; those of the folder are not.

    Raises:
        ConfigError: When the folder does not say.
    """
    try:
        content: Any = OmegaConf.to_container(OmegaConf.create(safe_read.plain_yaml(path / JOB)))
        choices, dirs = content["choices"], content["config_dirs"]
        check_types(content["config"], choices, [*content["overrides"], *dirs])
        content = renamed.upgrade(content)
        config, typed = OmegaConf.create(content["config"]), content["overrides"]
        interpolation.refuse_assembled(content["config"], path / JOB)
        config.allow_targets = list(allow)
        return Job(config, dict(choices), tuple(typed), None, None, tuple(dirs), tuple(allow))
    except OSError as error:
        raise ConfigError(format_error("RUN", f"the folder of a run, with {JOB}", path, f"{error.strerror}.")) from None
    except (OmegaConfBaseException, YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(
            format_error("RUN", f"a {JOB} that can be read", path / JOB, str(error).split("\n")[0])
        ) from None


def check_types(config: Any, choices: Any, words: list[Any]) -> None:
    """Refuse what no job says.

    Raises:
        ValueError: Saying what it is.
    """
    if not all(isinstance(choices.get(group), str) for group in ("model", "data", "task")):
        raise ValueError("it chooses no model, data or task")
    if not all(isinstance(word, str) for word in (*choices, *choices.values(), *words)):
        raise ValueError("a choice, an override or a folder is no text")
    if not isinstance(config, dict):
        raise ValueError("its configuration has no keys")
    if other := [key for node in _keyed_mappings(config) for key in node if not isinstance(key, str)]:
        raise ValueError(f"it has the key {other[0]}, which is no text")


def _keyed_mappings(config: dict[Any, Any]) -> Iterator[dict[Any, Any]]:
    """The mappings whose keys have a meaning: the whole, its groups, and the arguments of whatever is built."""
    yield config
    waiting = list(config.values())
    yield from (node for node in waiting if isinstance(node, dict) and "_target_" not in node)
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict) and "_target_" in node:
            yield node
        waiting += node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()


def find_run(name: str) -> Path:
    """The folder of a run: a path, or ``latest``, the one that was at work last.

    Raises:
        ConfigError: Naming the nearest ones, or what in the folder is neither a file nor a folder.
    """
    path = locate_run(name)
    run_files.refuse_strange(path)
    return path


def locate_run(name: str) -> Path:
    """Where the run is that a name stands for.

    Raises:
        ConfigError: Naming the nearest ones.
    """
    root = compose.default_root()
    if name == "latest":
        found = max(list_runs(root), key=index.last_active, default=None)
        if found is None:
            raise ConfigError(format_error("RUN", f"a run below {root}", name, "There is none."))
        return found
    path = Path(name).expanduser()
    if (path / JOB).exists():
        return path
    known = {str(run): run for start in (path.parent, root) if start.is_dir() for run in list_runs(start)}
    known.pop(str(path), None)  # it has no job.yaml, or is none
    close = suggest(str(path), known) or suggest_run(path.name, known.values())
    below = [str(run) for run in list_runs(path)][:3] if path.is_dir() else []
    if (path / "sweep.json").is_file():
        below.append(f"and a sweep goes on by its own command with -m sweep.resume={path}")
    hint = f"It contains {' '.join(below)}." if below else close or f"dltrain runs {root} lists what there is."
    raise ConfigError(format_error("RUN", "the folder of a run, or latest", name, hint))


def suggest_run(name: str, known: Iterable[Path]) -> str:
    """Propose the run whose own name is most like ``name``."""
    names = {run.name: run for run in known}
    close = suggest(name, names)
    return f"Did you mean {names[close[13:-1]]}?" if close else ""


def list_runs(root: Path) -> list[Path]:
    """The folders of runs at most three levels below ``root``, in the order of their names."""
    found = {file.parent for depth in ("*", "*/*", "*/*/*") for file in root.glob(f"{depth}/status.json")}
    return sorted(run for run in found if all((run / name).is_file() for name in ("config.yaml", "status.json")))


def revise_job(job: Job, typed: list[str]) -> tuple[Job, dict[str, tuple[Any, Any]]]:
    """A stored job with keys changed, and which of them differ now: key -> before, after.

    Args:
        job: What the folder says.
        typed: ``KEY=VALUE``, or ``GROUP=OPTION`` for the whole of a group; ``hydra.run.dir`` names a folder.

    Raises:
        ConfigError: With one line for each mistake.
    """
    with compose.session((), sweep=False) as composer:
        parsed, problems = overrides.parse(typed, composer.options)
        values, wrong = overrides.single(parsed)
        problems += wrong
        before = _fill_defaults(job.config, compose.plain(composer.base()), composer.groups)
        config, choices, run_dir = before.copy(), dict(job.choices), None
        asked = [found[0] for found in values]
        groups = [override for override in asked if composer.options(override.key_or_group)]
        groups.sort(key=lambda override: override.key_or_group.count("/"))
        # As in every command, options are chosen before keys are set, in whichever order they were typed.
        for override in [*groups, *(override for override in asked if override not in groups)]:
            key, value = override.key_or_group, override.value()
            if mistake := _override_error(composer, override, compose.plain(config)):
                problems.append(mistake)
            elif override in groups:
                _select_group(config, choices, key, composer.base(f"{key}={value}"))
            elif key == RUN_DIR:
                run_dir = None if value in ("auto", None) else str(value)
            elif key != "allow_targets":
                OmegaConf.update(config, key, value, merge=False)
    content = compose.plain(config)
    problems += [*schema.out_of_range(content), *validation.endless(content), *_missing_secrets(content, typed)]
    problems += [] if problems else interpolation.unresolvable(compose.plain(config))
    if problems:
        raise ConfigError(*dict.fromkeys(problems))
    kept = [text for text in job.overrides if not _is_overridden(_override_key(text), map(_override_key, typed))]
    new = [text for text in typed if _override_key(text) != RUN_DIR]
    found = config_differences(compose.plain(before), content) | ({RUN_DIR: ("its own", run_dir)} if run_dir else {})
    return Job(config, choices, (*kept, *new), run_dir, None, job.config_dirs, job.allow), found


def _fill_defaults(config: DictConfig, own: dict[str, Any], groups: list[str]) -> DictConfig:
    """A stored configuration, with what dltrain has learnt to read since it was written.

    Raises:
        ConfigError: When it has not the shape of one.
    """
    content = compose.plain(config)
    if wrong := list(validation.misshapen(content, own)):
        raise ConfigError(*wrong)
    content |= {group: own[group] | content[group] for group in validation.PLAIN if group in content}
    if wrong := list(validation.misplaced({**content, "sweep": own["sweep"]}, own, groups)):
        raise ConfigError(*wrong)
    return OmegaConf.create(content)


def _select_group(config: DictConfig, choices: dict[str, str], key: str, base: DictConfig) -> None:
    """Take the whole of a group, and the groups within it, from a configuration in which it was chosen."""
    place = key.replace("/", ".")
    OmegaConf.update(config, place, OmegaConf.select(base, place), merge=False)
    chosen = base.hydra.runtime.choices
    choices.update({name: chosen[name] for name in chosen if f"{name}/".startswith(f"{key}/")})


def _is_overridden(key: str, typed: Iterable[str]) -> bool:
    """Whether a key, or the group that it belongs to, is typed anew."""
    return any(f"{key}.".startswith(f"{name}.") for name in typed)


def _missing_secrets(content: dict[str, Any], typed: list[str]) -> list[str]:
    """Ask for the secrets, which no folder keeps, unless they were typed."""
    hint = "No run keeps a secret: give it again, {}=VALUE, or let the run's command read it, {}='${{oc.env:NAME}}'"
    missing = [key for key in redaction.masked_keys(content) if not _is_overridden(key, map(_override_key, typed))]
    return [format_error(key, "its value", None, hint.format(key, key)) for key in missing]


def _override_error(composer: Composer, override: Any, content: dict[str, Any]) -> str | None:
    key = override.key_or_group
    if override.is_delete() or override.is_add():
        return format_error(str(override.input_line), "KEY=VALUE for a key that the run has", override.input_line)
    if composer.options(key):
        whole = f"It changes several groups: dltrain {key}={override.value()} is a run of its own"
        mistake = format_error(key, "an option of one group", override.value(), whole)
        return composer.wrong_option(override) or (None if key.split("/")[0] in content else mistake)
    return composer.wrong_value(override, content)


def _override_key(text: str) -> str:
    return text.lstrip("+~").split("=", 1)[0].replace("/", ".")


def config_differences(before: Any, after: Any, prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """Where two configurations differ: key -> both values."""
    if not (isinstance(before, dict) and isinstance(after, dict)):
        shown = redaction.mask(after, prefix)
        return {} if before in (after, shown) else {prefix: (redaction.mask(before, prefix), shown)}
    found: dict[str, tuple[Any, Any]] = {}
    for name in dict.fromkeys([*before, *after]):
        key = f"{prefix}.{name}" if prefix else str(name)
        found |= config_differences(before.get(name), after.get(name), key)
    return found


def is_finished(path: Path) -> bool:
    """Whether the run in a folder has nothing left to do: it ended as it should, and not because its time was up."""
    if folder.status_of(path).get("state") != "finished":
        return False
    result = safe_read.content(path / "result.json")
    return bool(result) and not result.get("out_of_time")
