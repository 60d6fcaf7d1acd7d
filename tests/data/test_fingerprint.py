"""What data are, in a few characters, and a resumed run that refuses others."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dltrain.cli import main
from dltrain.data.fingerprint import WHOLE_BYTES, fingerprint
from dltrain.data.spec import Source, Splits
from dltrain.datasets.image_folder import ImageFolder


def of(**rows: Tensor) -> str:
    source = Source(rows, nn.Identity())
    found = fingerprint(Splits(source, None, source))
    assert found.keys() == {"train", "test"} and found["train"] == found["test"]
    return found["train"]


def numbers(count: int = 24) -> Tensor:
    return torch.arange(count, dtype=torch.float32).view(count // 4, 4)


def changed(value: Tensor) -> Tensor:
    value = value.clone()
    value[-1, -1] += 1
    return value


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The arrays that `hashlib.sha256` is given from here on: address and bytes of each."""
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


def test_equal_data_have_equal_fingerprints_and_each_difference_shows() -> None:
    known = of(x=numbers(), y=numbers(8))
    assert known == of(x=numbers(), y=numbers(8))
    others = [
        of(x=changed(numbers()), y=numbers(8)),
        of(x=numbers(), y=changed(numbers(8))),
        of(z=numbers(), y=numbers(8)),
        of(x=numbers().view(4, 6), y=numbers(8)),
        of(x=numbers().view(torch.int32), y=numbers(8)),
        of(x=numbers()[:-1], y=numbers(8)),
        of(x=numbers().flip(0), y=numbers(8)),
        of(x=numbers()),
        of(x=torch.cat([numbers(), numbers(8)])),
    ]
    assert len({known, *others}) == 1 + len(others)


def test_the_fingerprint_of_another_session_is_the_same() -> None:
    # A literal: it must not depend on the process, as the hash of a Python string does.
    assert of(x=torch.arange(10, dtype=torch.uint8)) == "39e2446c105006af"


def test_a_slice_is_known_by_what_it_shows_not_by_what_it_lies_in() -> None:
    assert of(x=numbers(40)[3:6]) == of(x=numbers(40)[3:6].clone())


def test_overlapping_windows_are_read_once(hashed: list[tuple[int, int]]) -> None:
    series = torch.arange(1_000_000, dtype=torch.float32)
    known = of(x=series.unfold(0, 1000, 1))
    assert hashed == [(series.data_ptr(), series.nbytes)] * 2  # train and test; four gigabytes if windows were copied
    assert known == of(x=series.clone().unfold(0, 1000, 1))
    assert known != of(x=series.unfold(0, 1000, 2))
    assert known != of(x=(series + (series == 999_999)).unfold(0, 1000, 1))
    # What no window covers is no part of the data.
    longer = torch.cat([series, torch.tensor([5.0])])
    assert known == of(x=longer[:-1].unfold(0, 1000, 1))


def test_transposed_rows_show_a_difference_and_are_not_their_transpose() -> None:
    assert of(x=numbers().T) == of(x=numbers().T)
    assert len({of(x=numbers().T), of(x=changed(numbers()).T), of(x=numbers())}) == 3


@pytest.mark.parametrize(
    "value", [torch.zeros(0, 3), torch.zeros(5, 0), torch.ones(3, 1).expand(3, 4), torch.ones(2) > 0]
)
def test_empty_repeated_and_truth_values_have_one_too(value: Tensor) -> None:
    assert of(x=value) == of(x=value) != of(x=numbers())


def test_of_a_large_tensor_both_ends_count_and_no_more_is_read_than_said(hashed: list[tuple[int, int]]) -> None:
    large = torch.zeros(2 * WHOLE_BYTES, dtype=torch.uint8)
    known = of(x=large)
    assert sum(size for _, size in hashed) == 2 * WHOLE_BYTES  # train and test
    for place in (0, -1):
        large[place] = 1
        assert of(x=large) != known
        large[place] = 0
    assert of(x=large) == known


def test_contiguous_rows_are_hashed_without_a_copy(hashed: list[tuple[int, int]]) -> None:
    rows = torch.randint(0, 256, (2**20,), dtype=torch.uint8)
    of(x=rows)
    assert hashed == [(rows.data_ptr(), rows.nbytes)] * 2


def test_files_are_known_by_their_names_and_sizes_wherever_they_lie(own_files: dict[str, Path], tmp_path: Path) -> None:
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


def test_a_run_writes_down_what_its_data_are(plain_run: Path) -> None:
    environment = json.loads((plain_run / "environment.json").read_text())
    assert environment["data"].keys() == {"train", "val", "test"}
    assert (environment["threads"], environment["metric"]) == (
        torch.get_num_threads(),
        {"name": "accuracy", "better": "max"},
    )


def begun(own_files: dict[str, Path], folder: Path) -> tuple[Path, Path]:
    """A run of one epoch of a user's table, and the table."""
    table = folder / "table.csv"
    shutil.copy(own_files["csv"], table)
    overrides = ["model=mlp", "data=csv", f"data.path={table}", "data.column=kind", "data.stratify=false"]
    assert main.main([*overrides, "device=cpu", "trainer.epochs=1", f"hydra.run.dir={folder / 'run'}"]) == 0
    return folder / "run", table


def test_a_run_does_not_go_on_with_other_data_and_stays_as_it_was(
    own_files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, table = begun(own_files, tmp_path)
    lines = table.read_text().splitlines()
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
    assert len(changed) == 1  # one row lies in one part
    assert f"dltrain rerun {run}" in stderr and "Traceback" not in stderr
    assert {file: file.read_bytes() for file in run.rglob("*") if file.is_file()} == before


def test_a_run_goes_on_with_the_same_data_in_another_place(own_files: dict[str, Path], tmp_path: Path) -> None:
    run, table = begun(own_files, tmp_path)
    steps = json.loads((run / "status.json").read_text())["step"]
    table.rename(tmp_path / "moved.csv")
    assert main.main(["resume", str(run), "trainer.epochs=2", f"data.path={tmp_path / 'moved.csv'}"]) == 0
    assert json.loads((run / "status.json").read_text())["step"] == 2 * steps


def test_a_picture_of_another_size_needs_a_word_and_another_name_is_refused(
    own_files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, run = tmp_path / "pictures", tmp_path / "run"
    shutil.copytree(own_files["image_folder"], root)
    overrides = [
        "model=mlp",
        "data=image_folder",
        f"data.path={root}",
        "data.image_size=8",
        "device=cpu",
        "trainer.epochs=1",
    ]
    assert main.main([*overrides, f"hydra.run.dir={run}"]) == 0
    picture = sorted(root.rglob("*.png"))[0]
    picture.write_bytes(picture.read_bytes() + b"0")
    assert main.main(["resume", str(run), "trainer.epochs=2"]) == 2
    assert "data.on_bad_sample=skip resumes" in capsys.readouterr().err
    assert main.main(["resume", str(run), "trainer.epochs=2", "data.on_bad_sample=skip"]) == 0
    picture.rename(picture.with_name("other.png"))
    assert main.main(["resume", str(run), "trainer.epochs=3", "data.on_bad_sample=skip"]) == 2
    assert "File sizes differ" not in capsys.readouterr().err
