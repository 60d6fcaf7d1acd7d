"""The film of a run: one frame for each evaluation, as files, and all of them as an animated picture."""

import io
import os
from pathlib import Path

from PIL import Image
from torch import Tensor

FOLDER, FILM = "frames", "film.gif"
MILLISECONDS, LAST_MILLISECONDS = 250, 2000
ENDING = ".png"


class Film:
    """Frames in ``<run>/frames``, and ``<run>/film.gif`` made of them when the run ends or is interrupted.

    Args:
        folder: The run's folder.
        purge_step: Frames from this step on are those of an interrupted session, and are taken again.
    """

    def __init__(self, folder: Path, purge_step: int | None = None) -> None:
        self.folder = folder
        if purge_step is not None:
            for frame in self.frames():
                if int(frame.stem) >= purge_step:
                    frame.unlink()

    def frames(self) -> list[Path]:
        """The files of all frames, the earliest first."""
        return sorted((self.folder / FOLDER).glob(f"[0-9]*{ENDING}"))

    def add(self, picture: Tensor, step: int) -> None:
        """Keep a frame, uint8 of 3 x height x width."""
        path = self.folder / FOLDER / f"{step:08d}{ENDING}"
        path.parent.mkdir(exist_ok=True)
        file = io.BytesIO()
        Image.fromarray(picture.detach().cpu().permute(1, 2, 0).contiguous().numpy()).save(file, "PNG")
        _put(path, file.getvalue())

    def close(self) -> None:
        """Write the film, if there is anything to show."""
        frames = self.frames()
        if not frames:
            return
        pictures = []
        for frame in frames:
            with Image.open(frame) as picture:
                pictures.append(picture.convert("P", palette=Image.Palette.ADAPTIVE))
        pace = [MILLISECONDS] * (len(pictures) - 1) + [LAST_MILLISECONDS]
        file = io.BytesIO()
        pictures[0].save(file, "GIF", save_all=True, append_images=pictures[1:], duration=pace, loop=0)
        _put(self.folder / FILM, file.getvalue())


def _put(path: Path, content: bytes) -> None:
    """A whole file, or none."""
    fresh = path.with_name(f"{path.name}.new")
    fresh.write_bytes(content)
    os.replace(fresh, path)
