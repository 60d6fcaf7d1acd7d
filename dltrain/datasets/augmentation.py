"""Settings of the group ``augment``: random changes of training images."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dltrain.data.checks import one_of
from dltrain.errors import ConfigError, format_error

ONE = np.float32(1)
CROP_SHIFT = 4  # pixels
COLORS = ("brightness", "contrast", "saturation", "randaugment")  # changes that need the values of black and white
NAMES: dict[str, dict[str, Any]] = {"flip": {"flip": True}, "crop": {"shift": CROP_SHIFT}}


@dataclass(frozen=True)
class Augmentation:
    """Random changes of training images; the defaults change nothing.

    Args:
        flip: Flip horizontally with probability 1/2.
        flip_vertical: Flip vertically with probability 1/2.
        shift: Maximum shift in each direction, in pixels.
        min_area: Minimum area of a random resized crop, as a fraction of the image, in (0, 1]; 1 for no crop. A side
            that would exceed the image is shortened, and the area can then be smaller.
        max_stretch: Maximum change of the aspect ratio by a random crop, as a factor, at least 1.
        rotation: Maximum rotation about the center in each direction, in degrees, in [0, 180].
        zoom: Maximum relative change of the size, in [0, 1).
        brightness: Maximum relative change of the brightness, in [0, 1].
        contrast: Maximum relative change of the contrast, in [0, 1].
        saturation: Maximum relative change of the saturation of color images, in [0, 1].
        randaugment: Number of operations that RandAugment applies to each image, in [0, 100].
        magnitude: Strength of the operations of RandAugment, in [0, 30].
        mixup: Alpha of mixup, which draws weights from Beta(alpha, alpha); 0 for no mixup.
        cutmix: Alpha of CutMix, which draws areas from Beta(alpha, alpha); 0 for no CutMix.
        erase: Side in pixels of a random square that is set to ``data.mean`` in each image; 0 for no square.

    Source: crops, Szegedy et al. 2015, section 6; see `dltrain.datasets.blending` for mixup and cutmix, and
    `dltrain.datasets.cutout` for the square.
    """

    flip: bool = False
    flip_vertical: bool = False
    shift: int = 0
    min_area: float = 1.0
    max_stretch: float = 4 / 3
    rotation: float = 0.0
    zoom: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    randaugment: int = 0
    magnitude: float = 9.0
    mixup: float = 0.0
    cutmix: float = 0.0
    erase: int = 0

    @property
    def exact(self) -> bool:
        """Whether pixels are moved without interpolation."""
        return self.min_area == 1 and not self.rotation and not self.zoom

    @property
    def moves(self) -> bool:
        """Whether any geometric change is enabled."""
        return not self.exact or self.flip or self.flip_vertical or self.shift > 0

    @property
    def flips_only(self) -> bool:
        """Whether images are flipped and not moved in any other way."""
        return self.exact and not self.shift and (self.flip or self.flip_vertical)

    def enabled(self, names: Iterable[str]) -> str:
        """Return the keys of the enabled changes among `names`, for messages."""
        return " ".join(f"augment.{name}" for name in names if getattr(self, name))

    def without_crop(self) -> "Augmentation":
        """Return the same settings without the random crop, for images that are cropped during decoding."""
        return replace(self, min_area=1.0)

    def shifted(self, drawn: Tensor) -> Tensor:
        """Return shifts in whole pixels for uniform numbers (B,)."""
        return (drawn * (2 * self.shift + 1)).long() - self.shift

    def rotated_and_zoomed(self, turn: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
        """Return cosine and sine of random rotations, divided by the random zoom factors, for uniform numbers (B,)."""
        angle = math.radians(self.rotation) * (2 * turn - 1)
        scale = 1 + self.zoom * (2 * size - 1)
        return angle.cos() / scale, angle.sin() / scale


def read_augmentation(value: Any) -> Augmentation:
    """Parse ``data.augment``: the keys of the group ``augment``, or a list of names as in earlier versions.

    Raises:
        ConfigError: The type is wrong, a name is unknown, or both mixup and cutmix are enabled.
    """
    if isinstance(value, str) or not isinstance(value or [], Mapping | Sequence):
        raise ConfigError(format_error("data.augment", "the keys of the group augment, or a list", value))
    if isinstance(value, Mapping):
        names = [field.name for field in fields(Augmentation)]
        found = Augmentation(**{one_of("data.augment", name, names): item for name, item in value.items()})
    else:
        found = Augmentation()
        for name in value or []:
            found = replace(found, **NAMES[one_of("data.augment", name, NAMES)])
    if found.mixup and found.cutmix:
        raise ConfigError(format_error("augment.cutmix", "0 because augment.mixup is above 0", found.cutmix))
    return found


def crop_windows(augmentation: Augmentation, drawn: Sequence[Tensor], height: int, width: int) -> tuple[Any, ...]:
    """Return left and top in pixels, and relative width and height, of random crops that lie inside their images.

    Args:
        drawn: Four tensors (B,) of uniform numbers: for area, aspect ratio, left and top.
        height: Height of the images in pixels.
        width: Width of the images in pixels.
    """
    if augmentation.min_area == 1:
        return 0.0, 0.0, 1.0, 1.0
    area, stretch, x, y = drawn
    share = (augmentation.min_area + (1 - augmentation.min_area) * area).sqrt()
    factor = torch.exp((2 * stretch - 1) * math.log(augmentation.max_stretch)).sqrt()
    across, along = (share * factor).clamp(max=1), (share / factor).clamp(max=1)
    return x * (1 - across) * width, y * (1 - along) * height, across, along


def crop_window(
    augmentation: Augmentation, drawn: Sequence[float], height: int, width: int, aspect: float = 1.0
) -> tuple[np.float32, np.float32, np.float32, np.float32]:
    """Return left, top, relative width and relative height of one random crop, like `crop_windows`.

    NumPy scalars are several times as fast as tensors of one number. With ``aspect`` 1, the result is bitwise equal to
    the result of `crop_windows`: torch computes the exponentials and roots, because NumPy rounds differently.

    Args:
        drawn: Four uniform numbers: for area, aspect ratio, left and top.
        height: Height of the image in pixels.
        width: Width of the image in pixels.
        aspect: Aspect ratio of the crop, before the random change, divided by the aspect ratio of the image.
    """
    area, stretch, x, y = map(np.float32, drawn)
    minimum, rest = np.float32(augmentation.min_area), np.float32(1 - augmentation.min_area)
    exponent = (np.float32(2) * stretch - ONE) * np.float32(math.log(augmentation.max_stretch))
    share = _by_torch(torch.sqrt, minimum + rest * area)
    factor = _by_torch(torch.sqrt, _by_torch(torch.exp, exponent) * np.float32(aspect))
    across, along = min(share * factor, ONE), min(share / factor, ONE)
    return x * (ONE - across) * np.float32(width), y * (ONE - along) * np.float32(height), across, along


def _by_torch(function: Callable[[Tensor], Tensor], value: np.float32) -> np.float32:
    return np.float32(function(torch.tensor(value)).item())
