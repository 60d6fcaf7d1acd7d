"""Question answering: the loss, answers from several windows, scores, and the baseline."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dltrain.errors import ConfigError
from dltrain.tasks.question_answering import QuestionAnswering

CONTEXT = "Ada was born in London in 1815"
SPANS = [(0, 3), (4, 7), (8, 12), (13, 15), (16, 22), (23, 25), (26, 30)]


class Fixed(nn.Module):
    """Model with the same outputs for every batch."""

    def __init__(self, outputs: Tensor) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        return self.outputs[: len(x)]


def batch(answer: str = "London") -> dict[str, Tensor]:
    """Return two windows of a context.

    Tokens 1 to 4 are the words 0 to 3 of the context in the first window and the words 3 to 6 in the second.
    """
    spans = torch.zeros(2, 6, 2, dtype=torch.int32)
    spans[0, 1:5], spans[1, 1:5] = torch.tensor(SPANS[:4]), torch.tensor(SPANS[3:])
    characters = f"{CONTEXT}\0{answer}\0the city\0\0"
    return {
        "inputs": torch.ones(2, 6, dtype=torch.int64),
        "lengths": torch.tensor([6, 6]),
        "spans": spans,
        "question": torch.tensor([7, 7]),
        "start": torch.tensor([0, 2]),
        "end": torch.tensor([0, 2]),
        "offset": torch.zeros(2, dtype=torch.int64),
        "text": torch.tensor([list(map(ord, characters))] * 2),
    }


def outputs(**tokens: float) -> Tensor:
    """Return outputs that are 0 except for start and end logits given as ``s_WINDOW_TOKEN`` and ``e_WINDOW_TOKEN``."""
    found = torch.zeros(2, 6, 2)
    for name, value in tokens.items():
        kind, window, token = name.split("_")
        found[int(window), int(token), "se".index(kind)] = value
    return found


def test_the_loss_is_the_mean_of_start_and_end_cross_entropy_over_the_context_and_token_0() -> None:
    whole, logits = batch(), torch.randn(2, 6, 2, generator=torch.Generator().manual_seed(0))
    loss = QuestionAnswering(True).loss(Fixed(logits), whole, 0.0)
    allowed = logits[:, :5]  # token 5 is outside the context
    expected = (F.cross_entropy(allowed[..., 0], whole["start"]) + F.cross_entropy(allowed[..., 1], whole["end"])) / 2
    assert loss.weight == 2
    torch.testing.assert_close(loss.total, expected)


def test_the_answer_is_the_span_with_the_highest_score_in_all_windows() -> None:
    model = Fixed(outputs(s_0_1=3.0, e_0_2=3.0, s_1_2=4.0, e_1_2=4.0, s_1_5=99.0, s_0_0=99.0))
    (line,) = QuestionAnswering(True).predictions(model, [batch()])
    assert line == {"answer": "London", "start": 16, "end": 22, "score": 8.0}
    metrics = QuestionAnswering(True).evaluate(model, [batch()]).metrics
    assert (metrics["exact_match"], metrics["f1"]) == (1.0, 1.0)
    other = QuestionAnswering(True).evaluate(model, [batch("in London in")]).metrics
    assert (other["exact_match"], other["f1"]) == (0.0, pytest.approx(0.5))


def test_an_answer_does_not_end_before_it_starts_and_has_a_maximum_length() -> None:
    (line,) = QuestionAnswering(True).predictions(Fixed(outputs(s_1_4=9.0, e_1_1=9.0, e_1_4=6.0)), [batch()])
    assert line["answer"] == "1815"
    model = Fixed(outputs(s_1_1=9.0, e_1_4=9.0))
    (line,) = QuestionAnswering(True).predictions(model, [batch()])
    assert line["answer"] == "in London in 1815"
    (line,) = QuestionAnswering(True, max_answer=2).predictions(model, [batch()])
    assert len(line["answer"].split()) <= 2


def test_the_baseline_answers_with_a_reproducible_random_part_of_the_context() -> None:
    task = QuestionAnswering(True)
    task.fit_baselines([batch()], None)
    assert task.lengths == [1]
    baseline = task.evaluate(Fixed(outputs()), [batch()]).baselines["random part of the context"]
    assert baseline == task.evaluate(Fixed(outputs()), [batch()]).baselines["random part of the context"]
    assert 0 <= baseline["exact_match"] <= baseline["f1"] <= 1


def test_a_model_without_two_outputs_per_step_is_rejected() -> None:
    with pytest.raises(ConfigError, match="two outputs at every step"):
        QuestionAnswering(True).loss(Fixed(torch.zeros(2, 2)), batch(), 0.0)
