"""A sweep's folder: what the sweep is, written down before its first job, and held against the command that goes on."""

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

SWEEP = "sweep.json"
# Any of these says that a sweep or a run lives here.
MARKERS = (*run_files.SWEEP_FILES, *run_files.MARKERS)
MAX_SHOWN = 5  # differences that are told


def open_sweep_dir(jobs: list[Job], names: list[str], command: str) -> run_dir.RunDir:
    """The folder of a sweep, locked: a new one, or that of the sweep to go on with.

    Args:
        jobs: What the command asks for.
        names: The folder of each job.
        command: What goes on with the sweep.

    Raises:
        ConfigError: When the folder is taken, in use, damaged, or that of another sweep.
    """
    if len(asked := {str(job.sweep_resume) for job in jobs}) > 1:
        raise ConfigError(format_error("sweep.resume", "one folder", " ".join(sorted(asked))))
    content = {"command": command, "jobs": [describe_job(job, name) for job, name in zip(jobs, names, strict=True)]}
    path = resumed_path(jobs[0])
    return create_sweep_dir(jobs[0], content) if path is None else reopen_sweep_dir(path, content)


def describe_job(job: Job, name: str) -> dict[str, Any]:
    """One job as ``sweep.json`` has it; secrets are masked, so that they are neither kept nor compared."""
    typed = [redaction.mask_override(word) for word in job.overrides]
    return {"folder": name, "overrides": typed, "config": redaction.mask(job.config)}


def resumed_path(job: Job) -> Path | None:
    """The sweep that a command goes on with, or None.

    Raises:
        ConfigError: When it names two.
    """
    named = Path(job.sweep_dir).expanduser() if job.sweep_dir else None
    if job.sweep_resume is None:
        again = named is not None and job.resolved["trainer"]["resume"] == "auto" and (named / SWEEP).exists()
        return named if again else None
    path = Path(job.sweep_resume).expanduser()
    if named is not None and not (path.exists() and named.exists() and path.samefile(named)):
        raise ConfigError(format_error("hydra.sweep.dir", f"{path} as sweep.resume has it, or nothing", named))
    return path


def create_sweep_dir(job: Job, content: dict[str, Any]) -> run_dir.RunDir:
    """A fresh folder, or the one that ``hydra.sweep.dir`` names, with what the sweep is.

    Raises:
        ConfigError: When something lives there already, or nothing can be written there.
    """
    root = compose.default_root()
    path = Path(job.sweep_dir).expanduser() if job.sweep_dir else None
    folder_checks.check_writable(path or root, "hydra.sweep.dir")
    if path is None:
        path = run_dir.make_unique(root / "sweep")
    names = [job["folder"] for job in content["jobs"]]
    check_free(path, names)  # before anything is written there
    path.mkdir(parents=True, exist_ok=True)
    home = lock_dir(path, "hydra.sweep.dir")
    try:
        check_free(path, names, locked=True)
        write_durable(path / SWEEP, json.dumps(content, indent=2).encode())
    except BaseException:
        home.close()
        raise
    return home


def check_free(path: Path, names: Iterable[str], locked: bool = False) -> None:
    """Refuse a folder in which something lives, or anything where a job's folder would be.

    Args:
        path: The folder.
        names: Those of the jobs' folders.
        locked: By this process: the lock is its own.

    Raises:
        ConfigError: Naming the file that says so.
    """
    taken = next((name for name in (*MARKERS, *names) if os.path.lexists(path / name)), None)
    if taken is None and not locked and folder_checks.has_foreign_lock(path):
        taken = run_files.LOCK
    if taken:
        hint = f"It has {taken}." + f" To go on with it: sweep.resume={path}" * (taken == SWEEP)
        raise ConfigError(format_error("hydra.sweep.dir", "a folder that holds no sweep yet", path, hint))


def reopen_sweep_dir(path: Path, content: dict[str, Any]) -> run_dir.RunDir:
    """The folder of a sweep whose jobs are those of the command.

    Raises:
        ConfigError: With what differs, or naming what leads elsewhere.
    """
    check_no_links(path, [job["folder"] for job in content["jobs"]])
    wrong = list(job_differences(path, read_sweep(path), json.loads(json.dumps(content))))
    if wrong:
        more = [f"... and {len(wrong) - MAX_SHOWN} more"] * (len(wrong) > MAX_SHOWN)
        raise ConfigError(*wrong[:MAX_SHOWN], *more, "sweep.resume needs the command that the sweep was begun with")
    return lock_dir(path, "sweep.resume")


def check_no_links(path: Path, names: Iterable[str]) -> None:
    """Refuse a sweep whose files, or the folders of whose jobs, lie elsewhere: its jobs would write there.

    Raises:
        ConfigError: Naming the first that does, or that is neither a file nor a folder.
    """
    for name in (*run_files.SWEEP_FILES, run_files.STATUS, run_files.LOCK, *names):
        file = path / name
        if file.is_symlink() or folder_checks.is_special(file):
            hint = "It is a link." if file.is_symlink() else folder_checks.SPECIAL_HINT
            raise ConfigError(
                format_error("sweep.resume", "files and folders that lie in the sweep's folder", file, hint)
            )


def lock_dir(path: Path, key: str) -> run_dir.RunDir:
    """The folder, so that no other sweep works in it.

    Raises:
        ConfigError: When one does, or nothing can be written there.
    """
    try:
        # In the summary folders have one name, however they were typed.
        return run_dir.RunDir(Path(os.path.abspath(path)), [], resume=True)
    except OSError as error:
        raise ConfigError(folder_checks.unwritable_error(path, error, key)) from None


def read_sweep(path: Path) -> dict[str, Any]:
    """What a sweep is, as its folder has it.

    Raises:
        ConfigError: When the folder is none of a sweep, naming the nearest, or does not say.
    """
    try:
        content = safe_read.parse_json(safe_read.read_text(path / SWEEP))
        for job in content["jobs"]:
            typed = isinstance(job["overrides"], list) and all(isinstance(word, str) for word in job["overrides"])
            if not (typed and isinstance(job["config"], dict)):
                raise ValueError("a job has no configuration")
        return {"command": str(content["command"]), "jobs": content["jobs"]}
    except OSError as error:
        known = [str(file.parent) for file in path.absolute().parent.glob(f"*/{SWEEP}")]
        known += [str(file.parent) for file in (compose.default_root() / "sweep").glob(f"*/{SWEEP}")]
        hint = suggest(str(path.absolute()), known) or f"{error.strerror}."
        raise ConfigError(format_error("sweep.resume", f"the folder of a sweep, with {SWEEP}", path, hint)) from None
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            format_error("sweep.resume", f"a {SWEEP} that can be read", path / SWEEP, f"{error}.")
        ) from None


def job_differences(path: Path, before: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    """What makes a command another sweep than the one in a folder."""
    old, new = before["jobs"], now["jobs"]
    if len(old) != len(new):
        hint = f"It was begun with: {before['command']}"
        yield format_error("sweep.resume", f"the {len(old)} jobs of the sweep in {path}", f"{len(new)}", hint)
        return
    for number, (was, is_now) in enumerate(zip(old, new, strict=True)):
        if was["overrides"] != is_now["overrides"]:
            wanted, got = (" ".join(job["overrides"]) for job in (was, is_now))
            yield f"job {number}: the sweep has {wanted or 'nothing'}, this command {got or 'nothing'}"
        for key, (wanted, got) in config_differences(was["config"], is_now["config"]).items():
            yield f"job {number}: {key}: the sweep has {wanted}, the configuration now {got}"
