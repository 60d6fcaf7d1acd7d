"""Store all jobs of a sweep in its folder before the first one starts, and reject a resume with other jobs."""

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from dltrain import redaction
from dltrain.config import compose
from dltrain.config.compose import Job
from dltrain.config.revise import config_differences
from dltrain.errors import ConfigError, format_error, suggest
from dltrain.storage import folder_checks, run_dir, run_files, safe_read
from dltrain.storage.atomic import write_durable

# Any of these files marks the folder of a sweep or a run.
MARKERS = (*run_files.SWEEP_FILES, *run_files.MARKERS)
MAX_SHOWN = 5  # differences in one message


def open_sweep_dir(jobs: list[Job], names: list[str], command: str) -> run_dir.RunDir:
    """Return the locked folder of a sweep: a new folder, or the folder of the sweep to resume.

    Args:
        names: Name of each job's folder.
        command: Command that starts the sweep, without ``sweep.resume``.
    """
    if len(asked := {str(job.sweep_resume) for job in jobs}) > 1:
        raise ConfigError(format_error("sweep.resume", "one folder", " ".join(sorted(asked))))
    entries = []
    for job, name in zip(jobs, names, strict=True):  # secrets are masked, so they are neither stored nor compared
        typed = [redaction.mask_override(word) for word in job.overrides]
        entries.append({"folder": name, "overrides": typed, "config": redaction.mask(job.config)})
    content = {"command": command, "jobs": entries}
    path = _resumed_path(jobs[0])
    if path is None:
        return _create_sweep_dir(jobs[0], content)
    return _reopen_sweep_dir(path, content, "hydra.sweep.dir" if jobs[0].sweep_resume is None else "sweep.resume")


def _resumed_path(job: Job) -> Path | None:
    """Return the folder of the sweep that a command resumes, or None for a new sweep."""
    named = Path(job.sweep_dir).expanduser() if job.sweep_dir else None
    if job.sweep_resume is None:
        again = named is not None and job.resolved["trainer"]["resume"] == "auto" and (named / run_files.SWEEP).exists()
        return named if again else None
    path = Path(job.sweep_resume).expanduser()
    if named is not None and not (path.exists() and named.exists() and path.samefile(named)):
        raise ConfigError(format_error("hydra.sweep.dir", f"{path}, as in sweep.resume, or no value", named))
    return path


def _create_sweep_dir(job: Job, content: dict[str, Any]) -> run_dir.RunDir:
    """Create the folder of a new sweep, at ``hydra.sweep.dir`` or under a unique name, with its ``sweep.json``."""
    root = compose.default_root()
    path = Path(job.sweep_dir).expanduser() if job.sweep_dir else None
    folder_checks.check_writable(path or root, "hydra.sweep.dir")
    if path is None:
        path = run_dir.make_unique(root / "sweep")
    names = [job["folder"] for job in content["jobs"]]
    _check_free(path, names)  # before anything is written there
    path.mkdir(parents=True, exist_ok=True)
    home = _lock_dir(path, "hydra.sweep.dir")
    try:
        _check_free(path, names, locked=True)
        write_durable(path / run_files.SWEEP, json.dumps(content, indent=2).encode())
    except BaseException:
        home.close()
        raise
    return home


def _check_free(path: Path, names: Iterable[str], locked: bool = False) -> None:
    """Reject a folder that holds a sweep or a run, or an entry with the name of a job's folder."""
    taken = next((name for name in (*MARKERS, *names) if os.path.lexists(path / name)), None)
    if taken is None and not locked and folder_checks.has_foreign_lock(path):
        taken = run_files.LOCK
    if taken:
        hint = f"It contains {taken}." + f" To resume it: sweep.resume={path}" * (taken == run_files.SWEEP)
        raise ConfigError(
            format_error(
                "hydra.sweep.dir", "a folder without a sweep, a run or entries named like the jobs", path, hint
            )
        )


def _reopen_sweep_dir(path: Path, content: dict[str, Any], key: str) -> run_dir.RunDir:
    # If a sweep's files or folders are links, jobs would write outside the sweep's folder.
    names = [job["folder"] for job in content["jobs"]]
    for file in (path / name for name in (*run_files.SWEEP_FILES, run_files.STATUS, run_files.LOCK, *names)):
        if file.is_symlink() or folder_checks.is_special(file):
            hint = "It is a link." if file.is_symlink() else folder_checks.SPECIAL_HINT
            expected = "files and folders that lie in the sweep's folder"
            raise ConfigError(format_error(key, expected, file, hint))
    wrong = list(_job_differences(path, _read_sweep(path, key), json.loads(json.dumps(content)), key))
    if wrong:
        more = [f"... and {len(wrong) - MAX_SHOWN} more"] * (len(wrong) > MAX_SHOWN)
        reason = f"the sweep in {path} was started by another command"
        raise ConfigError(*wrong[:MAX_SHOWN], *more, f"{key}: not supported because {reason}")
    return _lock_dir(path, key)


def _lock_dir(path: Path, key: str) -> run_dir.RunDir:
    try:
        # The summary has absolute paths, even if the folder was given as a relative path.
        return run_dir.RunDir(Path(os.path.abspath(path)), [], resume=True, key=key)
    except OSError as error:
        raise ConfigError(folder_checks.unwritable_error(path, error, key)) from None


def _read_sweep(path: Path, key: str) -> dict[str, Any]:
    """Return the content of a folder's ``sweep.json``; error messages suggest the sweep with the closest name."""
    try:
        content = safe_read.parse_json(safe_read.read_text(path / run_files.SWEEP))
        for job in content["jobs"]:
            typed = isinstance(job["overrides"], list) and all(isinstance(word, str) for word in job["overrides"])
            if not (typed and isinstance(job["config"], dict)):
                raise ValueError("a job has no valid overrides or configuration")
        return {"command": str(content["command"]), "jobs": content["jobs"]}
    except OSError as error:
        known = [str(file.parent) for file in path.absolute().parent.glob(f"*/{run_files.SWEEP}")]
        known += [str(file.parent) for file in (compose.default_root() / "sweep").glob(f"*/{run_files.SWEEP}")]
        hint = suggest(str(path.absolute()), known) or f"{error.strerror}."
        expected = f"the folder of a sweep, with {run_files.SWEEP}"
        raise ConfigError(format_error(key, expected, path, hint)) from None
    except (ValueError, KeyError, TypeError) as error:
        expected = f"a {run_files.SWEEP} that can be read"
        reason = str(error) if isinstance(error, ValueError) else "it does not describe a sweep"
        raise ConfigError(format_error(key, expected, f"{path / run_files.SWEEP} ({reason})")) from None


def _job_differences(path: Path, before: dict[str, Any], now: dict[str, Any], key: str) -> Iterator[str]:
    old, new = before["jobs"], now["jobs"]
    if len(old) != len(new):
        reason = f"the sweep in {path} has {len(old)} jobs, and this command has {len(new)}"
        yield f"{key}: not supported because {reason}. The sweep was started with: {before['command']}"
        return
    for number, (was, is_now) in enumerate(zip(old, new, strict=True)):
        if was["overrides"] != is_now["overrides"]:
            wanted, got = (" ".join(job["overrides"]) for job in (was, is_now))
            yield f"job {number}: expected the overrides {wanted or 'none'}, got {got or 'none'}"
        for name, (wanted, got) in config_differences(was["config"], is_now["config"]).items():
            yield f"job {number}: {name}: expected {wanted}, as in the sweep, got {got}"
