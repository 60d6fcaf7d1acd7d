"""Backbones of detectors: residual networks with a feature pyramid, and MobileNetV3."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import mobilenet_v3_large
from torchvision.models import resnet as residual
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.ops import FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from dltrain.errors import ConfigError, choose, format_error
from dltrain.models.layers import check_sizes
from dltrain.models.layers import norm as make_norm

# Stride of the second of four stages. Its feature map is the finest one used by RetinaNet and by FCOS with fine=False.
STRIDES = {"resnet18": 8, "resnet34": 8, "resnet50": 8, "resnet101": 8, "resnet152": 8, "narrow": 4, "narrow8": 8}
NARROW_WIDTHS = (16, 32, 64, 128)
WIDTH_UNIT = 32  # divides `fpn_width`, because torchvision's FCOS head has group norms with 32 groups


class Narrow(nn.Module):
    """Residual network with four stages of 16 to 128 channels and one block each.

    Args:
        stride: Stride of the second stage, 4 or 8; each stage has twice the stride of the previous one.
        norm_layer: Function that makes the normalization layer for a number of channels.

    Shape: (B, channels, height, width) -> (B, 128, height / (4 * stride), width / (4 * stride)).
    """

    def __init__(self, channels: int, stride: int, norm_layer: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, NARROW_WIDTHS[0], 3, 2, 1, bias=False)
        self.bn1 = norm_layer(NARROW_WIDTHS[0])
        self.relu = nn.ReLU()
        before = NARROW_WIDTHS[0]
        for number, width in enumerate(NARROW_WIDTHS, 1):
            self.add_module(f"layer{number}", NarrowBlock(before, width, stride // 4 if number == 1 else 2, norm_layer))
            before = width
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Return the last feature map."""
        for module in self.children():
            x = module(x)
        return x


class NarrowBlock(nn.Module):
    """Two 3x3 convolutions whose output is added to the input; the first convolution has the given stride."""

    def __init__(self, inputs: int, outputs: int, stride: int, norm_layer: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = norm_layer(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = norm_layer(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if inputs != outputs or stride != 1:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), norm_layer(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, outputs, H / stride, W / stride)."""
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(self.shortcut(x) + y)


def norm_maker(name: str) -> Callable[[int], nn.Module]:
    """Return a function that makes the normalization layer called `name` for a number of channels.

    Args:
        name: ``batch``, ``frozen`` (batch norm whose statistics and weights never change, for pretrained weights),
            ``group`` or ``layer``.

    Raises:
        ConfigError: `name` is unknown.
    """
    if name == "frozen":
        return FrozenBatchNorm2d
    choose("model.norm", name, {known: known for known in ("batch", "frozen", "group", "layer")})
    return lambda channels: make_norm(name, channels, dims=2)


def make_pyramid(backbone: str, channels: int, norm: str, width: int, first: int, extra: bool) -> BackboneWithFPN:
    """Return a backbone with a feature pyramid; each level of the pyramid has `width` channels.

    Args:
        backbone: A key of `STRIDES`.
        first: First stage that the pyramid reads, counted from 1.
        extra: Whether to add two convolutions with stride 2 on top (RetinaNet, FCOS) instead of a pooling layer.
    """
    choose("model.backbone", backbone, STRIDES)
    check_sizes(channels=channels)
    if width < WIDTH_UNIT or width % WIDTH_UNIT:
        raise ConfigError(format_error("model.fpn_width", f"a multiple of {WIDTH_UNIT}", width))
    make = norm_maker(norm)
    if backbone in ("narrow", "narrow8"):
        network: Any = Narrow(channels, STRIDES[backbone], make)
        widths = list(NARROW_WIDTHS)
    else:
        network = getattr(residual, backbone)(weights=None, norm_layer=make)
        replace_first_convolution(network, "conv1", channels)
        widths = [network.inplanes // 8 * 2**number for number in range(4)]
    names = {f"layer{number}": str(number - first) for number in range(first, 5)}
    top = LastLevelP6P7(width, width) if extra else None
    return BackboneWithFPN(network, names, widths[first - 1 :], width, top)


def replace_first_convolution(network: nn.Module, name: str, channels: int) -> None:
    """Replace the convolution `name` with one for `channels` channels, initialized as in torchvision's ResNets."""
    old: Any = network.get_submodule(name)
    if old.in_channels == channels:
        return
    new = nn.Conv2d(channels, old.out_channels, old.kernel_size, old.stride, old.padding, bias=False)
    nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    network.set_submodule(name, new)


def make_mobilenet(norm: Callable[[int], nn.Module], width_mult: float) -> nn.Module:
    """Return MobileNetV3-Large with random weights and half the usual channels in the last stage."""
    return mobilenet_v3_large(weights=None, norm_layer=norm, reduced_tail=True, width_mult=width_mult)
