"""Heat maps of a model's attention, drawn over images."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dltrain.plots.charts import captioned
from dltrain.plots.heat import overlay


def attention_heat(model: nn.Module, images: Tensor) -> Tensor:
    """Return how much a model attends to each pixel, (B, height, width).

    The weights of an image's patches are scaled to range from 0 to 1, then enlarged by bilinear interpolation.

    Args:
        model: A model with a method ``attention_map(images)``, which returns a weight for each patch,
            (B, rows, columns).
        images: (B, channels, height, width).
    """
    weights: Tensor = model.attention_map(images).float()  # type: ignore[operator]
    low, high = weights.amin((1, 2), keepdim=True), weights.amax((1, 2), keepdim=True)
    weights = (weights - low) / (high - low).clamp(min=torch.finfo(weights.dtype).tiny)
    return F.interpolate(weights[:, None], images.shape[2:], mode="bilinear", align_corners=False)[:, 0]


def draw_attention(model: nn.Module, images: Tensor, captions: Sequence[str]) -> Tensor:
    """Draw images, followed by the same images colored by the attention of a model; uint8 (3, H, W).

    Args:
        images: Floats (N, channels, height, width); each image is scaled so that it ranges from black to white. The
            plot has three columns, so with three images the colored images form the second row.
        captions: One per colored image.
    """
    heat = attention_heat(model, images)
    low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
    unit = (images - low) / (high - low).clamp(min=torch.finfo(images.dtype).tiny)
    rows = torch.cat([overlay(unit, torch.zeros_like(heat)), overlay(unit, heat)])
    return captioned(rows, [*[""] * len(images), *captions])
