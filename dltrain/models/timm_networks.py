"""Networks of timm that classify images, chosen by name."""

from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from dltrain.errors import ConfigError, format_error, suggest
from dltrain.models.adopted import AdoptedNetwork
from dltrain.models.layers import check_sizes

EXAMPLE = "the name of a network of timm, such as convnext_tiny"


class TimmNetwork(AdoptedNetwork):
    """Network of timm with random weights; parameters have timm's names, so that its state dicts can be loaded.

    Args:
        channels, outputs: At least 1.
        height, width: Size of the images in pixels. A network with a fixed input size, such as most vision
            transformers, is built for this size if timm has pretrained weights for the network; otherwise, images of
            other sizes are rejected.
        name: Name in ``timm.list_models()``.
        dropout: Dropout probability before the last layer, in [0, 1).

    Shape: (B, channels, height, width) -> (B, outputs).
    """

    def __init__(self, channels: int, height: int, width: int, outputs: int, name: str, dropout: float = 0.0) -> None:
        super().__init__()
        check_sizes(dropout, channels=channels, outputs=outputs)
        timm = import_timm()
        if not timm.is_model(name):
            raise ConfigError(format_error("model.name", EXAMPLE, name, suggest(name, timm.list_models())))
        options: dict[str, Any] = {"in_chans": channels, "num_classes": outputs}
        if dropout:
            options["drop_rate"] = dropout
        if timm.is_model_pretrained(name) and timm.get_pretrained_cfg(name).fixed_input_size:
            options["img_size"] = (height, width)
        try_image(timm, name, options, torch.Size((1, channels, height, width)))
        self.adopt(timm.create_model(name, pretrained=False, **options))


def import_timm() -> ModuleType:
    """Return the package timm.

    Raises:
        ConfigError: timm is not installed.
    """
    try:
        import timm
    except ImportError:
        reason = "the package timm is not installed. Install it with pip install 'dltrain[timm]'"
        raise ConfigError(f"model: not supported because {reason}") from None
    return timm


def try_image(timm: ModuleType, name: str, options: dict[str, Any], shape: torch.Size) -> None:
    """Run the network on one image on the meta device, which takes no memory.

    Raises:
        ConfigError: The network rejects its arguments or the size of the image, or does not classify images.
    """
    size, outputs = "x".join(map(str, shape[2:])), options["num_classes"]
    try:
        with torch.device("meta"), torch.no_grad():
            network: nn.Module = timm.create_model(name, pretrained=False, **options)
            result = network.eval()(torch.empty(shape))
    except NotImplementedError:
        return  # the network has an operation that the meta device lacks
    except TypeError as error:
        raise ConfigError(f"model: not supported because timm's {name} rejects these arguments: {error}") from None
    except (AssertionError, RuntimeError, ValueError) as error:
        reason = f"{str(error).splitlines()[0].rstrip('.')}. Set another image size, for example with data.image_size"
        raise ConfigError(format_error("data", f"images that timm's {name} can read", size, reason)) from None
    if not (isinstance(result, Tensor) and result.shape == (1, outputs)):
        raise ConfigError(format_error("model.name", "a network with one output per class", name))
