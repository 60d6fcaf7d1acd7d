"""Random changes of brightness, contrast and saturation, computed for a whole batch."""

from collections.abc import Callable

from torch import Tensor, nn

from dltrain.datasets.augmentation import Augmentation
from dltrain.keyed_random import mix, uniform

Fields = dict[str, Tensor]
GRAY = (0.2989, 0.587, 0.114)  # weights of red, green and blue in the luma of ITU-R BT.601
LANE = 101  # added to keys, so that these random numbers are independent of the other augmentations


class Unit(nn.Module):
    """Conversion between normalized inputs and images from 0 (black) to 1 (white).

    Args:
        mean: Mean that normalization subtracts, (channels, 1, 1).
        std: Standard deviation by which normalization divides, (channels, 1, 1).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean.float())
        self.register_buffer("std", std.float())

    def change(self, inputs: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        """Convert normalized inputs to images from 0 to 1, apply `function`, and normalize the result."""
        return (function(inputs * self.std + self.mean) - self.mean) / self.std


class Colors(nn.Module):
    """Random brightness, contrast and saturation of each example, in this order.

    Each factor is uniform between 1 - x and 1 + x, where x is the maximum change in `augmentation`. Saturation changes
    only images with 3 channels.

    Args:
        augmentation: What to change and how much.
        unit: Scale of the inputs.
        names: Fields of a batch that hold images, (B, channels, height, width).
    """

    def __init__(self, augmentation: Augmentation, unit: Unit, names: tuple[str, ...]) -> None:
        super().__init__()
        self.augmentation, self.unit, self.names = augmentation, unit, names

    def forward(self, batch: Fields, keys: Tensor) -> Fields:
        """Change the images of each example by random factors that depend on its key."""
        drawn = 2 * uniform(mix(keys + LANE), len(ENHANCERS)) - 1

        def change(images: Tensor) -> Tensor:
            for number, (name, enhance) in enumerate(ENHANCERS.items()):
                if most := getattr(self.augmentation, name):
                    images = enhance(images, 1 + most * drawn[:, number, None, None, None])
            return images

        return batch | {name: self.unit.change(batch[name], change) for name in self.names}


def blend(other: Tensor, images: Tensor, factor: Tensor) -> Tensor:
    """Interpolate from `other` (factor 0) to `images` (factor 1), or extrapolate, and clamp to [0, 1]."""
    return (images * factor + other * (1 - factor)).clamp(0, 1)


def gray(images: Tensor) -> Tensor:
    """Return the luma of color images, (B, 3, height, width) -> (B, 1, height, width); leave others unchanged."""
    if images.shape[1] != 3:
        return images
    red, green, blue = (share * images[:, number, None] for number, share in enumerate(GRAY))
    return red + green + blue


def change_contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Blend images (B, channels, height, width) with their mean gray level."""
    return blend(gray(images).mean((1, 2, 3), keepdim=True), images, factor)


ENHANCERS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "brightness": lambda images, factor: (images * factor).clamp(0, 1),
    "contrast": change_contrast,
    "saturation": lambda images, factor: blend(gray(images), images, factor) if images.shape[1] == 3 else images,
}
