"""Assertions that two runs have identical results."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

# Throughput, times and memory differ between runs.
MEASURED = ("throughput/", "memory/")
TIMES = ("seconds", "training_seconds", "samples_per_second", "seconds_to_first_step", "peak_memory_mb")


def assert_same(run: Path, reference: Path, also_tested_at: int | None = None) -> None:
    """Assert that `run` has the checkpoints, metrics, results, curves, images and ``film.gif`` of `reference`.

    Of the checkpoints, only ``last.pt`` and ``best.pt`` are compared. Throughput, times and memory are not compared.

    Args:
        run: A run that was interrupted and resumed.
        reference: A run of the same command that was not interrupted.
        also_tested_at: Step at which `run` finished and was tested before it was extended.
    """
    extra = None if also_tested_at is None else (also_tested_at, "test")
    assert [line for line in lines(run) if (line["step"], line["split"]) != extra] == lines(reference)
    for read in (curves, images):
        expected = read(reference)
        for tag, points in read(run).items():
            found = [p for p in points if (p[0], tag.rsplit("/", 1)[-1]) != extra]
            assert found == expected.pop(tag), tag
        assert not expected, f"{read.__name__} are missing: {sorted(expected)}"
    assert result(run) == result(reference)
    assert frames(run) == frames(reference)
    for name in ("last.pt", "best.pt"):
        if (reference / "checkpoints" / name).exists():
            assert_same_checkpoint(run / "checkpoints" / name, reference / "checkpoints" / name)
    assert_intact(run)


def assert_same_checkpoint(one: Path, other: Path) -> None:
    """Assert that two checkpoints have the same bytes; the error names the keys that differ."""
    if sha256(one) == sha256(other):
        return
    first, second = (torch.load(path, weights_only=True) for path in (one, other))
    raise AssertionError(
        f"{one} and {other} differ in {list(different(first, second)) or 'their bytes, but in no value'}"
    )


def different(one: Any, other: Any, at: str = "") -> list[str]:
    """Return the keys whose values differ between two checkpoints."""
    if isinstance(one, dict) and isinstance(other, dict):
        return [found for key in {**one, **other} for found in different(one.get(key), other.get(key), f"{at}.{key}")]
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return [] if torch.equal(one, other) else [at]
    return [] if one == other else [at]


def assert_intact(run: Path) -> None:
    """Assert that a run folder has no temporary files, and that each checkpoint in the manifest has the listed hash."""
    assert not leftovers(run)
    for name, entry in json.loads((run / "checkpoints" / "manifest.json").read_text()).items():
        assert sha256(run / "checkpoints" / name) == entry["sha256"], name


def leftovers(run: Path) -> list[Path]:
    """Return the temporary files in a run folder."""
    return [path for path in run.rglob("*") if "tmp" in path.name or path.name.endswith(".new")]


def checkpoints(run: Path) -> list[Path]:
    """Return the ``step-*.pt`` checkpoints of a run, at least two, the newest last."""
    found = sorted((run / "checkpoints").glob("step-*.pt"))
    assert len(found) >= 2
    return found


def update_manifest(path: Path) -> None:
    """Write the hash and size of a changed checkpoint to the manifest."""
    manifest = path.parent / "manifest.json"
    files = json.loads(manifest.read_text())
    files[path.name] |= {"sha256": sha256(path), "bytes": path.stat().st_size}
    manifest.write_text(json.dumps(files))


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def lines(run: Path) -> list[dict[str, Any]]:
    """Return the lines of ``metrics.jsonl`` without throughput and memory."""
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if not name.startswith(MEASURED)} for line in found]


def events(run: Path) -> EventAccumulator:
    """Return the TensorBoard events of a run."""
    found = EventAccumulator(str(run), size_guidance={"scalars": 0, "images": 0, "tensors": 0})
    found.Reload()
    return found


def curves(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Return the TensorBoard scalars except throughput and memory, and assert that the steps of each curve increase."""
    found = events(run)
    points = {t: [(p.step, p.value) for p in found.Scalars(t)] for t in found.Tags()["scalars"]}
    for tag, values in points.items():
        steps = [step for step, _ in values]
        assert steps == sorted(set(steps)), f"{tag} has the steps {steps}"
    return {tag: values for tag, values in points.items() if not tag.startswith(MEASURED)}


def images(run: Path) -> dict[str, list[tuple[int, str]]]:
    """Return the step and hash of every TensorBoard image."""
    found = events(run)
    return {
        tag: [(p.step, hashlib.sha256(p.encoded_image_string).hexdigest()) for p in found.Images(tag)]
        for tag in found.Tags()["images"]
    }


def frames(run: Path) -> dict[str, str]:
    """Return the hashes of all frames and of ``film.gif``."""
    return {str(path.relative_to(run)): sha256(path) for path in [*run.glob("frames/*"), *run.glob("film.gif")]}


def result(run: Path) -> dict[str, Any]:
    """Return ``result.json`` without throughput, times and memory."""
    found = json.loads((run / "result.json").read_text())
    return {name: value for name, value in found.items() if name not in TIMES}


def status(run: Path) -> dict[str, Any]:
    """Return ``status.json``."""
    return json.loads((run / "status.json").read_text())


def steps(run: Path) -> int:
    """Return the step in the last complete line of ``metrics.jsonl``, or 0 if there is none."""
    path = run / "metrics.jsonl"
    if not path.exists():
        return 0
    whole_lines = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return json.loads(whole_lines[-1])["step"] if whole_lines else 0
