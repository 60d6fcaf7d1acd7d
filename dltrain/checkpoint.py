"""Checkpoints: written whole, checked by hash, loaded as data only."""

import hashlib
import io
import json
import os
from pathlib import Path
from typing import Any

import torch

from dltrain.errors import ConfigError, problem

FORMAT = 1


class Checkpoints:
    """The ``checkpoints`` folder of a run: ``last.pt``, ``best.pt`` and a manifest with their hashes."""

    def __init__(self, run: Path) -> None:
        self.path = run / "checkpoints"
        self.path.mkdir(exist_ok=True)

    def save(self, name: str, state: dict[str, Any], step: int, metric: float | None) -> None:
        """Write one checkpoint beside the old one, make it durable, then put it in its place and into the manifest."""
        buffer = io.BytesIO()
        torch.save({"format": FORMAT, **state}, buffer)
        content = buffer.getvalue()
        write_durably(self.path / name, content)
        entry = {"step": step, "metric": metric, "sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
        manifest = {**self.manifest(), name: entry}
        write_durably(self.path / "manifest.json", json.dumps(manifest, indent=2).encode())

    def manifest(self) -> dict[str, Any]:
        """What the folder holds, by file name."""
        file = self.path / "manifest.json"
        return json.loads(file.read_text()) if file.is_file() else {}

    def load(self, name: str) -> dict[str, Any]:
        """Read one checkpoint onto the CPU; only tensors and plain Python can come out of it.

        Raises:
            ConfigError: When the file is missing or is not the one that was written.
        """
        file = self.path / name
        if not file.is_file():
            raise ConfigError(problem("checkpoint", "a checkpoint", file))
        content = file.read_bytes()
        wanted = self.manifest().get(name, {}).get("sha256")
        if hashlib.sha256(content).hexdigest() != wanted:
            raise ConfigError(problem("checkpoint", f"the file with sha256 {wanted}", file, "It is damaged."))
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def write_durably(path: Path, content: bytes) -> None:
    """Write a file so that a crash at any moment leaves the old one or the new one, whole."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
