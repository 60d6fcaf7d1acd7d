"""Then and now: what has changed since a run began that its figures or bytes may depend on."""

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
from dltrain.storage import safe_read

ENVIRONMENT = "environment.json"
COMPARED = ("python", "platform", "packages", "processor", "device", "threads", "commit", "code", "data")


@dataclass(frozen=True)
class Origin:
    """A run that is repeated.

    Args:
        path: Its folder.
        changed: Key -> its value then and now, where the command changes it.
    """

    path: Path
    changed: Mapping[str, tuple[Any, Any]]

    def print_differences(self, console: Console, now: Mapping[str, Any]) -> None:
        """Say what differs from that run; ``now`` is what `dltrain.runs.report.describe_environment` says."""
        found = {**self.changed, **environment_differences(load_environment(self.path), now)}
        if not found:
            console.say(f"nothing differs from {self.path}: the same bytes are to be expected")
            return
        console.start(
            f"what differs from {self.path}, then and now:",
            {name: f"{shown(then)} -> {shown(this)}" for name, (then, this) in found.items()},
        )


def load_environment(path: Path) -> dict[str, Any]:
    """What a run's folder says about where the run began; empty where it does not say."""
    return safe_read.content(path / ENVIRONMENT)


def environment_differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Where two environments differ: name -> both values."""
    before, after = dict(flatten_environment(then)), dict(flatten_environment(now))
    names = dict.fromkeys([*after, *before])
    return {n: (before.get(n), after.get(n)) for n in names if before.get(n) != after.get(n)}


def flatten_environment(environment: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The things to compare, each by its own name: ``torch``, ``test data``."""
    for name in COMPARED:
        value = environment.get(name)
        if name == "commit" and isinstance(value, dict):
            yield name, f"{value.get('id')}{' and changes' if value.get('dirty') else ''}"
        elif isinstance(value, dict):
            yield from ((f"{key} data" if name == "data" else key, item) for key, item in value.items())
        else:
            yield name, value


def code_fingerprint(allow: Iterable[str]) -> str:
    """A fingerprint of dltrain's own source and of a user's modules that are in use.

    Args:
        allow: The prefixes of a user's modules.
    """
    package = Path(__file__).parents[1]
    files = {file.relative_to(package).as_posix(): file for file in package.rglob("*.py")}
    for name, module in list(sys.modules.items()):
        if any(f"{name}.".startswith(f"{prefix}.") for prefix in allow) and getattr(module, "__file__", None):
            files[f"/{name}"] = Path(str(module.__file__))
    digest = hashlib.sha256()
    for name, file in sorted(files.items()):
        digest.update(f"{name}\0".encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def describe_platform(device: str) -> dict[str, Any]:
    """What a result depends on besides the configuration: versions, device, commit."""
    packages = ("torch", "torchvision", "hydra-core", "omegaconf", "numpy", "dltrain")
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: package_version(name) for name in packages},
        "device": device,
        "cpus": os.cpu_count(),
        "commit": git_commit(),
        "argv": [redaction.masked_word(word) for word in sys.argv[1:]],
        "folder": str(Path.cwd()),
    }


def package_version(package: str) -> str | None:
    """The installed version of a package, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def git_commit() -> dict[str, Any] | None:
    """The commit dltrain runs from, and whether files differ from it; None outside a checkout."""
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
    """The name of the processor: what its vector units can do decides how sums are rounded."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def check_same_data(path: Path, now: Mapping[str, str], skipping: bool) -> None:
    """Refuse data that are not those a run began with.

    Args:
        path: The run's folder.
        now: The fingerprint of each split.
        skipping: Examples that cannot be read are left out: then a file may have gone bad since.

    Raises:
        ConfigError: Naming the splits.
    """
    then = load_environment(path).get("data", {})
    if others := changed_splits(path, now, skipping):
        hint = f"data.path= or data.root= says where those are; dltrain rerun {path} begins a new run with these"
        if not changed_splits(path, now, skipping=True):
            hint = f"Files have other sizes. data.on_bad_sample=skip goes on, without what cannot be read; {hint}"
        raise ConfigError(
            *(format_error(f"data ({s})", f"what the run began with, {then.get(s)}", now.get(s)) for s in others),
            f"data: a run goes on with the data that it began with. {hint}",
        )


def changed_splits(path: Path, now: Mapping[str, str], skipping: bool = False) -> list[str]:
    """The splits that are not those a run began with; none where its folder does not say."""
    then = load_environment(path).get("data")
    if not isinstance(then, dict):
        return []
    kept = 1 if skipping else 2  # of a fingerprint of files, what stands after the dash is that of their sizes
    return [
        split
        for split in dict.fromkeys([*now, *then])
        if str(then.get(split)).split("-")[:kept] != str(now.get(split)).split("-")[:kept]
    ]


def shown(value: Any) -> str:
    """A value as people read it."""
    return "none" if value is None else str(value)
