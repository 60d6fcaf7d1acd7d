"""Networks of torchvision that classify images, with any number of channels and a stem for small images."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import models

from dltrain.errors import ConfigError, choose, format_error
from dltrain.models.adopted import AdoptedNetwork
from dltrain.models.layers import check_sizes

STEMS = {"imagenet": False, "small": True}
NORMS = {"none": "", "batch": "_bn"}  # norm of a VGG -> suffix of its name in torchvision
AUX_SIDE = 17  # side in pixels of the feature maps that the auxiliary head of Inception v3 reads
AUX_SMALLEST = 299  # minimum side in pixels of the images for the auxiliary head with the imagenet stem
LARGER = "Use model.stem=small or larger images."
WITHOUT_HEAD = "Use model.stem=small, model.aux_weight=0 (no auxiliary head) or larger images."


@dataclass(frozen=True)
class Family:
    """Properties that the networks of a family share.

    Args:
        first: Path of the first convolution.
        init: Function that initializes a convolution as torchvision does.
        shrink: Function that adapts the network to small images.
        smallest: Minimum sides of the images in pixels: with the imagenet stem, and with the small stem.
        options: Arguments of torchvision's model builders.
    """

    first: str
    init: Callable[[nn.Conv2d], Any]
    shrink: Callable[[Any], None]
    smallest: tuple[int, int]
    options: Mapping[str, Any] = field(default_factory=dict)


def _kaiming(convolution: nn.Conv2d) -> None:
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)


def _truncated(std: float) -> Callable[[nn.Conv2d], Any]:
    return lambda convolution: nn.init.trunc_normal_(convolution.weight, std=std, a=-2, b=2)


def _keep_size(convolution: nn.Conv2d) -> None:
    """Turn a convolution into a 3x3 convolution that keeps the size of images; the caller initializes the weights."""
    convolution.kernel_size, convolution.stride, convolution.padding = (3, 3), (1, 1), (1, 1)


def _shrink_resnet(network: models.ResNet) -> None:
    _keep_size(network.conv1)
    network.maxpool = nn.Identity()


def _shrink_alexnet(network: models.AlexNet) -> None:
    _keep_size(network.features[0])
    network.features[2] = nn.Identity()


def _shrink_vgg(network: models.VGG) -> None:
    """Round sizes up in pooling, and make the classifier read one pixel instead of 7x7.

    For images of 32x32 pixels, the classifier of torchvision reads 49 copies of one pixel.
    """
    for layer in network.features:
        if isinstance(layer, nn.MaxPool2d):
            layer.ceil_mode = True
    network.avgpool = nn.AdaptiveAvgPool2d(1)
    network.classifier[0] = nn.Linear(512, network.classifier[0].out_features)
    nn.init.normal_(network.classifier[0].weight, 0, 0.01)
    nn.init.zeros_(network.classifier[0].bias)


def _shrink_googlenet(network: models.GoogLeNet) -> None:
    _keep_size(network.conv1.conv)
    network.maxpool1, network.maxpool2 = nn.Identity(), nn.Identity()


def _shrink_inception(network: models.Inception3) -> None:
    _keep_size(network.Conv2d_1a_3x3.conv)
    network.Conv2d_2a_3x3.conv.padding = network.Conv2d_4a_3x3.conv.padding = (1, 1)
    network.maxpool1, network.maxpool2 = nn.Identity(), nn.Identity()
    if network.AuxLogits is not None:
        network.AuxLogits.register_forward_pre_hook(_fit_auxiliary_head)


def _fit_auxiliary_head(head: nn.Module, inputs: tuple[Tensor]) -> Tensor:
    """Average feature maps of any size to the size that the auxiliary head of Inception v3 reads."""
    return F.adaptive_avg_pool2d(inputs[0], AUX_SIDE)


RESNETS = Family("conv1", _kaiming, _shrink_resnet, (1, 1))
VGGS = Family("features.0", _kaiming, _shrink_vgg, (32, 1))
PLAIN = {"aux_logits": False, "init_weights": True}
FAMILIES = {
    "alexnet": Family("features.0", nn.Conv2d.reset_parameters, _shrink_alexnet, (63, 7)),
    **{f"vgg{layers}{end}": VGGS for layers in (11, 13, 16, 19) for end in NORMS.values()},
    **{f"resnet{layers}": RESNETS for layers in (18, 34, 50, 101, 152)},
    "googlenet": Family("conv1.conv", _truncated(0.01), _shrink_googlenet, (15, 2), PLAIN),
    "inception_v3": Family("Conv2d_1a_3x3.conv", _truncated(0.1), _shrink_inception, (75, 7), PLAIN),
}


class TorchvisionNetwork(AdoptedNetwork):
    """Network of torchvision, chosen by name.

    Weights have the names of torchvision, so that its state dicts can be loaded.

    Args:
        channels, outputs: At least 1.
        height, width: Size of the images in pixels.
        name: ``alexnet``, ``vgg11`` to ``vgg19``, ``vgg11_bn`` to ``vgg19_bn``, ``resnet18`` to ``resnet152``,
            ``googlenet`` or ``inception_v3``.
        stem: ``imagenet`` for the published first layers, which divide the size of images by 4 (ResNet) or 8 (AlexNet,
            GoogLeNet, Inception), or ``small`` for a 3x3 convolution that keeps the size, for images below about 64
            pixels. With ``small``, the pooling of a VGG rounds up, and its classifier reads one pixel.

    Shape: (B, channels, height, width) -> (B, outputs).
    Source: He, Zhang, Ren and Sun 2016, "Deep residual learning for image recognition", section 3, for ResNets.
    Differs: as in torchvision, bottlenecks of ResNets have the stride in the 3x3 convolution.
    """

    def __init__(self, channels: int, height: int, width: int, outputs: int, name: str, stem: str = "imagenet") -> None:
        super().__init__()
        self._build(channels, (height, width), outputs, name, stem)

    def _build(self, channels: int, size: tuple[int, int], outputs: int, name: str, stem: str, **options: Any) -> None:
        """Build torchvision's network, adapt its first layers, and adopt it.

        Args:
            size: Height and width.
            options: Arguments of torchvision's model builder.
        """
        check_sizes(channels=channels, outputs=outputs)
        family, small = choose("model.name", name, FAMILIES), choose("model.stem", stem, STEMS)
        check_image_size(size, family.smallest[small], f"{name} with model.stem={stem}")
        network = getattr(models, name)(weights=None, num_classes=outputs, **{**family.options, **options})
        if small:
            family.shrink(network)
        if small or channels != 3:
            first = network.get_submodule(family.first)
            first.in_channels = channels
            first.weight = nn.Parameter(first.weight.new_empty(first.out_channels, channels, *first.kernel_size))
            family.init(first)
        self.adopt(network)


class AlexNet(TorchvisionNetwork):
    """AlexNet: five convolutions, three fully connected layers.

    Args:
        dropout: Dropout probability of the inputs of the first two fully connected layers, in [0, 1).

    The other arguments are those of `TorchvisionNetwork`.

    Source: Krizhevsky 2014, "One weird trick for parallelizing convolutional neural networks"; Krizhevsky, Sutskever
    and Hinton 2012, "ImageNet classification with deep convolutional neural networks".
    Differs: no local response normalization.
    """

    def __init__(
        self, channels: int, height: int, width: int, outputs: int, stem: str = "imagenet", dropout: float = 0.5
    ) -> None:
        nn.Module.__init__(self)
        check_sizes(dropout)
        self._build(channels, (height, width), outputs, "alexnet", stem, dropout=dropout)


class VGG(TorchvisionNetwork):
    """VGG: 3x3 convolutions with max pooling, three fully connected layers.

    Args:
        name: ``vgg11``, ``vgg13``, ``vgg16`` or ``vgg19``, named by the number of layers with weights.
        norm: ``batch`` for batch norm after each convolution, or ``none``.
        dropout: Dropout probability of the outputs of the first two fully connected layers, in [0, 1).

    The other arguments are those of `TorchvisionNetwork`.

    Source: Simonyan and Zisserman 2015, "Very deep convolutional networks for large-scale image recognition", table 1,
    columns A, B, D and E.
    """

    def __init__(
        self,
        channels: int,
        height: int,
        width: int,
        outputs: int,
        name: str,
        stem: str = "imagenet",
        norm: str = "none",
        dropout: float = 0.5,
    ) -> None:
        nn.Module.__init__(self)
        check_sizes(dropout)
        self._build(channels, (height, width), outputs, name + choose("model.norm", norm, NORMS), stem, dropout=dropout)


class InceptionNetwork(TorchvisionNetwork):
    """GoogLeNet or Inception v3, with auxiliary heads in training.

    In training, the model returns ``(outputs, {"aux": (aux_weight, outputs of the head)})``; the heads of GoogLeNet
    are called ``aux1`` and ``aux2``.

    Args:
        name: ``googlenet`` or ``inception_v3``.
        dropout: Dropout probability of the inputs of the last layer, in [0, 1).
        aux_weight: Weight of the loss of each auxiliary head; 0 for no auxiliary heads.
        transform_input: Whether to rescale inputs to [-1, 1], as torchvision's trained weights expect; the inputs must
            be normalized by the mean and standard deviation of ImageNet.

    The other arguments are those of `TorchvisionNetwork`.

    Source: Szegedy et al. 2015, "Going deeper with convolutions", sections 5 and 6: auxiliary heads with a weight
    of 0.3 and a dropout of 0.7; Szegedy et al. 2016, "Rethinking the Inception architecture for computer vision", which
    states no weight; 0.4 is the weight in the authors' TensorFlow code.
    Differs: as in torchvision, GoogLeNet has batch norm and 3x3 instead of 5x5 convolutions.
    """

    def __init__(
        self,
        channels: int,
        height: int,
        width: int,
        outputs: int,
        name: str,
        dropout: float,
        aux_weight: float,
        stem: str = "imagenet",
        transform_input: bool = False,
    ) -> None:
        nn.Module.__init__(self)
        check_sizes(dropout)
        self.aux_weight = aux_weight
        if transform_input and channels != 3:
            raise ConfigError(format_error("model.transform_input", "false for images without 3 channels", "true"))
        choose("model.name", name, dict.fromkeys(("googlenet", "inception_v3")))
        heads = {"aux_logits": aux_weight > 0, "transform_input": transform_input}
        if name == "inception_v3" and aux_weight and stem == "imagenet":
            check_image_size((height, width), AUX_SMALLEST, "the auxiliary head of inception_v3", WITHOUT_HEAD)
        self._build(channels, (height, width), outputs, name, stem, dropout=dropout, **heads)

    def forward(self, x: Tensor) -> Any:
        """Return the outputs of each image; in training, also the weight and outputs of each auxiliary head."""
        result = super().forward(x)
        if isinstance(result, Tensor):
            return result
        outputs, *heads = result
        names = [field.replace("_logits", "") for field in result._fields[1:]]
        return outputs, {name: (self.aux_weight, head) for name, head in zip(names, heads, strict=True)}


def check_image_size(size: tuple[int, int], smallest: int, network: str, hint: str = LARGER) -> None:
    """Raise ConfigError if images are too small for a network."""
    if min(size) < smallest:
        expected = f"images of at least {smallest}x{smallest} pixels for {network}"
        raise ConfigError(format_error("data", expected, "x".join(map(str, size)), hint))
