"""Options of the recurrent networks, compared with torch.nn and with formulas that are computed step by step."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dltrain.errors import ConfigError
from dltrain.models.recurrent import Recurrent
from dltrain.models.recurrent_layers import LockedDropout

TORCH = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}
CELLS = ["rnn", "lstm", "gru"]
ACTIVATIONS = [("rnn", "tanh"), ("rnn", "relu"), ("lstm", None), ("gru", None)]
LENGTHS = torch.tensor([5, 1, 9, 3])
EVERY = {"layer_norm": True, "locked_dropout": True, "weight_dropout": 0.3, "residual": True}
EVERY |= {"learn_initial_state": True, "recurrent_init": "orthogonal"}


def build(cell: str, **options: Any) -> Recurrent:
    """Return a float64 model with random norm parameters and initial states."""
    torch.manual_seed(0)
    model = Recurrent(cell, **{"features": 3, "outputs": 5, "hidden_size": 7, "each_step": True, **options}).double()
    for name, p in model.named_parameters():
        if "norm" in name or name.startswith("initial"):
            nn.init.normal_(p)
    return model


def steps_of(batch_size: int = 4, steps: int = 9) -> Tensor:
    return torch.randn(batch_size, steps, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def head(model: Recurrent, states: Tensor) -> Tensor:
    return states @ model.head.weight.T + model.head.bias


def normalized(a: Tensor, norm: nn.LayerNorm) -> Tensor:
    """Compute the layer norm of a vector by its definition."""
    deviation = a - a.sum() / len(a)
    y = deviation / (deviation.square().sum() / len(a) + 1e-5).sqrt() * norm.weight
    return y if norm.bias is None else y + norm.bias


def one_step(cell: str, activation: str | None, layer: Any, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Return the hidden state and the LSTM's cell state of one example after one step with layer norm."""
    of_x, of_h, n = layer.weight_ih @ x, layer.weight_hh @ h, len(h)
    if cell == "rnn":
        a = normalized(of_x + of_h, layer.norm)
        return torch.tanh(a) if activation == "tanh" else a.clamp(min=0), c
    if cell == "lstm":
        gates = normalized(of_x, layer.norm_ih) + normalized(of_h, layer.norm_hh)
        i, f, g, o = (gates[k * n : (k + 1) * n] for k in range(4))
        c = c / (1 + (-f).exp()) + g.tanh() / (1 + (-i).exp())
        return normalized(c, layer.norm_cell).tanh() / (1 + (-o).exp()), c
    gates = normalized(of_x[: 2 * n], layer.norm_ih) + normalized(of_h[: 2 * n], layer.norm_hh)
    r, z = 1 / (1 + (-gates[:n]).exp()), 1 / (1 + (-gates[n:]).exp())
    new = normalized(of_x[2 * n :], layer.norm_ih_new) + r * normalized(of_h[2 * n :], layer.norm_hh_new)
    return (1 - z) * new.tanh() + z * h, c


def read_row(model: Recurrent, cell: str, activation: str | None, row: Tensor) -> Tensor:
    """Return the states of the last layer for one sequence (T, features), computed step by step."""
    for number in range(2):
        outputs = []
        for direction, layers in enumerate(model.layers.directions):
            initial = [
                model.initial[part][number * len(model.layers.directions) + direction, 0] for part in model.parts
            ]
            h, c, found = initial[0], initial[-1], []
            for x in row.flip(0) if direction else row:
                h, c = one_step(cell, activation, layers[number], x, h, c)
                found.append(h)
            outputs.append(torch.stack(found[::-1] if direction else found))
        y = torch.cat(outputs, dim=1)
        row = y + row if number else y
    return row


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(("cell", "activation"), ACTIVATIONS)
def test_layer_norm_residuals_and_initial_state_equal_their_formulas_for_padded_sequences(
    cell: str, activation: str | None, bidirectional: bool
) -> None:
    model = build(cell, activation=activation, bidirectional=bidirectional, **EVERY).eval()
    x = steps_of()
    padded, whole = model(x, LENGTHS), model(x)
    for row, length in enumerate(LENGTHS.tolist()):
        expected = head(model, read_row(model, cell, activation, x[row, :length]))
        torch.testing.assert_close(padded[row, :length], expected)
    torch.testing.assert_close(whole[0], head(model, read_row(model, cell, activation, x[0])))


def torch_twin(model: Recurrent, cell: str, bidirectional: bool) -> nn.Module:
    """Return a two-layer torch.nn module with the weights of `model`, which has a module per layer and direction."""
    twin = TORCH[cell](3, 7, 2, batch_first=True, bidirectional=bidirectional).double()
    names = {
        f"{name.removesuffix('_l0')}_l{number}{'_reverse' if direction else ''}": value
        for direction, layers in enumerate(model.layers.directions)
        for number, layer in enumerate(layers)
        for name, value in layer.state_dict().items()
    }
    twin.load_state_dict(names)
    return twin


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_layers_called_one_by_one_equal_a_multilayer_module_of_torch_with_and_without_padding(
    cell: str, bidirectional: bool
) -> None:
    model, x = build(cell, bidirectional=bidirectional, locked_dropout=True), steps_of()
    twin = torch_twin(model, cell, bidirectional)
    torch.testing.assert_close(model(x), head(model, twin(x)[0]))
    packed = nn.utils.rnn.pack_padded_sequence(x, LENGTHS, batch_first=True, enforce_sorted=False)
    states = nn.utils.rnn.pad_packed_sequence(twin(packed)[0], batch_first=True)[0]
    inside = torch.arange(9) < LENGTHS[:, None]
    torch.testing.assert_close(model(x, LENGTHS)[inside], head(model, states)[inside])


@pytest.mark.parametrize("cell", CELLS)
def test_locked_dropout_multiplies_all_steps_by_one_mask(cell: str) -> None:
    model, x = build(cell, locked_dropout=True, dropout=0.4), steps_of()
    torch.manual_seed(5)
    found = model(x, LENGTHS)
    torch.manual_seed(5)  # one mask per sequence for the inputs, the output of the first layer, and the head
    masks = [F.dropout(torch.ones(4, 1, width, dtype=torch.float64), 0.4) for width in (3, 7, 7)]
    first, second = model.layers.directions[0]
    expected = head(model, second(first(x * masks[0])[0] * masks[1])[0] * masks[2])
    torch.testing.assert_close(found, expected)
    ones = LockedDropout(0.4)(torch.ones(2, 6, 50))
    assert (ones == ones[:, :1]).all() and sorted(set(ones.flatten().tolist())) == pytest.approx([0, 1 / 0.6])
    assert not torch.equal(ones[0], ones[1])


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_weight_dropout_equals_torch_modules_with_dropout_applied_to_their_recurrent_weights(
    cell: str, packed: bool
) -> None:
    model, x = build(cell, weight_dropout=0.5, bidirectional=packed), steps_of()
    before = {name: p.clone() for name, p in model.named_parameters()}
    torch.manual_seed(5)
    found = model(x, LENGTHS if packed else None)
    found.square().sum().backward()
    twin = TORCH[cell](3, 7, 2, batch_first=True, bidirectional=packed).double()
    weights = model.layers.state_dict()
    torch.manual_seed(5)
    weights |= {name: F.dropout(w, 0.5) for name, w in weights.items() if name.startswith("weight_hh")}
    twin.load_state_dict(weights)
    model.eval()
    kept = model(x)
    torch.testing.assert_close(kept, head(model, model.layers(x)[0]))
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    zeros = weights["weight_hh_l1"] == 0
    assert zeros.any() and torch.equal(model.layers.weight_hh_l1.grad == 0, zeros)
    states = twin(x)[0]
    if packed:
        rows = nn.utils.rnn.pack_padded_sequence(x, LENGTHS, batch_first=True, enforce_sorted=False)
        states = nn.utils.rnn.pad_packed_sequence(twin(rows)[0], batch_first=True)[0]
    inside = torch.arange(states.shape[1]) < LENGTHS[:, None] if packed else slice(None)
    torch.testing.assert_close(found[inside], head(model, states)[inside])


@pytest.mark.parametrize("cell", CELLS)
def test_weight_dropout_with_layer_norm_sets_weights_to_0_in_training_only(cell: str) -> None:
    model, x = build(cell, num_layers=1, weight_dropout=0.5, layer_norm=True), steps_of()
    torch.manual_seed(5)
    found = model(x)
    plain = build(cell, num_layers=1, layer_norm=True)
    torch.testing.assert_close(model.eval()(x), plain(x))
    (layer,) = plain.layers.directions[0]
    torch.manual_seed(5)
    layer.weight_hh.data = F.dropout(layer.weight_hh, 0.5).detach()
    torch.testing.assert_close(found, plain(x))


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_outputs_with_a_learned_initial_state_equal_those_of_torch_with_that_state(
    cell: str, bidirectional: bool
) -> None:
    model, x = build(cell, learn_initial_state=True, bidirectional=bidirectional), steps_of()
    initial = tuple(model.initial[part].expand(-1, 4, -1).contiguous() for part in model.parts)
    states, _ = model.layers(x, initial if cell == "lstm" else initial[0])
    torch.testing.assert_close(model(x), head(model, states))
    if not bidirectional:
        torch.testing.assert_close(model(x, state=model.start(4))[0], model(x))
    fresh = Recurrent(cell, 3, 5, learn_initial_state=True)
    assert all((value == 0).all() for value in fresh.initial.values())


@pytest.mark.parametrize("cell", CELLS)
def test_tied_embeddings_are_the_weights_of_the_output_layer_and_are_stored_once(cell: str) -> None:
    model = build(cell, features=11, outputs=11, vocabulary=11, tie_embeddings=True)
    tokens = torch.randint(0, 11, (4, 9))
    states, _ = model.layers(model.steps.embedding.weight[tokens])
    torch.testing.assert_close(model(tokens), states @ model.steps.embedding.weight.T + model.head.bias)
    assert [tuple(p.shape) for p in model.parameters()].count((11, 7)) == 1
    assert [name for name in model.state_dict() if name.startswith("head")] == ["head.bias"]


def test_recurrent_weights_and_forget_biases_are_initialized_as_configured() -> None:
    for cell, gates in (("rnn", 1), ("lstm", 4), ("gru", 3)):
        for layer_norm in (False, True):
            model = Recurrent(cell, 3, 5, recurrent_init="orthogonal", layer_norm=layer_norm, bidirectional=True)
            weights = [w for name, w in model.named_parameters() if "weight_hh" in name]
            assert len(weights) == 4
            for weight in weights:
                for gate in weight.view(gates, 64, 64):
                    torch.testing.assert_close(gate @ gate.T, torch.eye(64), atol=1e-5, rtol=0)
    model = Recurrent("rnn", 3, 5, recurrent_init="identity", activation="relu")
    assert torch.equal(model.layers.weight_hh_l1, torch.eye(64))
    assert all((p == 0).all() for name, p in model.layers.named_parameters() if "bias" in name)
    for layer_norm, given, expected in ((False, None, 1), (False, -2.5, -2.5), (True, None, 1), (True, 3.0, 3)):
        model = Recurrent("lstm", 3, 5, layer_norm=layer_norm, forget_bias=given)
        bias = model.layers.directions[0][1].norm_ih.bias if layer_norm else model.layers.bias_ih_l1
        assert (bias[64:128] == expected).all() and (bias[:64] != expected).all()


@pytest.mark.parametrize("cell", CELLS)
def test_initial_weights_equal_those_of_torch_modules_created_in_the_same_order(cell: str) -> None:
    torch.manual_seed(3)
    model = Recurrent(cell, 11, 5, hidden_size=7, vocabulary=11, bidirectional=True, dropout=0.2)
    torch.manual_seed(3)
    embedding = nn.Embedding(11, 7)
    layers = TORCH[cell](7, 7, 2, batch_first=True, bidirectional=True, dropout=0.2)
    if cell == "lstm":
        for name, bias in layers.named_parameters():
            if name.startswith("bias_ih"):
                nn.init.ones_(bias[7:14])
    expected = {"steps.embedding": embedding, "layers": layers, "head": nn.Linear(14, 5)}
    named = {f"{name}.{key}": p for name, module in expected.items() for key, p in module.state_dict().items()}
    state = model.state_dict()
    assert list(state) == list(named) and all(torch.equal(state[key], p) for key, p in named.items())
    assert type(model.layers) is TORCH[cell]  # not a subclass, so that torch uses its fast path


@pytest.mark.parametrize("sizes", [[1] * 9, [4, 5]], ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_a_model_with_every_option_has_the_same_outputs_in_pieces_and_in_one_pass(cell: str, sizes: list[int]) -> None:
    model = build(cell, features=11, outputs=11, vocabulary=11, tie_embeddings=True, dropout=0.5, **EVERY).eval()
    tokens, outputs = torch.randint(0, 11, (4, 9)), []
    state = model.start(4)
    for piece in tokens.split(sizes, dim=1):
        output, state = model(piece, state=state)
        outputs.append(output)
    torch.testing.assert_close(torch.cat(outputs, dim=1), model(tokens))
    assert all(part.shape == (4, 2, 7) for part in state.values())


@pytest.mark.parametrize("cell", CELLS)
def test_every_parameter_of_a_model_with_every_option_gets_a_gradient(cell: str) -> None:
    model = build(cell, dropout=0.2, **EVERY)
    model(steps_of()).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 1e-6 for p in model.parameters())


def test_only_layer_norm_prevents_fused_kernels_and_a_note_reports_it() -> None:
    assert "layer_norm" in Recurrent("gru", 3, 5, layer_norm=True).speed_note
    others = {"locked_dropout": True, "weight_dropout": 0.3, "residual": True, "learn_initial_state": True}
    model = Recurrent("gru", 3, 5, **others)
    assert model.speed_note is None and all(isinstance(layer, nn.GRU) for layer in model.layers.directions[0])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"residual": True, "num_layers": 1}, r"model\.residual: expected false for a model with one layer, got true"),
        ({"weight_dropout": 1.0}, r"model\.weight_dropout: expected a number of at least 0 and below 1, got 1"),
        ({"recurrent_init": "orthogonl"}, r"model\.recurrent_init.*Did you mean orthogonal\?"),
        ({"recurrent_init": "identity"}, r"model\.recurrent_init=identity: not supported because .* gru"),
        ({"forget_bias": 1.0}, r"model\.forget_bias: not supported because the gru has no forget gate"),
        ({"tie_embeddings": True}, r"model\.tie_embeddings: not supported because the inputs are numbers"),
        (
            {"tie_embeddings": True, "vocabulary": 11},
            r"model\.tie_embeddings: not supported because the model has 5 outputs",
        ),
        (
            {"tie_embeddings": True, "vocabulary": 5, "bidirectional": True},
            r"model\.tie_embeddings: not supported because .* twice as wide",
        ),
    ],
)
def test_the_error_for_an_invalid_option_names_its_key(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Recurrent(**{"cell": "gru", "features": 3, "outputs": 5, **wrong})
