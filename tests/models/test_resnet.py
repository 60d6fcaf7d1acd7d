"""Residual networks for small images, compared with published sizes and with their layers applied one by one."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dltrain.errors import ConfigError
from dltrain.models.resnet_small import SmallResNet


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(("num_layers", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)])
def test_the_number_of_parameters_equals_the_published_number(num_layers: int, millions: float) -> None:
    with torch.device("meta"):
        assert round(parameters(SmallResNet(3, 10, num_layers)) / 1e6, 1 if millions > 1 else 2) == millions


def test_a_small_resnet_equals_the_same_layers_applied_one_by_one() -> None:
    torch.manual_seed(0)
    model = SmallResNet(3, 10, 20).eval()
    for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm2d)):
        nn.init.uniform_(norm.weight), nn.init.normal_(norm.bias)
        nn.init.normal_(norm.running_mean), nn.init.uniform_(norm.running_var, 0.5, 2.0)
    state = model.state_dict()

    def convolve(x: Tensor, conv: str, norm: str, stride: int = 1) -> Tensor:
        y = F.conv2d(x, state[f"{conv}.weight"], stride=stride, padding=1)
        mean, variance = state[f"{norm}.running_mean"], state[f"{norm}.running_var"]
        return F.batch_norm(y, mean, variance, state[f"{norm}.weight"], state[f"{norm}.bias"])

    x = torch.randn(2, 3, 32, 24)
    y = convolve(x, "conv", "norm").relu()
    for stage in range(3):
        for block in range(3):
            name, stride = f"stages.{stage}.{block}", 2 if stage and not block else 1
            inner = convolve(y, f"{name}.conv1", f"{name}.norm1", stride).relu()
            inner = convolve(inner, f"{name}.conv2", f"{name}.norm2")
            if stride == 2:
                zeros = torch.zeros(2, y.shape[1] // 2, y.shape[2] // 2, y.shape[3] // 2)
                y = torch.cat([zeros, y[:, :, ::2, ::2], zeros], 1)
            y = (y + inner).relu()
    expected = y.mean((2, 3)) @ state["head.weight"].T + state["head.bias"]
    assert y.shape == (2, 64, 8, 6)
    torch.testing.assert_close(model(x), expected)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: SmallResNet(3, 10, 18), r"model.num_layers: expected 6 n \+ 2 layers .*, got 18"),
        (lambda: SmallResNet(0, 10, 20), r"model.channels: expected a whole number of at least 1, got 0"),
    ],
)
def test_unsupported_sizes_are_rejected(build, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ConfigError, match=message):
        build()
