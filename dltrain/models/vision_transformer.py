"""Vision Transformer of torchvision."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.vision_transformer import VisionTransformer

from dltrain.errors import ConfigError, choose, format_error
from dltrain.models.adopted import AdoptedNetwork
from dltrain.models.attention_rollout import attention_rollout
from dltrain.models.layers import check_sizes

POSITIONS = "encoder.pos_embedding"
MAX_PATCH, MIN_PATCHES = 16, 7  # default patches: maximum side in pixels, minimum number along the shorter side


VARIANTS = {"tiny": 192, "small": 384, "base": 768}  # number of features
HEAD_SIZE = 64  # features of an attention head
POOLS = {"class_token": 1, "mean": 0}  # kind of pooling -> number of tokens before the patches


class ViT(AdoptedNetwork):
    """Vision Transformer: a Transformer encoder over square patches of an image.

    Weights have the names of torchvision, so that its state dicts can be loaded. If initial weights have another
    number of positions, their position embeddings are interpolated.

    Args:
        channels, outputs, num_layers: At least 1.
        height, width: Size of the images in pixels.
        variant: ``tiny``, ``small`` or ``base``: 192, 384 or 768 features with 3, 6 or 12 attention heads.
        patch_size: Side of the patches in pixels, a divisor of height and width. None for the largest divisor up to 16
            that gives at least 7 patches along the shorter side, or 1 if there is none.
        ffn_ratio: Width of the feed-forward layers, as a multiple of the number of features, at least 1.
        dropout: Dropout probability of the inputs, hidden feed-forward layers and residual branches, in [0, 1).
        hidden_size: Number of features, at least 1; None for the variant's number.
        num_heads: Number of attention heads, a divisor of the number of features; None for one per 64 features.
        pool: ``class_token`` to classify the state of an additional token, or ``mean`` for the mean over the patches.

    Shape: (B, channels, height, width) -> (B, outputs).
    Source: Dosovitskiy et al. 2021, "An image is worth 16x16 words", section 3.1, for ``base``; Touvron et al. 2021,
    "Training data-efficient image transformers", table 1, for ``tiny`` and ``small``; Beyer, Zhai and Kolesnikov 2022,
    "Better plain ViT baselines for ImageNet-1k", for ``mean``.
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
        hidden_size: int | None = None,
        num_heads: int | None = None,
        pool: str = "class_token",
    ) -> None:
        super().__init__()
        check_sizes(dropout, channels=channels, height=height, width=width, outputs=outputs, patch_size=patch_size)
        check_sizes(num_layers=num_layers, ffn_ratio=ffn_ratio, hidden_size=hidden_size, num_heads=num_heads)
        features = hidden_size or choose("model.variant", variant, VARIANTS)
        heads = num_heads or max(1, features // HEAD_SIZE)
        if features % heads:
            raise ConfigError(
                format_error("model.num_heads", f"a divisor of {features}, the number of features", heads)
            )
        patch = patch_size or _default_patch_size(height, width)
        if height % patch or width % patch:
            expected = f"a divisor of {height} and {width}, the height and width of the images in pixels"
            raise ConfigError(format_error("model.patch_size", expected, patch))
        self.grid = height // patch, width // patch
        self.tokens = choose("model.pool", pool, POOLS)
        network = VisionTransformer(patch, patch, num_layers, heads, features, ffn_ratio * features, dropout)
        self._fit(network, channels, outputs)
        self.adopt(network)

    def _fit(self, network: VisionTransformer, channels: int, outputs: int) -> None:
        """Replace the layers whose shapes depend on the images, the pooling or the number of outputs."""
        features, patch = network.hidden_dim, network.patch_size
        network.conv_proj = nn.Conv2d(channels, features, patch, patch)
        nn.init.trunc_normal_(network.conv_proj.weight, std=(channels * patch**2) ** -0.5)
        nn.init.zeros_(network.conv_proj.bias)
        positions = torch.empty(1, self.tokens + math.prod(self.grid), features)
        network.encoder.pos_embedding = nn.Parameter(nn.init.normal_(positions, std=0.02))
        network.heads.head = nn.Linear(features, outputs)
        nn.init.trunc_normal_(network.heads.head.weight, std=0.02)  # torchvision starts with zeros, for fine-tuning
        nn.init.zeros_(network.heads.head.bias)
        if not self.tokens:
            del network.class_token

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs of each image."""
        network: Any = self._network[0]
        states = network.conv_proj(x).flatten(2).transpose(1, 2)
        if self.tokens:
            states = torch.cat([network.class_token.expand(len(x), -1, -1), states], 1)
        states = network.encoder(states)
        outputs: Tensor = network.heads(states[:, 0] if self.tokens else states.mean(1))
        return outputs

    def attention_map(self, x: Tensor) -> Tensor:
        """Return how much the outputs depend on each patch, (B, rows, columns), by attention rollout.

        The map of an image sums to 1, or to less with a class token, whose own value is left out.
        """
        rollout = attention_rollout(self, lambda: self.forward(x))
        of_outputs = rollout[:, 0] if self.tokens else rollout.mean(1)
        return of_outputs[:, self.tokens :].unflatten(1, self.grid)

    def adapt_weights(self, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return weights with position embeddings interpolated from a square grid of patches to the grid of this model.

        The position embedding of a class token is dropped if this model has no class token.
        """
        there, here = weights.get(POSITIONS), self.get_parameter(POSITIONS)
        if there is None or there.dim() != 3 or there.shape == here.shape or there.shape[::2] != here.shape[::2]:
            return weights
        tokens = int(math.isqrt(there.shape[1]) ** 2 != there.shape[1])
        side = math.isqrt(there.shape[1] - tokens)
        if tokens + side**2 != there.shape[1] or tokens < self.tokens:
            return weights
        token, grid = there.float().split([tokens, side**2], 1)
        grid = grid.transpose(1, 2).unflatten(2, (side, side))
        grid = F.interpolate(grid, self.grid, mode="bicubic", align_corners=True)  # as torchvision does
        return {**weights, POSITIONS: torch.cat([token[:, : self.tokens], grid.flatten(2).transpose(1, 2)], 1)}


def _default_patch_size(height: int, width: int) -> int:
    sizes = range(min(MAX_PATCH, min(height, width) // MIN_PATCHES), 0, -1)
    return next((size for size in sizes if height % size == width % size == 0), 1)
