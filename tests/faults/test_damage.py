"""Damaged checkpoints are reported. They are not loaded, run no code, and do not replace intact checkpoints."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from children import Child, Gate, ServerClient
from recipes import recipe
from same import assert_same, checkpoints, sha256, update_manifest

ALLOW = "allow_targets=[gated]"


@pytest.fixture(scope="session")
def killed(server: ServerClient, tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> Path:
    """Return the folder of a run killed after step 21, with two checkpoints, of which the last is the best."""
    folder = tmp_path_factory.mktemp("killed")
    gate, run = Gate(folder / "gate"), folder / "run"
    gate.close("train-22")
    command = [*recipe("forecast", data_root), f"hydra.run.dir={run}", "trainer.keep_last=2"]
    child = server.start(command, folder, gate.environment)
    gate.wait_until_reached(child, "train-22")
    child.wait_until(lambda: is_listed(run / "checkpoints", "step-00000021.pt"))
    child.kill()
    return run


def is_listed(folder: Path, name: str) -> bool:
    """Return whether the manifest lists all checkpoints in the folder and no others, and `name` is one of them."""
    listed = json.loads((folder / "manifest.json").read_text())
    return name in listed and {path.name for path in folder.glob("step-*.pt")} == set(listed)


@pytest.fixture
def run(killed: Path, tmp_path: Path) -> Path:
    """Return a copy of the killed run, to be damaged."""
    return shutil.copytree(killed, tmp_path / "run", symlinks=True)


def contents(run: Path) -> dict[str, tuple[str, int]]:
    """Return the hash and modification time of every file except the lock."""
    files = [p for p in run.rglob("*") if p.is_file() and p.name != ".lock"]
    return {str(p.relative_to(run)): (sha256(p), p.stat().st_mtime_ns) for p in files}


def truncate(fraction: float) -> Callable[[Path], None]:
    return lambda path: os.truncate(path, int(fraction * path.stat().st_size))


def flip_bit(path: Path) -> None:
    """Flip one bit in the middle of a file."""
    with open(path, "r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))


DAMAGES = [
    pytest.param(truncate(0.0), id="empty", marks=pytest.mark.faults),
    pytest.param(truncate(0.3), id="truncated to 30 %", marks=pytest.mark.faults),
    pytest.param(truncate(0.999), id="truncated to 99.9 %", marks=pytest.mark.faults),
    pytest.param(flip_bit, id="one bit flipped"),
    pytest.param(Path.unlink, id="removed", marks=pytest.mark.faults),
]


@pytest.mark.parametrize(
    "listed",
    [
        pytest.param(True, id="in the manifest"),
        pytest.param(False, marks=pytest.mark.faults, id="without a manifest"),
    ],
)
@pytest.mark.parametrize("damage", DAMAGES)
def test_resume_skips_a_damaged_checkpoint_and_loads_the_newest_intact_one(
    damage: Callable[[Path], None],
    listed: bool,
    run: Path,
    dltrain: Callable[..., Child],
    uninterrupted_run: Callable[[str], Path],
) -> None:
    *_, good, bad = checkpoints(run)
    damage(bad)
    if not listed:
        (run / "checkpoints" / "manifest.json").unlink()
    child = dltrain("resume", str(run), ALLOW)
    assert child.code == 0, child.stderr
    if listed or bad.exists():
        assert f"{bad}: rejected" in child.stderr
        assert f"falling back to {good}" in child.stderr
    assert f"from {good.name}" in child.stderr
    assert_same(run, uninterrupted_run("forecast"))


def test_when_every_checkpoint_is_damaged_each_is_reported_and_no_file_changes(
    run: Path, dltrain: Callable[..., Child]
) -> None:
    for number, path in enumerate(checkpoints(run)):
        DAMAGES[(0, 3, 1)[number % 3]].values[0](path)
    before = contents(run)
    child = dltrain("resume", str(run), ALLOW)
    assert child.code == 5
    assert all(f"{path}: rejected because it is damaged" in child.stderr for path in checkpoints(run))
    assert "Traceback" not in child.stderr
    assert contents(run) == before


@pytest.mark.faults
def test_keep_last_keeps_a_new_checkpoint_rather_than_a_damaged_checkpoint_of_a_later_step(
    run: Path,
    start: Callable[..., Child],
    dltrain: Callable[..., Child],
    gate: Gate,
    uninterrupted_run: Callable[[str], Path],
) -> None:
    for path in checkpoints(run)[1:]:
        flip_bit(path)
    oldest = int(checkpoints(run)[0].name[5:13])
    gate.close("train-3")
    overrides = ["trainer.checkpoint_every=1", "trainer.keep_last=1"]
    child = start("resume", str(run), ALLOW, *overrides, environment=gate.environment)
    gate.wait_until_reached(child, "train-3")
    newest = run / "checkpoints" / f"step-{oldest + 2:08}.pt"
    child.wait_until(lambda: newest.name in (run / "checkpoints" / "manifest.json").read_text())
    child.kill()
    assert newest.exists()
    again = dltrain("resume", str(run), ALLOW)
    assert again.code == 0, again.stderr
    assert f"from {newest.name}" in again.stderr
    assert_same(run, uninterrupted_run("forecast"))


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda f: (f / "manifest.json").unlink(), id="no manifest"),
        pytest.param(
            lambda f: (f / "manifest.json").write_text('{"step-'), id="truncated manifest", marks=pytest.mark.faults
        ),
        pytest.param(lambda f: (f / "manifest.json").write_text("{}"), id="empty manifest", marks=pytest.mark.faults),
        pytest.param(
            lambda f: [(f / name).unlink() for name in ("last.pt", "best.pt")], id="no links", marks=pytest.mark.faults
        ),
        pytest.param(
            lambda f: repoint(f / "last.pt", "step-00000001.pt"), id="dangling link", marks=pytest.mark.faults
        ),
    ],
)
def test_resume_finds_the_newest_checkpoint_if_the_manifest_or_links_are_missing_or_damaged(
    damage: Callable[[Path], Any], run: Path, dltrain: Callable[..., Child], uninterrupted_run: Callable[[str], Path]
) -> None:
    damage(run / "checkpoints")
    child = dltrain("resume", str(run), ALLOW)
    assert child.code == 0, child.stderr
    assert f"from {checkpoints(run)[-1].name}" in child.stderr or "resumed at step 21" in child.stderr
    assert_same(run, uninterrupted_run("forecast"))


def repoint(link: Path, name: str) -> None:
    link.unlink()
    link.symlink_to(name)


def test_a_missing_run_is_rejected_with_the_nearest_name(
    run: Path, dltrain: Callable[..., Child], tmp_path: Path
) -> None:
    before = sorted(tmp_path.rglob("*"))
    child = dltrain("resume", str(tmp_path / "rum"))
    assert child.code == 2
    assert f"Did you mean {run}?" in child.stderr
    assert child.stderr.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_the_error_for_a_checkpoint_of_an_unknown_format_contains_the_format_number(
    run: Path, dltrain: Callable[..., Child]
) -> None:
    for path in checkpoints(run):
        state = torch.load(path, weights_only=True)
        torch.save({**state, "format": 99}, path)
        update_manifest(path)
    before = contents(run)
    child = dltrain("resume", str(run), ALLOW)
    assert child.code == 5
    assert "its format is 99, expected 1 to 3. A newer dltrain wrote it" in child.stderr
    assert contents(run) == before


def test_resume_from_a_checkpoint_of_format_1_gives_identical_results(
    run: Path, dltrain: Callable[..., Child], uninterrupted_run: Callable[[str], Path]
) -> None:
    for path in checkpoints(run):
        state = torch.load(path, weights_only=True)
        schedules = state.pop("schedules")
        assert schedules.keys() == state["optimizers"].keys() == {"train"}
        assert schedules["train"], "the plateau schedule must have a state"
        state["optimizers"]["train"]["schedule"] = schedules["train"]
        record = state.pop("record")
        assert record["losses"].keys() <= {"train"} and not record["parts"]
        names = {"loss": record["losses"]["train"]} if record["losses"] else {}
        torch.save({**state, "record": names, "format": 1}, path)
        update_manifest(path)
    child = dltrain("resume", str(run), ALLOW)
    assert child.code == 0, child.stderr
    assert_same(run, uninterrupted_run("forecast"))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        pytest.param({"rng": None, "record": None}, "it lacks record, rng", id="missing keys"),
        pytest.param({"loop": {"steps": 7}}, "it has no step", id="no step"),
        pytest.param({"loop": {"step": 7, "x": 0}}, "cannot resume from it. TypeError", id="unknown loop key"),
        pytest.param({"optimizers": {}, "schedules": {}}, "cannot resume from it. KeyError", id="no optimizer"),
    ],
)
@pytest.mark.faults
def test_an_intact_checkpoint_with_an_unexpected_state_is_rejected_without_a_traceback(
    change: dict[str, Any], expected: str, run: Path, dltrain: Callable[..., Child]
) -> None:
    for path in checkpoints(run):
        state = {**torch.load(path, weights_only=True), **change}
        # Remove the keys that `change` sets to None; keep `average`, which is None in these checkpoints.
        torch.save({name: value for name, value in state.items() if value is not None or name == "average"}, path)
        update_manifest(path)
    child = dltrain("resume", str(run), ALLOW)
    assert child.code == 5, child.stderr
    assert expected in child.stderr and "Traceback" not in child.stderr


class Evil:
    """An object whose unpickling creates the file `canary`."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, (f"touch {self.canary}",))


@pytest.mark.parametrize("listed", [True, False], ids=["in the manifest", "without a manifest"])
@pytest.mark.parametrize(
    "bare", [pytest.param(True, id="bare pickle", marks=pytest.mark.faults), pytest.param(False, id="torch.save")]
)
def test_a_malicious_checkpoint_is_rejected_and_never_executed(
    listed: bool, bare: bool, run: Path, dltrain: Callable[..., Child], tmp_path: Path
) -> None:
    canary = tmp_path / "canary"
    for path in checkpoints(run):
        if bare:
            path.write_bytes(pickle.dumps({"format": 1, "model": Evil(canary)}))
        else:
            torch.save({"format": 1, "model": Evil(canary), "loop": {}}, path)
        update_manifest(path)
    if not listed:
        (run / "checkpoints" / "manifest.json").unlink()
    before = contents(run)
    child = dltrain("resume", str(run), ALLOW)
    assert child.code == 5
    assert all(f"{path}: rejected" in child.stderr for path in checkpoints(run))
    assert not canary.exists()
    assert contents(run) == before
    if not bare:  # an unsafe load runs the code
        torch.load(checkpoints(run)[0], weights_only=False)
        assert canary.exists()
