"""Folders of small images, common kinds of unreadable images, and a command that trains on them."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

EACH = 24  # images per class


def paint(root: Path) -> Path:
    """Write 48 images of two classes, blue and red with noise; return `root`."""
    random = np.random.default_rng(0)
    for number, name in enumerate(("blue", "red")):
        folder = root / name
        folder.mkdir(parents=True)
        for picture in range(EACH):
            pixels = random.integers(0, 128, (12, 12, 3), dtype=np.uint8)
            pixels[:, :, 2 - 2 * number] += 100
            Image.fromarray(pixels).save(folder / f"{picture:02}.png")
    return root


def truncated_jpeg() -> bytes:
    """Return the first half of a JPEG file."""
    whole = io.BytesIO()
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(whole, "JPEG")
    return whole.getvalue()[: len(whole.getvalue()) // 2]


def bomb() -> bytes:
    """Return a small PNG file whose header claims 30,000 x 30,000 pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    )


BROKEN = {
    "a truncated JPEG": truncated_jpeg(),
    "an empty file": b"",
    "text": b"this is not an image\n",
    "a decompression bomb": bomb(),
}


def command(root: Path, *more: str) -> list[str]:
    """Return the command of a run without logged images: 4 epochs with 9 steps each."""
    return [
        *[
            "model=mlp",
            "model.hidden_size=8",
            "data=image_folder",
            f"data.path={root}",
            "data.image_size=8",
            "data.batch_size=4",
        ],
        *["data.augment=[flip,crop]", "task._target_=gated.Classification", "allow_targets=[gated]", "device=cpu"],
        *["trainer.epochs=4", "trainer.checkpoint_every=2", "trainer.log_every=1", "trainer.log_media=false", *more],
    ]
