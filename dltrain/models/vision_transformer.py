"""Vision Transformer of torchvision."""

import math
from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor, nn
from torchvision.models.vision_transformer import VisionTransformer, interpolate_embeddings

from dltrain.errors import ConfigError, choose, format_error
from dltrain.models.adopted import AdoptedNetwork
from dltrain.models.layers import check_sizes

POSITIONS = "encoder.pos_embedding"
LARGEST_PATCH, FEWEST_PATCHES = 16, 7  # side of the default patches in pixels, and number of patches along a side


class Variant(NamedTuple):
    """Width of the hidden state and number of attention heads; each head has 64 features."""

    hidden_size: int
    num_heads: int


VARIANTS = {"tiny": Variant(192, 3), "small": Variant(384, 6), "base": Variant(768, 12)}


class ViT(AdoptedNetwork):
    """Vision Transformer: a Transformer encoder over square patches of an image and a class token.

    Weights have the names of torchvision, so that its state dicts fit. When the position embeddings of images of another
    size are loaded as initial weights, they are interpolated.

    Args:
        channels, outputs, num_layers: At least 1.
        height, width: Size of the images in pixels; images are square, and ``patch_size`` divides their side.
        variant: ``tiny``, ``small`` or ``base``: 192, 384 or 768 features with 3, 6 or 12 attention heads.
        patch_size: Side of the patches in pixels; None for the largest divisor of the side up to 16 that leaves at
            least 7 patches along it, 1 if there is none.
        ffn_ratio: Width of the feed-forward layers, as a multiple of the features, at least 1.
        dropout: Dropout probability of the inputs and branches, in [0, 1).

    Shape: (B, channels, height, width) -> (B, outputs).
    Source: Dosovitskiy et al. 2021, "An image is worth 16x16 words", section 3.1, for ``base``; Touvron et al. 2021,
    "Training data-efficient image transformers", table 1, for ``tiny`` and ``small``.
    """

    def __init__(
        self,
        channels: int,
        height: int,
        width: int,
        outputs: int,
        variant: str = "tiny",
        patch_size: int | None = None,
        num_layers: int = 12,
        ffn_ratio: int = 4,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_sizes(dropout, channels=channels, outputs=outputs, num_layers=num_layers, ffn_ratio=ffn_ratio)
        check_sizes(patch_size=patch_size)
        hidden_size, num_heads = choose("model.variant", variant, VARIANTS)
        if height != width:
            raise ConfigError(format_error("data", "square images for a Vision Transformer", f"{height}x{width}"))
        patch_size = patch_size or _default_patch_size(height)
        if height % patch_size:
            expected = f"a divisor of {height}, the side of the images in pixels"
            raise ConfigError(format_error("model.patch_size", expected, patch_size))
        self.side, self.patch_size = height, patch_size
        network = VisionTransformer(
            height,
            patch_size,
            num_layers,
            num_heads,
            hidden_size,
            ffn_ratio * hidden_size,
            dropout,
            num_classes=outputs,
        )
        if channels != 3:
            network.conv_proj = nn.Conv2d(channels, hidden_size, patch_size, patch_size)
            nn.init.trunc_normal_(network.conv_proj.weight, std=(channels * patch_size**2) ** -0.5)
            nn.init.zeros_(network.conv_proj.bias)
        nn.init.trunc_normal_(network.heads.head.weight, std=0.02)  # torchvision starts with zeros, for fine-tuning
        self.adopt(network)

    def adapt_weights(self, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return weights whose position embeddings are interpolated to the number of patches of this model."""
        there, here = weights.get(POSITIONS), self.get_parameter(POSITIONS)
        if there is None or there.dim() != 3 or there.shape[::2] != here.shape[::2]:
            return weights
        patches = there.shape[1] - 1  # without the class token
        if there.shape == here.shape or math.isqrt(patches) ** 2 != patches:
            return weights
        return {**weights, **interpolate_embeddings(self.side, self.patch_size, {POSITIONS: there.float()})}


def _default_patch_size(side: int) -> int:
    sizes = range(min(LARGEST_PATCH, side // FEWEST_PATCHES), 0, -1)
    return next((size for size in sizes if side % size == 0), 1)
