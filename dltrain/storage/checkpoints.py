"""Checkpoints of a run: written atomically, verified by hash, loaded as tensors and plain values only."""

import contextlib
import json
import os
import re
from collections.abc import Callable, Mapping
from concurrent import futures
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch

from dltrain.errors import CheckpointError
from dltrain.storage import safe_read
from dltrain.storage.atomic import PendingFile, commit, replace_link, temp_path, write_durable, write_temp
from dltrain.storage.checkpoint_format import FORMAT, canonical, describe_load_error, find_damage, load_file, upgrade
from dltrain.storage.run_files import BEST, CHECKPOINTS, LAST, MANIFEST

# `Checkpoints` deletes old files that the manifest lists, so a manifest with any other file name is invalid.
CHECKPOINT_NAME = re.compile(r"step-[\d-]+\.pt", re.ASCII)


class Write(NamedTuple):
    """A checkpoint file that a thread makes durable, and its manifest entry without hash and size."""

    future: Future[None]
    file: PendingFile
    entry: dict[str, Any]


class Checkpoints:
    """The ``checkpoints`` folder of a run.

    Files are named by their step; ``last.pt`` and ``best.pt`` are links to them; ``manifest.json`` has the step,
    metric, SHA-256 and size of each file. Training waits until a file is written; a thread makes it durable.

    Args:
        run: The run folder.
        keep_last: Number of newest checkpoints to keep.
        keep_best: Number of newest checkpoints to keep among those that were the best when they were saved.
        before_commit: Called in the thread before a checkpoint is committed, to make the run's other files durable.
    """

    def __init__(
        self, run: Path, keep_last: int = 2, keep_best: int = 1, before_commit: Callable[[], None] = lambda: None
    ) -> None:
        self.path = run / CHECKPOINTS
        self.keep_last, self.keep_best, self.before_commit = keep_last, keep_best, before_commit
        self.thread = ThreadPoolExecutor(1, "checkpoints")  # starts with the first checkpoint
        self.writes: list[Write] = []  # oldest first; at most one is running and one is queued
        self.fitted: str | None = None  # SHA-256 of the run's fitted.pt, for the manifest
        self.count = 0  # checkpoints saved so far; makes the names of temporary files unique

    def open(self) -> None:
        """Create the folder and remove temporary files of a killed process; requires the run's lock."""
        self.path.mkdir(exist_ok=True)
        self.remove_temp()

    def remove_temp(self) -> None:
        """Remove temporary files."""
        for file in self.path.glob(".*.tmp"):
            file.unlink(missing_ok=True)

    # --- writing ----------------------------------------------------------------------------------------------------

    def save(
        self,
        state: dict[str, Any],
        step: int,
        metric: float | None,
        best: bool = False,
        timings: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        """Write a checkpoint and have the thread make it durable.

        The new checkpoint replaces an earlier one that is still queued, so that a slow disk does not delay training.
        A queued best checkpoint is only replaced by a better one; otherwise `save` waits until it is durable.

        Args:
            state: Tensors and plain Python values.
            timings: Stored in the manifest only, not in the checkpoint, so that equal states are saved as equal files.

        Raises:
            OSError: This or an earlier checkpoint could not be written; earlier files are intact.
        """
        if self.writes and self.writes[-1].entry["best"] and not best and not self.writes[-1].future.running():
            self.wait()
        self.count += 1
        content = canonical({"format": FORMAT, **state})
        temp = temp_path(self.path / f"step-{step:08}-{self.count}")
        file = write_temp(temp, lambda file: torch.save(content, file))
        self._raise_errors()
        if self.writes and self.writes[-1].future.cancel():
            self.writes.pop().file.discard()
        entry: dict[str, Any] = {"step": step, "metric": metric, "best": best, **timings}
        entry |= {"fitted": self.fitted} if self.fitted else {}
        self.writes.append(Write(self.thread.submit(self._commit, file, entry), file, entry))

    def wait(self) -> None:
        """Block until all checkpoints are durable; raise `OSError` if one could not be written."""
        futures.wait([write.future for write in self.writes])
        self._raise_errors()

    def close(self) -> None:
        """Commit the queued checkpoint and end the thread; call `wait` first to see errors."""
        self.thread.shutdown()

    def _raise_errors(self) -> None:
        while self.writes and self.writes[0].future.done():
            self.writes.pop(0).future.result()

    def _commit(self, file: PendingFile, entry: dict[str, Any]) -> None:
        try:
            self.before_commit()
        except OSError:
            file.discard()
            raise
        stem, number = f"step-{entry['step']:08}", 0
        name = f"{stem}.pt"
        while (self.path / name).exists():  # never overwrite a good checkpoint
            number += 1
            name = f"{stem}-{number}.pt"
        commit(file, self.path / name)
        listed = {**self.read_manifest(), name: {**entry, "sha256": file.sha256, "bytes": file.size}}
        files = {**self._scan(), **listed}
        names = sort_by_step(files)
        best = [file for file in names if files[file]["best"]]
        kept = {name, *names[-self.keep_last :], *best[-self.keep_best :]}
        listed = {name: listed[name] for name in listed if name in kept}
        write_durable(self.path / MANIFEST, json.dumps(listed, indent=2).encode())
        replace_link(self.path / LAST, name)
        if entry["best"]:
            replace_link(self.path / BEST, name)
        # Delete old files only once the new one is durable; a file that cannot be deleted does no harm.
        for old in files.keys() - kept:
            with contextlib.suppress(OSError):
                (self.path / old).unlink()

    def _scan(self) -> dict[str, Any]:
        """Return file name -> entry for every file; the manifest may lack the last file of a killed process."""
        best = self.path / BEST
        target = os.readlink(best) if best.is_symlink() else None
        files = self.path.glob("step-*.pt")
        return {file.name: {"step": step_of(file.name), "best": file.name == target} for file in files}

    # --- reading ----------------------------------------------------------------------------------------------------

    def read_manifest(self) -> dict[str, Any]:
        """Return file name -> entry; empty if the manifest is missing or invalid."""
        entries = safe_read.read_mapping(self.path / MANIFEST)
        return entries if all(is_entry(name, entry) for name, entry in entries.items()) else {}

    def read_entry(self, name: str) -> dict[str, Any]:
        """Return the manifest entry of ``last.pt``, ``best.pt`` or a file."""
        return self.read_manifest()[self.resolve(name)]

    def fitted_sha256(self) -> str | None:
        """Return the SHA-256 of the run's ``fitted.pt``, or None if the manifest has none."""
        files = self.read_manifest()
        hashes = (files[name].get("fitted") for name in reversed(sort_by_step(files)))
        return next((found for found in hashes if found), None)

    def resolve(self, name: str) -> str:
        """Return the name of the file that ``last.pt`` or ``best.pt`` refers to; other names are returned unchanged.

        The manifest is written before the links and takes precedence. If it marks no checkpoint as best and there is no
        link, ``best.pt`` refers to the last checkpoint.
        """
        files = self.read_manifest()
        names = [file for file in sort_by_step(files) if name != BEST or files[file]["best"]]
        if name in (LAST, BEST) and names:
            return names[-1]
        link = self.path / name
        if link.is_symlink():
            return Path(os.readlink(link)).name
        return self.resolve(LAST) if name == BEST and files and not link.exists() else name

    def load(self, name: str) -> dict[str, Any]:
        """Load a checkpoint onto the CPU as tensors and plain values; raise `CheckpointError` if it is not valid."""
        while True:
            file = self.path / self.resolve(name)
            try:
                return self._load(file)
            except CheckpointError:
                if self.resolve(name) == file.name:
                    raise
                # A running process has replaced the checkpoint in the meantime: load the new one.

    def _load(self, file: Path) -> dict[str, Any]:
        if reason := self.find_damage(file):
            raise CheckpointError(f"{file}: rejected because {reason}")
        try:
            content = load_file(file)
        except Exception as error:  # torch raises almost any exception for an invalid file
            reason = f"it does not load as tensors and plain values: {describe_load_error(error)}"
            raise CheckpointError(f"{file}: rejected because {reason}") from None
        try:
            return upgrade(content)
        except ValueError as error:
            raise CheckpointError(f"{file}: rejected because {error}") from None

    def load_newest(self) -> tuple[str, dict[str, Any], list[str]]:
        """Load the newest valid checkpoint, in the manifest or not; raise `CheckpointError` if there is none.

        Returns:
            Its file name, its content, and why newer checkpoints were skipped.
        """
        skipped: list[str] = []
        for name in reversed(sort_by_step({**self._scan(), **self.read_manifest()})):
            try:
                return name, self.load(name), skipped
            except CheckpointError as error:
                skipped += error.problems
        raise CheckpointError(*(skipped or [f"{self.path}: rejected because it contains no checkpoint"]))

    def find_damage(self, file: Path) -> str | None:
        """Return what is wrong with a file, or None; files not in the manifest are checked by their zip CRCs."""
        return find_damage(file, self.read_manifest().get(file.name, {}).get("sha256"))


def is_entry(name: str, entry: Any) -> bool:
    """Return whether a manifest entry has a valid file name and values of the expected types."""
    if not (CHECKPOINT_NAME.fullmatch(name) and isinstance(entry, dict)):
        return False
    if not (entry.keys() >= {"step", "best", "sha256"} and type(entry["step"]) is int):
        return False
    others = entry.keys() - {"step", "best", "sha256", "fitted"}
    values = [entry[key] for key in others if entry[key] is not None]
    numeric = all(isinstance(value, float) or safe_read.is_number(value) for value in values)
    hashes = (entry["sha256"], entry.get("fitted", ""))
    return numeric and isinstance(entry["best"], bool) and all(isinstance(text, str) for text in hashes)


def sort_by_step(files: dict[str, Any]) -> list[str]:
    """Return file names, oldest first; checkpoints of the same step in the order they were written."""
    return sorted(files, key=lambda name: (files[name]["step"], len(name), name))


def step_of(name: str) -> int:
    """Return the step in a checkpoint's file name, or -1 if there is none."""
    digits = name.removeprefix("step-").split("-")[0].split(".")[0]
    return int(digits) if digits.isascii() and digits.isdigit() else -1
