"""Attention pooling, compared with a step-by-step formula; recurrent networks that use it."""

import pytest
import torch

from dltrain.errors import ConfigError
from dltrain.models.attention_pooling import AttentionPooling
from dltrain.models.recurrent import Recurrent

LENGTHS = torch.tensor([5, 1, 9, 3])
SIZES = {"features": 11, "outputs": 4, "hidden_size": 8, "vocabulary": 11, "readout": "attention"}


def texts(width: int = 9, pad: int = 0) -> torch.Tensor:
    tokens = torch.randint(1, 11, (len(LENGTHS), width), generator=torch.Generator().manual_seed(1))
    return torch.where(torch.arange(width) < LENGTHS[:, None], tokens, pad)


def test_weights_and_means_equal_the_formula_applied_to_each_sequence_without_its_padding() -> None:
    torch.manual_seed(0)
    pool, states = AttentionPooling(6).double(), torch.randn(4, 9, 6, dtype=torch.float64)
    means, weights = pool(states, LENGTHS)
    for row, length in enumerate(LENGTHS.tolist()):
        own = states[row, :length]
        scores = torch.stack(
            [pool.score.weight[0] @ (pool.hidden.weight @ state + pool.hidden.bias).tanh() for state in own]
        )
        shares = scores.exp() / scores.exp().sum()
        torch.testing.assert_close(means[row], shares @ own, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(weights[row, :length].double(), shares, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_weights_sum_to_1_and_padding_has_weight_0_and_changes_no_output(cell: str, bidirectional: bool) -> None:
    torch.manual_seed(0)
    model, x = Recurrent(cell, **SIZES, bidirectional=bidirectional).eval(), texts()
    weights = model.attention_weights(x, LENGTHS)
    torch.testing.assert_close(weights.sum(1), torch.ones(4))
    assert not weights[torch.arange(9) >= LENGTHS[:, None]].any() and (weights[:, 0] > 0).all()
    alone = torch.cat([model(row[None, :length]) for row, length in zip(x, LENGTHS.tolist(), strict=True)])
    torch.testing.assert_close(model(x, LENGTHS), alone)
    wider = torch.cat([texts(pad=7), torch.full((4, 3), 5)], dim=1)
    torch.testing.assert_close(model(wider, LENGTHS), alone)
    assert torch.isfinite(model(x, torch.tensor([0, 1, 9, 3]))).all()


def test_only_the_attention_readout_has_attention_weights_and_it_cannot_run_step_by_step() -> None:
    model = Recurrent("lstm", **{**SIZES, "readout": "mean"})
    assert not any("pool" in name for name in model.state_dict())
    with pytest.raises(
        ConfigError, match=r"^model.readout: expected attention, the only readout with weights, got mean"
    ):
        model.attention_weights(texts(), LENGTHS)
    with pytest.raises(ConfigError, match=r"^model.readout: not supported because"):
        Recurrent("lstm", **SIZES).start(2)


def test_attention_weights_are_rejected_for_a_model_with_an_output_at_every_step() -> None:
    model = Recurrent("lstm", **SIZES, each_step=True)
    with pytest.raises(
        ConfigError, match=r"^model.readout: not supported because the model returns an output at every"
    ):
        model.attention_weights(texts(), LENGTHS)
