"""Sequence-to-sequence networks: decoding step by step, padding, and attention compared with its formula."""

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dltrain.errors import ConfigError
from dltrain.models.recurrent_encoder_decoder import KINDS, Attention
from dltrain.models.seq2seq import Seq2Seq

LENGTHS = torch.tensor([5, 1, 7, 3])
ATTENTIONS = [kind for kind in KINDS if kind != "none"]
VARIANTS = [("lstm", "additive", True), ("gru", "general", True), ("rnn", "dot", False), ("lstm", "none", True)]
VARIANTS += [("lstm", "dot", False), ("gru", "none", False)]


def build(cell: str, attention: str, bidirectional: bool, **options: Any) -> Seq2Seq:
    torch.manual_seed(0)
    sizes = {"hidden_size": 6, "num_layers": 2}
    return Seq2Seq(11, 9, cell, attention=attention, bidirectional=bidirectional, **sizes, **options).double().eval()


def sources(pad: int = 0, width: int = 8) -> Tensor:
    tokens = torch.randint(1, 11, (4, width), generator=torch.Generator().manual_seed(1))
    return torch.where(torch.arange(width) < LENGTHS[:, None], tokens, pad)


def targets(steps: int = 6) -> Tensor:
    return torch.randint(0, 9, (4, steps), generator=torch.Generator().manual_seed(2))


def expected_context(attention: Attention, query: Tensor, memory: list[Tensor]) -> tuple[Tensor, list[float]]:
    """Return the context vector and the attention weights of one query, computed state by state."""
    scores = []
    for state in memory:
        if attention.score is not None and attention.query is not None:
            inner = attention.query.weight @ query + attention.keys.weight @ state + attention.keys.bias
            scores.append(float(attention.score.weight[0] @ inner.tanh()))
        else:
            scores.append(float(query @ (state if isinstance(attention.keys, nn.Identity) else attention.keys(state))))
    total = sum(math.exp(score) for score in scores)
    weights = [math.exp(score) / total for score in scores]
    return sum(weight * state for weight, state in zip(weights, memory, strict=True)), weights


@pytest.mark.parametrize("kind", ATTENTIONS)
@torch.no_grad()
def test_attention_equals_its_formula_step_by_step(kind: str) -> None:
    torch.manual_seed(0)
    attention = Attention(kind, 6, 6 if kind == "dot" else 10).double()
    memory, queries = torch.randn(4, 8, 6 if kind == "dot" else 10).double(), torch.randn(4, 3, 6).double()
    is_inside = torch.arange(8) < LENGTHS[:, None]
    contexts, weights = attention(queries, memory, attention.keys(memory), is_inside)
    for row, step in itertools.product(range(4), range(3)):
        length = int(LENGTHS[row])
        context, expected = expected_context(attention, queries[row, step], list(memory[row, :length]))
        torch.testing.assert_close(contexts[row, step], context, atol=1e-6, rtol=1e-5)  # the softmax is in float32
        torch.testing.assert_close(
            weights[row, step, :length].double(), torch.tensor(expected).double(), atol=1e-6, rtol=1e-5
        )


@pytest.mark.parametrize(("cell", "attention", "bidirectional"), [v for v in VARIANTS if v[1] != "none"])
@torch.no_grad()
def test_attention_weights_sum_to_1_and_are_0_on_padding(cell: str, attention: str, bidirectional: bool) -> None:
    model = build(cell, attention, bidirectional)
    _, state = model(targets(), state=model(sources(), lengths=LENGTHS))
    weights = state["attention"]
    assert weights.shape == (4, 6, 8)
    torch.testing.assert_close(weights.sum(-1), torch.ones(4, 6))
    assert float(weights[(torch.arange(8) >= LENGTHS[:, None])[:, None].expand(-1, 6, -1)].abs().max()) == 0
    assert float(weights[2, :, :7].min()) > 0


@pytest.mark.parametrize(("cell", "attention", "bidirectional"), VARIANTS)
def test_outputs_of_padded_sources_equal_those_of_each_source_alone(
    cell: str, attention: str, bidirectional: bool
) -> None:
    model, previous = build(cell, attention, bidirectional), targets()
    pairs = zip(sources().split(1), previous.split(1), LENGTHS.tolist(), strict=True)
    alone = torch.cat([model(source[:, :length], target) for source, target, length in pairs])
    for padded in (sources(), sources(pad=7), torch.cat([sources(), torch.full((4, 3), 5)], dim=1)):
        torch.testing.assert_close(model(padded, previous, LENGTHS), alone, atol=1e-6, rtol=1e-5)
    assert not torch.allclose(model(sources(), previous), alone, atol=1e-3)


@pytest.mark.parametrize("sizes", [[1] * 6, [2, 1, 3]], ids=str)
@pytest.mark.parametrize(("cell", "attention", "bidirectional"), VARIANTS)
def test_decoding_step_by_step_equals_decoding_in_one_pass(
    cell: str, attention: str, bidirectional: bool, sizes: list[int]
) -> None:
    model, outputs = build(cell, attention, bidirectional, dropout=0.5), []
    state = model(sources(), lengths=LENGTHS)
    for piece in targets().split(sizes, dim=1):
        output, state = model(piece, state=state)
        outputs.append(output)
        assert all(len(part) == 4 for part in state.values()), "the first axis of the state is the batch"
    torch.testing.assert_close(torch.cat(outputs, 1), model(sources(), targets(), LENGTHS), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_a_network_without_attention_equals_an_encoder_and_a_decoder_of_torch(cell: str) -> None:
    model = build(cell, "none", False)
    kind = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}[cell]
    encoder, decoder = (kind(6, 6, 2, batch_first=True).double() for _ in range(2))
    encoder.load_state_dict(model.encoder.state_dict())
    decoder.load_state_dict(model.decoder.state_dict())
    _, last = encoder(model.source_embedding(sources()))
    states, _ = decoder(model.target_embedding(targets()), last)
    torch.testing.assert_close(model(sources(), targets()), model.head(states))


def test_the_last_states_of_both_directions_initialize_the_decoder() -> None:
    model = build("gru", "none", True)
    _, last = model.encoder(model.source_embedding(sources()))
    first = torch.stack([model.bridge["hidden"](torch.cat([last[2 * n], last[2 * n + 1]], 1)) for n in range(2)])
    states, _ = model.decoder(model.target_embedding(targets()), first)
    torch.testing.assert_close(model(sources(), targets()), model.head(states))


def test_outputs_do_not_depend_on_later_tokens_of_the_target() -> None:
    model, previous = build("lstm", "general", True), targets()
    changed = previous.clone()
    changed[:, 3] = (changed[:, 3] + 1) % 9
    difference = (model(sources(), changed, LENGTHS) - model(sources(), previous, LENGTHS)).abs().amax((0, 2))
    assert difference[:3].max() == 0 and difference[3:].min() > 0


def test_tied_embeddings_are_the_weights_of_the_output_layer() -> None:
    model = build("gru", "none", False, tie_embeddings=True)
    assert not any("head" in name for name in model.state_dict())
    _, last = model.encoder(model.source_embedding(sources()))
    states, _ = model.decoder(model.target_embedding(targets()), last)
    torch.testing.assert_close(model(sources(), targets()), states @ model.target_embedding.weight.T)


def sinusoids(steps: int) -> Tensor:
    """Return the sinusoidal positional encodings of Vaswani et al. 2017, section 3.5."""
    rows = [[(p / 10_000 ** (2 * (i // 2) / 6), i % 2) for i in range(6)] for p in range(steps)]
    return torch.tensor([[math.cos(a) if odd else math.sin(a) for a, odd in row] for row in rows], dtype=torch.float64)


def test_sinusoidal_positions_are_added_to_both_embeddings() -> None:
    model = build("lstm", "none", False, positions="sinusoidal")
    _, last = model.encoder(model.source_embedding(sources()) + sinusoids(8))
    states, _ = model.decoder(model.target_embedding(targets()) + sinusoids(6), last)
    torch.testing.assert_close(model(sources(), targets()), model.head(states), atol=1e-6, rtol=1e-5)
    assert list(model.state_dict()) == list(build("lstm", "none", False).state_dict())


@pytest.mark.parametrize("sizes", [[1] * 6, [4, 2]], ids=str)
def test_decoding_with_positions_continues_at_the_position_of_the_next_token(sizes: list[int]) -> None:
    model, outputs = build("gru", "general", True, positions="sinusoidal"), []
    state = model(sources(), lengths=LENGTHS)
    for piece in targets().split(sizes, dim=1):
        output, state = model(piece, state={name: part[[0, 1, 2, 3]] for name, part in state.items()})
        outputs.append(output)
    torch.testing.assert_close(torch.cat(outputs, 1), model(sources(), targets(), LENGTHS), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attention": "dot", "bidirectional": True}, "model.attention=dot: not supported with model.bidirectional"),
        ({"attention": "dott"}, "model.attention: expected one of none additive dot general, got dott"),
        ({"positions": "learned"}, "model.positions: expected one of none sinusoidal, got learned"),
        ({"cell": "lstmm"}, "model.cell: expected one of rnn lstm gru, got lstmm"),
        ({"hidden_size": 0}, "model.hidden_size: expected a whole number of at least 1, got 0"),
    ],
)
def test_invalid_arguments_are_rejected(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Seq2Seq(11, 9, **options)
