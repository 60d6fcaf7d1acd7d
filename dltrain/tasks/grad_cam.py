"""Grad-CAM: the parts of an image that support a class."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dltrain.errors import ConfigError

AXES = 4  # number of dimensions of feature maps (B, channels, height, width)


def grad_cam(model: nn.Module, inputs: Tensor, score: Callable[[Tensor], Tensor]) -> Tensor:
    """Return how much each pixel supports the most likely class of its image.

    The feature maps A are the output of the last layer that returns maps of more than one pixel; layers that pool to a
    fixed size are ignored. The result is ``relu(sum over k of w_k * A_k)``, enlarged by bilinear interpolation; the
    weight ``w_k`` is the mean of ``d score / d A_k`` over the pixels of the map.

    Args:
        inputs: Images (B, channels, height, width).
        score: Function that returns the scores of images, (B, classes), before the softmax.

    Returns:
        Values (B, height, width) from 0 to 1; the maximum of each image is 1, or 0 if nothing supports the class.

    Source: Selvaraju et al. 2017, "Grad-CAM: Visual explanations from deep networks via gradient-based localization",
    equations 1 and 2.
    """
    if inputs.dim() != AXES:
        raise ConfigError("--explain: not supported because the inputs of this model are not images")
    with torch.inference_mode(False), torch.enable_grad():
        images = inputs.detach().clone().requires_grad_()  # tensors of inference mode have no gradients
        maps, scores = _last_maps(model, lambda: score(images))
        best = scores.max(1).values.sum()  # the gradient of a score depends on its own image only
        (gradient,) = torch.autograd.grad(best, maps)
    with torch.no_grad():
        weights = gradient.float().mean((2, 3), keepdim=True)
        heat = (weights * maps.detach().float()).sum(1, keepdim=True).relu()
        heat = F.interpolate(heat, images.shape[2:], mode="bilinear", align_corners=False)[:, 0]
        return heat / heat.amax((1, 2), keepdim=True).clamp(min=torch.finfo(heat.dtype).tiny)


def _last_maps(model: nn.Module, score: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
    """Return the last feature maps of more than one pixel, and the scores."""
    found: list[Tensor] = []

    def keep(module: nn.Module, arguments: Any, output: Any) -> None:
        pooled = isinstance(module, nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d)
        if isinstance(output, Tensor) and output.dim() == AXES and output.shape[2:].numel() > 1 and not pooled:
            found[:] = [output]

    hooks = [module.register_forward_hook(keep) for module in model.modules()]
    try:
        scores = score()
    finally:
        for hook in hooks:
            hook.remove()
    if not found:
        reason = "this model has no feature maps of more than one pixel, such as the outputs of convolutions"
        raise ConfigError(f"--explain: not supported because {reason}")
    return found[0], scores
