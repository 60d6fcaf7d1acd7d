"""Residual networks of torchvision for large images, with any number of channels and a stem for small images."""

from torch import nn
from torchvision.models import resnet

from dltrain.errors import ConfigError, choose, format_error
from dltrain.models.layers import check_sizes

# Layers with weights -> class of the blocks, and number of blocks in each of the four stages; He et al. 2016, table 1.
LAYERS: dict[int, tuple[type[resnet.BasicBlock | resnet.Bottleneck], list[int]]] = {
    18: (resnet.BasicBlock, [2, 2, 2, 2]),
    34: (resnet.BasicBlock, [3, 4, 6, 3]),
    50: (resnet.Bottleneck, [3, 4, 6, 3]),
    101: (resnet.Bottleneck, [3, 4, 23, 3]),
    152: (resnet.Bottleneck, [3, 8, 36, 3]),
}
STEMS = {"imagenet": True, "small": False}


class ResNet(resnet.ResNet):
    """Residual network with four stages of 64 to 512 channels, or 256 to 2,048 with bottlenecks.

    Weights have the same names as in torchvision's ``resnet18`` to ``resnet152``, so pretrained weights can be loaded.

    Args:
        channels, outputs: At least 1.
        num_layers: Layers with weights: 18, 34, 50, 101 or 152.
        stem: ``imagenet`` for a 7x7 convolution with stride 2 and max pooling, which divide the image size by 4;
            ``small`` for a 3x3 convolution that keeps the size, for images below about 64 pixels.

    Shape: (B, channels, height, width) -> (B, outputs), for images of any size.
    Source: He, Zhang, Ren and Sun 2016, "Deep residual learning for image recognition", section 3; projection shortcuts
    (option B).
    Differs: as in torchvision, bottlenecks have the stride in the 3x3 convolution.
    """

    def __init__(self, channels: int, outputs: int, num_layers: int, stem: str = "imagenet") -> None:
        check_sizes(channels=channels, outputs=outputs)
        if num_layers not in LAYERS:
            raise ConfigError(format_error("model.num_layers", "18, 34, 50, 101 or 152", num_layers))
        block, counts = LAYERS[num_layers]
        super().__init__(block, counts, num_classes=outputs)
        if choose("model.stem", stem, STEMS):
            size, stride = 7, 2
        else:
            size, stride, self.maxpool = 3, 1, nn.Identity()
        self.conv1 = nn.Conv2d(channels, 64, size, stride, size // 2, bias=False)
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
