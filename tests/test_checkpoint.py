"""Checkpoints: whole, hashed, data only."""

import hashlib
import io
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from dltrain.checkpoint import Checkpoints
from dltrain.errors import ConfigError


def state(value: float = 1.0) -> dict[str, Any]:
    return {
        "model": {"weight": torch.full((3, 2), value, dtype=torch.bfloat16), "count": torch.tensor(7)},
        "optimizers": {"train": {"lr": 0.1, "groups": [1, 2], "none": None}},
        "loop": {"step": 5, "best": None, "stopped_early": False},
    }


def test_what_was_saved_comes_back_with_its_types(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save("last.pt", state(), 5, 0.25)
    found = checkpoints.load("last.pt")
    assert torch.equal(found["model"]["weight"], state()["model"]["weight"])
    assert found["model"]["weight"].dtype == torch.bfloat16
    assert found["optimizers"] == state()["optimizers"]
    assert found["loop"] == state()["loop"]
    assert found["format"] == 1


def test_a_file_is_readable_by_torch_as_plain_data(tmp_path: Path) -> None:
    Checkpoints(tmp_path).save("last.pt", state(), 5, 0.25)
    found = torch.load(tmp_path / "checkpoints" / "last.pt", weights_only=True)
    assert found["loop"]["step"] == 5


def test_the_manifest_says_step_metric_hash_and_size_of_every_file(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save("last.pt", state(), 5, 0.25)
    checkpoints.save("best.pt", state(2.0), 3, None)
    checkpoints.save("last.pt", state(3.0), 9, 0.5)
    manifest = json.loads((tmp_path / "checkpoints" / "manifest.json").read_text())
    assert set(manifest) == {"last.pt", "best.pt"}
    for name, (step, metric) in {"last.pt": (9, 0.5), "best.pt": (3, None)}.items():
        content = (tmp_path / "checkpoints" / name).read_bytes()
        assert manifest[name] == {
            "step": step,
            "metric": metric,
            "sha256": hashlib.sha256(content).hexdigest(),
            "bytes": len(content),
        }
    assert checkpoints.load("last.pt")["model"]["weight"][0, 0] == 3


def test_nothing_temporary_is_left_behind(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    for step in range(3):
        checkpoints.save("last.pt", state(), step, None)
    assert sorted(file.name for file in (tmp_path / "checkpoints").iterdir()) == ["last.pt", "manifest.json"]


def test_the_same_state_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Checkpoints(tmp_path / name).save("last.pt", state(), 5, 0.25)
    first, second = ((tmp_path / name / "checkpoints" / "last.pt").read_bytes() for name in ("a", "b"))
    assert first == second


@pytest.mark.parametrize("place", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_flipped_bit_anywhere_is_refused(tmp_path: Path, place: float) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save("last.pt", state(), 5, 0.25)
    file = tmp_path / "checkpoints" / "last.pt"
    content = bytearray(file.read_bytes())
    content[int(place * len(content))] ^= 1
    file.write_bytes(content)
    with pytest.raises(ConfigError, match="damaged"):
        checkpoints.load("last.pt")


def test_a_file_that_was_cut_off_is_missing_or_is_not_in_the_manifest_is_refused(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(ConfigError, match="a checkpoint"):
        checkpoints.load("last.pt")
    checkpoints.save("last.pt", state(), 5, 0.25)
    file = tmp_path / "checkpoints" / "last.pt"
    (tmp_path / "checkpoints" / "other.pt").write_bytes(file.read_bytes())
    with pytest.raises(ConfigError, match="damaged"):
        checkpoints.load("other.pt")
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ConfigError, match="damaged"):
        checkpoints.load("last.pt")


class Trap:
    """Runs code when it is unpickled by a reader that is not careful."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_loading_never_runs_code_even_when_the_hash_is_right(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save("last.pt", state(), 5, 0.25)
    buffer = io.BytesIO()
    torch.save({"model": Trap(tmp_path / "sprung")}, buffer)
    (tmp_path / "checkpoints" / "last.pt").write_bytes(buffer.getvalue())
    manifest = checkpoints.manifest()
    manifest["last.pt"]["sha256"] = hashlib.sha256(buffer.getvalue()).hexdigest()
    (tmp_path / "checkpoints" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises((ConfigError, pickle.UnpicklingError)):
        checkpoints.load("last.pt")
    assert not (tmp_path / "sprung").exists()
    torch.load(io.BytesIO(buffer.getvalue()), weights_only=False)
    assert (tmp_path / "sprung").exists(), "the trap works on a careless reader"


def test_a_write_that_fails_leaves_the_old_checkpoint_whole(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save("last.pt", state(), 5, 0.25)
    with pytest.raises((AttributeError, TypeError, pickle.PicklingError)):
        checkpoints.save("last.pt", {"model": lambda: None}, 6, 0.5)
    assert checkpoints.load("last.pt")["loop"]["step"] == 5
