"""Record of what a run's results depend on besides its configuration, and comparison with earlier runs."""

import contextlib
import functools
import hashlib
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from dltrain import redaction
from dltrain.errors import ConfigError, format_error
from dltrain.loggers.console import Console
from dltrain.storage import run_files, safe_read

PACKAGES = ("torch", "torchvision", "hydra-core", "omegaconf", "numpy", "dltrain")
# Entries of environment.json on which results may depend.
COMPARED = ("python", "platform", "packages", "processor", "device", "threads", "commit", "code", "data")


@dataclass(frozen=True)
class Origin:
    """Run that a new run repeats; `changed` maps each overridden key to its earlier and its new value."""

    path: Path
    changed: Mapping[str, tuple[Any, Any]]

    def print_differences(self, console: Console, now: Mapping[str, Any]) -> None:
        """Print how the new run differs, given its environment from `dltrain.runs.report.describe_environment`."""
        before, after = dict(_flatten(load_environment(self.path))), dict(_flatten(now))
        names = [name for name in dict.fromkeys([*after, *before]) if before.get(name) != after.get(name)]
        found = {**self.changed, **{name: (before.get(name), after.get(name)) for name in names}}
        if not found:
            console.info(f"no differences from {self.path}: the results should be identical")
            return
        console.start(
            f"differences from {self.path} (earlier and current values):",
            {name: " -> ".join("none" if v is None else str(v) for v in values) for name, values in found.items()},
        )


def load_environment(path: Path) -> dict[str, Any]:
    """Return the environment in which a run began, or an empty dictionary if its file is missing or invalid."""
    return safe_read.read_mapping(path / run_files.ENVIRONMENT)


def _flatten(environment: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the name and value of each entry to compare, such as ``torch`` or ``test data``."""
    for name in COMPARED:
        value = environment.get(name)
        if name == "commit" and isinstance(value, dict):
            yield name, f"{value.get('id')}{' with uncommitted changes' if value.get('dirty') else ''}"
        elif isinstance(value, dict):
            yield from ((f"{key} data" if name == "data" else key, item) for key, item in value.items())
        else:
            yield name, value


def code_fingerprint(allow: Iterable[str]) -> str:
    """Return a hash of the source code of dltrain and of the imported modules in `allow` and their submodules."""
    digest, prefixes = _digest_of_dltrain().copy(), tuple(f"{prefix}." for prefix in allow)
    for name, module in sorted(sys.modules.items()):
        if f"{name}.".startswith(prefixes) and getattr(module, "__file__", None):
            digest.update(f"/{name}\0".encode() + Path(str(module.__file__)).read_bytes())
    return digest.hexdigest()[:16]


@functools.cache
def _digest_of_dltrain() -> "hashlib._Hash":
    """Return the hash of dltrain's own code, computed once per process."""
    package, digest = Path(__file__).parents[1], hashlib.sha256()
    files = {file.relative_to(package).as_posix(): file for file in package.rglob("*.py")}
    for name, file in sorted(files.items()):
        digest.update(f"{name}\0".encode() + file.read_bytes())
    return digest


def describe_platform(device: str) -> dict[str, Any]:
    """Return versions, platform, device, number of CPUs, commit, command and current folder for environment.json."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
        "device": device,
        "cpus": os.cpu_count(),
        "commit": _git_commit(),
        "argv": [redaction.mask_override(argument) for argument in sys.argv[1:]],
        "folder": str(Path.cwd()),
    }


@functools.cache
def _version(package: str) -> str | None:
    with contextlib.suppress(metadata.PackageNotFoundError):
        return metadata.version(package)
    return None


@functools.cache
def _git_commit() -> dict[str, Any] | None:
    """Return the commit of dltrain's checkout and whether tracked files differ from it; None if unknown."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    try:
        call = ["git", "-C", str(root), "status", "--porcelain=v2", "--branch", "--untracked-files=no"]
        lines = subprocess.run(call, capture_output=True, text=True, timeout=5, check=True).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return None
    oid = next((line.split()[-1] for line in lines if line.startswith("# branch.oid")), None)
    return {"id": oid, "dirty": any(not line.startswith("#") for line in lines)}


def processor_name() -> str:
    """Return the name of the processor, whose vector instructions determine how sums are rounded."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def check_same_data(path: Path, now: Mapping[str, str], skipping: bool) -> None:
    """Raise ConfigError if a run would resume with other data; see `changed_splits`."""
    then = load_environment(path).get("data", {})
    if others := changed_splits(path, now, skipping):
        hint = f"Set data.path= or data.root= to the original data, or start a new run: dltrain rerun {path}"
        if not changed_splits(path, now, skipping=True):
            hint = f"File sizes differ; with data.on_bad_sample=skip the run resumes without unreadable files. {hint}"
        known = "the fingerprint at the start of the run"
        lines = [format_error(f"data ({split})", f"{known}, {then.get(split)}", now.get(split)) for split in others]
        raise ConfigError(*lines, f"data: a run can only resume with its original data. {hint}.")


def changed_splits(path: Path, now: Mapping[str, str], skipping: bool = False) -> list[str]:
    """Return the splits that changed since the start of a run; empty if the run recorded no fingerprints.

    With `skipping`, file sizes are not compared: files damaged since the start are skipped as bad samples.
    """
    then = load_environment(path).get("data")
    if not isinstance(then, dict):
        return []
    return [
        split
        for split in dict.fromkeys([*now, *then])
        if not _is_same(str(then.get(split)), str(now.get(split)), skipping)
    ]


def _is_same(then: str, now: str, skipping: bool) -> bool:
    """Return whether two fingerprints are of the same data."""
    from dltrain.data.fingerprint import COMPUTED  # imports torch

    if now.startswith(COMPUTED) and not then.startswith(COMPUTED):
        return then != "None"  # not comparable: version 0.1 hashed the rows, whose last digits depend on the CPU
    kept = 1 if skipping else 2  # fingerprints of files end in a dash and a hash of the file sizes
    return then.split("-")[:kept] == now.split("-")[:kept]
