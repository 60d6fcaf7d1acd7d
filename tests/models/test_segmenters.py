"""Segmentation networks, compared with torchvision's networks with the same weights."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.models import segmentation

from dltrain.errors import ConfigError
from dltrain.models.segmenters import FCN, DeepLabV3

SLOW = pytest.mark.slow
NETWORKS = [
    pytest.param(DeepLabV3, "mobilenet_v3_large", segmentation.deeplabv3_mobilenet_v3_large, id="mobilenet"),
    pytest.param(FCN, "resnet50", segmentation.fcn_resnet50, marks=SLOW, id="fcn50"),
    pytest.param(FCN, "resnet101", segmentation.fcn_resnet101, marks=SLOW, id="fcn101"),
    pytest.param(DeepLabV3, "resnet50", segmentation.deeplabv3_resnet50, marks=SLOW, id="deeplab50"),
    pytest.param(DeepLabV3, "resnet101", segmentation.deeplabv3_resnet101, marks=SLOW, id="deeplab101"),
]
BARE = {"weights": None, "weights_backbone": None}
Build = Callable[..., Any]


def shapes_of(model: nn.Module) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in model.state_dict().items()}


@pytest.mark.parametrize(("ours", "backbone", "theirs"), NETWORKS)
def test_outputs_and_auxiliary_outputs_equal_those_of_torchvision(ours: Build, backbone: str, theirs: Build) -> None:
    torch.manual_seed(0)
    model, reference = ours(3, 5, backbone), theirs(**BARE, num_classes=5, aux_loss=True)
    model.load_state_dict(reference.state_dict())
    x = torch.randn(2, 3, 65, 48)
    with torch.no_grad():
        for network in (model, reference):
            network.eval()
        torch.testing.assert_close(model(x), reference(x)["out"], rtol=0, atol=1e-6)
        for network in (model, reference):
            network.train()
            for dropout in (module for module in network.modules() if isinstance(module, nn.Dropout)):
                dropout.eval()
        (answer, heads), expected = model(x), reference(x)
    torch.testing.assert_close(answer, expected["out"], rtol=0, atol=1e-5)
    factor, auxiliary = heads["aux"]
    assert factor == 0.5
    torch.testing.assert_close(auxiliary, expected["aux"], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("ours", "backbone", "theirs"), [pytest.param(*network.values, id=network.id) for network in NETWORKS]
)
def test_weights_have_the_names_and_shapes_of_torchvision(ours: Build, backbone: str, theirs: Build) -> None:
    with torch.device("meta"):
        model, reference = ours(3, 21, backbone), theirs(**BARE, num_classes=21, aux_loss=True)
    assert shapes_of(model) == shapes_of(reference)


def test_a_network_without_auxiliary_loss_has_no_auxiliary_classifier() -> None:
    with torch.device("meta"):
        model = DeepLabV3(3, 21, "mobilenet_v3_large", aux_weight=0.0)
        reference = segmentation.deeplabv3_mobilenet_v3_large(**BARE, num_classes=21, aux_loss=False)
    assert shapes_of(model) == shapes_of(reference)


def test_only_the_first_convolution_has_a_different_shape_for_gray_images() -> None:
    gray = DeepLabV3(1, 4, "mobilenet_v3_large").eval()
    assert gray(torch.randn(1, 1, 40, 56)).shape == (1, 4, 40, 56)
    with torch.device("meta"):
        color = DeepLabV3(3, 4, "mobilenet_v3_large")
    here, there = shapes_of(gray), shapes_of(color)
    assert here.keys() == there.keys()
    changed = {name: shape for name, shape in here.items() if shape != there[name]}
    assert changed == {"backbone.0.0.weight": (16, 1, 3, 3)}


@pytest.mark.parametrize(
    ("model", "arguments", "message"),
    [
        (FCN, {"backbone": "mobilenet_v3_large"}, "model.backbone: expected one of resnet50 resnet101"),
        (DeepLabV3, {"backbone": "resnet"}, "model.backbone: expected one of resnet50 resnet101 mobilenet_v3_large"),
        (FCN, {"aux_weight": -1.0}, "model.aux_weight: expected a number of at least 0"),
    ],
)
def test_wrong_arguments_are_rejected(model: Build, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught, torch.device("meta"):
        model(3, 4, **arguments)
    assert message in str(caught.value)
