"""A damaged checkpoint is never loaded, never replaces a good one, and is named; nothing in a folder is run as code."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from children import Child, Gate, Server
from recipes import recipe
from same import assert_same, checkpoints, know, sha256

ALLOW = "allow_targets=[gated]"


@pytest.fixture(scope="session")
def killed(server: Server, tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> Path:
    """A run that was killed at step 21: checkpoints of its epochs, and of what was best."""
    folder = tmp_path_factory.mktemp("killed")
    gate, run = Gate(folder / "gate"), folder / "run"
    gate.close("train-22")
    command = [*recipe("forecast", data_root), f"hydra.run.dir={run}", "trainer.keep_last=2"]
    child = server.start(command, folder, gate.environment)
    gate.reached(child, "train-22")
    child.until(lambda: written(run / "checkpoints", "step-00000021.pt"))
    child.kill()
    return run


def written(folder: Path, name: str) -> bool:
    """Return whether the manifest lists a checkpoint, and the folder has exactly the listed ones."""
    listed = json.loads((folder / "manifest.json").read_text())
    return name in listed and {path.name for path in folder.glob("step-*.pt")} == set(listed)


@pytest.fixture
def run(killed: Path, tmp_path: Path) -> Path:
    """A copy of it, to be damaged."""
    return shutil.copytree(killed, tmp_path / "run", symlinks=True)


def contents(run: Path) -> dict[str, tuple[str, int]]:
    """Hash and time of every file that a session must leave as it was."""
    files = [p for p in run.rglob("*") if p.is_file() and p.name != ".lock"]
    return {str(p.relative_to(run)): (sha256(p), p.stat().st_mtime_ns) for p in files}


def cut(share: float) -> Callable[[Path], None]:
    return lambda path: os.truncate(path, int(share * path.stat().st_size))


def flip(path: Path) -> None:
    """One bit in the middle."""
    with open(path, "r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))


DAMAGES = [
    pytest.param(cut(0.0), id="empty", marks=pytest.mark.faults),
    pytest.param(cut(0.3), id="cut at 30 %"),
    pytest.param(cut(0.999), id="cut at 99.9 %", marks=pytest.mark.faults),
    pytest.param(flip, id="one bit flipped"),
    pytest.param(Path.unlink, id="removed", marks=pytest.mark.faults),
]


@pytest.mark.parametrize("known", [True, pytest.param(False, marks=pytest.mark.faults, id="without a manifest")])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_passed_over_for_the_newest_good_one(
    damage: Callable[[Path], None],
    known: bool,
    run: Path,
    dltrain: Callable[..., Child],
    whole_run: Callable[[str], Path],
) -> None:
    *_, good, bad = checkpoints(run)
    damage(bad)
    if not known:
        (run / "checkpoints" / "manifest.json").unlink()
    child = dltrain("resume", str(run), ALLOW)
    assert child.code == 0, child.stderr
    if known or bad.exists():
        assert f"{bad}: refused" in child.stderr
        assert f"falling back to {good}" in child.stderr
    assert f"from {good.name}" in child.stderr
    assert_same(run, whole_run("forecast"))


def test_when_every_checkpoint_is_damaged_each_is_named_and_nothing_is_touched(
    run: Path, dltrain: Callable[..., Child]
) -> None:
    for number, path in enumerate(checkpoints(run)):
        DAMAGES[(0, 3, 1)[number % 3]].values[0](path)
    before = contents(run)
    child = dltrain("resume", str(run), ALLOW)
    assert child.code == 5
    assert all(f"{path}: refused, it is damaged" in child.stderr for path in checkpoints(run))
    assert "Traceback" not in child.stderr
    assert contents(run) == before


@pytest.mark.faults
def test_the_newest_checkpoint_is_kept_though_a_damaged_one_is_of_a_later_step(
    run: Path, start: Callable[..., Child], dltrain: Callable[..., Child], gate: Gate, whole_run: Callable[[str], Path]
) -> None:
    for path in checkpoints(run)[1:]:
        flip(path)
    oldest = int(checkpoints(run)[0].name[5:13])
    gate.close("train-3")
    more = ["trainer.checkpoint_every=1", "trainer.keep_last=1"]
    child = start("resume", str(run), ALLOW, *more, environment=gate.environment)
    gate.reached(child, "train-3")
    written = run / "checkpoints" / f"step-{oldest + 2:08}.pt"
    child.until(lambda: written.name in (run / "checkpoints" / "manifest.json").read_text())
    child.kill()
    assert written.exists()
    again = dltrain("resume", str(run), ALLOW)
    assert again.code == 0, again.stderr
    assert f"from {written.name}" in again.stderr
    assert_same(run, whole_run("forecast"))


@pytest.mark.parametrize(
    "lose",
    [
        pytest.param(lambda f: (f / "manifest.json").unlink(), id="no manifest"),
        pytest.param(
            lambda f: (f / "manifest.json").write_text('{"step-'), id="manifest cut off", marks=pytest.mark.faults
        ),
        pytest.param(
            lambda f: (f / "manifest.json").write_text("{}"), id="manifest of before", marks=pytest.mark.faults
        ),
        pytest.param(
            lambda f: [(f / name).unlink() for name in ("last.pt", "best.pt")], id="no links", marks=pytest.mark.faults
        ),
        pytest.param(
            lambda f: repoint(f / "last.pt", "step-00000001.pt"), id="link to nothing", marks=pytest.mark.faults
        ),
    ],
)
def test_without_a_manifest_or_links_the_newest_good_checkpoint_is_found(
    lose: Callable[[Path], Any], run: Path, dltrain: Callable[..., Child], whole_run: Callable[[str], Path]
) -> None:
    lose(run / "checkpoints")
    child = dltrain("resume", str(run), ALLOW)
    assert child.code == 0, child.stderr
    assert f"from {checkpoints(run)[-1].name}" in child.stderr or "resumed at step 21" in child.stderr
    assert_same(run, whole_run("forecast"))


def repoint(link: Path, name: str) -> None:
    link.unlink()
    link.symlink_to(name)


def test_a_run_that_is_not_there_is_answered_with_the_nearest(
    run: Path, dltrain: Callable[..., Child], tmp_path: Path
) -> None:
    before = sorted(tmp_path.rglob("*"))
    child = dltrain("resume", str(tmp_path / "rum"))
    assert child.code == 2
    assert f"Did you mean {run}?" in child.stderr
    assert child.stderr.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_a_checkpoint_of_another_format_is_refused_by_its_number(run: Path, dltrain: Callable[..., Child]) -> None:
    for path in checkpoints(run):
        state = torch.load(path, weights_only=True)
        torch.save({**state, "format": 99}, path)
        know(path)
    before = contents(run)
    child = dltrain("resume", str(run), ALLOW)
    assert child.code == 5
    assert "expected checkpoint format 1 or 2, got 99. A newer dltrain wrote it" in child.stderr
    assert contents(run) == before


def test_a_checkpoint_of_the_first_format_goes_on_to_the_same_bytes(
    run: Path, dltrain: Callable[..., Child], whole_run: Callable[[str], Path]
) -> None:
    for path in checkpoints(run):
        state = torch.load(path, weights_only=True)
        schedules = state.pop("schedules")
        assert schedules.keys() == state["optimizers"].keys() == {"train"}
        assert schedules["train"], "a plateau's schedule has a state of its own"
        state["optimizers"]["train"]["schedule"] = schedules["train"]
        torch.save({**state, "format": 1}, path)
        know(path)
    child = dltrain("resume", str(run), ALLOW)
    assert child.code == 0, child.stderr
    assert_same(run, whole_run("forecast"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param({"rng": None, "record": None}, "it lacks record, rng", id="parts that are missing"),
        pytest.param({"loop": {"steps": 7}}, "it has no step", id="no step"),
        pytest.param({"loop": {"step": 7, "x": 0}}, "cannot resume from it. TypeError", id="a loop of another kind"),
        pytest.param({"optimizers": {}, "schedules": {}}, "cannot resume from it. KeyError", id="no optimizer"),
    ],
)
@pytest.mark.faults
def test_a_whole_file_that_is_no_state_of_this_run_is_refused_without_a_traceback(
    change: dict[str, Any], said: str, run: Path, dltrain: Callable[..., Child]
) -> None:
    for path in checkpoints(run):
        state = {**torch.load(path, weights_only=True), **change}
        torch.save({name: value for name, value in state.items() if value is not None or name == "average"}, path)
        know(path)
    child = dltrain("resume", str(run), ALLOW)
    assert child.code == 5, child.stderr
    assert said in child.stderr and "Traceback" not in child.stderr


class Evil:
    """A pickle that leaves a file behind wherever it is loaded."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, (f"touch {self.canary}",))


@pytest.mark.parametrize("known", [True, False], ids=["in the manifest", "without a manifest"])
@pytest.mark.parametrize(
    "plain", [pytest.param(True, id="bare pickle", marks=pytest.mark.faults), pytest.param(False, id="torch.save")]
)
def test_a_malicious_checkpoint_is_refused_and_never_run(
    known: bool, plain: bool, run: Path, dltrain: Callable[..., Child], tmp_path: Path
) -> None:
    canary = tmp_path / "canary"
    for path in checkpoints(run):
        if plain:
            path.write_bytes(pickle.dumps({"format": 1, "model": Evil(canary)}))
        else:
            torch.save({"format": 1, "model": Evil(canary), "loop": {}}, path)
        know(path)
    if not known:
        (run / "checkpoints" / "manifest.json").unlink()
    before = contents(run)
    child = dltrain("resume", str(run), ALLOW)
    assert child.code == 5
    assert all(f"{path}: refused" in child.stderr for path in checkpoints(run))
    assert not canary.exists()
    assert contents(run) == before
    if not plain:  # the bait works on who is careless
        torch.load(checkpoints(run)[0], weights_only=False)
        assert canary.exists()
