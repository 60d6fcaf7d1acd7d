"""Sampling and beam search with language models, and decoding of byte streams."""

import itertools

import numpy as np
import pytest
import torch
from bigram import LENGTH, VOCABULARY, Table
from torch import Generator, Tensor, nn

from dltrain.models.gpt import GPT
from dltrain.models.recurrent import Recurrent
from dltrain.tasks.decoding import Sampling, decode_stream, sample_tokens, search_tokens


def sampled(model: nn.Module, prompt: list[int], count: int, sampling: Sampling, seed: int = 0) -> list[int]:
    with torch.inference_mode():
        tokens = sample_tokens(model, torch.tensor([prompt]), LENGTH, sampling, Generator().manual_seed(seed))
        return [int(token) for token in itertools.islice(tokens, count)]


@pytest.mark.parametrize("temperature", [0, 1e-3, 1e-40, 1e-320])
def test_sampling_at_low_temperature_is_greedy_even_beyond_the_context_length(table: Table, temperature: float) -> None:
    expected = [3]
    for _ in range(3 * LENGTH):
        expected.append(int(table.rows.weight[expected[-1]].argmax()))
    assert sampled(table, [3], 3 * LENGTH, Sampling(temperature)) == expected[1:]


@pytest.mark.parametrize("name", ["table", "gpt"])
def test_sampling_bypasses_torch_compile(name: str, table: Table) -> None:
    model = table if name == "table" else GPT(VOCABULARY, LENGTH, VOCABULARY, hidden_size=16)
    model.eval()
    expected, graphs = sampled(model, [3, 1], 2 * LENGTH, Sampling()), []
    model.compile(backend=lambda graph, _: graphs.append(graph) or graph.forward)
    assert sampled(model, [3, 1], 2 * LENGTH, Sampling()) == expected
    assert len(graphs) == 0


@pytest.mark.parametrize("name", ["gpt", "rnn", "lstm", "gru"])
def test_sampling_with_a_cached_state_equals_reading_the_whole_context_at_every_step(name: str) -> None:
    torch.manual_seed(3)
    sizes = {"outputs": VOCABULARY, "hidden_size": 16, "vocabulary": VOCABULARY}
    model = GPT(length=20, **sizes) if name == "gpt" else Recurrent(name, VOCABULARY, **sizes, each_step=True)
    model.eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    # The prompt has more than LENGTH tokens, so it is read in two pieces.
    tokens, noise = [1, 5, 2, 7, 9, 4, 8, 8], Generator().manual_seed(2)
    with torch.inference_mode():
        for _ in range(12):
            tokens.append(int(Sampling().draw(model(torch.tensor([tokens]))[:, -1], noise)))
    assert sampled(model, tokens[:8], 12, Sampling(), seed=2) == tokens[8:]


def shares(sampling: Sampling, logits: Tensor) -> np.ndarray:
    drawn = sampling.draw(logits.repeat(40_000, 1), Generator().manual_seed(1))
    return np.bincount(drawn.numpy(), minlength=len(logits)) / len(drawn)


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"),
    [
        *((1.0, *limits) for limits in [(1, None), (50, None), (None, 0.01), (None, 1.0)]),
        *((t, *limits) for t in (0.7, 2.0) for limits in [(None, None), (4, None), (None, 0.6), (5, 0.8)]),
    ],
)
def test_sampled_frequencies_equal_the_renormalized_probabilities_of_top_k_and_top_p(
    temperature: float, top_k: int | None, top_p: float | None
) -> None:
    logits = np.random.default_rng(0).normal(size=VOCABULARY)
    weights = np.exp(logits / temperature)
    order = np.argsort(-weights)[:top_k]
    expected = np.zeros(VOCABULARY)
    total, limit = 0.0, 1.0 if top_p is None else top_p
    for token in order:
        if total < limit:
            expected[token] = weights[token]
        total += weights[token] / weights[order].sum()
    found = shares(Sampling(temperature, top_k, top_p), torch.tensor(logits))
    np.testing.assert_allclose(found, expected / expected.sum(), atol=0.01)
    assert not found[expected == 0].any()


def test_rounding_errors_that_swap_ranks_do_not_change_the_drawn_token() -> None:
    logits = 1e-3 * torch.randn(20, 5000, generator=Generator().manual_seed(0))
    noisy = logits + 1e-7 * torch.randn(logits.shape, generator=Generator().manual_seed(1))
    assert (logits.argsort(-1) != noisy.argsort(-1)).any(-1).all(), "the ranks differ in each row"
    for sampling in (Sampling(), Sampling(top_p=0.9)):
        first, second = (sampling.draw(rows, Generator().manual_seed(2)) for rows in (logits, noisy))
        assert torch.equal(first, second)


def test_sampling_is_reproducible_and_leaves_the_global_generator_unchanged(table: Table) -> None:
    state = torch.get_rng_state()
    once, again, other = (sampled(table, [1], 20, Sampling(), seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert once == again != other


def decode_bytes(tokens: list[int]) -> str:
    return bytes(tokens).decode(errors="replace")


def test_decoded_bytes_are_yielded_as_complete_characters() -> None:
    text = "Grüße, 5 €: 🐋\n"
    pieces = list(decode_stream(text.encode(), decode_bytes))
    assert pieces == list(text)


@pytest.mark.parametrize("content", [b"a\xe2\x82", b"\xff\xfea", b"\xe2A\x82\xac", b"\x80\x80\x80\x80\x80\xe2\x82\xac"])
def test_invalid_utf8_decoded_in_pieces_equals_invalid_utf8_decoded_in_one_call(content: bytes) -> None:
    assert "".join(decode_stream(content, decode_bytes)) == content.decode(errors="replace")


def log_probability(model: nn.Module, tokens: list[int], first: int) -> float:
    """Return the log-probability of the tokens from position `first` on, computed in one pass."""
    steps = model(torch.tensor([tokens[:-1]]))[0].log_softmax(-1)
    return float(sum(steps[position - 1, tokens[position]] for position in range(first, len(tokens))))


def test_a_wide_beam_finds_the_most_likely_of_all_continuations(table: Table) -> None:
    with torch.inference_mode():
        found = search_tokens(table, torch.tensor([[7, 3]]), LENGTH, VOCABULARY, 3, (2,))[0].tolist()
        allowed = [token for token in range(VOCABULARY) if token != 2]
        every = [[3, *rest] for rest in itertools.product(allowed, repeat=3)]
        best = max(every, key=lambda tokens: log_probability(table, tokens, 1))
    assert [3, *found] == best


@pytest.mark.parametrize("name", ["table", "gpt", "lstm"])
def test_a_beam_scores_at_least_as_well_as_the_greedy_continuation(name: str, table: Table) -> None:
    torch.manual_seed(1)
    sizes = {"outputs": VOCABULARY, "hidden_size": 16, "vocabulary": VOCABULARY}
    models = {"gpt": lambda: GPT(length=30, **sizes), "lstm": lambda: Recurrent("lstm", 1, **sizes, each_step=True)}
    model = table if name == "table" else models[name]().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.7)
    length, prompt = (3 if name == "table" else 12), [1, 5]
    with torch.inference_mode():
        greedy = sampled(model, prompt, length, Sampling(0))
        found = [search_tokens(model, torch.tensor([prompt]), LENGTH, beam, length, ())[0] for beam in (1, 2, 5)]
        scores = [log_probability(model, prompt + tokens.tolist(), 2) for tokens in found]
        floor = log_probability(model, prompt + greedy, 2)
    assert scores[0] == pytest.approx(floor, abs=1e-5) and min(scores) >= floor - 1e-5
