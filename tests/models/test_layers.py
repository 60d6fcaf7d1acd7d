import pytest
import torch
from torch import nn

from dltrain.errors import ConfigError
from dltrain.models.layers import ACTIVATIONS, NORMS, activation, check_sizes, norm
from dltrain.models.positions import Positions


@pytest.mark.parametrize("name", ["sigmoid", "tanh", "relu", "gelu", "silu", "elu", "selu", "softplus", "mish"])
def test_an_activation_equals_the_torch_function_of_that_name(name: str) -> None:
    x = torch.randn(100)
    function = torch.tanh if name == "tanh" else torch.sigmoid if name == "sigmoid" else getattr(nn.functional, name)
    assert torch.equal(activation(name)(x), function(x))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_does_not_change_its_input(name: str) -> None:
    x = torch.randn(100)
    before = x.clone()
    activation(name)(x)
    assert torch.equal(x, before)


def test_an_unknown_activation_is_rejected_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match=r"model\.activation: .*got leakyrelu\. Did you mean leaky_relu\?"):
        activation("leakyrelu")


@pytest.mark.parametrize("name", [None, 3, ["relu"]])
def test_an_activation_that_is_not_a_name_is_rejected(name: object) -> None:
    with pytest.raises(ConfigError, match=r"model\.activation"):
        activation(name)


@pytest.mark.parametrize("channels", [1, 6, 16, 48, 64, 97])
@pytest.mark.parametrize("name", NORMS)
def test_a_norm_accepts_vectors_and_feature_maps_with_any_number_of_channels(name: str, channels: int) -> None:
    for shape, dims in (((4, channels), 0), ((4, channels, 5, 7), 2)):
        assert norm(name, channels, dims)(torch.randn(shape)).shape == shape


def test_layer_norm_normalizes_each_image_over_channels_and_pixels() -> None:
    y = norm("layer", 6, 2)(torch.randn(4, 6, 8, 8) * 3 + 2).flatten(1)
    torch.testing.assert_close(y.mean(1), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(y.var(1, correction=0), torch.ones(4), atol=1e-4, rtol=0)


def test_group_norm_of_a_vector_normalizes_groups_of_16_features() -> None:
    y = norm("group", 32, 0)(torch.randn(4, 32) * 3 + 2).view(4, 2, 16)
    torch.testing.assert_close(y.mean(2), torch.zeros(4, 2), atol=1e-5, rtol=0)
    torch.testing.assert_close(y.var(2, correction=0), torch.ones(4, 2), atol=1e-3, rtol=0)


def test_an_unknown_norm_is_rejected_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match=r"Did you mean batch\?"):
        norm("bacth", 4, 2)


def test_all_invalid_arguments_are_reported_together() -> None:
    with pytest.raises(ConfigError) as caught:
        check_sizes(1.5, hidden_size=-3, num_layers=2, num_heads=0, vocabulary=None)
    assert [line.split(":")[0] for line in caught.value.problems] == [
        "model.hidden_size",
        "model.num_heads",
        "model.dropout",
    ]


def test_sequences_longer_than_the_position_embeddings_are_rejected() -> None:
    positions = Positions(8, 4)
    assert positions(torch.zeros(2, 5, 4)).shape == (2, 5, 4)
    with pytest.raises(ConfigError, match=r"model\.length: expected at least 9"):
        positions(torch.zeros(2, 9, 4))
