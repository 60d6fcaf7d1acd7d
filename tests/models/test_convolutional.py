from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn
from torch.nn import functional as F

from dltrain.errors import ConfigError
from dltrain.models.convolutional import CNN, LeNet5

YAML = Path(__file__).parents[2] / "conf" / "model" / "cnn.yaml"


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def small_cnn(*blocks: dict[str, Any], side: int = 8, hidden_size: list[int] | None = None, **rest: Any) -> CNN:
    return CNN(3, side, side, 10, list(blocks), hidden_size or [], **rest)


def cifar10() -> CNN:
    node = OmegaConf.to_container(OmegaConf.load(YAML))
    return CNN(3, 32, 32, 10, node["blocks"], node["hidden_size"], node["activation"], node["norm"])


def test_the_cifar10_network_has_the_expected_number_of_parameters() -> None:
    channels, hidden = [3, 32, 64, 128, 128, 256, 256], [256 * 4 * 4, 1024, 512, 10]
    convolutions = sum(9 * a * b + b for a, b in pairwise(channels))
    linear = sum(a * b + b for a, b in pairwise(hidden))
    assert parameters(cifar10()) == convolutions + linear


def test_the_cifar10_network_equals_explicit_torch_layers() -> None:
    model = cifar10()
    p = iter(model.parameters())
    y = x = torch.randn(2, 3, 32, 32)
    for pooled in (False, True, False, True, False, True):
        y = F.relu(F.conv2d(y, next(p), next(p), padding=1))
        y = F.max_pool2d(y, 2) if pooled else y
    y = y.flatten(1)
    for _ in range(2):
        y = F.relu(F.linear(y, next(p), next(p)))
    torch.testing.assert_close(model(x), F.linear(y, next(p), next(p)))


@pytest.mark.parametrize("side", [7, 8, 9])
@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_padding_same_with_stride_two_halves_the_image_and_rounds_up(kernel: int, side: int) -> None:
    model = small_cnn({"channels": 4, "kernel": kernel, "stride": 2}, side=side)
    assert model.features(torch.randn(2, 3, side, side)).shape[-2:] == (-(-side // 2),) * 2
    assert model(torch.randn(2, 3, side, side)).shape == (2, 10)


def test_padding_same_equals_torch_with_stride_one() -> None:
    model = small_cnn({"channels": 4, "kernel": 5, "activation": "identity"})
    x, (weight, bias) = torch.randn(2, 3, 8, 8), list(model.features.parameters())
    torch.testing.assert_close(model.features(x), F.conv2d(x, weight, bias, padding="same"))


def test_a_block_can_override_settings_of_the_network() -> None:
    model = small_cnn(
        {"channels": 4, "norm": "batch", "activation": "gelu", "pool": "avg"}, {"channels": 6, "padding": "valid"}
    )
    kinds = [type(layer) for layer in model.features if not isinstance(layer, nn.Identity)]
    assert kinds == [nn.Conv2d, nn.BatchNorm2d, nn.GELU, nn.AvgPool2d, nn.Conv2d, nn.ReLU]
    assert model(torch.randn(2, 3, 8, 8)).shape == (2, 10)


@pytest.mark.parametrize("norm", ["batch", "layer", "group"])
def test_with_a_norm_every_parameter_of_a_cnn_gets_a_gradient(norm: str) -> None:
    model = small_cnn({"channels": 16, "pool": "max"}, {"channels": 32}, hidden_size=[32], norm=norm)
    model(torch.randn(4, 3, 8, 8)).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.abs().max() > 1e-4, name


def test_convolutions_keep_channels_last_and_outputs_do_not_change() -> None:
    x = torch.randn(2, 3, 32, 32)
    inner = x.contiguous(memory_format=torch.channels_last)
    for model in (cifar10(), LeNet5(3, 32, 32, 10)):
        expected = model(x)
        model.to(memory_format=torch.channels_last)
        assert model.features(inner).is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(model(inner), expected)


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (
            {"channels": 4, "pool": "max"},
            r"model\.blocks\.3\.pool: not supported because a side of the image has one pixel",
        ),
        ({"channels": 4, "kernel": 3, "padding": "valid"}, r"model\.blocks\.3\.kernel: expected at most 1"),
        ({"channels": 4, "kernel": 2}, r"model\.blocks\.3\.kernel: expected an odd number"),
        ({"channels": 0}, r"model\.blocks\.3\.channels"),
        ({"kernel": 3}, r"model\.blocks\.3\.channels: .* got nothing"),
        ({"channels": "many"}, r"model\.blocks\.3\.channels"),
        ({"channels": 4, "padding": "full"}, r"model\.blocks\.3\.padding"),
        ({"channels": 4, "pool": "maxx"}, r"model\.blocks\.3\.pool.* Did you mean max\?"),
        ({"channels": 4, "norm": "bath"}, r"model\.blocks\.3\.norm.* Did you mean batch\?"),
        ({"channels": 4, "activation": "geluu"}, r"model\.blocks\.3\.activation.* Did you mean gelu\?"),
        ({"channels": 4, "kernal": 3}, r"model\.blocks\.3: .*got kernal\. Did you mean kernel\?"),
        (4, r"model\.blocks\.3: expected a mapping"),
    ],
)
def test_an_invalid_block_is_rejected_with_its_index(block: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        small_cnn(*[{"channels": 4, "pool": "max"}] * 3, block)


@pytest.mark.parametrize("key", ["activation", "norm"])
def test_an_unknown_activation_or_norm_of_the_network_is_rejected_with_its_key(key: str) -> None:
    with pytest.raises(ConfigError, match=rf"model\.{key}: expected one of"):
        CNN(1, 8, 8, 2, [{"channels": 4}], [], **{key: "x"})


@pytest.mark.parametrize(("channels", "side"), [(1, 28), (1, 32)])
def test_lenet5_has_61706_parameters(channels: int, side: int) -> None:
    assert parameters(LeNet5(channels, side, side, 10)) == 61_706


@pytest.mark.parametrize(("height", "width"), [(8, 8), (27, 30), (28, 28), (31, 32), (32, 32), (28, 40), (48, 64)])
@pytest.mark.parametrize("pool", ["avg", "max"])
def test_lenet5_equals_explicit_torch_layers_on_the_padded_image(height: int, width: int, pool: str) -> None:
    model = LeNet5(1, height, width, 10, pool=pool)
    x = torch.randn(2, 1, height, width)
    rows, columns = max(0, 32 - height), max(0, 32 - width)
    y = F.pad(x, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))
    halved = F.avg_pool2d if pool == "avg" else F.max_pool2d
    p = iter(model.parameters())
    y = halved(torch.tanh(F.conv2d(y, next(p), next(p))), 2)
    y = halved(torch.tanh(F.conv2d(y, next(p), next(p))), 2).flatten(1)
    y = torch.tanh(F.linear(y, next(p), next(p)))
    y = torch.tanh(F.linear(y, next(p), next(p)))
    torch.testing.assert_close(model(x), F.linear(y, next(p), next(p)))


@pytest.mark.parametrize(
    ("wrong", "key"),
    [({"pool": "none"}, "model.pool"), ({"outputs": 0}, "model.outputs"), ({"dropout": -0.1}, "dropout")],
)
def test_the_error_for_a_wrong_argument_of_lenet5_names_its_key(wrong: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        LeNet5(**{"channels": 1, "height": 28, "width": 28, "outputs": 10, **wrong})
