"""Compare the rates at which dltrain and torchvision decode a folder of JPEG files, both with random crops and flips.

    python jpegs.py [--rounds N] [--workers 0,2] [--images N]

torchvision reads as in its reference training script: `ImageFolder`, `RandomResizedCrop`, `RandomHorizontalFlip`, a
float tensor, `Normalize` and a `DataLoader`, but with persistent workers and without pinned memory. dltrain reads with
`data=image_folder` and the same augmentation. Epochs of dltrain and torchvision alternate; the first epoch of each is
not timed.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import datasets
from torchvision.transforms import v2

from dltrain.data.loader import Batches
from dltrain.datasets.image_folder import ImageFolder

SIZE, BATCH = 224, 32
PHOTO = (500, 375)  # width and height in pixels, typical of ImageNet


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", default="0,2", help="numbers of worker processes, separated by commas")
    parser.add_argument("--images", type=int, default=512)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        write_photos(Path(name), options.images)
        for workers in map(int, options.workers.split(",")):
            compare(Path(name), workers, options.rounds)
    return 0


def write_photos(folder: Path, count: int) -> None:
    """Write smooth random images with noise, as JPEG files of about 56 kB in two class folders."""
    random = np.random.default_rng(0)
    for number in range(count):
        (folder / str(number % 2)).mkdir(exist_ok=True)
        coarse = Image.fromarray(random.integers(0, 256, (38, 50, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize(PHOTO, Image.Resampling.BICUBIC)).astype(np.int16)
        noisy = (smooth + random.integers(-12, 13, smooth.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / str(number % 2) / f"{number}.jpg", quality=85)


def compare(folder: Path, workers: int, rounds: int) -> None:
    """Print the median rates of dltrain and torchvision, and the median and range of their ratio over the rounds."""
    ours, theirs = dltrain(folder, workers), torchvision(folder, workers)
    rate(ours(0)), rate(theirs(0))
    rates = [(rate(ours(number)), rate(theirs(number))) for number in range(1, rounds + 1)]
    ratios = sorted(own / other for own, other in rates)
    own, other = (statistics.median(part) for part in zip(*rates, strict=True))
    print(
        f"{workers} workers: dltrain {own:.0f}/s, torchvision {other:.0f}/s, "
        f"ratio {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
    )


def dltrain(folder: Path, workers: int) -> Any:
    """Return a function that takes an epoch number and returns the batches of that epoch."""
    data = ImageFolder(
        str(folder),
        image_size=SIZE,
        validation=0.0,
        test=0.02,
        augment={"flip": True, "min_area": 0.08},
        workers=workers,
    )
    batches = Batches(data.load().train, BATCH, training=True, workers=workers)
    return batches.epoch


def torchvision(folder: Path, workers: int) -> Any:
    """Return a function that takes an epoch number and returns the batches of that epoch."""
    transform = v2.Compose(
        [
            v2.RandomResizedCrop(SIZE, antialias=True),
            v2.RandomHorizontalFlip(),
            v2.PILToTensor(),
            v2.ToDtype(torch.float, scale=True),
            v2.Normalize([0.5] * 3, [0.5] * 3),
        ]
    )
    files = datasets.ImageFolder(folder, transform)
    loader = DataLoader(files, BATCH, shuffle=True, num_workers=workers, persistent_workers=workers > 0)
    return lambda _: (images for images, _ in loader)


def rate(batches: Iterable[Any]) -> float:
    """Return the images per second over all batches of an epoch."""
    started, count = time.perf_counter(), 0
    for batch in batches:
        images = batch["inputs"] if isinstance(batch, dict) else batch
        count += len(images)
    return count / (time.perf_counter() - started)


if __name__ == "__main__":
    raise SystemExit(main())
