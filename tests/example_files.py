"""Write small files in the formats that dltrain reads."""

from pathlib import Path

import numpy as np
from PIL import Image


def write_clips(root: Path, count: int, frames: int, size: tuple[int, int]) -> None:
    """Write clips of two classes as folders of frames: a noisy picture that turns brighter, or darker."""
    random = np.random.default_rng(3)
    for number in range(count):
        folder = root / ("brighter" if number % 2 else "darker") / f"clip{number}"
        folder.mkdir(parents=True)
        levels = np.linspace(40, 180, frames)[:: 1 if number % 2 else -1]
        for frame, level in enumerate(levels):
            pixels = level + random.integers(0, 40, (*size[::-1], 3))
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{frame}.png")


def write_pixels(path: Path, size: int, training: int, held_out: int) -> None:
    """Write a table like FER-2013: class, gray values and split of bright and dark noisy pictures."""
    random, lines = np.random.default_rng(4), ["emotion,pixels,Usage"]
    counts = {"Training": training, "PublicTest": held_out, "PrivateTest": held_out}
    for usage, count in counts.items():
        for number in range(count):
            values = random.integers(0, 60, size * size) + 150 * (number % 2)
            lines.append(f"{number % 2},{' '.join(map(str, values))},{usage}")
    path.write_text("\n".join(lines) + "\n")
