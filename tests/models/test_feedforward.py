import pytest
import torch
from torch.nn import functional as F

from dltrain.errors import ConfigError
from dltrain.models.feedforward import MLP, Perceptron


def parameters(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_a_perceptron_is_one_linear_layer_on_the_flattened_input() -> None:
    model = Perceptron(12, 3, activation="sigmoid")
    weight, bias = model.parameters()
    x = torch.randn(5, 1, 3, 4)
    torch.testing.assert_close(model(x), torch.sigmoid(x.reshape(5, 12) @ weight.T + bias))


def test_an_mlp_equals_matrix_products_with_relu_in_between() -> None:
    model = MLP(12, 3, hidden_size=[8, 7])
    w1, b1, w2, b2, w3, b3 = model.parameters()
    x = torch.randn(5, 3, 4)
    hidden = F.relu(F.relu(x.flatten(1) @ w1.T + b1) @ w2.T + b2)
    torch.testing.assert_close(model(x), hidden @ w3.T + b3)


def test_num_layers_repeats_hidden_size() -> None:
    assert parameters(MLP(12, 3, hidden_size=8, num_layers=3)) == parameters(
        MLP(12, 3, hidden_size=[8, 8, 8], num_layers=3)
    )
    assert parameters(MLP(12, 3, hidden_size=8, num_layers=3)) == 13 * 8 + 9 * 8 + 9 * 8 + 9 * 3


@pytest.mark.parametrize("norm", ["batch", "layer", "group"])
def test_with_a_norm_every_parameter_still_gets_a_gradient(norm: str) -> None:
    model = MLP(12, 3, hidden_size=32, norm=norm, activation="tanh")
    model(torch.randn(8, 12)).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.abs().max() > 1e-4, name


@pytest.mark.parametrize(
    ("wrong", "key"),
    [
        ({"hidden_size": -3}, "model.hidden_size"),
        ({"hidden_size": [8, 0]}, "model.hidden_size"),
        ({"hidden_size": []}, "model.hidden_size: expected a number, or one number per layer, got"),
        ({"hidden_size": [8, 8, 8]}, "model.num_layers"),
        ({"num_layers": 0}, "model.num_layers"),
        ({"dropout": 1.0}, "model.dropout"),
        ({"outputs": 0}, "model.outputs"),
        ({"norm": "bath"}, "model.norm"),
        ({"activation": "rleu"}, "model.activation"),
    ],
)
def test_the_error_for_a_wrong_argument_names_its_key(wrong: dict[str, object], key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        MLP(**{"size": 12, "outputs": 3, **wrong})
