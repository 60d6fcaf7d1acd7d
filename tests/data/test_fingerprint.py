"""Fingerprints of data, and resuming only with the same data."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dltrain.cli import main
from dltrain.data.fingerprint import fingerprint
from dltrain.data.selection import Selection
from dltrain.data.spec import Source, Splits
from dltrain.datasets.digits import Digits
from dltrain.datasets.image_folder import ImageFolder


def digest(**rows: Tensor) -> str:
    source = Source(rows, nn.Identity())
    found = fingerprint(Splits(source, None, source))
    assert found.keys() == {"train", "test"} and found["train"] == found["test"]
    return found["train"]


def numbers(count: int = 24) -> Tensor:
    return torch.arange(count, dtype=torch.float32).view(count // 4, 4)


def change_last_value(value: Tensor) -> Tensor:
    value = value.clone()
    value[-1, -1] += 1
    return value


@pytest.fixture
def hashed_arrays(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Record the address and the size in bytes of each array that is added to a SHA-256 hash."""
    arrays, sha256 = [], hashlib.sha256

    class Digest:
        def __init__(self, content: bytes = b"") -> None:
            self.real = sha256(content)
            self.hexdigest = self.real.hexdigest

        def update(self, content: Any) -> None:
            if not isinstance(content, bytes):
                arrays.append((content.ctypes.data, content.nbytes))
            self.real.update(content)

    monkeypatch.setattr(hashlib, "sha256", Digest)
    return arrays


def test_different_rows_have_different_fingerprints() -> None:
    known = digest(x=numbers(), y=numbers(8))
    assert known == digest(x=numbers(), y=numbers(8))
    others = [
        digest(x=change_last_value(numbers()), y=numbers(8)),
        digest(x=numbers(), y=change_last_value(numbers(8))),
        digest(z=numbers(), y=numbers(8)),
        digest(x=numbers().view(4, 6), y=numbers(8)),
        digest(x=numbers().view(torch.int32), y=numbers(8)),
        digest(x=numbers()[:-1], y=numbers(8)),
        digest(x=numbers().flip(0), y=numbers(8)),
        digest(x=numbers()),
        digest(x=torch.cat([numbers(), numbers(8)])),
        digest(x=Selection(numbers(), torch.arange(6)), y=numbers(8)),
        digest(x=Selection(numbers(), torch.arange(5)), y=numbers(8)),
    ]
    assert len({known, *others}) == 1 + len(others)


def test_the_fingerprint_is_the_same_in_every_process() -> None:
    # The hash of a Python string would differ between processes.
    assert digest(x=torch.arange(10, dtype=torch.uint8)) == "39e2446c105006af"


def test_a_slice_has_the_fingerprint_of_its_copy() -> None:
    assert digest(x=numbers(40)[3:6]) == digest(x=numbers(40)[3:6].clone())


def test_overlapping_windows_are_hashed_once(hashed_arrays: list[tuple[int, int]]) -> None:
    series = torch.arange(1_000_000, dtype=torch.float32)
    known = digest(x=series.unfold(0, 1000, 1))
    # Train and test are hashed once each. Copies of all windows would take 4 GB.
    assert hashed_arrays == [(series.data_ptr(), series.nbytes)] * 2
    assert known == digest(x=series.clone().unfold(0, 1000, 1))
    assert known != digest(x=series.unfold(0, 1000, 2))
    assert known != digest(x=(series + (series == 999_999)).unfold(0, 1000, 1))
    # Values outside all windows do not change the fingerprint.
    longer = torch.cat([series, torch.tensor([5.0])])
    assert known == digest(x=longer[:-1].unfold(0, 1000, 1))


def test_the_fingerprint_of_unlabeled_examples_has_the_key_that_earlier_runs_stored() -> None:
    assert list(fingerprint(Digits(num_labels=20).load())) == ["train", "val", "test", "unlabelled"]


def test_a_transposed_tensor_has_a_fingerprint_different_from_the_original() -> None:
    assert digest(x=numbers().T) == digest(x=numbers().T)
    assert len({digest(x=numbers().T), digest(x=change_last_value(numbers()).T), digest(x=numbers())}) == 3


@pytest.mark.parametrize(
    "value", [torch.zeros(0, 3), torch.zeros(5, 0), torch.ones(3, 1).expand(3, 4), torch.ones(2) > 0]
)
def test_empty_expanded_and_boolean_tensors_have_a_fingerprint(value: Tensor) -> None:
    assert digest(x=value) == digest(x=value) != digest(x=numbers())


def test_only_a_part_of_a_large_tensor_is_hashed_including_its_first_and_last_element(
    hashed_arrays: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = 2**23
    monkeypatch.setattr("dltrain.data.fingerprint.WHOLE_BYTES", limit)
    large = torch.zeros(2 * limit, dtype=torch.uint8)
    known = digest(x=large)
    assert sum(size for _, size in hashed_arrays) == 2 * limit  # for train and test
    for index in (0, -1):
        large[index] = 1
        assert digest(x=large) != known
        large[index] = 0
    assert digest(x=large) == known


def test_contiguous_rows_are_hashed_without_a_copy(hashed_arrays: list[tuple[int, int]]) -> None:
    rows = torch.randint(0, 256, (2**20,), dtype=torch.uint8)
    digest(x=rows)
    assert hashed_arrays == [(rows.data_ptr(), rows.nbytes)] * 2


def test_the_fingerprint_of_files_depends_on_names_and_sizes_but_not_on_the_folder(
    own_files: dict[str, Path], tmp_path: Path
) -> None:
    known = fingerprint(ImageFolder(str(own_files["image_folder"])).load())
    shutil.copytree(own_files["image_folder"], tmp_path / "moved")
    moved = ImageFolder(str(tmp_path / "moved"))
    assert fingerprint(moved.load()) == known
    for file in (tmp_path / "moved").rglob("*.png"):
        file.write_bytes(file.read_bytes() + b"0")
    grown = fingerprint(moved.load())
    assert all(grown[s] != known[s] and grown[s].split("-")[0] == known[s].split("-")[0] for s in known)
    next((tmp_path / "moved" / "red").iterdir()).rename(tmp_path / "moved" / "red" / "z.png")
    assert {s.split("-")[0] for s in fingerprint(moved.load()).values()} != {s.split("-")[0] for s in known.values()}


# --- a run and its data ---------------------------------------------------------------------------------------------


def test_a_run_saves_its_number_of_threads_its_metric_and_the_fingerprints_of_its_data(plain_run: Path) -> None:
    environment = json.loads((plain_run / "environment.json").read_text())
    assert environment["data"].keys() == {"train", "val", "test"}
    assert (environment["threads"], environment["metric"]) == (
        torch.get_num_threads(),
        {"name": "accuracy", "better": "max"},
    )


QUICK = ["device=cpu", "trainer.epochs=1", "trainer.log_media=false"]


def train_one_epoch(own_files: dict[str, Path], folder: Path) -> tuple[Path, Path]:
    """Train one epoch on a CSV file; return the run folder and the file."""
    table = folder / "table.csv"
    shutil.copy(own_files["csv"], table)
    overrides = ["model=mlp", "data=csv", f"data.path={table}", "data.column=kind", "data.stratify=false"]
    assert main.main([*overrides, *QUICK, f"hydra.run.dir={folder / 'run'}"]) == 0
    return folder / "run", table


def test_resume_rejects_changed_data_without_changing_the_run_and_accepts_equal_data_at_another_path(
    own_files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, table = train_one_epoch(own_files, tmp_path)
    content, steps = table.read_text(), json.loads((run / "status.json").read_text())["step"]
    lines = content.splitlines()
    lines[-1] = lines[-1].replace("cat", "dog") if "cat" in lines[-1] else lines[-1].replace("dog", "cat")
    table.write_text("\n".join(lines) + "\n")
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    capsys.readouterr()
    assert main.main(["resume", str(run), "trainer.epochs=2"]) == 2
    stderr = capsys.readouterr().err
    changed = [
        split
        for split in ("train", "val", "test")
        if f"data ({split}): expected the fingerprint at the start of the run" in stderr
    ]
    assert len(changed) == 1  # the changed row is in one split
    assert f"dltrain rerun {run}" in stderr and "Traceback" not in stderr
    assert {file: file.read_bytes() for file in run.rglob("*") if file.is_file()} == before
    (tmp_path / "moved.csv").write_text(content)
    assert main.main(["resume", str(run), "trainer.epochs=2", f"data.path={tmp_path / 'moved.csv'}"]) == 0
    assert json.loads((run / "status.json").read_text())["step"] == 2 * steps


def test_resume_accepts_changed_file_sizes_with_on_bad_sample_skip_but_rejects_changed_names(
    own_files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, run = tmp_path / "images", tmp_path / "run"
    shutil.copytree(own_files["image_folder"], root)
    overrides = [
        "model=mlp",
        "data=image_folder",
        f"data.path={root}",
        "data.image_size=8",
        "data.workers=0",
        *QUICK,
    ]
    assert main.main([*overrides, f"hydra.run.dir={run}"]) == 0
    image = sorted(root.rglob("*.png"))[0]
    image.write_bytes(image.read_bytes() + b"0")
    assert main.main(["resume", str(run), "trainer.epochs=2"]) == 2
    assert "with data.on_bad_sample=skip the run resumes" in capsys.readouterr().err
    assert main.main(["resume", str(run), "trainer.epochs=2", "data.on_bad_sample=skip"]) == 0
    image.rename(image.with_name("other.png"))
    assert main.main(["resume", str(run), "trainer.epochs=3", "data.on_bad_sample=skip"]) == 2
    assert "File sizes differ" not in capsys.readouterr().err


def test_the_fingerprint_of_computed_data_depends_only_on_their_settings() -> None:
    def computed(rows: Tensor, settings: str) -> str:
        source = Source({"x": rows}, nn.Identity(), fingerprinted=settings)
        return fingerprint(Splits(source, None, source))["train"]

    assert computed(numbers(), "ring 8") == computed(numbers() + 1e-6, "ring 8") != computed(numbers(), "ring 9")
