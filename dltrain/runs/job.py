"""Runs on disk: find their folders, and read ``job.yaml`` as untrusted data that names no module to import."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from yaml import YAMLError

from dltrain import redaction
from dltrain.config import compose, interpolation, overrides, renamed
from dltrain.config.compose import Job
from dltrain.config.revise import Changes, revise_job
from dltrain.errors import ConfigError, format_error, suggest
from dltrain.runs import index
from dltrain.storage import folder_checks, run_dir, run_files, safe_read


def dump_job(job: Job) -> str:
    """Return a job as YAML, interpolations as they are written and secrets masked."""
    typed = [redaction.mask_override(word) for word in job.overrides]
    content = {"choices": job.choices, "overrides": typed, "config_dirs": redaction.mask(list(job.config_dirs))}
    return interpolation.to_yaml({**content, "config": redaction.mask(job.config)})


def open_run(name: str, typed: list[str]) -> tuple[Path, Job, Changes]:
    """Return a run's folder, its job with overrides applied, and what they change; only `typed` allows modules."""
    path = find_run(name)
    return path, *revise_job(load_job(path, overrides.allowed_modules(typed)), typed)


def load_job(path: Path, allow: Iterable[str] = ()) -> Job:
    """Return the job of the run in a folder; its own ``allow_targets`` are replaced by `allow`.

    Raises:
        ConfigError: When ``job.yaml`` cannot be read or is not one of a run.
    """
    file = path / run_files.JOB
    try:
        content = interpolation.from_yaml(safe_read.read_yaml_text(file))
        choices, dirs = content["choices"], content["config_dirs"]
        _check_types(content["config"], choices, [*content["overrides"], *dirs])
        content = renamed.upgrade(content)
        config, typed = content["config"], content["overrides"]
        interpolation.refuse_assembled(config, file)
        config["allow_targets"] = list(allow)
        return Job(config, dict(choices), tuple(typed), None, None, tuple(dirs), tuple(allow))
    except OSError as error:
        expected = f"the folder of a run, with {run_files.JOB}"
        raise ConfigError(format_error("RUN", expected, path, f"{error.strerror}.")) from None
    except (YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
        expected = f"a {run_files.JOB} that can be read"
        raise ConfigError(format_error("RUN", expected, file, str(error).split("\n")[0])) from None


def _check_types(config: Any, choices: Mapping[str, Any], words: Iterable[Any]) -> None:
    if not all(isinstance(choices.get(group), str) for group in ("model", "data", "task")):
        raise ValueError("it chooses no model, data or task")
    if not all(isinstance(word, str) for word in (*choices, *choices.values(), *words)):
        raise ValueError("a choice, an override or a folder is no text")
    if not isinstance(config, dict):
        raise ValueError("its configuration has no keys")
    if other := [key for node in _named_arguments(config) for key in node if not isinstance(key, str)]:
        raise ValueError(f"it has the key {other[0]}, which is no text")


def _named_arguments(config: dict[Any, Any]) -> Iterator[dict[Any, Any]]:
    """The mappings whose keys have a meaning: the whole, its groups, and the arguments of every ``_target_``."""
    yield config
    waiting = list(config.values())
    yield from (node for node in waiting if isinstance(node, dict) and "_target_" not in node)
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict) and "_target_" in node:
            yield node
        waiting += node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()


def find_run(name: str) -> Path:
    """Return the folder of a run, given its path or ``latest``, the run that was active last."""
    root, path = compose.default_root(), Path(name).expanduser()
    if name == "latest":
        if not (runs := list_runs(root)):
            raise ConfigError(format_error("RUN", f"a run below {root}", "latest", "There is none."))
        path = max(runs, key=index.last_active)
    elif not (path / run_files.JOB).exists():
        raise ConfigError(format_error("RUN", "the folder of a run, or latest", name, _hint(path, root)))
    folder_checks.check_entries(path)
    return path


def _hint(path: Path, root: Path) -> str:
    """Return a sentence on the runs in and near a folder that is none."""
    below = [str(run) for run in list_runs(path)][:3] if path.is_dir() else []
    if (path / run_files.SWEEP).is_file():
        below.append(f"and a sweep, which its own command resumes with -m sweep.resume={path}")
    if below:
        return f"It contains {' '.join(below)}."
    known = {str(run): run for start in (path.parent, root) if start.is_dir() for run in list_runs(start)}
    known.pop(str(path), None)  # without job.yaml it cannot be meant
    names = {run.name: str(run) for run in known.values()}
    close = suggest(path.name, names).removeprefix("Did you mean ").removesuffix("?")
    by_name = f"Did you mean {names[close]}?" if close else ""
    return suggest(str(path), known) or by_name or f"dltrain runs {root} lists what there is."


def list_runs(root: Path) -> list[Path]:
    """Return the folders of runs at most three levels below `root`, sorted by path."""
    found = {file.parent for depth in ("*", "*/*", "*/*/*") for file in root.glob(f"{depth}/{run_files.STATUS}")}
    return sorted(run for run in found if all((run / name).is_file() for name in (run_files.CONFIG, run_files.STATUS)))


def previous_run(job: Job) -> Path | None:
    """Return the run that the same command with ``trainer.resume=auto`` has started before, or None."""
    if job.run_dir is None:
        expected = "hydra.run.dir=FOLDER with auto, the same each time"
        raise ConfigError(format_error("trainer.resume", expected, "none"))
    path = Path(job.run_dir).expanduser()
    return path if (path / run_files.JOB).is_file() else None


def is_finished(path: Path) -> bool:
    """Return whether the run in a folder ended by itself, and not because its time was up."""
    if run_dir.read_status(path).get("state") != "finished":
        return False
    result = safe_read.read_mapping(path / run_files.RESULT)
    return bool(result) and not result.get("out_of_time")
