"""Write the masks in predictions as image files."""

from itertools import count
from pathlib import Path
from typing import Any

from PIL import Image, ImageColor
from torch import Tensor

from dltrain.errors import ConfigError, format_error
from dltrain.plots.charts import CLASS_COLORS


class MaskFiles:
    """Writes the masks of predictions as indexed PNG files whose pixel values are the numbers of the classes.

    Args:
        folder: A new or empty folder; None to write no masks.
    """

    def __init__(self, folder: str | None) -> None:
        self.folder = None if folder is None else Path(folder).expanduser()
        if self.folder is None:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            filled = any(self.folder.iterdir())
        except OSError as error:
            raise ConfigError(
                format_error("--out", "a folder that can be written", folder, error.strerror or "")
            ) from None
        if filled:
            raise ConfigError(format_error("--out", "a new or empty folder", folder))

    def store(self, record: dict[str, Any]) -> dict[str, Any]:
        """Write each mask or picture of a prediction, and replace it by the path of its file.

        Masks are uint8 tensors (height, width), pictures (3, height, width). Masks are resized to the
        ``width`` and ``height`` of the prediction, if it has them.
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
        return stored

    def _free_path(self, stem: str) -> Path:
        assert self.folder is not None
        names = (f"{stem}.png" if number == 1 else f"{stem}-{number}.png" for number in count(1))
        return next(path for name in names if not (path := self.folder / name).exists())
