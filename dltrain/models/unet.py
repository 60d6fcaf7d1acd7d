"""U-Net: outputs for each pixel of an image."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dltrain.errors import ConfigError, format_error
from dltrain.models.layers import activation as make_activation
from dltrain.models.layers import check_sizes
from dltrain.models.layers import norm as make_norm


class UNet(nn.Module):
    """U-Net: a contracting and an expanding path of convolutions with a skip connection at each resolution.

    Args:
        channels: Channels of the image.
        pixel_outputs: Outputs per pixel.
        hidden_size: Channels at each resolution, highest resolution first; each resolution is half of the one before.
        activation: Name of the activation function.
        norm: Normalization after each convolution: ``batch``, ``layer``, ``group`` or ``none``.
        dropout: Dropout probability at the lowest resolution.

    Shape: (B, channels, height, width) of any size -> (B, pixel_outputs, height, width).
    Source: Ronneberger, Fischer, Brox 2015, "U-Net: Convolutional networks for biomedical image segmentation".
    Differs: convolutions are normalized, and padded so that the output has the size of the image.
    """

    def __init__(
        self,
        channels: int,
        pixel_outputs: int,
        hidden_size: list[int],
        activation: str = "relu",
        norm: str = "batch",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if not hidden_size:
            raise ConfigError(format_error("model.hidden_size", "a list of at least one number", hidden_size))
        check_sizes(dropout, channels=channels, pixel_outputs=pixel_outputs, hidden_size=min(hidden_size))
        above = [channels, *hidden_size[:-1]]
        self.down = nn.ModuleList(_double(*pair, activation, norm) for pair in zip(above, hidden_size, strict=True))
        self.drop = nn.Dropout(dropout)
        rising = list(zip(hidden_size[:0:-1], hidden_size[-2::-1], strict=True))
        self.enlarge = nn.ModuleList(nn.ConvTranspose2d(low, high, 2, stride=2) for low, high in rising)
        self.up = nn.ModuleList(_double(2 * high, high, activation, norm) for _, high in rising)
        self.output = nn.Conv2d(hidden_size[0], pixel_outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs of each pixel."""
        height, width = x.shape[2:]
        factor = 2 ** len(self.up)
        x = F.pad(x, (0, -width % factor, 0, -height % factor))
        skips: list[Tensor] = []
        for block in self.down:
            x = block(F.max_pool2d(skips[-1], 2) if skips else x)
            skips.append(x)
        x = self.drop(skips.pop())
        for enlarge, block in zip(self.enlarge, self.up, strict=True):
            x = block(torch.cat([skips.pop(), enlarge(x)], 1))
        return self.output(x)[:, :, :height, :width]


def _double(inputs: int, outputs: int, activation: str, norm: str) -> nn.Sequential:
    """Return two 3x3 convolutions, each followed by normalization and activation."""
    layers: list[nn.Module] = []
    for size in (inputs, outputs):
        layers += [nn.Conv2d(size, outputs, 3, padding=1, bias=norm == "none"), make_norm(norm, outputs, dims=2)]
        layers.append(make_activation(activation))
    return nn.Sequential(*layers)
