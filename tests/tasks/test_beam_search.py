"""Beam search, compared with a greedy loop and an exhaustive search."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from dltrain.models.seq2seq import Seq2Seq
from dltrain.tasks.beam_search import BeamSearch

PAD, BEGIN, END = 0, 2, 3
VOCABULARY = 7
LENGTHS = torch.tensor([5, 1, 7, 3, 6, 2])


def model_and_state(seed: int, scale: float = 4.0) -> tuple[Seq2Seq, dict[str, Any]]:
    """Return a model with large random weights, whose outputs vary from step to step, and its state for six sources."""
    torch.manual_seed(seed)
    model = Seq2Seq(9, VOCABULARY, hidden_size=8).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(scale)
    return model, model(torch.randint(1, 9, (len(LENGTHS), 7)), lengths=LENGTHS)


def log_probability(model: Seq2Seq, state: dict[str, Any], row: int, tokens: list[int]) -> float:
    """Return the log-probability of a target given the source with index `row`."""
    own = {name: part[row : row + 1] for name, part in state.items()}
    logits, _ = model(torch.tensor([[BEGIN, *tokens[:-1]]]), state=own)
    return float(logits[0].detach().log_softmax(-1)[range(len(tokens)), tokens].sum())


def cut(row: Tensor) -> list[int]:
    tokens = row.tolist()
    return tokens[: tokens.index(END) + 1] if END in tokens else tokens


def greedy(model: Seq2Seq, state: dict[str, Any], row: int, length: int) -> list[int]:
    own = {name: part[row : row + 1] for name, part in state.items()}
    tokens = [BEGIN]
    while len(tokens) <= length and tokens[-1] != END:
        logits, own = model(torch.tensor([tokens[-1:]]), state=own)
        logits[..., [PAD, BEGIN]] = -torch.inf
        tokens.append(int(logits[0, -1].argmax()))
    return tokens[1:]


def test_a_beam_of_1_equals_greedy_decoding() -> None:
    seen = set()
    for seed in range(6):
        model, state = model_and_state(seed)
        found = BeamSearch(BEGIN, END, (PAD, BEGIN), 12, beam=1)(model, state)
        expected = [greedy(model, state, row, 12) for row in range(len(LENGTHS))]
        assert [cut(row) for row in found.tokens] == expected
        seen |= set(map(tuple, expected))
    assert len(seen) > 10 and any(END in target for target in seen)


@pytest.mark.parametrize(("beam", "penalty"), [(2, 0.0), (5, 0.6), (2, 1.0)])
def test_beam_search_never_scores_below_greedy_decoding(beam: int, penalty: float) -> None:
    better = 0
    for seed in range(6):
        model, state = model_and_state(seed)
        searches = [BeamSearch(BEGIN, END, (PAD, BEGIN), 8, width, penalty)(model, state) for width in (1, beam)]
        assert bool((searches[1].scores >= searches[0].scores).all())
        better += int((searches[1].scores > searches[0].scores + 1e-6).sum())
    assert better > 0


def test_a_search_copies_the_source_once_instead_of_at_every_step() -> None:
    model, state = model_and_state(0)
    places, hidden = set[int](), set[int]()

    class Recorded:
        def forward(self, tokens: Tensor, state: dict[str, Any]) -> Any:
            places.add(state["memory"].data_ptr())
            hidden.add(state["hidden"].data_ptr())
            return model.forward(tokens, state=state)

    BeamSearch(BEGIN, END, (PAD, BEGIN), 12, beam=3)(Recorded(), state)
    assert len(places) == 2 < len(hidden), "the encoded source must be copied only once"


@pytest.mark.parametrize(("beam", "penalty"), [(1, 1.0), (3, 0.0), (3, 1.0), (4, 0.6)])
def test_scores_are_length_normalized_log_probabilities_of_the_model(beam: int, penalty: float) -> None:
    model, state = model_and_state(1)
    found = BeamSearch(BEGIN, END, (PAD, BEGIN), 8, beam, penalty)(model, state)
    for row, tokens in enumerate(map(cut, found.tokens)):
        expected = log_probability(model, state, row, tokens) / len(tokens) ** penalty
        assert float(found.scores[row]) == pytest.approx(expected, abs=1e-4)


def test_a_wide_beam_finds_the_best_target_of_an_exhaustive_search() -> None:
    model, state = model_and_state(2, scale=1.5)
    length, pieces = 3, [token for token in range(VOCABULARY) if token not in (PAD, BEGIN, END)]
    every = [[*start, END] for count in range(length) for start in itertools.product(pieces, repeat=count)]
    every += [list(start) for start in itertools.product(pieces, repeat=length)]
    found = {p: BeamSearch(BEGIN, END, (PAD, BEGIN), length, 200, length_penalty=p)(model, state) for p in (0.0, 1.0)}
    for row in range(len(LENGTHS)):
        likely = [log_probability(model, state, row, tokens) for tokens in every]
        for penalty, result in found.items():
            scores = [each / len(tokens) ** penalty for each, tokens in zip(likely, every, strict=True)]
            assert cut(result.tokens[row]) == every[scores.index(max(scores))]
            assert float(result.scores[row]) == pytest.approx(max(scores), abs=1e-4)


def test_the_result_for_a_source_does_not_depend_on_other_sources_in_the_batch() -> None:
    model, state = model_and_state(3)
    search = BeamSearch(BEGIN, END, (PAD, BEGIN), 8, beam=3)
    together = search(model, state)
    for row in range(len(LENGTHS)):
        alone = search(model, {name: part[row : row + 1] for name, part in state.items()})
        assert torch.equal(alone.tokens[0], together.tokens[row])
