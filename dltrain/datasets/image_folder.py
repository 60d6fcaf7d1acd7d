"""A user's own pictures: one folder per class."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dltrain.data.bad_samples import MOST, BadSamples
from dltrain.data.checks import at_least, folder, fraction, fractions
from dltrain.data.inputs import Given
from dltrain.data.spec import Inputs, Splits
from dltrain.data.splits import hold_out_of_each
from dltrain.data.worker_pool import TIMEOUT_S
from dltrain.datasets.image_inputs import ENDINGS, UNREADABLE, decoded, picture_inputs
from dltrain.datasets.images import Look, picture_facts
from dltrain.errors import ConfigError, format_error

TRAIN = "train"
TEST = "test"
CHANNELS = 3

Listing = list[tuple[Path, int]]


class ImageFolder:
    """Pictures in ``path/train/<class>/`` and ``path/test/<class>/``, or in ``path/<class>/`` alone.

    Each is read when it is needed, in colour and on white where it is transparent, and brought to one size: its shorter
    side is scaled, the longer one cut in equal parts on both ends.

    Args:
        path: The folder.
        image_size: Height and width that all pictures are brought to, in pixels.
        validation: Fraction of each class of the training pictures that is held out; 0 trains on all of them.
        test: Fraction of each class that is held out for the test, where there is no folder ``test``.
        mean: Taken from the pixels, on the scale from 0 to 1; a number, or one for red, green and blue.
        std: What the pixels are divided by after that.
        augment: Any of ``flip`` and ``crop``.
        batch_size: Examples per step.
        workers: Processes that decode the pictures; 0 decodes between the steps.
        worker_timeout: Seconds after which a worker that gives nothing counts as hanging, and the run ends.
        on_bad_sample: What to do about a picture that cannot be read: ``stop``, or ``skip`` to go on without it.
        max_bad_samples: How many are skipped at most; one more stops the run.
    """

    fitted = False

    def __init__(
        self,
        path: str,
        image_size: int = 64,
        validation: float = 0.15,
        test: float = 0.15,
        mean: float | list[float] = 0.5,
        std: float | list[float] = 0.5,
        augment: list[str] | None = None,
        batch_size: int = 64,
        workers: int = 0,
        worker_timeout: float = TIMEOUT_S,
        on_bad_sample: str = "stop",
        max_bad_samples: int = MOST,
    ) -> None:
        self.path = folder(path, "an existing folder of pictures")
        self.image_size = at_least("data.image_size", image_size, 1)
        self.validation = fraction("data.validation", validation)
        self.test = test
        self.look = Look(CHANNELS, mean, std, augment or [])
        self.batch_size = at_least("data.batch_size", batch_size, 1)
        self.workers = at_least("data.workers", workers, 0)
        self.worker_timeout = worker_timeout
        self.bad = BadSamples(on_bad_sample, max_bad_samples)
        self.parted = (self.path / TRAIN).is_dir() and (self.path / TEST).is_dir()
        if not self.parted:
            fractions(validation, test)
        self.classes = _folders(self.path / TRAIN if self.parted else self.path)
        self.spec = self.look.facts(picture_facts(CHANNELS, image_size, image_size, self.classes))

    def load(self) -> Splits:
        """List the files and split them; no picture is read yet."""
        if self.parted:
            rest, test = self._listing(self.path / TRAIN), self._listing(self.path / TEST)
        else:
            rest, test = _split(self._listing(self.path), self.test)
        train, val = _split(rest, self.validation)
        parts = [Pictures(part, self.image_size, self.path) for part in (train, val, test)]
        return self.look.splits(*parts)

    def inputs(self, given: Given) -> Iterator[Inputs]:
        """Read a user's picture files and arrays."""
        return picture_inputs(given, self.look, (CHANNELS, self.image_size, self.image_size))

    def _listing(self, root: Path) -> Listing:
        """Every picture below ``root`` with the number of its class, in alphabetical order."""
        found: Listing = []
        if unknown := sorted(set(_folders(root)) - set(self.classes)):
            expected = f"in {root} the classes {', '.join(self.classes)}"
            raise ConfigError(format_error("data.path", expected, unknown[0]))
        for number, name in enumerate(self.classes):
            files = sorted(file for file in (root / name).rglob("*") if file.suffix.casefold() in ENDINGS)
            found.extend((file, number) for file in files)
        if not found:
            raise ConfigError(format_error("data.path", f"pictures ({', '.join(ENDINGS)}) in {root}", "none"))
        return found


class Pictures:
    """Picture files below ``root``, decoded a batch at a time by whoever asks."""

    def __init__(self, listing: Listing, image_size: int, root: Path) -> None:
        self.listing = listing
        self.image_size = image_size
        self.root = root

    def __len__(self) -> int:
        return len(self.listing)

    def files(self) -> Iterator[tuple[str, int]]:
        """Each picture's path below ``root`` and its bytes; -1 where it is gone."""
        for path, _ in self.listing:
            yield path.relative_to(self.root).as_posix(), path.stat().st_size if path.exists() else -1

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        """``pixels`` (B, 3, side, side) as bytes and ``labels`` (B,)."""
        pixels = np.stack([self._decode(index) for index in indices])
        return {
            "pixels": torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(),
            "labels": torch.tensor([self.listing[index][1] for index in indices]),
        }

    def _decode(self, index: int) -> np.ndarray:
        path = self.listing[index][0]
        try:
            return decoded(path, "RGB", self.image_size, self.image_size)
        except UNREADABLE as error:
            expected = f"a picture that can be read at {path} (number {index} of its part)"
            raise ConfigError(format_error("data.path", expected, str(error), "Replace or delete it")) from error


def _folders(root: Path) -> list[str]:
    names = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not names:
        raise ConfigError(format_error("data.path", f"one folder per class in {root}", "none"))
    return names


def _split(listing: Listing, part: float) -> tuple[Listing, Listing]:
    labels = torch.tensor([label for _, label in listing])
    kept, held = hold_out_of_each(labels, part)
    return [listing[index] for index in kept.tolist()], [listing[index] for index in held.tolist()]
