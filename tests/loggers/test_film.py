"""The film of a run: its frames and GIF, damaged frames and resumed runs."""

import json
import os
import shutil
import struct
import zlib
from pathlib import Path

import pytest
import torch
from PIL import EpsImagePlugin, Image, ImageSequence

from dltrain.cli import main
from dltrain.loggers import film
from dltrain.loggers.film import FRAME_MS, LAST_FRAME_MS, Film
from dltrain.storage.run_files import FILM, FRAMES


def image(number: int) -> torch.Tensor:
    """Return an image with ``number % 30`` white columns, a count that survives GIF quantization."""
    pixels = torch.zeros(3, 20, 30, dtype=torch.uint8)
    pixels[:, :, : number % 30] = 255
    return pixels


def read_numbers(path: Path) -> list[int]:
    """Return the number of white columns of each image in a GIF."""
    with Image.open(path) as gif:
        pages = [page.convert("L").tobytes()[: page.width] for page in ImageSequence.Iterator(gif)]
    return [sum(value > 128 for value in row) for row in pages]


def test_a_film_shows_every_frame_in_order_and_the_last_frame_longest(tmp_path: Path) -> None:
    recorder = Film(tmp_path)
    for step in (9, 10, 1000, 123_456_789):
        recorder.add(image(step % 29), step)
    recorder.write()
    assert read_numbers(tmp_path / FILM) == [9, 10, 1000 % 29, 123_456_789 % 29]
    with Image.open(tmp_path / FILM) as gif:
        durations = [page.info["duration"] for page in ImageSequence.Iterator(gif)]
        assert gif.info["loop"] == 0
    assert durations == [FRAME_MS] * 3 + [LAST_FRAME_MS]
    assert gif.size == (30, 20)


def test_frames_are_lossless(tmp_path: Path) -> None:
    expected = torch.randint(0, 256, (3, 20, 30), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    recorder = Film(tmp_path)
    recorder.add(expected, 7)
    with Image.open(recorder.frames()[0]) as frame:
        found = torch.frombuffer(bytearray(frame.convert("RGB").tobytes()), dtype=torch.uint8)
    assert torch.equal(found.view(20, 30, 3).permute(2, 0, 1), expected)


def test_without_frames_nothing_is_written(tmp_path: Path) -> None:
    Film(tmp_path, 0).write()
    assert not list(tmp_path.iterdir())


def test_partial_files_and_frames_after_the_checkpoint_are_removed_and_other_files_are_kept(tmp_path: Path) -> None:
    first = Film(tmp_path)
    for step in range(1, 7):
        first.add(image(step), step)
    others = [tmp_path / FRAMES / name for name in ("00000009.txt", "9 copy.png", "notes.png")]
    partial = tmp_path / FRAMES / ".00000007.png.123.tmp"
    for path in (*others, partial):
        path.write_bytes(b"")
    second = Film(tmp_path, purge_step=4)
    assert [int(path.stem) for path in second.frames()] == [1, 2, 3]
    assert all(path.exists() for path in others)
    assert not partial.exists()
    assert len(Film(tmp_path).frames()) == 3


def test_damaged_frames_are_skipped(tmp_path: Path) -> None:
    recorder = Film(tmp_path)
    for step in range(1, 5):
        recorder.add(image(step), step)
    for number, part in ((1, 0), (2, -30)):
        frame = recorder.frames()[number]
        frame.write_bytes(frame.read_bytes()[:part])
    recorder.write()
    assert read_numbers(tmp_path / FILM) == [1, 4]


@pytest.mark.slow
def test_oversized_frames_and_other_formats_are_skipped_without_running_programs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder, marker, programs = Film(tmp_path), tmp_path / "marker", tmp_path / "programs"
    for step in (1, 4):
        recorder.add(image(step), step)
    # Pillow runs Ghostscript for EPS files. This replacement records that it was called.
    programs.mkdir()
    (programs / "gs").write_text(f"#!/bin/sh\ntouch {marker}\n")
    (programs / "gs").chmod(0o755)
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 30 20\n%%EndComments\nshowpage\n%%EOF\n"
    (tmp_path / FRAMES / "00000002.png").write_bytes(eps)
    # A small file whose header declares nine hundred million pixels.
    head = b"IHDR" + struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))
    data = b"IDAT" + zlib.compress(b"\0" * 100)
    bomb += struct.pack(">I", len(data) - 4) + data + struct.pack(">I", zlib.crc32(data))
    (tmp_path / FRAMES / "00000003.png").write_bytes(bomb)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)  # otherwise Pillow would not search for gs again
    Film(tmp_path).write()
    assert read_numbers(tmp_path / FILM) == [1, 4]
    assert not marker.exists()


def test_a_long_film_omits_frames_but_not_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(film, "MAX_FRAMES", 5)
    recorder = Film(tmp_path)
    for step in range(12):
        recorder.add(image(step), step)
    recorder.write()
    assert read_numbers(tmp_path / FILM) == [2, 5, 8, 11]
    assert len(recorder.frames()) == 12


RUN = (
    "model=rbm",
    "data=digits",
    "model.hidden_size=16",
    "device=cpu",
    "trainer.eval_every=3",
    "trainer.checkpoint_every=2",
)


def contents(run: Path) -> dict[str, bytes]:
    """Return the content of each frame and of the film of a run."""
    return {path.name: path.read_bytes() for path in [*run.glob("frames/*"), run / FILM]}


def test_a_resumed_run_has_the_same_frames_and_film(tmp_path: Path) -> None:
    uninterrupted, resumed = tmp_path / "uninterrupted", tmp_path / "resumed"
    assert main.main([*RUN, "trainer.max_steps=9", f"hydra.run.dir={uninterrupted}"]) == 0
    assert sorted(contents(uninterrupted)) == [f"{step:08}.png" for step in (3, 6, 9)] + [FILM]
    assert len(set(contents(uninterrupted).values())) == 4
    assert main.main([*RUN, "trainer.max_steps=6", f"hydra.run.dir={resumed}"]) == 0
    for step in (7, 8):  # simulate a kill after the last checkpoint
        (resumed / FRAMES / f"{step:08}.png").write_bytes(b"")
    assert main.main(["resume", str(resumed), "trainer.max_steps=9"]) == 0
    assert contents(resumed) == contents(uninterrupted)


def test_a_task_without_frames_has_no_film(plain_run: Path) -> None:
    assert not (plain_run / FRAMES).exists()
    assert not (plain_run / FILM).exists()


@pytest.mark.parametrize(("name", "reason"), [(FILM, "Is a directory"), (FRAMES, "File exists")])
def test_a_film_that_cannot_be_written_fails_the_run(
    name: str, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main.main([*RUN, "trainer.max_steps=3", f"hydra.run.dir={run}"]) == 0
    shutil.rmtree(run / FRAMES)
    (run / FILM).unlink()
    (run / name).mkdir() if name == FILM else (run / name).touch()
    assert main.main(["resume", str(run), "trainer.max_steps=6"]) == 1
    assert f"failed: could not write: {reason}" in capsys.readouterr().err
    assert json.loads((run / "status.json").read_text())["state"] == "failed"
    assert not list(run.rglob("*.tmp"))
