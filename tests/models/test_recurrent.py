import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dltrain.errors import ConfigError
from dltrain.models.recurrent import Recurrent

TORCH = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}
KINDS = [("rnn", "tanh"), ("rnn", "relu"), ("lstm", None), ("gru", None)]


def pair(cell: str, activation: str | None, bidirectional: bool, **rest: Any) -> tuple[Recurrent, nn.Module]:
    """Return a model and a torch.nn module with the same weights."""
    model = Recurrent(cell, 3, 5, hidden_size=7, bidirectional=bidirectional, activation=activation, **rest)
    options = {} if activation is None else {"nonlinearity": activation}
    reference = TORCH[cell](3, 7, 2, bidirectional=bidirectional, **options)
    reference.load_state_dict(model.layers.state_dict())
    return model, reference


def head(model: Recurrent, states: Tensor) -> Tensor:
    return states @ model.head.weight.T + model.head.bias


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(("cell", "activation"), KINDS)
def test_a_recurrent_network_equals_torch_nn_at_each_step(cell: str, activation: str, bidirectional: bool) -> None:
    model, reference = pair(cell, activation, bidirectional, each_step=True)
    x = torch.randn(4, 9, 3)
    states, _ = reference(x.transpose(0, 1))
    torch.testing.assert_close(model(x), head(model, states.transpose(0, 1)))


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(("cell", "activation"), KINDS)
def test_a_single_output_is_computed_from_the_final_states_of_torch_nn(
    cell: str, activation: str, bidirectional: bool
) -> None:
    model, reference = pair(cell, activation, bidirectional)
    x = torch.randn(4, 9, 3)
    _, final = reference(x.transpose(0, 1))
    final = final[0] if cell == "lstm" else final
    last = torch.cat([final[-2], final[-1]], dim=1) if bidirectional else final[-1]
    torch.testing.assert_close(model(x), head(model, last))


def test_an_lstm_equals_its_equations() -> None:
    model = Recurrent("lstm", 3, 5, hidden_size=7, num_layers=1)
    w, u, b, c = model.layers.parameters()
    x, state, memory = torch.randn(4, 6, 3), torch.zeros(4, 7), torch.zeros(4, 7)
    for step in range(6):
        i, f, g, o = (x[:, step] @ w.T + b + state @ u.T + c).chunk(4, dim=1)
        memory = torch.sigmoid(f) * memory + torch.sigmoid(i) * torch.tanh(g)
        state = torch.sigmoid(o) * torch.tanh(memory)
    torch.testing.assert_close(model(x), head(model, state))


def test_a_linear_skip_starts_at_zero_and_is_added_to_the_outputs() -> None:
    torch.manual_seed(0)
    plain = Recurrent("gru", 3, 5, hidden_size=7)
    torch.manual_seed(0)
    model = Recurrent("gru", 3, 5, hidden_size=7, linear_skip=27)
    x = torch.randn(4, 9, 3)
    torch.testing.assert_close(model(x), plain(x), rtol=0, atol=0)
    nn.init.normal_(model.skip.weight)
    torch.testing.assert_close(model(x), plain(x) + x.reshape(4, 27) @ model.skip.weight.T)
    with pytest.raises(ConfigError, match=r"^model.linear_skip: expected 24, the number of values in an input, .* 27"):
        model(x[:, :8])


def test_tokens_are_embedded_before_the_recurrent_layers() -> None:
    model = Recurrent("gru", 11, 5, hidden_size=7, vocabulary=11, each_step=True)
    tokens = torch.randint(0, 11, (4, 9))
    states, _ = model.layers(model.steps.embedding.weight[tokens])
    torch.testing.assert_close(model(tokens), head(model, states))


def test_dropout_of_a_single_layer_is_applied_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = Recurrent("lstm", 3, 5, num_layers=1, dropout=0.5)
    x = torch.randn(4, 9, 3)
    assert not torch.equal(model(x), model(x))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"bidirectional": True, "causal": True}, r"model\.bidirectional"),
        ({"cell": "rnn", "activation": "gelu"}, r"model\.activation: expected one of tanh relu, got gelu"),
        ({"cell": "lstm", "activation": "relu"}, r"model\.activation: not supported because .* of the lstm are fixed"),
        ({"cell": "lsmt"}, r"model\.cell.*Did you mean lstm\?"),
        ({"hidden_size": -3}, r"model\.hidden_size: expected a whole number of at least 1, got -3"),
        ({"num_layers": 0}, r"model\.num_layers"),
        ({"dropout": 1.5}, r"model\.dropout"),
        ({"vocabulary": 0}, r"model\.vocabulary"),
        ({"linear_skip": 0}, r"model\.linear_skip: expected a whole number of at least 1, got 0"),
        ({"linear_skip": 27, "each_step": True}, r"model\.linear_skip: expected null for tokens and"),
    ],
)
def test_the_error_for_a_wrong_argument_of_a_recurrent_network_names_its_key(
    wrong: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        Recurrent(**{"cell": "gru", "features": 3, "outputs": 5, **wrong})
