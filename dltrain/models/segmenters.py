"""Segmentation networks of torchvision, with any number of channels."""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import segmentation

from dltrain.errors import ConfigError, choose, format_error
from dltrain.models.layers import check_sizes

FCN_BACKBONES = {"resnet50": segmentation.fcn_resnet50, "resnet101": segmentation.fcn_resnet101}
DEEPLAB_BACKBONES = {
    "resnet50": segmentation.deeplabv3_resnet50,
    "resnet101": segmentation.deeplabv3_resnet101,
    "mobilenet_v3_large": segmentation.deeplabv3_mobilenet_v3_large,
}
Outputs = Tensor | tuple[Tensor, dict[str, tuple[float, Tensor]]]


class _Segmenter(nn.Module):
    """Segmentation network: a backbone, a classifier and, for training, an auxiliary classifier on earlier features.

    Args:
        network: Network of torchvision whose layers are used, so that torchvision's state dicts can be loaded.
        channels: Channels of the image.
        aux_weight: Weight of the auxiliary classifier's loss.
    """

    def __init__(self, network: Any, channels: int, aux_weight: float) -> None:
        super().__init__()
        self.backbone, self.classifier = network.backbone, network.classifier
        self.aux_classifier, self.aux_weight = network.aux_classifier, aux_weight
        if channels != 3:
            _replace_first_convolution(self.backbone, channels)

    def forward(self, x: Tensor) -> Outputs:
        """Return the outputs of each pixel; in training, also the weight and outputs of an auxiliary classifier."""
        features = self.backbone(x)
        outputs = _resize(self.classifier(features["out"]), x)
        if self.aux_classifier is None or not self.training:
            return outputs
        return outputs, {"aux": (self.aux_weight, _resize(self.aux_classifier(features["aux"]), x))}


class FCN(_Segmenter):
    """Fully convolutional network: two convolutions on the features of a dilated ResNet with a stride of 8.

    Weights have the names of torchvision's ``fcn_resnet50`` and ``fcn_resnet101``.

    Args:
        channels: Channels of the image.
        pixel_outputs: Outputs per pixel.
        backbone: ``resnet50`` or ``resnet101``.
        aux_weight: Weight of the loss of an auxiliary classifier of the third stage; 0 for none.

    Shape: (B, channels, height, width) -> (B, pixel_outputs, height, width), for images of any size.
    Source: Long, Shelhamer, Darrell 2015, "Fully convolutional networks for semantic segmentation"; auxiliary
    classifier: Zhao et al. 2017, "Pyramid scene parsing network", section 3.3.
    Differs: as in torchvision, the backbone is dilated, and there are no skip connections from earlier stages.
    """

    def __init__(self, channels: int, pixel_outputs: int, backbone: str = "resnet50", aux_weight: float = 0.5) -> None:
        builder = choose("model.backbone", backbone, FCN_BACKBONES)
        super().__init__(_build(builder, channels, pixel_outputs, aux_weight), channels, aux_weight)


class DeepLabV3(_Segmenter):
    """DeepLab v3: dilated convolutions at several rates, and global average pooling, on the features of a backbone.

    Weights have the names of torchvision's ``deeplabv3_resnet50``, ``deeplabv3_resnet101`` and
    ``deeplabv3_mobilenet_v3_large``. The batch norm after global pooling needs at least two images per training batch.

    Args:
        channels: Channels of the image.
        pixel_outputs: Outputs per pixel.
        backbone: ``resnet50``, ``resnet101`` or ``mobilenet_v3_large``.
        aux_weight: Weight of the loss of an auxiliary classifier of earlier features; 0 for none.

    Shape: (B, channels, height, width) -> (B, pixel_outputs, height, width), for images of any size.
    Source: Chen, Papandreou, Schroff, Adam 2017, "Rethinking atrous convolution for semantic image segmentation".
    """

    def __init__(self, channels: int, pixel_outputs: int, backbone: str = "resnet50", aux_weight: float = 0.5) -> None:
        builder = choose("model.backbone", backbone, DEEPLAB_BACKBONES)
        super().__init__(_build(builder, channels, pixel_outputs, aux_weight), channels, aux_weight)


def _build(builder: Any, channels: int, pixel_outputs: int, aux_weight: float) -> Any:
    """Return a network of torchvision with random weights."""
    check_sizes(channels=channels, pixel_outputs=pixel_outputs)
    if aux_weight < 0:
        raise ConfigError(format_error("model.aux_weight", "a number of at least 0", aux_weight))
    return builder(weights=None, weights_backbone=None, num_classes=pixel_outputs, aux_loss=aux_weight > 0)


def _replace_first_convolution(backbone: nn.Module, channels: int) -> None:
    """Replace the first convolution of a backbone with one that has `channels` input channels."""
    name, first = next((n, m) for n, m in backbone.named_modules() if isinstance(m, nn.Conv2d))
    parent, _, last = name.rpartition(".")
    size, stride, padding = first.kernel_size, first.stride, first.padding
    new = nn.Conv2d(channels, first.out_channels, size, stride, padding, bias=False)  # type: ignore[arg-type]
    nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    setattr(backbone.get_submodule(parent), last, new)


def _resize(values: Tensor, image: Tensor) -> Tensor:
    return F.interpolate(values, image.shape[2:], mode="bilinear", align_corners=False)
