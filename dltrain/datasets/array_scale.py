"""Scale of images in arrays, which must be the same in training, testing and prediction."""

from dataclasses import dataclass

import numpy as np

from dltrain.errors import ConfigError, format_error

OVERSHOOT = 0.1  # floats may lie outside a standard range by this fraction of its length, as after resampling
DARKEST_BYTES = 64  # floats with a lower maximum are not read as 0 to 255


@dataclass(frozen=True)
class ArrayScale:
    """Numbers for black and white in arrays of images.

    Args:
        black: Number for black.
        white: Number for white.
        whole: Whether pixels are bytes; otherwise they are floats.
        known: Whether the scale is a standard one, so that image files can be converted to it.
    """

    black: float = 0.0
    white: float = 255.0
    whole: bool = True
    known: bool = True

    def __str__(self) -> str:
        return f"{'bytes' if self.whole else 'floats'} from {self.black:g} to {self.white:g}"

    @property
    def bounds(self) -> tuple[float, float]:
        """Black and white on the scale of ``data.mean``: 0 and 1 if the scale is standard, else `black` and `white`."""
        return (0.0, 1.0) if self.known else (self.black, self.white)

    def to_stored(self, pixels: np.ndarray, key: str, name: str) -> np.ndarray:
        """Convert the pixels of an array to the stored form: bytes, floats from 0 to 1, or other floats unchanged.

        Args:
            key: Configuration key for messages.
            name: Name of the array for messages.

        Raises:
            ConfigError: The array has a different dtype or scale.
        """
        expected = f"{self} in {name}, as in training"
        # The scale of floats from 0 to 255 also accepts unsigned integers.
        large = not self.whole and self.known and self.white > 1
        if (pixels.dtype != np.uint8) if self.whole else pixels.dtype.kind not in ("fu" if large else "f"):
            raise ConfigError(format_error(key, expected, pixels.dtype))
        low, high = pixels.min(initial=self.black), pixels.max(initial=self.black)
        margin = (self.white - self.black) * (0 if self.whole else OVERSHOOT if self.known else 1)
        inside = low >= self.black - margin and high <= self.white + margin  # NaN fails, too
        if not inside or (large and pixels.dtype.kind == "f" and 0 < high <= 1):
            raise ConfigError(format_error(key, expected, f"{low:g} to {high:g}"))
        if self.whole:
            return pixels
        return pixels.astype(np.float32) / np.float32(self.white) if large else pixels.astype(np.float32)


UNIT = ArrayScale(0.0, 1.0, whole=False)


def find_scale(pixels: np.ndarray) -> ArrayScale:
    """Return the scale of float training images: 0 to 1, 0 to 255, or the range of the pixels, widened to include 0."""
    low, high = float(pixels.min(initial=0)), float(pixels.max(initial=0))
    for white, darkest in ((1.0, 0.0), (255.0, DARKEST_BYTES)):
        if low >= -OVERSHOOT * white and darkest <= high <= (1 + OVERSHOOT) * white:
            return ArrayScale(0.0, white, whole=False)
    return ArrayScale(low, high, whole=False, known=False)
