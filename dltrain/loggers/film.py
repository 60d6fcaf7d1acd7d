"""The film of a run: one frame for each evaluation, as files, and all of them as an animated picture."""

import contextlib
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image
from torch import Tensor

from dltrain.storage.atomic import write_atomic

FOLDER, FILM = "frames", "film.gif"
FRAME = re.compile(r"\d{8,}\.png", re.ASCII)
MILLISECONDS, LAST_MILLISECONDS = 250, 2000
MOST = 200  # frames of a film; of more, every second, third ... is taken
LARGEST = 2**24  # pixels of a frame; a file of a few bytes may stand for any number


class Film:
    """Frames in ``<run>/frames``, and ``<run>/film.gif`` made of them when the run ends or is interrupted.

    Args:
        folder: The run's folder.
        purge_step: Frames from this step on are those of an interrupted session, and are taken again.
    """

    def __init__(self, folder: Path, purge_step: int | None = None) -> None:
        self.folder = folder
        for file in (folder / FOLDER).glob(".*.tmp"):  # of a process that was killed
            file.unlink(missing_ok=True)
        if purge_step is not None:
            for frame in self.frames():
                if int(frame.stem) >= purge_step:
                    frame.unlink()

    def frames(self) -> list[Path]:
        """The files of all frames, the earliest first."""
        found = (path for path in (self.folder / FOLDER).glob("*.png") if FRAME.fullmatch(path.name))
        return sorted(found, key=lambda path: int(path.stem))

    def add(self, picture: Tensor, step: int) -> None:
        """Keep a frame, uint8 of 3 x height x width."""
        path = self.folder / FOLDER / f"{step:08d}.png"
        path.parent.mkdir(exist_ok=True)
        write_atomic(path, png(picture))

    def write(self) -> None:
        """Write the film, if there is anything to show."""
        frames = self.frames()
        every = -(-len(frames) // MOST) or 1
        pictures = list(_opened(frames[::-1][::every][::-1]))  # the last one is always there
        if pictures:
            write_atomic(self.folder / FILM, gif(pictures, MILLISECONDS, LAST_MILLISECONDS))


def png(picture: Tensor) -> bytes:
    """A picture, uint8 of 3 x height x width, as a file."""
    file = io.BytesIO()
    image(picture).save(file, "PNG")
    return file.getvalue()


def gif(pictures: Sequence[Image.Image], pace: int, last: int) -> bytes:
    """Pictures of one size as a file that shows one after the other, again and again.

    Args:
        pictures: At least one.
        pace: How long each is shown, in milliseconds.
        last: How long the last one is.
    """
    file, pages = io.BytesIO(), [picture.convert("P", palette=Image.Palette.ADAPTIVE) for picture in pictures]
    times = [pace] * (len(pages) - 1) + [last]
    pages[0].save(file, "GIF", save_all=True, append_images=pages[1:], duration=times, loop=0)
    return file.getvalue()


def image(picture: Tensor) -> Image.Image:
    """A picture, uint8 of 3 x height x width, as Pillow has it."""
    return Image.fromarray(picture.detach().cpu().permute(1, 2, 0).contiguous().numpy())


def _opened(frames: Sequence[Path]) -> Iterator[Image.Image]:
    """The frames that can be read: a power cut may have damaged some, and others may be none of ours."""
    for frame in frames:
        # Pillow raises nearly anything for a file that is no picture, and has other programs read some kinds.
        with contextlib.suppress(Exception), Image.open(frame, formats=("PNG",)) as picture:
            if picture.width * picture.height <= LARGEST:
                yield picture.convert("RGB")
