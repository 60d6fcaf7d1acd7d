"""Restricted Boltzmann machines and deep belief networks: one tied weight for both directions."""

import copy

import pytest
import torch

from dltrain.errors import ConfigError
from dltrain.models.rbm import DBN, RBM
from dltrain.optim.ema import EMA


def tied(model: RBM) -> bool:
    """Return whether `down` still uses the weight of `up` after the weight is changed."""
    hidden = torch.randn(5, model.up.out_features)
    with torch.no_grad():
        model.up.weight.copy_(torch.randn_like(model.up.weight))
        model.down.bias.copy_(torch.randn_like(model.down.bias))
        expected = hidden @ model.up.weight + model.down.bias
    return torch.allclose(model.down(hidden), expected, atol=1e-5)


def test_down_uses_the_transposed_weight_of_up() -> None:
    model = RBM(6, 4)
    assert tied(model)
    assert {name for name, _ in model.named_parameters()} == {"up.weight", "up.bias", "down.bias"}
    assert set(model.state_dict()) == {"up.weight", "up.bias", "down.bias"}


def test_a_deep_copy_ties_its_own_weights() -> None:
    model = RBM(6, 4)
    copied = copy.deepcopy(model)
    before = model.up.weight.detach().clone()
    assert tied(copied)
    assert torch.equal(model.up.weight, before)


def test_averaged_weights_are_tied_too() -> None:
    model = RBM(6, 4)
    average = EMA(model, 0.5)
    with torch.no_grad():
        model.up.weight.fill_(2.0)
    average.update(model)
    module = average.module
    assert isinstance(module, RBM)
    hidden = torch.randn(3, 4)
    torch.testing.assert_close(module.down(hidden), hidden @ module.up.weight + module.down.bias)
    assert not torch.equal(module.up.weight, model.up.weight)


def test_loaded_weights_are_tied() -> None:
    model, other = RBM(6, 4), RBM(6, 4)
    hidden = torch.randn(3, 4)
    assert not torch.equal(model.down(hidden), other.down(hidden))
    other.load_state_dict(model.state_dict())
    assert torch.equal(model.down(hidden), other.down(hidden))
    assert tied(other)
    assert tied(other.double().float())


def test_gradients_of_both_directions_accumulate_in_the_tied_weight() -> None:
    model = RBM(6, 4, std=0.5)
    x = torch.rand(3, 6)
    model(x).square().sum().backward()
    weight = model.up.weight.detach().clone().requires_grad_()
    hidden = (x @ weight.t() + model.up.bias.detach()).sigmoid()
    (hidden @ weight + model.down.bias.detach()).square().sum().backward()
    torch.testing.assert_close(model.up.weight.grad, weight.grad)


def test_a_dbn_equals_an_mlp_with_sigmoid_units() -> None:
    network = DBN(6, 3, [5, 4])
    x = torch.rand(7, 1, 2, 3)
    first, second = network.layers
    hidden = torch.sigmoid(x.flatten(1) @ first.up.weight.t() + first.up.bias)
    hidden = torch.sigmoid(hidden @ second.up.weight.t() + second.up.bias)
    torch.testing.assert_close(network(x), hidden @ network.head.weight.t() + network.head.bias)
    assert all(tied(layer) for layer in network.layers)


@pytest.mark.parametrize(
    ("hidden", "expected"),
    [([], r"a list with at least one width, got \[\]"), ([5, 0], "a whole number of at least 1, got 0")],
)
def test_a_dbn_without_layers_or_with_a_layer_of_0_units_is_rejected(hidden: list[int], expected: str) -> None:
    with pytest.raises(ConfigError, match=rf"^model\.hidden_size: expected {expected}$"):
        DBN(6, 3, hidden)


@pytest.mark.slow
def test_weights_are_tied_when_compiled() -> None:
    model = RBM(6, 4)
    for name in RBM.parts:
        getattr(model, name).compile(backend="aot_eager")
    assert tied(model)
