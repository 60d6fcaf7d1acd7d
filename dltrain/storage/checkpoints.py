"""Checkpoints: written whole, checked by hash, loaded as data only. What is damaged is passed over, never loaded."""

import contextlib
import hashlib
import io
import itertools
import json
import os
import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any

import torch

from dltrain.errors import CheckpointError
from dltrain.storage import safe_read
from dltrain.storage.atomic import Grown, Writer, beside, grow, link, put, write_durable
from dltrain.storage.checkpoint_format import FORMAT, canonical, upgraded

MANIFEST = "manifest.json"
LAST, BEST = "last.pt", "best.pt"
FILE = re.compile(r"step-[\d-]+\.pt")  # a manifest that names another would have other people's files removed


@dataclass(frozen=True)
class Written:
    """A checkpoint that is written but not yet durable, nor in its place."""

    file: Grown
    step: int
    entry: dict[str, Any]


class Checkpoints:
    """The ``checkpoints`` folder of a run.

    Files are named by their step; ``last.pt`` and ``best.pt`` are links to two of them, and ``manifest.json`` says
    step, metric, SHA-256 and size of each. Training waits until a file is written; a thread makes it durable.

    Args:
        run: The run's folder.
        keep_last: How many of the newest are kept.
        keep_best: How many of those that were the best when they were written are kept.
        before: Called in the thread before a checkpoint is written: what it goes with must be durable first.
    """

    def __init__(
        self, run: Path, keep_last: int = 2, keep_best: int = 1, before: Callable[[], None] = lambda: None
    ) -> None:
        self.path = run / "checkpoints"
        self.keep_last, self.keep_best, self.before = keep_last, keep_best, before
        self.writer: Writer[Written] = Writer(self._put, lambda written: written.file.discard())
        self.count = 0

    def open(self) -> None:
        """Make the folder, and sweep up what a process that was killed left half-written; needs the run's lock."""
        self.path.mkdir(exist_ok=True)
        self.remove_temp()

    def remove_temp(self) -> None:
        """Remove what is half-written."""
        for file in self.path.glob(".*.tmp"):
            file.unlink(missing_ok=True)

    # --- writing ----------------------------------------------------------------------------------------------------

    def save(
        self,
        state: dict[str, Any],
        step: int,
        metric: float | None,
        best: bool = False,
        measured: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        """Write the state, and have it made durable.

        One that waits for the disk gives way to a newer one, unless it is the best and the newer is not: a disk that
        is slower than training costs older checkpoints, not time.

        Args:
            state: Tensors and plain Python.
            step: Optimizer steps so far; names the file.
            metric: The watched metric, for the manifest.
            best: It is the best so far.
            measured: What belongs to the manifest only, since it differs from run to run.

        Raises:
            OSError: When this or an earlier one could not be written; what was there before is intact.
        """
        waiting = self.writer.waiting
        if waiting is not None and waiting.entry["best"] and not best:
            self.wait()
        entry = {"step": step, "metric": metric, "best": best, **measured}
        self.count += 1
        content = canonical({"format": FORMAT, **state})
        temporary = beside(self.path / f"step-{step:08}-{self.count}")
        self.writer.put(Written(grow(temporary, lambda file: torch.save(content, file)), step, entry))

    def wait(self) -> None:
        """Return when everything is on the disk.

        Raises:
            OSError: When something could not be written.
        """
        self.writer.wait()

    def close(self) -> None:
        """Write what waits and end the thread; what went wrong has been or is said by `wait`."""
        self.writer.close()

    def _put(self, written: Written) -> None:
        try:
            self.before()
        except OSError:
            written.file.discard()
            raise
        name = self._free_name(written.step)
        put(written.file, self.path / name)
        entry = {**written.entry, "sha256": written.file.sha256, "bytes": written.file.size}
        files = {**self.read_manifest(), name: entry}
        there = {**self._unknown(), **files}
        kept = self._kept(there) | {name}
        listed = {k: entry for k, entry in files.items() if k in kept}
        write_durable(self.path / MANIFEST, json.dumps(listed, indent=2).encode())
        link(self.path / LAST, name)
        if written.entry["best"]:
            link(self.path / BEST, name)
        # Only now that the new one is durable may old ones go; one that cannot be removed does no harm.
        for old in there.keys() - kept:
            with contextlib.suppress(OSError):
                (self.path / old).unlink()

    def _free_name(self, step: int) -> str:
        """A file's name is never used again, so that a good one is never replaced by one that is not yet known."""
        stem = f"step-{step:08}"
        names = itertools.chain([f"{stem}.pt"], (f"{stem}-{n}.pt" for n in itertools.count(1)))
        return next(name for name in names if not (self.path / name).exists())

    def _unknown(self) -> dict[str, Any]:
        """Every file, as far as its name tells; a process that was killed may not have listed its last one."""
        best = self.path / BEST
        named = os.readlink(best) if best.is_symlink() else None
        files = self.path.glob("step-*.pt")
        return {file.name: {"step": step_of(file.name), "best": file.name == named} for file in files}

    def _kept(self, files: dict[str, Any]) -> set[str]:
        ordered = in_order(files)
        best = [name for name in ordered if files[name]["best"]]
        return set(ordered[-self.keep_last :]) | set(best[-self.keep_best :])

    # --- reading ----------------------------------------------------------------------------------------------------

    def read_manifest(self) -> dict[str, Any]:
        """What the folder holds, by file name, as far as the manifest can be read."""
        found = safe_read.read_mapping(self.path / MANIFEST)
        return found if all(is_entry(name, entry) for name, entry in found.items()) else {}

    def read_entry(self, name: str) -> dict[str, Any]:
        """What the manifest says about ``last.pt``, ``best.pt`` or a file."""
        return self.read_manifest()[self.resolve(name)]

    def resolve(self, name: str) -> str:
        """The file that ``last.pt`` or ``best.pt`` stands for; by the manifest, which is written before the links.

        Of a run that ended before it was ever validated the last weights are the best.
        """
        files = self.read_manifest()
        ordered = [file for file in in_order(files) if name != BEST or files[file]["best"]]
        if name in (LAST, BEST) and ordered:
            return ordered[-1]
        link = self.path / name
        if link.is_symlink():
            return Path(os.readlink(link)).name
        return self.resolve(LAST) if name == BEST and files and not link.exists() else name

    def load(self, name: str) -> dict[str, Any]:
        """Read one checkpoint onto the CPU; only tensors and plain Python can come out of it.

        Raises:
            CheckpointError: When the file is missing, is not the one that was written, or holds anything else.
        """
        while True:
            file = self.path / self.resolve(name)
            try:
                return self._load(file)
            except CheckpointError:
                if self.resolve(name) == file.name:
                    raise  # otherwise a run that goes on has replaced it meanwhile

    def _load(self, file: Path) -> dict[str, Any]:
        if reason := self.find_damage(file):
            raise CheckpointError(f"{file}: refused, {reason}")
        try:
            found = read(file)
        except Exception as error:  # torch raises nearly anything for a file that is not a checkpoint
            reason = said(error)
            raise CheckpointError(f"{file}: refused, it does not load as tensors and plain values: {reason}") from None
        try:
            return upgraded(found)
        except ValueError as error:
            raise CheckpointError(f"{file}: refused, {error}") from None

    def load_newest(self) -> tuple[str, dict[str, Any], list[str]]:
        """The newest checkpoint that is whole: its file, its content, and why newer ones were passed over.

        Raises:
            CheckpointError: When none is whole, naming each with its reason.
        """
        refused: list[str] = []
        for name in reversed(self._all()):
            try:
                return name, self.load(name), refused
            except CheckpointError as error:
                refused += error.problems
        raise CheckpointError(*(refused or [f"{self.path}: refused, it holds no checkpoint"]))

    def _all(self) -> list[str]:
        """Every checkpoint, the newest last, whether or not the manifest knows it."""
        return in_order({**self._unknown(), **self.read_manifest()})

    def find_damage(self, file: Path) -> str | None:
        """What is wrong with a file, or None; without a manifest the check sums within the file must do."""
        if not file.is_file():
            return "it is missing"
        wanted = self.read_manifest().get(file.name, {}).get("sha256")
        if wanted is not None:
            try:
                with open(file, "rb") as content:
                    found = hashlib.file_digest(content, "sha256").hexdigest()
            except OSError as error:
                return f"it cannot be read: {error.strerror}"
            return None if found == wanted else f"it is damaged: its sha256 is {found[:12]}…, expected {wanted[:12]}…"
        try:
            with zipfile.ZipFile(file) as content:
                broken = content.testzip()
        except (zipfile.BadZipFile, OSError, EOFError):
            return "it is damaged: it was not written to its end"
        return f"it is damaged: {broken} does not match its check sum" if broken else None


def read(file: Path | IO[bytes]) -> Any:
    """What lies in a file of torch's, on the CPU: tensors and plain Python, or it raises nearly anything."""
    return torch.load(file, map_location="cpu", weights_only=True)


def load_error(value: Any) -> str | None:
    """Why a value could not be read back from a checkpoint, or None."""
    file = io.BytesIO()
    try:
        torch.save(canonical(value), file)
        file.seek(0)
        read(file)
    except Exception as error:  # pickle, too, raises nearly anything
        return said(error)
    return None


def said(error: Exception) -> str:
    """Why torch does not load a file; its advice, to load the file unsafely, is for nobody."""
    text = str(error).strip()
    found = re.search(r"(Trying to load|Unsupported) .*?(?=\. |\.?\n|$)", text)
    return found[0] if found else text.split(". ")[0].split("\n")[0] or type(error).__name__


def in_order(files: dict[str, Any]) -> list[str]:
    """File names, the newest last; of several of one step the one written last is the newest."""
    return sorted(files, key=lambda name: (files[name]["step"], len(name), name))


def is_entry(name: str, entry: Any) -> bool:
    """Whether a manifest's line is about a checkpoint: what it says besides its sum are numbers, or nothing."""
    if not (FILE.fullmatch(name) and name.isascii() and isinstance(entry, dict)):
        return False
    known = entry.keys() >= {"step", "best", "sha256"} and type(entry["step"]) is int
    figures = [value for key, value in entry.items() if key not in ("step", "best", "sha256") and value is not None]
    numbers = all(isinstance(value, float) or safe_read.is_number(value) for value in figures)
    return known and numbers and isinstance(entry["sha256"], str)


def step_of(name: str) -> int:
    """The step in a file's name; -1 where there is none."""
    digits = name.removeprefix("step-").split("-")[0].split(".")[0]
    return int(digits) if digits.isascii() and digits.isdigit() else -1
