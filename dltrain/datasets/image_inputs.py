"""User-provided images: files in the usual formats, folders of them, or arrays."""

import io
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from dltrain.data.inputs import InputFile, InputFiles
from dltrain.data.spec import Inputs
from dltrain.datasets import array_inputs
from dltrain.datasets.array_inputs import Example, stack_examples
from dltrain.datasets.images import ImageTransform
from dltrain.errors import ConfigError, format_error

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
# Formats to open. Pillow detects the format from the content, and would otherwise run Ghostscript for PostScript.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
DEEP_MODES = ("I", "F")  # prefixes of the modes with more than 8 bits per channel, such as I;16
WHITE_16_BIT = 65535
Window = tuple[float, float, float, float]  # left, top, right and bottom in pixels
Crop = Callable[[int, int], Window]  # width and height of an image -> window to keep
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


def read_images(
    files: InputFiles, transform: ImageTransform, shape: tuple[int, ...], whole: bool = False
) -> Iterator[Inputs]:
    """Yield batches of images, converted to the channels, size and pixel scale of a data set.

    Args:
        files: Image files, which are converted, and arrays, which must have the shape and scale of the data set.
        transform: Transform with the pixel scale of the data set.
        shape: Channels, height and width of the images of the data set.
        whole: Resize the whole image instead of cropping it, and add its ``width`` and ``height`` in upright
            orientation to its entry in `Inputs.names`. The entries of arrays have neither.
    """
    return stack_examples(_examples(files, transform, shape, whole), files.batch_size, "pixels")


def _examples(files: InputFiles, transform: ImageTransform, shape: tuple[int, ...], whole: bool) -> Iterator[Example]:
    for file in files.expand("image files, folders of them, or .npy and .npz files of images", SUFFIXES):
        with file.errors_as_input():
            yield from examples_of_file(file, transform, shape, whole)


def examples_of_file(
    file: InputFile, transform: ImageTransform, shape: tuple[int, ...], whole: bool = False
) -> Iterator[Example]:
    """Yield the name and pixels of each image in a file that contains one image or an array of images."""
    content = file.read_bytes()
    if file.suffix in array_inputs.SUFFIXES or content.startswith(array_inputs.MAGIC):
        for name, pixels in array_inputs.iterate_examples(file, content, shape):
            yield name, transform.arrays.to_stored(pixels, "INPUT", name["input"])
        return
    sizes: list[tuple[int, int]] = []
    pixels = transform.to_stored_scale(_decode(file, content, shape, partial(_whole, sizes) if whole else None))
    named = dict(zip(("width", "height"), *sizes, strict=True)) if sizes else {}
    yield {"input": file.name, **named}, pixels


def _whole(sizes: list[tuple[int, int]], width: int, height: int) -> Window:
    """Return the whole image as a window, and append its size to `sizes`."""
    sizes.append((width, height))
    return 0, 0, width, height


def _decode(file: InputFile, content: bytes, shape: tuple[int, ...], crop: Crop | None) -> np.ndarray:
    channels, height, width = shape
    try:
        pixels = decode_image(io.BytesIO(content), MODES[channels], height, width, crop)
    except UNREADABLE as error:
        reason = "a file that is not an image" if isinstance(error, UnidentifiedImageError) else str(error)
        raise ConfigError(format_error("INPUT", f"a readable image at {file.path}", reason)) from error
    return pixels.reshape(height, width, channels).transpose(2, 0, 1)


def decode_image(source: Path | io.BytesIO, mode: str, height: int, width: int, crop: Crop | None = None) -> np.ndarray:
    """Decode an image to uint8 (height, width, channels), or (height, width) in mode L, upright according to EXIF.

    Without `crop`, the image is scaled without distortion until it covers the size, and cropped at the center.

    Args:
        source: File or content.
        mode: PIL mode to convert to.
        height: Height of the result in pixels.
        width: Width of the result in pixels.
        crop: Function of the image's width and height that returns the part to resize; None for the center.

    Raises:
        OSError, SyntaxError, ValueError, Image.DecompressionBombError: The image cannot be read.
    """
    return resize_image(read_upright(source, mode), height, width, crop)


def resize_image(image: Image.Image, height: int, width: int, crop: Crop | None = None) -> np.ndarray:
    """Resize an image to a uint8 array; see `decode_image` for the arguments and the shape."""
    if crop is not None:
        return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR, crop(*image.size)))
    return np.asarray(ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR))


def read_upright(source: Path | io.BytesIO, mode: str) -> Image.Image:
    """Decode an image, upright according to EXIF, and convert it to a PIL mode; errors are those of `decode_image`."""
    with warnings.catch_warnings():
        # Pillow warns above 90 million pixels, which cameras produce, and raises an error above twice as many.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with Image.open(source, formats=FORMATS) as image:
            ImageOps.exif_transpose(image, in_place=True)
            return _convert(image, mode)


def _convert(image: Image.Image, mode: str) -> Image.Image:
    """Convert to a PIL mode; transparent images get a white background if the mode has no transparency."""
    if image.mode.startswith(DEEP_MODES):
        image = _to_8_bit(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if mode not in ("LA", "RGBA"):
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == mode and not image.readonly else image.convert(mode)


def _to_8_bit(image: Image.Image) -> Image.Image:
    """Scale 16-bit gray levels to 8 bits; Pillow's own conversion clips them at 255."""
    levels = np.asarray(image)
    if image.mode == "F" or levels.min() < 0 or levels.max() > WHITE_16_BIT:
        kind = "floats" if image.mode == "F" else "whole numbers"
        raise ValueError(f"{kind} from {levels.min():g} to {levels.max():g} instead of gray levels of 8 or 16 bits")
    return Image.fromarray((levels / (WHITE_16_BIT / 255)).round().astype(np.uint8))
