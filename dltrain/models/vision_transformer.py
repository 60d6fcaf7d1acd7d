"""Vision Transformer of torchvision."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.vision_transformer import VisionTransformer

from dltrain.errors import ConfigError, choose, format_error
from dltrain.models.adopted import AdoptedNetwork
from dltrain.models.layers import check_sizes

POSITIONS = "encoder.pos_embedding"
MAX_PATCH, MIN_PATCHES = 16, 7  # of the default patches: maximum side in pixels, minimum number along a side


class Variant(NamedTuple):
    """Width of the hidden state and number of attention heads; each head has 64 features."""

    hidden_size: int
    num_heads: int


VARIANTS = {"tiny": Variant(192, 3), "small": Variant(384, 6), "base": Variant(768, 12)}


class ViT(AdoptedNetwork):
    """Vision Transformer: a Transformer encoder over square patches of an image and a class token.

    Weights have the names of torchvision, so that its state dicts fit. Position embeddings for images of another size
    are interpolated when they are loaded as initial weights.

    Args:
        channels, outputs, num_layers: At least 1.
        height, width: Size of the images in pixels.
        variant: ``tiny``, ``small`` or ``base``: 192, 384 or 768 features with 3, 6 or 12 attention heads.
        patch_size: Side of the patches in pixels, which divides height and width; None for the largest such size up to
            16 with at least 7 patches along the shorter side, 1 if there is none.
        ffn_ratio: Width of the feed-forward layers, as a multiple of the features, at least 1.
        dropout: Dropout probability of the inputs and residual branches, in [0, 1).

    Shape: (B, channels, height, width) -> (B, outputs).
    Source: Dosovitskiy et al. 2021, "An image is worth 16x16 words", section 3.1, for ``base``; Touvron et al. 2021,
    "Training data-efficient image transformers", table 1, for ``tiny`` and ``small``.
    Differs: images need not be square.
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
        check_sizes(dropout, channels=channels, height=height, width=width, outputs=outputs, patch_size=patch_size)
        check_sizes(num_layers=num_layers, ffn_ratio=ffn_ratio)
        features, heads = choose("model.variant", variant, VARIANTS)
        patch = patch_size or _default_patch_size(height, width)
        if height % patch or width % patch:
            expected = f"a divisor of {height} and {width}, the height and width of the images in pixels"
            raise ConfigError(format_error("model.patch_size", expected, patch))
        self.grid = height // patch, width // patch
        network = VisionTransformer(patch, patch, num_layers, heads, features, ffn_ratio * features, dropout)
        network.conv_proj = nn.Conv2d(channels, features, patch, patch)
        nn.init.trunc_normal_(network.conv_proj.weight, std=(channels * patch**2) ** -0.5)
        nn.init.zeros_(network.conv_proj.bias)
        positions = torch.empty(1, 1 + math.prod(self.grid), features)
        network.encoder.pos_embedding = nn.Parameter(nn.init.normal_(positions, std=0.02))
        network.heads.head = nn.Linear(features, outputs)
        nn.init.trunc_normal_(network.heads.head.weight, std=0.02)  # torchvision starts with zeros, for fine-tuning
        nn.init.zeros_(network.heads.head.bias)
        self.adopt(network)

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs of each image."""
        network: Any = self._network[0]
        patches = network.conv_proj(x).flatten(2).transpose(1, 2)
        states = network.encoder(torch.cat([network.class_token.expand(len(x), -1, -1), patches], 1))
        outputs: Tensor = network.heads(states[:, 0])
        return outputs

    def adapt_weights(self, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return weights with position embeddings interpolated from a square grid of patches to that of this model."""
        there, here = weights.get(POSITIONS), self.get_parameter(POSITIONS)
        if there is None or there.dim() != 3 or there.shape == here.shape or there.shape[::2] != here.shape[::2]:
            return weights
        side = math.isqrt(there.shape[1] - 1)
        if side**2 != there.shape[1] - 1:
            return weights
        token, grid = there.float().split([1, side**2], 1)
        grid = grid.transpose(1, 2).unflatten(2, (side, side))
        grid = F.interpolate(grid, self.grid, mode="bicubic", align_corners=True)  # as torchvision does
        return {**weights, POSITIONS: torch.cat([token, grid.flatten(2).transpose(1, 2)], 1)}


def _default_patch_size(height: int, width: int) -> int:
    sizes = range(min(MAX_PATCH, min(height, width) // MIN_PATCHES), 0, -1)
    return next((size for size in sizes if height % size == width % size == 0), 1)
