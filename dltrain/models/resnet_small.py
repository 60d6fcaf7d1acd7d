"""Residual networks for small images such as those of CIFAR-10."""

from torch import Tensor, nn
from torch.nn import functional as F

from dltrain.errors import ConfigError, format_error
from dltrain.models.layers import check_sizes

WIDTHS = (16, 32, 64)  # channels of the three stages


class Block(nn.Module):
    """Two 3x3 convolutions with batch norm, whose output is added to the input.

    If the number of channels changes, the shortcut takes every other pixel and fills the new channels with zeros
    (option A).
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.stride, self.new = (1, 0) if inputs == outputs else (2, outputs - inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, self.stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output of the block, at half the size of the input if the number of channels changes."""
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        if self.new:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.new // 2, self.new - self.new // 2))
        return F.relu(x + y)


class SmallResNet(nn.Module):
    """Residual network with three stages of 16, 32 and 64 channels, without weights in the shortcuts.

    Args:
        channels, outputs: At least 1.
        num_layers: Layers with weights: 6 n + 2 for n blocks in each stage, such as 20, 32, 44, 56 and 110.

    Shape: (B, channels, height, width) -> (B, outputs), for images of any size.
    Source: He, Zhang, Ren and Sun 2016, "Deep residual learning for image recognition", section 4.2; initialization: He
    et al. 2015, "Delving deep into rectifiers".
    """

    def __init__(self, channels: int, outputs: int, num_layers: int) -> None:
        super().__init__()
        check_sizes(channels=channels, outputs=outputs)
        blocks, rest = divmod(num_layers - 2, 6)
        if rest or blocks < 1:
            expected = "6 n + 2 layers for n blocks in each stage, such as 20"
            raise ConfigError(format_error("model.num_layers", expected, num_layers))
        self.conv = nn.Conv2d(channels, WIDTHS[0], 3, 1, 1, bias=False)
        self.norm = nn.BatchNorm2d(WIDTHS[0])
        before = (WIDTHS[0], *WIDTHS[:-1])
        self.stages = nn.Sequential(
            *(
                nn.Sequential(*(Block(width if number else first, width) for number in range(blocks)))
                for first, width in zip(before, WIDTHS, strict=True)
            )
        )
        self.head = nn.Linear(WIDTHS[-1], outputs)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs of each image."""
        return self.head(self.stages(F.relu(self.norm(self.conv(x)))).mean((2, 3)))
