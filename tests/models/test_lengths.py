"""Padded sequences of different lengths have the same outputs as each sequence alone."""

import pytest
import torch
from torch import Tensor, nn

from dltrain.models.layers import READOUTS, read_out
from dltrain.models.recurrent import Recurrent
from dltrain.models.transformer import Transformer

LENGTHS = torch.tensor([5, 1, 9, 3])
SIZES = {"features": 11, "outputs": 4, "hidden_size": 8, "vocabulary": 11}
MODELS = {
    **{name: (name, {}) for name in ("rnn", "lstm", "gru")},
    "bidirectional lstm": ("lstm", {"bidirectional": True}),
    "bidirectional gru": ("gru", {"bidirectional": True}),
    "transformer": ("transformer", {}),
}


def build(name: str, readout: str) -> nn.Module:
    torch.manual_seed(0)
    cell, options = MODELS[name]
    if cell == "transformer":
        return Transformer(**SIZES, length=16, readout=readout).eval()
    return Recurrent(cell, **SIZES, **options, readout=readout).eval()


def texts(width: int = 9, pad: int = 0) -> Tensor:
    tokens = torch.randint(1, 11, (len(LENGTHS), width), generator=torch.Generator().manual_seed(1))
    return torch.where(torch.arange(width) < LENGTHS[:, None], tokens, pad)


@pytest.mark.parametrize("readout", READOUTS)
@pytest.mark.parametrize("name", MODELS)
def test_padded_texts_have_the_same_outputs_as_each_text_alone(name: str, readout: str) -> None:
    model, x = build(name, readout), texts()
    alone = torch.cat([model(row[None, :length]) for row, length in zip(x, LENGTHS.tolist(), strict=True)])
    torch.testing.assert_close(model(x, LENGTHS), alone)
    assert not torch.allclose(model(x), alone, atol=1e-3)


@pytest.mark.parametrize("readout", READOUTS)
@pytest.mark.parametrize("name", MODELS)
def test_padding_changes_neither_outputs_nor_gradients(name: str, readout: str) -> None:
    model, found = build(name, readout), []
    for x in (texts(), texts(pad=7), torch.cat([texts(), torch.full((4, 3), 5)], dim=1)):
        model.zero_grad()
        output = model(x, LENGTHS)
        output.square().sum().backward()
        found.append((output, [p.grad.clone() for p in model.parameters() if p.grad is not None]))
    for output, gradients in found[1:]:
        torch.testing.assert_close(output, found[0][0])
        for ours, first in zip(gradients, found[0][1], strict=True):
            rows = min(len(ours), len(first))
            torch.testing.assert_close(ours[:rows], first[:rows])


@pytest.mark.parametrize("name", MODELS)
def test_an_empty_text_has_a_finite_output(name: str) -> None:
    model = build(name, "mean")
    assert model(texts(), torch.tensor([5, 0, 9, 3])).isfinite().all()


def test_a_bidirectional_network_equals_torch_on_packed_sequences() -> None:
    model, x = build("bidirectional lstm", "last"), texts()
    packed = nn.utils.rnn.pack_padded_sequence(model.steps(x), LENGTHS, batch_first=True, enforce_sorted=False)
    _, (states, _) = model.layers(packed)
    torch.testing.assert_close(model(x, LENGTHS), model.head(torch.cat([states[-2], states[-1]], dim=1)))


def test_attention_equals_torch_with_a_padding_mask() -> None:
    model, x = build("transformer", "mean"), texts()
    states = model.positions(model.steps(x))
    for block in model.blocks:
        attention = nn.MultiheadAttention(8, block.heads.num_heads, batch_first=True)
        attention.load_state_dict(
            {
                **{f"in_proj_{kind}": getattr(block.qkv, kind) for kind in ("weight", "bias")},
                **{f"out_proj.{kind}": getattr(block.mix, kind) for kind in ("weight", "bias")},
            }
        )
        normed = block.norm1(states)
        states = states + attention(normed, normed, normed, key_padding_mask=texts() == 0)[0]
        states = states + block.down(block.activation(block.up(block.norm2(states))))
    means = torch.stack([row[:length].mean(0) for row, length in zip(states, LENGTHS.tolist(), strict=True)])
    torch.testing.assert_close(model(x, LENGTHS), model.head(model.norm(means)))


@pytest.mark.parametrize("readout", READOUTS)
def test_every_readout_equals_torch_on_each_sequence_alone(readout: str) -> None:
    states = torch.randn(4, 9, 3)
    rows = [row[:length] for row, length in zip(states, LENGTHS.tolist(), strict=True)]
    expected = {"last": lambda row: row[-1], "mean": lambda row: row.mean(0), "max": lambda row: row.max(0).values}
    torch.testing.assert_close(read_out(states, LENGTHS, readout), torch.stack(list(map(expected[readout], rows))))
    assert torch.equal(read_out(states, None, readout), torch.stack(list(map(expected[readout], states))))
