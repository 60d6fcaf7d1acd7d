"""Unreadable examples (row 34 of tests/faults/README.md): reported with file and number, or skipped and counted."""

import itertools
import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from children import Child, Gate
from pictures import BROKEN, command, paint
from same import assert_same, lines

from dltrain.data.bad_samples import BadSamples
from dltrain.data.loader import Batches
from dltrain.datasets.image_folder import ImageFolder
from dltrain.datasets.table import CsvTable
from dltrain.errors import ConfigError

SKIP = "data.on_bad_sample=skip"


def load_split(root: Path, workers: int, training: bool = False, skip: bool = False) -> tuple[Batches, list[Path]]:
    """Return the batches of the training or test images, and their files."""
    splits = ImageFolder(str(root), image_size=8, validation=0, test=0.2).load()
    source = splits.train if training else splits.test
    bad = BadSamples("skip" if skip else "stop")
    return Batches(source, 4, workers=workers, training=training, bad=bad), [path for path, _ in source.rows.listing]


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.faults)])
@pytest.mark.parametrize("kind", BROKEN)
def test_an_unreadable_image_is_reported_with_its_file_and_index(kind: str, workers: int, tmp_path: Path) -> None:
    batches, files = load_split(paint(tmp_path), workers)
    files[6].write_bytes(BROKEN[kind])
    with pytest.raises(ConfigError) as caught:
        list(batches)
    batches.close()
    assert f"{files[6]} (index 6 of its split)" in str(caught.value)


@pytest.mark.parametrize("workers", [0, 2])
def test_skipping_unreadable_images_keeps_readable_images_in_their_batches(workers: int, tmp_path: Path) -> None:
    reference, files = load_split(paint(tmp_path), 0, training=True)
    intact = [batch for epoch in (0, 1) for batch in reference.epoch(epoch)]
    batches, _ = load_split(tmp_path, workers, training=True, skip=True)
    orders = [torch.cat(batches.plan(epoch)).tolist() for epoch in (0, 1)]
    # Positions 4 to 7 are the whole second batch.
    damaged = {orders[0][0], *orders[0][4:8], orders[0][13], orders[0][-1]}
    for number, content in zip(damaged, list(BROKEN.values()) * 2, strict=False):
        files[number].write_bytes(content)
    found = [batch for epoch in (0, 1) for batch in batches.epoch(epoch)]
    batches.close()
    readable = [
        [n not in damaged for n in order[start : start + 4]] for order in orders for start in range(0, len(order), 4)
    ]
    assert len(found) == len(intact) == len(readable)
    assert found[1] == {} and readable[1] == [False] * 4
    for batch, before, keep in zip(found, intact, readable, strict=True):
        assert (batch == {}) == (not any(keep))
        for name in batch:
            assert torch.equal(batch[name], before[name][torch.tensor(keep)])
    assert len(batches.bad.found) == len(damaged)
    assert all(any(str(files[n]) in message for message in batches.bad.found) for n in damaged)


def test_an_image_unreadable_in_every_epoch_counts_once(tmp_path: Path) -> None:
    batches, files = load_split(paint(tmp_path), 0, training=True, skip=True)
    files[3].write_bytes(b"")
    found = [len(batch["targets"]) for epoch in range(3) for batch in batches.epoch(epoch)]
    assert sum(found) == 3 * (len(files) - 1)
    assert len(batches.bad.found) == 1


def test_a_split_without_readable_images_is_rejected_even_with_on_bad_sample_skip(tmp_path: Path) -> None:
    batches, files = load_split(paint(tmp_path), 0, skip=True)
    for path in files:
        path.write_bytes(b"")
    with pytest.raises(ConfigError, match="at least one readable example"):
        list(batches)


def damage_pictures(root: Path, count: int = 5) -> list[Path]:
    """Damage every fourth blue image, `count` in all, cycling through the kinds in `BROKEN`; return their files."""
    files = sorted((root / "blue").iterdir())[1 : 4 * count : 4]
    for path, content in zip(files, itertools.cycle(BROKEN.values())):
        path.write_bytes(content)
    return files


def result(run: Path) -> dict:
    return json.loads((run / "result.json").read_text())


@pytest.mark.parametrize("workers", [2, pytest.param(0, marks=pytest.mark.faults)])
@pytest.mark.faults
def test_skipped_images_are_reported_and_a_killed_run_resumes_to_identical_results(
    workers: int, start: Callable[..., Child], dltrain: Callable[..., Child], gate: Gate, tmp_path: Path
) -> None:
    bad = damage_pictures(paint(tmp_path / "pictures"))
    run, whole = tmp_path / "run", tmp_path / "whole"
    arguments = command(tmp_path / "pictures", SKIP, f"data.workers={workers}")
    reference = dltrain(*arguments, "data.workers=0", f"hydra.run.dir={whole}")
    assert reference.code == 0, reference.stderr
    assert result(whole)["bad_samples"] == len(bad)
    assert f"{len(bad)} examples could not be used and were left out" in reference.stderr
    assert sum(f"{path} (index " in reference.stderr for path in bad) == 3

    gate.close("train-13")  # in the middle of the second epoch
    child = start(*arguments, f"hydra.run.dir={run}", environment=gate.environment)
    gate.wait_until_reached(child, "train-13")
    child.kill()
    resumed = dltrain("resume", str(run), "allow_targets=[gated]")
    assert resumed.code == 0, resumed.stderr
    assert_same(run, whole)


def test_an_empty_batch_keeps_its_position_in_a_resumed_run(
    start: Callable[..., Child], dltrain: Callable[..., Child], gate: Gate, tmp_path: Path
) -> None:
    root = paint(tmp_path / "pictures")
    epoch_steps = -(-len(ImageFolder(str(root)).load().train) // 2)
    # Two of three images are unreadable: many batches of one image are empty, and some steps have two empty batches.
    for path in [path for n, path in enumerate(sorted(root.rglob("*.png"))) if n % 3]:
        path.write_bytes(b"")
    arguments = command(root, SKIP, "data.workers=0", "data.batch_size=1", "trainer.accumulate=2", "trainer.epochs=3")
    run, whole = tmp_path / "run", tmp_path / "whole"
    reference = dltrain(*arguments, f"hydra.run.dir={whole}")
    assert reference.code == 0, reference.stderr
    gate.close("train-16")
    child = start(*arguments, f"hydra.run.dir={run}", environment=gate.environment)
    gate.wait_until_reached(child, "train-16")
    child.send(signal.SIGTERM)
    gate.open("train-16")
    assert child.wait().code == 143, child.stderr
    state = torch.load(run / "checkpoints" / "last.pt", weights_only=True)["loop"]
    assert 0 < state["batch"] == 2 * (state["step"] - state["epoch"] * epoch_steps)
    resumed = dltrain("resume", str(run), "allow_targets=[gated]")
    assert resumed.code == 0, resumed.stderr
    assert result(whole)["steps"] == 3 * epoch_steps > sum("grad/norm" in line for line in lines(whole))
    assert_same(run, whole)


def test_too_many_bad_samples_stop_the_run_and_the_last_one_is_reported(
    dltrain: Callable[..., Child], tmp_path: Path
) -> None:
    damage_pictures(paint(tmp_path / "pictures"))
    child = dltrain(*command(tmp_path / "pictures", SKIP, "data.max_bad_samples=2", "data.workers=0"))
    assert child.code in (1, 2)
    assert "data.max_bad_samples: expected at most 2" in child.stderr and "(index " in child.stderr
    assert "Traceback" not in child.stderr


@pytest.mark.faults
def test_an_image_damaged_during_a_run_stops_it_and_can_be_skipped_on_resume(
    start: Callable[..., Child], dltrain: Callable[..., Child], gate: Gate, tmp_path: Path
) -> None:
    run, root = tmp_path / "run", paint(tmp_path / "pictures")
    gate.close("train-13")
    child = start(*command(root, "data.workers=2", f"hydra.run.dir={run}"), environment=gate.environment)
    gate.wait_until_reached(child, "train-13")
    for path in root.rglob("*.png"):
        if path.stem == "07":
            path.write_bytes(b"")
    gate.open("train-13")
    assert child.wait().code == 1
    assert "07.png (index " in child.stderr and SKIP in child.stderr and "Traceback" not in child.stderr
    resumed = dltrain("resume", str(run), SKIP, "allow_targets=[gated]")
    assert resumed.code == 0, resumed.stderr
    assert 1 <= result(run)["bad_samples"] <= 2


LINES = ["x,word,y,answer", *(f"{n / 7:.3f},{'ab'[n % 2]},{n % 5}.5,{n % 3}" for n in range(60))]
BAD_LINES = {
    11: "1.571,a,0.5",
    25: "oops,b,3.5,0",
    26: "3.571,a,4.5,0,9",
    40: "5.571,\udcff,3.5,2",
}  # line number -> text


def write_table(path: Path, bad_lines: dict[int, str]) -> Path:
    lines = [bad_lines.get(number, line) for number, line in enumerate(LINES, 1)]
    path.write_bytes("\n".join(lines).encode(errors="surrogateescape"))
    return path


@pytest.mark.parametrize("line", BAD_LINES)
def test_an_unreadable_line_is_rejected_with_its_number(line: int, tmp_path: Path) -> None:
    path = write_table(tmp_path / "a.csv", {line: BAD_LINES[line]})
    with pytest.raises(ConfigError) as caught:
        CsvTable(str(path))
    assert f"line {line} of {path}" in str(caught.value) and SKIP in str(caught.value)


def test_skipping_bad_lines_gives_the_same_data_as_a_file_without_them(tmp_path: Path) -> None:
    data = CsvTable(str(write_table(tmp_path / "bad.csv", BAD_LINES)), on_bad_sample="skip")
    good = tmp_path / "good.csv"
    good.write_text("\n".join(line for number, line in enumerate(LINES, 1) if number not in BAD_LINES))
    clean = CsvTable(str(good))
    assert data.spec == clean.spec and data.rows.keys() == clean.rows.keys()
    assert all(torch.equal(data.rows[name], clean.rows[name]) for name in data.rows)
    assert [message.split(" line ")[1].split()[0].rstrip(",") for message in data.bad.found] == ["11", "26", "40", "25"]


def test_skipped_lines_are_counted_in_the_result_and_reported(dltrain: Callable[..., Child], tmp_path: Path) -> None:
    path = write_table(tmp_path / "bad.csv", BAD_LINES)
    arguments = ["model=mlp", "model.hidden_size=4", "data=csv", f"data.path={path}", "trainer.epochs=2", "device=cpu"]
    child = dltrain(*arguments, SKIP, "trainer.log_media=false", f"hydra.run.dir={tmp_path / 'run'}")
    assert child.code == 0, child.stderr
    assert result(tmp_path / "run")["bad_samples"] == 4
    assert "4 examples could not be used and were left out" in child.stderr and f"line 11 of {path}" in child.stderr
    with pytest.raises(ConfigError, match=r"data\.max_bad_samples: expected at most 3"):
        CsvTable(str(path), on_bad_sample="skip", max_bad_samples=3)


def test_words_in_a_column_of_few_distinct_integers_are_categories_and_not_bad_lines(tmp_path: Path) -> None:
    content = ["floor,size", *(f"{n % 7 if n % 20 else 'cellar'},{n / 7}" for n in range(100))]
    (tmp_path / "a.csv").write_text("\n".join(content))
    assert CsvTable(str(tmp_path / "a.csv")).spec.size == 8
