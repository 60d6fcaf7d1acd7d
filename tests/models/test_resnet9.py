from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dltrain.errors import ConfigError
from dltrain.models.resnet9 import ResNet9


def convolved(state: dict[str, Tensor], name: str, x: Tensor, pool: bool = False) -> Tensor:
    """Return the output of a convolution block in evaluation mode, computed from its weights."""
    x = F.conv2d(x, state[f"{name}.0.weight"], padding=1)
    x = F.max_pool2d(x, 2) if pool else x
    norm = f"{name}.{2 if pool else 1}"
    mean, variance, scale, bias = (
        state[f"{norm}.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
    )
    return F.celu((x - mean) / (variance + 1e-5).sqrt() * scale + bias, 0.075)


def test_a_resnet9_equals_the_published_layers_with_the_same_weights() -> None:
    torch.manual_seed(0)
    model = ResNet9(3, 16, 24, 5, [4, 6, 8, 10], alpha=0.075)
    model(torch.randn(32, 3, 16, 24))  # changes the running statistics
    state, x = model.eval().state_dict(), torch.randn(2, 3, 16, 24)
    y = convolved(state, "features.0", x)
    y = convolved(state, "features.1", y, pool=True)
    y = y + convolved(state, "features.2.branch.1", convolved(state, "features.2.branch.0", y))
    y = convolved(state, "features.3", y, pool=True)
    y = convolved(state, "features.4", y, pool=True)
    y = y + convolved(state, "features.5.branch.1", convolved(state, "features.5.branch.0", y))
    expected = F.max_pool2d(y, (2, 3)).flatten(1) @ state["head.weight"].T * 0.125
    torch.testing.assert_close(model(x), expected, atol=1e-5, rtol=1e-5)


def test_a_resnet9_has_the_expected_number_of_parameters() -> None:
    widths = [(3, 64), (64, 128), (128, 128), (128, 128), (128, 256), (256, 512), (512, 512), (512, 512)]
    expected = sum(9 * inputs * outputs + 2 * outputs for inputs, outputs in widths) + 512 * 10
    with torch.device("meta"):
        model: nn.Module = ResNet9(3, 32, 32, 10, [64, 128, 256, 512])
    assert sum(parameter.numel() for parameter in model.parameters()) == expected


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"hidden_size": [4, 8, 8]}, r"model\.hidden_size: expected four numbers, one for each stage, got \[4, 8, 8\]"),
        ({"activation": "relu", "alpha": 0.1}, r"model\.alpha: expected 1 for model\.activation=relu, got 0\.1"),
        ({"height": 7}, r"data: expected images of at least 8x8 pixels for a ResNet-9, got 7x16"),
    ],
)
def test_the_error_for_a_wrong_argument_of_a_resnet9_names_its_key(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ResNet9(**{"channels": 3, "height": 16, "width": 16, "outputs": 5, "hidden_size": [4, 6, 8, 10], **wrong})
