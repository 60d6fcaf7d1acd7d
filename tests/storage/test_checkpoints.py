"""Checkpoints are written atomically, checked by their hashes, and loaded without running code."""

import hashlib
import json
import pickle
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from dltrain.errors import CheckpointError
from dltrain.storage.checkpoints import Checkpoints, step_of


def state(value: float = 1.0) -> dict[str, Any]:
    return {
        "model": {"weight": torch.full((3, 2), value, dtype=torch.bfloat16), "count": torch.tensor(7)},
        "average": None,
        "optimizers": {"train": {"lr": 0.1, "groups": [1, 2], "none": None}},
        "schedules": {"train": {}},
        **{"record": {}, "parts": 1, "task": {}, "bad_samples": [], "rng": {}},
        "loop": {"step": 5, "best": None, "stopped_early": False},
    }


@pytest.fixture
def checkpoints(tmp_path: Path) -> Iterator[Checkpoints]:
    created = Checkpoints(tmp_path)
    created.open()
    yield created
    created.close()


def save(checkpoints: Checkpoints, step: int, value: float = 1.0, metric: float | None = None, **more: Any) -> Path:
    """Save a checkpoint, wait, and return its file."""
    checkpoints.save(state(value), step, metric, **more)
    checkpoints.wait()
    return checkpoints.path / checkpoints.resolve("last.pt")


def files(checkpoints: Checkpoints) -> list[str]:
    return sorted(file.name for file in checkpoints.path.iterdir())


def first_weight(found: dict[str, Any]) -> float:
    return float(found["model"]["weight"][0, 0])


def test_a_saved_state_round_trips_with_its_types(checkpoints: Checkpoints) -> None:
    save(checkpoints, 5)
    found = checkpoints.load("last.pt")
    assert torch.equal(found["model"]["weight"], state()["model"]["weight"])
    assert found["model"]["weight"].dtype == torch.bfloat16
    assert found["optimizers"] == state()["optimizers"]
    assert found["loop"] == state()["loop"]
    assert found["format"] == 3


def test_torch_loads_a_checkpoint_with_weights_only(checkpoints: Checkpoints) -> None:
    save(checkpoints, 5)
    found = torch.load(checkpoints.path / "last.pt", weights_only=True)
    assert found["loop"]["step"] == 5


def test_the_manifest_has_step_metric_hash_and_size_of_every_checkpoint(checkpoints: Checkpoints) -> None:
    save(checkpoints, 3, 2.0, 0.25, best=True)
    save(checkpoints, 9, 3.0, None)
    manifest = json.loads((checkpoints.path / "manifest.json").read_text())
    expected = {"step-00000003.pt": (3, 0.25, True), "step-00000009.pt": (9, None, False)}
    assert set(manifest) == set(expected)
    for name, (step, metric, best) in expected.items():
        content = (checkpoints.path / name).read_bytes()
        assert manifest[name] == {
            "step": step,
            "metric": metric,
            "best": best,
            "sha256": hashlib.sha256(content).hexdigest(),
            "bytes": len(content),
        }
    assert first_weight(checkpoints.load("last.pt")) == 3
    assert first_weight(checkpoints.load("best.pt")) == 2
    assert checkpoints.read_entry("best.pt")["step"] == 3


def test_last_and_best_are_links_that_move_with_the_folder(checkpoints: Checkpoints, tmp_path: Path) -> None:
    save(checkpoints, 3, 2.0, best=True)
    save(checkpoints, 9, 3.0)
    checkpoints.path.rename(tmp_path / "elsewhere")
    found = {name: torch.load(tmp_path / "elsewhere" / f"{name}.pt", weights_only=True) for name in ("best", "last")}
    assert {name: first_weight(content) for name, content in found.items()} == {"best": 2, "last": 3}


def test_saving_leaves_no_temporary_files(checkpoints: Checkpoints) -> None:
    for step in range(5):
        save(checkpoints, step)
    assert files(checkpoints) == ["last.pt", "manifest.json", "step-00000003.pt", "step-00000004.pt"]


def test_temporary_files_of_a_killed_process_are_removed(checkpoints: Checkpoints) -> None:
    (checkpoints.path / ".step-00000007.pt.1234.tmp").write_bytes(b"half")
    save(checkpoints, 5)
    checkpoints.open()
    assert files(checkpoints) == ["last.pt", "manifest.json", "step-00000005.pt"]


@pytest.mark.parametrize(("last", "best", "expected"), [(1, 1, [3, 6]), (2, 1, [3, 5, 6]), (3, 2, [2, 3, 4, 5, 6])])
def test_keep_last_and_keep_best_set_the_number_of_stored_checkpoints(
    tmp_path: Path, last: int, best: int, expected: list[int]
) -> None:
    checkpoints = Checkpoints(tmp_path, last, best)
    checkpoints.open()
    for step in range(1, 7):
        save(checkpoints, step, best=step <= 3)
    assert [step_of(name) for name in files(checkpoints) if name.startswith("step-")] == expected
    checkpoints.close()


def test_a_second_checkpoint_of_a_step_does_not_replace_the_first(checkpoints: Checkpoints) -> None:
    first = save(checkpoints, 5, 1.0)
    content = first.read_bytes()
    second = save(checkpoints, 5, 2.0)
    assert first != second and first.read_bytes() == content
    assert first_weight(checkpoints.load("last.pt")) == 2


def test_changes_of_the_state_after_save_do_not_change_the_checkpoint(checkpoints: Checkpoints) -> None:
    given = state()
    checkpoints.save(given, 5, None)
    given["model"]["weight"].fill_(99.0)
    checkpoints.wait()
    assert first_weight(checkpoints.load("last.pt")) == 1


def test_waiting_checkpoints_are_skipped_except_the_newest_and_the_latest_best(tmp_path: Path) -> None:
    free, written = threading.Event(), []

    def before() -> None:
        written.append(1)
        free.wait(300)

    checkpoints = Checkpoints(tmp_path, keep_last=9, before_commit=before)
    checkpoints.open()
    checkpoints.save(state(), 1, None)
    while not written:  # wait until the first checkpoint is being committed
        time.sleep(0.001)
    checkpoints.save(state(), 2, None)
    checkpoints.save(state(), 3, None, best=True)
    checkpoints.save(state(), 4, None, best=True)
    free.set()
    checkpoints.save(state(), 5, None)
    checkpoints.wait()
    assert sorted(entry["step"] for entry in checkpoints.read_manifest().values()) == [1, 4, 5]
    assert checkpoints.read_entry("best.pt")["step"] == 4
    checkpoints.close()


def test_equal_states_give_equal_bytes_before_and_after_loading(tmp_path: Path) -> None:
    found = []
    given = state()
    for name in ("a", "b", "c"):
        checkpoints = Checkpoints(tmp_path / name)
        (tmp_path / name).mkdir()
        checkpoints.open()
        checkpoints.save(given, 5, 0.25)
        checkpoints.wait()
        checkpoints.close()
        found.append((checkpoints.path / "last.pt").read_bytes())
        given = {key: value for key, value in checkpoints.load("last.pt").items() if key != "format"}
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("position", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_checkpoint_with_a_flipped_bit_anywhere_is_rejected(checkpoints: Checkpoints, position: float) -> None:
    file = save(checkpoints, 5)
    content = bytearray(file.read_bytes())
    content[int(position * len(content))] ^= 1
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged"):
        checkpoints.load("last.pt")


def test_a_truncated_or_missing_file_is_rejected(checkpoints: Checkpoints) -> None:
    with pytest.raises(CheckpointError, match="missing"):
        checkpoints.load("last.pt")
    file = save(checkpoints, 5)
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="damaged"):
        checkpoints.load("last.pt")
    file.unlink()
    with pytest.raises(CheckpointError, match="missing"):
        checkpoints.load("last.pt")


@pytest.mark.parametrize("fraction", [0.0, 0.3, 0.999])
def test_load_newest_skips_a_damaged_checkpoint_and_loads_the_newest_intact_one(
    checkpoints: Checkpoints, fraction: float
) -> None:
    save(checkpoints, 3, 3.0)
    file = save(checkpoints, 5, 5.0)
    content = file.read_bytes()
    file.write_bytes(content[: int(fraction * len(content))])
    name, found, rejected = checkpoints.load_newest()
    assert name == "step-00000003.pt" and first_weight(found) == 3
    assert len(rejected) == 1 and str(file) in rejected[0] and "damaged" in rejected[0]


def test_load_newest_reports_why_each_checkpoint_is_rejected_if_none_is_valid(checkpoints: Checkpoints) -> None:
    both = [save(checkpoints, 3), save(checkpoints, 5)]
    both[0].write_bytes(b"")
    both[1].unlink()
    with pytest.raises(CheckpointError) as caught:
        checkpoints.load_newest()
    assert [str(file) in line for file, line in zip(reversed(both), caught.value.problems, strict=True)] == [True, True]
    assert "missing" in caught.value.problems[0] and "damaged" in caught.value.problems[1]


@pytest.mark.parametrize("manifest", [None, "", "{", "[]", '{"step-00000005.pt": {}}', '{"step-00000003.pt": 7}'])
def test_without_a_valid_manifest_the_newest_valid_checkpoint_is_found(
    checkpoints: Checkpoints, manifest: str | None
) -> None:
    save(checkpoints, 3, 3.0)
    file = save(checkpoints, 5, 5.0)
    manifest_file = checkpoints.path / "manifest.json"
    manifest_file.unlink() if manifest is None else manifest_file.write_text(manifest)
    assert first_weight(checkpoints.load_newest()[1]) == 5
    content = bytearray(file.read_bytes())
    with zipfile.ZipFile(file) as archive:
        largest = max((archive.read(name) for name in archive.namelist()), key=len)
    # Without a hash, the checksum in the zip file detects the flipped bit.
    content[content.index(largest) + len(largest) // 2] ^= 1
    file.write_bytes(content)
    assert first_weight(checkpoints.load_newest()[1]) == 3


@pytest.mark.parametrize(
    "more",
    [
        {"sha256": 5},
        {"seconds": "x"},
        {"seconds": 10**400},
        {"metric": []},
        {"bytes": "x"},
        {"best": "x"},
        {"step": True},
        {"step": "5"},
    ],
)
def test_a_manifest_with_invalid_values_is_ignored(checkpoints: Checkpoints, more: dict[str, Any]) -> None:
    save(checkpoints, 5)
    known = checkpoints.read_manifest()["step-00000005.pt"]
    for name, entry in (("step-00000005.pt", {**known, **more}), ("step-٣.pt", known), ("step-3.pt/../x", known)):
        (checkpoints.path / "manifest.json").write_text(json.dumps({name: entry}))
        assert checkpoints.read_manifest() == {}
        assert checkpoints.load_newest()[0] == "step-00000005.pt"


@pytest.mark.parametrize("content", ["[" * 100_000, '{"step-00000005.pt": ' + "[" * 900 + "]" * 900 + "}"])
def test_a_deeply_nested_manifest_is_ignored(checkpoints: Checkpoints, content: str) -> None:
    save(checkpoints, 5)
    (checkpoints.path / "manifest.json").write_text(content)
    assert checkpoints.load_newest()[0] == "step-00000005.pt"


@pytest.mark.parametrize("name", ["step-²-1.pt", "step-٣.pt"])
def test_file_names_with_non_ascii_digits_are_not_checkpoints(checkpoints: Checkpoints, name: str) -> None:
    assert step_of(name) == -1
    save(checkpoints, 5)
    (checkpoints.path / name).write_bytes(b"")
    assert checkpoints.load_newest()[0] == "step-00000005.pt"
    save(checkpoints, 6)


def test_an_unknown_format_is_rejected_with_its_number(checkpoints: Checkpoints) -> None:
    torch.save({"format": 99, **state()}, checkpoints.path / "step-00000005.pt")
    with pytest.raises(CheckpointError, match=r"its format is 99, expected 1 to 3"):
        checkpoints.load("step-00000005.pt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": torch.tensor([1, 2])}, "its format is tensor"),
        ({"format": 1, "optimizers": {"train": 3}, "loop": None}, "it has no step"),
        ({"format": 3, "average": {}}, "it has no named weights"),
    ],
)
def test_an_invalid_state_is_rejected(checkpoints: Checkpoints, change: dict[str, Any], message: str) -> None:
    torch.save({**state(), **change}, checkpoints.path / "step-00000005.pt")
    with pytest.raises(CheckpointError, match=message):
        checkpoints.load("step-00000005.pt")


class Trap:
    """Object that runs code when it is unpickled without weights_only."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_loading_never_runs_code_even_when_the_hash_is_right(checkpoints: Checkpoints, tmp_path: Path) -> None:
    file = save(checkpoints, 5)
    torch.save({"model": Trap(tmp_path / "sprung")}, file)
    manifest = checkpoints.read_manifest()
    manifest[file.name]["sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
    (checkpoints.path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="does not load as tensors and plain values"):
        checkpoints.load("last.pt")
    assert not (tmp_path / "sprung").exists()
    torch.load(file, weights_only=False)
    assert (tmp_path / "sprung").exists(), "loading without weights_only must run the code"


def test_a_failed_write_leaves_the_old_checkpoint_intact(checkpoints: Checkpoints) -> None:
    save(checkpoints, 5)
    with pytest.raises((AttributeError, TypeError, pickle.PicklingError)):
        checkpoints.save({"model": lambda: None}, 6, 0.5)
    checkpoints.wait()
    assert checkpoints.load("last.pt")["loop"]["step"] == 5
    assert files(checkpoints) == ["last.pt", "manifest.json", "step-00000005.pt"]
    save(checkpoints, 7, 7.0)
    assert first_weight(checkpoints.load("last.pt")) == 7


@pytest.mark.parametrize("turns", [["train"], ["critic", "generator"]])
def test_losses_stored_by_name_in_format_2_are_converted_to_losses_per_optimizer(
    checkpoints: Checkpoints, turns: list[str]
) -> None:
    pairs = {"totals": [1.0, 2.0], "weights": [3.0, 4.0]}
    names = ["loss"] if turns == ["train"] else ["loss_critic", "loss_generator"]
    content = {
        "format": 2,
        **state(),
        "optimizers": {turn: {} for turn in turns},
        "record": dict.fromkeys([*names, "gap"], pairs),
    }
    torch.save(content, checkpoints.path / "step-00000005.pt")
    record = checkpoints.load_newest()[1]["record"]
    assert record == {"losses": dict.fromkeys(turns, pairs), "parts": {turns[0]: {"gap": pairs}}}
