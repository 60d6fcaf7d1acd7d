"""Grids of images and filters, enlarged without interpolation; each is a uint8 tensor (3, height, width)."""

import math

from torch import Tensor, nn
from torch.nn import functional as F

TILE, GAP = 56, 2  # pixels: the side to which small images are enlarged, and the space between images


def images(values: Tensor, columns: int = 8, tile: int = TILE, gap: int = GAP) -> Tensor:
    """Return a grid of images, black at 0 and white at 1; each pixel is enlarged to a square.

    Args:
        values: Images (N, channels, height, width), in color if there are 3 channels, otherwise the channel mean.
        tile: Approximate side in pixels to which small images are enlarged.
    """
    count, channels, height, width = values.shape
    values = values.detach().float().cpu().nan_to_num().clamp(0, 1)
    values = (values if channels == 3 else values.mean(1, keepdim=True).expand(-1, 3, -1, -1)).mul(255).round()
    scale = max(1, round(tile / max(height, width)))
    pixels = values.byte().repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    columns = max(1, min(columns, count))
    rows = math.ceil(count / columns)
    tiles = F.pad(pixels, (0, gap, 0, gap, 0, 0, 0, rows * columns - count), value=255)
    tiles = tiles.unflatten(0, (rows, columns)).permute(2, 0, 3, 1, 4)
    return F.pad(tiles.flatten(3, 4).flatten(1, 2), (gap, 0, gap, 0), value=255)


def filters(weight: Tensor, columns: int = 8, max_filters: int = 64) -> Tensor:
    """Return a grid of the first filters, each scaled by its largest absolute value: gray is 0, brighter is positive.

    Args:
        weight: (out, in, height, width), in color if there are 3 input channels, otherwise the channel mean.
    """
    weight = weight[:max_filters].detach().float().cpu()
    weight = weight if weight.shape[1] == 3 else weight.mean(1, keepdim=True)
    bound = weight.abs().amax((1, 2, 3), keepdim=True).clamp(min=1e-12)
    return images(0.5 + 0.5 * weight / bound, columns, gap=3 * GAP)


def first_filters(model: nn.Module) -> Tensor | None:
    """Return the `filters` of a model's first 2-D convolution with a kernel larger than 1 x 1, or None."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and max(module.kernel_size) > 1:
            return filters(module.weight)
    return None
