"""`run_ragged`, compared with torch on packed sequences."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import rnn

from dltrain.models.recurrent_layers import CELLS
from dltrain.models.recurrent_ragged import run_ragged

LENGTHS = torch.tensor([5, 2, 9, 1, 9])


def build(cell: str, bidirectional: bool, dropout: float = 0.0) -> nn.RNNBase:
    torch.manual_seed(0)
    layer = CELLS[cell](4, 6, 2, batch_first=True, bidirectional=bidirectional, dropout=dropout)
    return layer.double()  # type: ignore[return-value]


def steps() -> Tensor:
    return torch.randn(5, 9, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_states_and_gradients_equal_those_of_torch_on_packed_sequences(cell: str, bidirectional: bool) -> None:
    layer, before = build(cell, bidirectional), [torch.randn(4 if bidirectional else 2, 5, 6).double() for _ in "hc"]
    before = before if cell == "lstm" else before[:1]
    packed = rnn.pack_padded_sequence(steps(), LENGTHS, batch_first=True, enforce_sorted=False)
    states, last = layer(packed, tuple(before) if cell == "lstm" else before[0])
    states, _ = rnn.pad_packed_sequence(states, batch_first=True)
    expected = [states, *(last if cell == "lstm" else [last])]
    states, last = run_ragged(layer, steps(), LENGTHS, tuple(before))
    found = [states * (torch.arange(9) < LENGTHS[:, None])[:, :, None], *last]
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    gradients = [
        torch.autograd.grad(sum(part.sin().sum() for part in parts), list(layer.parameters()))
        for parts in (found, expected)
    ]
    torch.testing.assert_close(*gradients, atol=1e-10, rtol=0)


def test_dropout_between_layers_is_applied_in_training_only() -> None:
    layer = build("gru", True, dropout=0.5)
    outputs = [run_ragged(layer.train(mode), steps(), LENGTHS)[0] for mode in (True, True, False, False)]
    assert not torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[2], outputs[3])


@pytest.mark.parametrize("cell", CELLS)
def test_autocast_changes_only_the_precision(cell: str) -> None:
    layer = build(cell, True).float()
    with torch.autocast("cpu", torch.bfloat16):
        try:
            layer(steps().float())
        except RuntimeError:
            pytest.skip("this CPU cannot compute the layer in bf16")
        states, last = run_ragged(layer, steps().float(), LENGTHS)
    expected = run_ragged(layer, steps().float(), LENGTHS)[1]
    torch.testing.assert_close([part.float() for part in last], list(expected), atol=0.02, rtol=0.02)
    assert states.isfinite().all()
