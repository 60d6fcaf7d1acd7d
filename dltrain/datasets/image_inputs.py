"""Pictures that a user brings: files of the usual formats, folders of them, or arrays."""

import io
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from dltrain.data.inputs import Given, GivenFile
from dltrain.data.spec import Inputs
from dltrain.datasets import array_inputs
from dltrain.datasets.array_inputs import Example, gathered
from dltrain.datasets.images import Look
from dltrain.errors import ConfigError, format_error

ENDINGS = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
# Pillow decides by content what a file is, and hands some kinds to other programs: PostScript to Ghostscript.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
DEEP = ("I", "F")  # modes of more than 8 bits per pixel, I;16 and its kin among them
WHITE_OF_16_BITS = 65535
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


def picture_inputs(given: Given, look: Look, shape: tuple[int, ...]) -> Iterator[Inputs]:
    """Pictures in the channels, size and scale of a data set.

    Args:
        given: Picture files in any size and colour, which are converted, and arrays, which must be like the set's.
        look: Knows the set's scale.
        shape: Of the set's pictures: channels, height, width.
    """
    return gathered(_all(given, look, shape), given.batch, "pixels")


def _all(given: Given, look: Look, shape: tuple[int, ...]) -> Iterator[Example]:
    for file in given.files("picture files, folders of them, or .npy and .npz files of pictures", ENDINGS):
        with file.blamed():
            content = file.content()
            if file.suffix in array_inputs.ENDINGS or content.startswith(array_inputs.MAGIC):
                for name, pixels in array_inputs.examples(file, content, shape):
                    yield name, _as_stored(pixels, look, name["input"])
            else:
                yield {"input": file.name}, look.stored(_picture(file, content, shape))


def _picture(file: GivenFile, content: bytes, shape: tuple[int, ...]) -> np.ndarray:
    channels, height, width = shape
    try:
        pixels = decoded(io.BytesIO(content), MODES[channels], height, width)
    except UNREADABLE as error:
        reason = "not a picture" if isinstance(error, UnidentifiedImageError) else str(error)
        raise ConfigError(format_error("INPUT", f"a picture that can be read at {file.path}", reason)) from error
    return pixels.reshape(height, width, channels).transpose(2, 0, 1)


def decoded(source: Path | io.BytesIO, mode: str, height: int, width: int) -> np.ndarray:
    """A picture, the right way up, in one of PIL's modes and in one size, as bytes (height, width, channels).

    Its sides are scaled alike until it covers that size, and what sticks out is cut in equal parts on both ends.

    Raises:
        OSError, SyntaxError, ValueError, Image.DecompressionBombError: It cannot be read.
    """
    with warnings.catch_warnings():
        # Pillow warns of 90 million pixels, as cameras have them, and refuses twice as many.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with Image.open(source, formats=FORMATS) as picture:
            upright = _in_mode(ImageOps.exif_transpose(picture), mode)
    return np.asarray(ImageOps.fit(upright, (width, height), Image.Resampling.BILINEAR))


def _in_mode(picture: Image.Image, mode: str) -> Image.Image:
    """A picture in one of PIL's modes; what is transparent lies on white where the mode cannot say so."""
    if picture.mode.startswith(DEEP):
        picture = _of_bytes(picture)
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        if mode not in ("LA", "RGBA"):
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert(mode)


def _of_bytes(picture: Image.Image) -> Image.Image:
    """Grey levels from 0 to 65,535 as levels from 0 to 255; Pillow itself makes all above 255 white."""
    levels = np.asarray(picture)
    if picture.mode == "F" or levels.min() < 0 or levels.max() > WHITE_OF_16_BITS:
        got = f"{'fractions' if picture.mode == 'F' else 'whole numbers'} from {levels.min():g} to {levels.max():g}"
        raise ValueError(f"grey levels that are {got}, and no file says which is white; 8 and 16 bits are read")
    return Image.fromarray((levels / (WHITE_OF_16_BITS / 255)).round().astype(np.uint8))


def _as_stored(pixels: np.ndarray, look: Look, name: str) -> np.ndarray:
    """Pixels of an array, which must be on the set's own scale: no file says which other it would be."""
    whole = look.white > 1
    expected = f"bytes from 0 to {look.white:g}" if whole else "floats from 0 to 1"
    if (pixels.dtype != np.uint8) if whole else (pixels.dtype.kind != "f"):
        raise ConfigError(format_error("INPUT", f"{expected} in {name}, as in training", pixels.dtype))
    least, most = pixels.min(initial=0), pixels.max(initial=0)
    if not (least >= 0 and most <= look.white):  # not a number compares as false
        raise ConfigError(format_error("INPUT", f"{expected} in {name}, as in training", f"{least:g} to {most:g}"))
    return pixels if whole else pixels.astype(np.float32)
