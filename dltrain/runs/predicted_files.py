"""Write the files of predictions: masks, explanations, and images with the detected objects."""

import contextlib
from itertools import count
from pathlib import Path
from typing import Any

from PIL import Image, ImageColor
from torch import Tensor

from dltrain.data.inputs import STANDARD_INPUT
from dltrain.datasets.image_inputs import UNREADABLE, read_upright
from dltrain.errors import ConfigError, format_error
from dltrain.plots.boxes import draw
from dltrain.plots.charts import CLASS_COLORS


class PredictedFiles:
    """Writer of the files of predictions.

    A mask becomes an indexed PNG file whose pixel values are class indices. Objects are drawn on a copy of their
    image.

    Args:
        folder: A new or empty folder; None to write no files.
    """

    def __init__(self, folder: str | None) -> None:
        self.folder = None if folder is None else Path(folder).expanduser()
        self.colors: dict[str, int] = {}  # class of objects -> index of its color
        if self.folder is None:
            return
        self.is_new = not self.folder.exists()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            filled = any(self.folder.iterdir())
        except OSError as error:
            raise ConfigError(
                format_error("--out", "a folder that can be written", folder, error.strerror or "")
            ) from None
        if filled:
            raise ConfigError(format_error("--out", "a new or empty folder", folder))

    def discard(self) -> None:
        """Remove the folder after an error, if it is new and no file was written."""
        if self.folder is not None and self.is_new:
            with contextlib.suppress(OSError):  # it is not empty
                self.folder.rmdir()

    def store(self, record: dict[str, Any]) -> dict[str, Any]:
        """Write the tensors of a prediction to files, and return the prediction with paths in place of tensors.

        Masks are uint8 (height, width), images are uint8 (3, height, width). Masks are resized to the ``width`` and
        ``height`` of the prediction, if it has them. If the input is an image file, ``objects`` are drawn on a copy of
        it, whose path is added as ``picture``. If there is no folder, tensors are dropped and no file is written.
        """
        stored = {key: value for key, value in record.items() if not isinstance(value, Tensor)}
        for key in record.keys() - stored.keys() if self.folder else ():
            path = self._free_path(Path(str(record.get("input", key))).stem)
            stored[key] = str(path)
            if record[key].dim() == 3:
                Image.fromarray(record[key].movedim(0, 2).numpy()).save(path)
                continue
            mask = record[key].cpu()
            size = (record.get("width", mask.shape[1]), record.get("height", mask.shape[0]))
            image = Image.fromarray(mask.numpy()).resize(size, Image.Resampling.NEAREST)
            image.putpalette([value for color in CLASS_COLORS for value in ImageColor.getrgb(color)])
            image.save(path)
        if self.folder and "objects" in record and (original := _read_again(record)):
            path = self._free_path(Path(str(record["input"])).stem)
            self._draw(original, record["objects"]).save(path)
            stored["picture"] = str(path)
        return stored

    def _draw(self, image: Image.Image, objects: list[dict[str, Any]]) -> Image.Image:
        numbers = [self.colors.setdefault(found["class"], len(self.colors)) for found in objects]
        captions = [f"{found['class']} {found['score']:.2f}" for found in objects]
        return draw(image, [found["box"] for found in objects], numbers, captions)

    def _free_path(self, stem: str) -> Path:
        assert self.folder is not None
        names = (f"{stem}.png" if number == 1 else f"{stem}-{number}.png" for number in count(1))
        return next(path for name in names if not (path := self.folder / name).exists())


def _read_again(record: dict[str, Any]) -> Image.Image | None:
    """Return the image of a prediction, or None for standard input, an array, or a file that cannot be read."""
    if "width" not in record or record.get("input") in (None, STANDARD_INPUT):
        return None
    try:
        return read_upright(Path(str(record["input"])), "RGB")
    except UNREADABLE:
        return None
