"""Find run folders, and read ``job.yaml`` as untrusted data: its ``allow_targets`` is ignored."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from yaml import YAMLError

from dltrain import redaction
from dltrain.config import compose, interpolation, older, overrides, renamed
from dltrain.config.compose import Job
from dltrain.config.revise import Changes, revise_job
from dltrain.errors import ConfigError, format_error, suggest
from dltrain.runs import index
from dltrain.storage import folder_checks, run_dir, run_files, safe_read


def dump_job(job: Job) -> str:
    """Return a job as YAML, with interpolations unresolved and secrets masked."""
    typed = [redaction.mask_override(word) for word in job.overrides]
    content = {"choices": job.choices, "overrides": typed, "config_dirs": redaction.mask(list(job.config_dirs))}
    return interpolation.to_yaml({**content, "config": redaction.mask(job.config)})


def open_run(name: str, typed: list[str]) -> tuple[Path, Job, Changes]:
    """Return a run's folder, its job with the overrides `typed`, and what they change.

    ``allow_targets`` is read from `typed` only; its value in ``job.yaml`` is ignored.
    """
    path = find_run(name)
    return path, *revise_job(load_job(path, overrides.allowed_modules(typed)), typed)


def load_job(path: Path, allow: Iterable[str] = ()) -> Job:
    """Return the job of the run in a folder, with its ``allow_targets`` replaced by `allow`.

    Raises:
        ConfigError: ``job.yaml`` cannot be read or is invalid.
    """
    file = path / run_files.JOB
    try:
        content = interpolation.from_yaml(safe_read.read_yaml_text(file))
        choices, dirs = content["choices"], content["config_dirs"]
        _check_types(content["config"], choices, [*content["overrides"], *dirs])
        content = renamed.upgrade(content)
        typed = content["overrides"]
        config, choices = older.fill(content["config"], content["choices"])
        interpolation.reject_computed_names(config, file)
        config["allow_targets"] = list(allow)
        return Job(config, choices, tuple(typed), None, None, tuple(dirs), tuple(allow))
    except OSError as error:
        expected = f"the folder of a run, with {run_files.JOB}"
        raise ConfigError(format_error("RUN", expected, path, f"{error.strerror}.")) from None
    except (YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
        expected = f"a {run_files.JOB} that can be read"
        reason = f"the key {error} is missing" if isinstance(error, KeyError) else str(error).split("\n")[0]
        raise ConfigError(format_error("RUN", expected, f"{file} ({reason})")) from None


def _check_types(config: Any, choices: Mapping[str, Any], words: Iterable[Any]) -> None:
    """Raise a `ValueError` if a part of ``job.yaml`` has a wrong type; `words`: overrides and configuration folders."""
    if not all(isinstance(choices.get(group), str) for group in ("model", "data", "task")):
        raise ValueError("the choices of model, data and task must be strings")
    if not all(isinstance(word, str) for word in (*choices, *choices.values(), *words)):
        raise ValueError("a choice, an override or a configuration folder is not a string")
    if not isinstance(config, dict):
        raise ValueError("the configuration is not a mapping")
    if other := [key for node in _checked_mappings(config) for key in node if not isinstance(key, str)]:
        raise ValueError(f"the key {other[0]} is not a string")


def _checked_mappings(config: dict[Any, Any]) -> Iterator[dict[Any, Any]]:
    """Yield the mappings whose keys dltrain reads: the root, its groups, and the arguments of every ``_target_``."""
    yield config
    pending = list(config.values())
    yield from (node for node in pending if isinstance(node, dict) and "_target_" not in node)
    while pending:
        node = pending.pop()
        if isinstance(node, dict) and "_target_" in node:
            yield node
        pending += node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()


def find_run(name: str) -> Path:
    """Return the folder of a run, given its path or ``latest`` for the most recently active run."""
    root, path = compose.default_root(), Path(name).expanduser()
    if name == "latest":
        if not (runs := list_runs(root)):
            raise ConfigError(format_error("RUN", f"a run below {root}", "latest", "There is none."))
        path = max(runs, key=index.last_active)
    try:
        if name != "latest" and not (path / run_files.JOB).exists():
            raise ConfigError(format_error("RUN", "the folder of a run, or latest", name, _hint(path, root)))
    except PermissionError as error:
        raise ConfigError(format_error("RUN", "a folder that can be read", path, f"{error.strerror}.")) from None
    folder_checks.check_entries(path)
    return path


def _hint(path: Path, root: Path) -> str:
    """Return a hint for a path that is not a run folder: the runs below it, the sweep, or the closest run."""
    below = [str(run) for run in list_runs(path)][:3] if path.is_dir() else []
    hints = [f"It contains {' '.join(below)}."] if below else []
    if (path / run_files.SWEEP).is_file():
        hints.append(f"It is a sweep: to resume it, add sweep.resume={path} to its command.")
    if hints:
        return " ".join(hints)
    known = {str(run): run for start in (path.parent, root) if start.is_dir() for run in list_runs(start)}
    known.pop(str(path), None)  # has no job.yaml, so do not suggest it
    names = {run.name: str(run) for run in known.values()}
    close = suggest(path.name, names).removeprefix("Did you mean ").removesuffix("?")
    by_name = f"Did you mean {names[close]}?" if close else ""
    return suggest(str(path), known) or by_name or f"dltrain runs {root} lists the runs there."


def list_runs(root: Path) -> list[Path]:
    """Return the run folders at most three levels below `root`, sorted by path."""
    found = {file.parent for depth in ("*", "*/*", "*/*/*") for file in root.glob(f"{depth}/{run_files.STATUS}")}
    return sorted(run for run in found if all((run / name).is_file() for name in (run_files.CONFIG, run_files.STATUS)))


def previous_run(job: Job) -> Path | None:
    """Return the run in ``hydra.run.dir`` that ``trainer.resume=auto`` resumes, or None if it has not started yet."""
    if job.run_dir is None:
        raise ConfigError("trainer.resume=auto: not supported without hydra.run.dir=FOLDER, the folder of the run")
    path = Path(job.run_dir).expanduser()
    return path if (path / run_files.JOB).is_file() else None


def is_finished(path: Path) -> bool:
    """Return whether the run in a folder finished its training without running out of time."""
    if run_dir.read_status(path).get("state") != "finished":
        return False
    result = safe_read.read_mapping(path / run_files.RESULT)
    return bool(result) and not result.get("out_of_time")


def stopped_early(path: Path) -> bool:
    """Return whether early stopping ended the training of a finished run."""
    return bool(safe_read.read_mapping(path / run_files.RESULT).get("stopped_early"))
