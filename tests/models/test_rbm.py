"""Restricted Boltzmann machines and stacks of them: one weight for both ways."""

import copy

import pytest
import torch

from dltrain.errors import ConfigError
from dltrain.models.rbm import DBN, RBM
from dltrain.optim.ema import EMA


def tied(machine: RBM) -> bool:
    """Whether the way down is that of the machine's own weight, whatever that is made to be."""
    hidden = torch.randn(5, machine.up.out_features)
    with torch.no_grad():
        machine.up.weight.copy_(torch.randn_like(machine.up.weight))
        machine.down.bias.copy_(torch.randn_like(machine.down.bias))
        wanted = hidden @ machine.up.weight + machine.down.bias
    return torch.allclose(machine.down(hidden), wanted, atol=1e-5)


def test_the_way_down_uses_the_weight_of_the_way_up() -> None:
    machine = RBM(6, 4)
    assert tied(machine)
    assert {name for name, _ in machine.named_parameters()} == {"up.weight", "up.bias", "down.bias"}
    assert set(machine.state_dict()) == {"up.weight", "up.bias", "down.bias"}


def test_a_copy_ties_its_own_weights() -> None:
    machine = RBM(6, 4)
    twin = copy.deepcopy(machine)
    kept = machine.up.weight.detach().clone()
    assert tied(twin)
    assert torch.equal(machine.up.weight, kept)


def test_averaged_weights_are_tied_too() -> None:
    machine = RBM(6, 4)
    average = EMA(machine, 0.5)
    with torch.no_grad():
        machine.up.weight.fill_(2.0)
    average.update(machine)
    module = average.module
    assert isinstance(module, RBM)
    hidden = torch.randn(3, 4)
    torch.testing.assert_close(module.down(hidden), hidden @ module.up.weight + module.down.bias)
    assert not torch.equal(module.up.weight, machine.up.weight)


def test_loaded_weights_are_those_of_both_ways() -> None:
    machine, other = RBM(6, 4), RBM(6, 4)
    hidden = torch.randn(3, 4)
    assert not torch.equal(machine.down(hidden), other.down(hidden))
    other.load_state_dict(machine.state_dict())
    assert torch.equal(machine.down(hidden), other.down(hidden))
    assert tied(other)
    assert tied(other.double().float())


def test_a_gradient_of_both_ways_adds_up_in_one_weight() -> None:
    machine = RBM(6, 4, std=0.5)
    x = torch.rand(3, 6)
    machine(x).square().sum().backward()
    weight = machine.up.weight.detach().clone().requires_grad_()
    hidden = (x @ weight.t() + machine.up.bias.detach()).sigmoid()
    (hidden @ weight + machine.down.bias.detach()).square().sum().backward()
    torch.testing.assert_close(machine.up.weight.grad, weight.grad)


def test_a_stack_answers_as_a_multilayer_perceptron_of_sigmoid_units() -> None:
    network = DBN(6, 3, [5, 4])
    x = torch.rand(7, 1, 2, 3)
    first, second = network.layers
    hidden = torch.sigmoid(x.flatten(1) @ first.up.weight.t() + first.up.bias)
    hidden = torch.sigmoid(hidden @ second.up.weight.t() + second.up.bias)
    torch.testing.assert_close(network(x), hidden @ network.head.weight.t() + network.head.bias)
    assert all(tied(layer) for layer in network.layers)


@pytest.mark.parametrize("hidden", [[], [5, 0]])
def test_layers_without_units_are_refused(hidden: list[int]) -> None:
    with pytest.raises(ConfigError, match=r"model\.hidden_size"):
        DBN(6, 3, hidden)


@pytest.mark.slow
def test_both_ways_are_tied_when_compiled() -> None:
    machine = RBM(6, 4)
    for name in RBM.parts:
        getattr(machine, name).compile(backend="aot_eager")
    assert tied(machine)
