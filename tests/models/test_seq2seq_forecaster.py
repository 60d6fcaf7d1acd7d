"""Encoder-decoder for time series, compared with its formulas computed step by step in NumPy."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dltrain.errors import ConfigError
from dltrain.models.seq2seq_forecaster import Seq2SeqForecaster
from dltrain.tasks.forecasting import Forecasting

BATCH, LENGTH, HORIZON, COLUMNS, KNOWN, LEVELS, WIDTH = 3, 6, 4, 2, 1, 2, 5
FEATURES = COLUMNS + 2 * KNOWN
Arrays = dict[str, np.ndarray]


def build(cell: str = "lstm", **options: Any) -> Seq2SeqForecaster:
    torch.manual_seed(0)
    sizes = {"linear_skip": LENGTH * FEATURES, **options}
    model = Seq2SeqForecaster(FEATURES, COLUMNS, HORIZON, HORIZON * COLUMNS * LEVELS, cell, WIDTH, **sizes)
    if model.skip is not None:
        torch.nn.init.normal_(model.skip.weight, std=0.1)
    return model.double().eval()


def draw(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


X, PREVIOUS = draw(BATCH, LENGTH, FEATURES), draw(BATCH, HORIZON, COLUMNS, seed=2)
IS_TRUE = torch.tensor([[True, False, True, False], [False, False, True, True], [True, True, False, False]])


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def advance(weights: Arrays, x: np.ndarray, hidden: np.ndarray, cell: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the next hidden and cell state of an LSTM (4 gates), GRU (3) or RNN (1) by PyTorch's formulas."""
    from_x = weights["weight_ih_l0"] @ x + weights["bias_ih_l0"]
    from_state = weights["weight_hh_l0"] @ hidden + weights["bias_hh_l0"]
    gates = len(from_x) // len(hidden)
    if gates == 1:
        return np.tanh(from_x + from_state), cell
    xs, states = np.split(from_x, gates), np.split(from_state, gates)
    if gates == 3:
        reset, update = sigmoid(xs[0] + states[0]), sigmoid(xs[1] + states[1])
        return (1 - update) * np.tanh(xs[2] + reset * states[2]) + update * hidden, cell
    enter, forget, candidate, out = (a + b for a, b in zip(xs, states, strict=True))
    cell = sigmoid(forget) * cell + sigmoid(enter) * np.tanh(candidate)
    return sigmoid(out) * np.tanh(cell), cell


def expected(model: Seq2SeqForecaster, row: int, is_true: np.ndarray) -> np.ndarray:
    """Return the forecast of one example; `is_true` selects the steps at which the decoder reads the true value."""
    own = {name: value.detach().numpy() for name, value in model.state_dict().items()}
    encoder, decoder = (
        {name.partition(".")[2]: value for name, value in own.items() if name.startswith(part)}
        for part in ("encoder.", "decoder.")
    )
    window, previous = X[row].numpy(), PREVIOUS[row].numpy()
    hidden, cell = np.zeros(WIDTH), np.zeros(WIDTH)
    for step in range(LENGTH):
        hidden, cell = advance(encoder, window[step, : COLUMNS + KNOWN], hidden, cell)
    added = (own["skip.weight"] @ window.reshape(-1) + own["skip.bias"]).reshape(HORIZON, COLUMNS, LEVELS)
    value, found = window[-1, :COLUMNS], []
    for step in range(HORIZON):
        value = previous[step] if is_true[step] else value
        # Row t also holds the known values of step t + HORIZON.
        known = window[LENGTH - HORIZON + step, COLUMNS + KNOWN :]
        hidden, cell = advance(decoder, np.concatenate([value, known]), hidden, cell)
        found.append((own["head.weight"] @ hidden + own["head.bias"]).reshape(COLUMNS, LEVELS) + added[step])
        value = found[-1].mean(-1)
    return np.stack(found).reshape(-1)


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
@torch.no_grad()
def test_forecasts_equal_the_formulas_computed_step_by_step(cell: str) -> None:
    model = build(cell)
    forced = {"own values": (None, None), "true values": (PREVIOUS, None), "some true values": (PREVIOUS, IS_TRUE)}
    for name, (previous, is_true) in forced.items():
        read = torch.full((BATCH, HORIZON), previous is not None) if is_true is None else is_true
        rows = np.stack([expected(model, row, read[row].numpy()) for row in range(BATCH)])
        found = model(X, previous=previous, is_true=is_true).numpy()
        np.testing.assert_allclose(found, rows, rtol=1e-10, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("options", [{}, {"attention": "additive", "bidirectional": True, "num_layers": 2}], ids=str)
@torch.no_grad()
def test_a_known_value_changes_the_forecast_from_its_own_step_on(options: dict[str, Any]) -> None:
    model, changed = build(linear_skip=None, **options), X.clone()
    changed[:, -HORIZON + 2, -1] += 1  # the known value of the third step to forecast
    change = (model(changed) - model(X)).view(BATCH, HORIZON, -1).abs().amax((0, 2))
    assert change[:2].max() == 0 and change[2:].min() > 1e-6


@torch.no_grad()
def test_teacher_forcing_with_attention_gives_equal_forecasts_in_one_pass_and_step_by_step() -> None:
    model = build(attention="general", cell="gru")
    every = torch.ones(BATCH, HORIZON, dtype=torch.bool)
    torch.testing.assert_close(model(X, PREVIOUS), model(X, PREVIOUS, every), atol=1e-7, rtol=1e-6)
    assert not torch.allclose(model(X, PREVIOUS), build(cell="gru")(X, PREVIOUS))


@torch.no_grad()
def test_the_fraction_of_true_values_falls_from_1_to_0_in_training_and_is_0_in_prediction() -> None:
    model, targets = build(), draw(BATCH, HORIZON, COLUMNS, seed=3)
    task = Forecasting(HORIZON, COLUMNS, features=FEATURES, output="gaussian")
    batch = {"inputs": X, "targets": targets}
    true = torch.cat([X[:, -1:, :COLUMNS], targets[:, :-1]], dim=1)
    levels = {"forced": model(X, true), "own": model(X)}
    losses = {
        name: task.output.loss(value.view(BATCH, HORIZON, COLUMNS, -1), targets) for name, value in levels.items()
    }
    torch.testing.assert_close(task.loss(model, batch, 0.0).total, losses["forced"])
    torch.testing.assert_close(task.loss(model, batch, 1.0).total, losses["own"])
    assert len({float(task.loss(model, batch, 0.5).total) for _ in range(5)}) > 1
    torch.testing.assert_close(task.levels(model, batch), levels["own"].view(BATCH, HORIZON, COLUMNS, -1))
    always = Forecasting(HORIZON, COLUMNS, features=FEATURES, output="gaussian", teacher_forcing=1.0)
    torch.testing.assert_close(always.loss(model, batch, 1.0).total, losses["forced"])


def test_the_window_may_be_shorter_than_the_horizon_without_known_values() -> None:
    model = Seq2SeqForecaster(COLUMNS, COLUMNS, 9, 9 * COLUMNS)
    assert model(torch.zeros(2, 4, COLUMNS)).shape == (2, 9 * COLUMNS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"outputs": 7}, "model.outputs: expected a multiple of 8, the horizon times the number of columns, got 7"),
        ({"attention": "dot", "bidirectional": True}, "model.attention=dot: not supported with"),
        ({"hidden_size": 0}, "model.hidden_size: expected a whole number of at least 1, got 0"),
    ],
    ids=str,
)
def test_wrong_arguments_are_rejected(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Seq2SeqForecaster(**{"features": 2, "columns": 2, "horizon": 4, "outputs": 8, **options})
    assert str(caught.value).startswith(message)
    with pytest.raises(ConfigError, match=r"task\.teacher_forcing: expected a number from 0 to 1, got 2"):
        Forecasting(4, 2, teacher_forcing=2)
    with pytest.raises(ConfigError, match=r"task\.teacher_forcing=0\.5: not supported because Linear does not read"):
        Forecasting(4, 2, teacher_forcing=0.5).begin(torch.nn.Linear(2, 2))
