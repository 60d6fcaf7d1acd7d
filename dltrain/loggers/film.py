"""Animation of a run: one PNG frame per evaluation, and ``film.gif`` of the frames."""

import contextlib
import io
import re
from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from torch import Tensor

from dltrain.storage.atomic import write_atomic
from dltrain.storage.run_files import FILM, FRAMES

FRAME_NAME = re.compile(r"\d{8,}\.png", re.ASCII)
FRAME_MS, LAST_FRAME_MS = 250, 2000
MAX_FRAMES = 200  # maximum number of frames in the GIF; of more frames, some are skipped
MAX_PIXELS = 2**24  # of a frame; larger frames are skipped because a small file can decompress to any size


class Film:
    """Frames in ``<run>/frames`` and the GIF ``<run>/film.gif``; frames of step `purge_step` and later are deleted."""

    def __init__(self, folder: Path, purge_step: int | None = None) -> None:
        self.folder = folder
        for file in (folder / FRAMES).glob(".*.tmp"):  # left by a killed process
            file.unlink(missing_ok=True)
        if purge_step is not None:
            for frame in self.frames():
                if int(frame.stem) >= purge_step:
                    frame.unlink()

    def frames(self) -> list[Path]:
        """Return the frame files in the order of their steps."""
        frames = (path for path in (self.folder / FRAMES).glob("*.png") if FRAME_NAME.fullmatch(path.name))
        return sorted(frames, key=lambda path: int(path.stem))

    def add(self, picture: Tensor, step: int) -> None:
        """Save a uint8 image of shape (3, height, width) as the frame of a step."""
        path = self.folder / FRAMES / f"{step:08d}.png"
        path.parent.mkdir(exist_ok=True)
        write_atomic(path, encode_png(picture))

    def write(self) -> None:
        """Write the GIF if there are frames."""
        frames = self.frames()
        stride = -(-len(frames) // MAX_FRAMES) or 1
        pictures = []
        for frame in frames[::-1][::stride][::-1]:  # backwards, so that the last frame is always included
            # Pillow raises almost any exception for damaged files, and runs other programs for some other formats.
            with contextlib.suppress(Exception), Image.open(frame, formats=("PNG",)) as picture:
                if picture.width * picture.height <= MAX_PIXELS:
                    pictures.append(picture.convert("RGB"))
        if pictures:
            write_atomic(self.folder / FILM, encode_gif(pictures, FRAME_MS, LAST_FRAME_MS))


def encode_png(picture: Tensor) -> bytes:
    """Encode a uint8 image of shape (3, height, width) as PNG."""
    file = io.BytesIO()
    to_pil(picture).save(file, "PNG")
    return file.getvalue()


def encode_gif(pictures: Sequence[Image.Image], frame_ms: int, last_frame_ms: int) -> bytes:
    """Encode one or more images of equal size as a GIF that repeats forever; durations are in milliseconds."""
    file, pages = io.BytesIO(), [picture.convert("P", palette=Image.Palette.ADAPTIVE) for picture in pictures]
    durations = [frame_ms] * (len(pages) - 1) + [last_frame_ms]
    pages[0].save(file, "GIF", save_all=True, append_images=pages[1:], duration=durations, loop=0)
    return file.getvalue()


def to_pil(picture: Tensor) -> Image.Image:
    """Convert a uint8 image of shape (3, height, width) to a Pillow image."""
    return Image.fromarray(picture.detach().cpu().permute(1, 2, 0).contiguous().numpy())
