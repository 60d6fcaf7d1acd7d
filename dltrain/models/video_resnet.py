"""Torchvision's residual networks for clips, with convolutions over space and time, for any number of channels."""

from torch import nn
from torchvision.models.video import resnet

from dltrain.models.layers import check_sizes

BLOCKS = [2, 2, 2, 2]  # number of blocks in each of the four stages


class VideoResNet(resnet.VideoResNet):
    """Residual network of 18 layers with convolutions over space and time.

    Weights have the names of torchvision's ``r3d_18`` and ``r2plus1d_18``, whose Kinetics-400 weights can be loaded.

    Args:
        channels, outputs: At least 1.
        factorized: Whether each 3-D convolution, except on shortcuts, is split into a convolution over space followed
            by one over time (R(2+1)D).

    Shape: (B, channels, frames, height, width) -> (B, outputs), for clips of any size.
    Source: Tran et al. 2018, "A closer look at spatiotemporal convolutions for action recognition", section 3.
    """

    def __init__(self, channels: int, outputs: int, factorized: bool) -> None:
        check_sizes(channels=channels, outputs=outputs)
        convolution = resnet.Conv2Plus1D if factorized else resnet.Conv3DSimple
        stem = resnet.R2Plus1dStem if factorized else resnet.BasicStem
        super().__init__(resnet.BasicBlock, [convolution] * 4, BLOCKS, stem, num_classes=outputs)
        first = self.stem[0]
        size = (first.kernel_size, first.stride, first.padding)
        self.stem[0] = nn.Conv3d(channels, first.out_channels, *size, bias=False)
        nn.init.kaiming_normal_(self.stem[0].weight, mode="fan_out", nonlinearity="relu")
