"""LeNet-5 of 1998, compared with the published numbers of parameters and with its layers applied one by one."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dltrain.errors import ConfigError
from dltrain.models.convolutional import LeNet5
from dltrain.models.lenet_original import ScaledTanh, SubSampling

# Rows of the paper's table I: for each map of S2, the maps of C3 that read it.
READERS = ("0 4 5 6 9 10 11 12 14 15", "0 1 5 6 7 10 11 12 13 15", "0 1 2 6 7 8 11 13 14 15")
READERS += ("1 2 3 6 7 8 9 12 14 15", "2 3 4 7 8 9 10 12 13 15", "3 4 5 8 9 10 11 13 14 15")
# Number of trainable parameters of each layer, as stated in the paper.
PUBLISHED = {"C1": 156, "S2": 12, "C3": 1_516, "S4": 32, "C5": 48_120, "F6": 10_164}


def original(outputs: int = 10) -> LeNet5:
    torch.manual_seed(0)
    model = LeNet5(1, 32, 32, outputs, variant="original")
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def squash(x: Tensor) -> Tensor:
    return 1.7159 * torch.tanh(2 / 3 * x)


def test_each_layer_has_the_published_number_of_parameters() -> None:
    model = original()
    layers = [model.features[0], model.features[2], model.features[4], model.features[6], model.head[1], model.head[4]]
    counts = [sum(p.numel() for p in layer.parameters()) for layer in layers]
    assert counts == list(PUBLISHED.values()) and sum(counts) == 60_000
    assert sum(p.numel() for p in model.parameters()) == 60_000 + 850


def test_outputs_equal_the_same_layers_applied_one_by_one() -> None:
    model, x = original(), torch.randn(2, 1, 32, 32)
    c1, _, s2, _, c3, _, s4, _ = model.features
    maps = squash(F.conv2d(x, c1.weight, c1.bias))
    sums = maps[:, :, ::2, ::2] + maps[:, :, 1::2, ::2] + maps[:, :, ::2, 1::2] + maps[:, :, 1::2, 1::2]
    maps = squash(torch.stack([sums[:, m] * s2.weight[m] + s2.bias[m] for m in range(6)], 1))
    pairs = [(m, s) for m in range(16) for s in range(6) if str(m) in READERS[s].split()]
    assert len(pairs) == 60
    total = {m: c3.bias[m].expand(2, 10, 10) for m in range(16)}
    for (m, source), weight in zip(pairs, c3.weight, strict=True):
        total[m] = total[m] + F.conv2d(maps[:, source : source + 1], weight[None, None])[:, 0]
    maps = squash(torch.stack(list(total.values()), 1))
    maps = squash(F.avg_pool2d(maps, 2) * 4 * s4.weight.view(16, 1, 1) + s4.bias.view(16, 1, 1))
    hidden = squash(F.conv2d(maps, model.head[1].weight.view(120, 16, 5, 5), model.head[1].bias).flatten(1))
    hidden = squash(F.linear(hidden, model.head[4].weight, model.head[4].bias))
    expected = F.linear(hidden, model.head[7].weight, model.head[7].bias)
    torch.testing.assert_close(model(x), expected)


def test_the_scaled_tanh_maps_1_to_1_and_minus_1_to_minus_1() -> None:
    x = torch.tensor([-1.0, 0.0, 1.0, 2.0])
    expected = torch.tensor([1.7159 * math.tanh(2 / 3 * value) for value in x.tolist()])
    torch.testing.assert_close(ScaledTanh()(x), expected)
    torch.testing.assert_close(ScaledTanh()(x)[::2], x[::2], atol=1e-4, rtol=0)


def test_sub_sampling_ignores_the_last_row_and_column_of_an_odd_size() -> None:
    layer = SubSampling(1)
    torch.nn.init.constant_(layer.weight, 2.0), torch.nn.init.constant_(layer.bias, 0.5)
    x = torch.arange(9.0).view(1, 1, 3, 3)
    torch.testing.assert_close(layer(x), torch.full((1, 1, 1, 1), 2 * (0 + 1 + 3 + 4) + 0.5))


def test_initial_weights_are_bounded_by_2_4_divided_by_fan_in() -> None:
    model = LeNet5(1, 32, 32, 10, variant="original")
    c3 = model.features[4].weight
    for part, inputs in ((model.features[0].weight, 25), (c3[:3], 75), (c3[-6:], 150), (model.head[1].weight, 400)):
        bound = 2.4 / inputs
        assert 0.9 * bound < part.abs().max() <= bound
    assert all(not bias.any() for name, bias in model.named_parameters() if name.endswith("bias"))


def test_the_network_can_be_built_on_the_meta_device() -> None:
    with torch.device("meta"):
        model = LeNet5(1, 32, 32, 10, variant="original")
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}


@pytest.mark.parametrize(("height", "width"), [(28, 28), (27, 30), (40, 36)])
def test_images_of_other_sizes_are_accepted(height: int, width: int) -> None:
    assert LeNet5(3, height, width, 7, variant="original")(torch.randn(2, 3, height, width)).shape == (2, 7)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"pool": "max"}, r"model.pool: expected avg with model.variant=original, got max"),
        ({"activation": "relu"}, r"model.activation: expected tanh with model.variant=original, got relu"),
        ({"variant": "old"}, r"model.variant: expected one of modern original, got old"),
    ],
)
def test_settings_that_the_original_lacks_and_unknown_variants_are_rejected(
    wrong: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        LeNet5(1, 32, 32, 10, **{"variant": "original", **wrong})
