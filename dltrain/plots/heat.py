"""Images overlaid with heat maps."""

import torch
from torch import Tensor

OPACITY = 0.7  # of the color where the heat is 1
MIN_SIDE = 224  # smaller images are enlarged until their longer side has at least this many pixels


def overlay(images: Tensor, heat: Tensor) -> Tensor:
    """Return images overlaid with colors from red (little heat) to yellow (much heat), transparent where heat is 0.

    Args:
        images: (B, channels, height, width) in [0, 1]; unless there are 3 channels, their mean is shown in gray.
        heat: (B, height, width) in [0, 1].

    Returns:
        uint8 (B, 3, height, width); small images are enlarged by an integer factor.
    """
    images, heat = images.float().cpu().clamp(0, 1), heat.float().cpu()[:, None]
    images = images if images.shape[1] == 3 else images.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    color = torch.cat([torch.ones_like(heat), heat, torch.zeros_like(heat)], 1)
    overlaid = images.lerp(color, OPACITY * heat).mul(255).round().byte()
    scale = -(-MIN_SIDE // max(overlaid.shape[2:]))
    return overlaid.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
