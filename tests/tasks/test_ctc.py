"""CTC, compared with torch's losses of single examples, an exhaustive search, and edits counted by hand."""

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dltrain.errors import ConfigError
from dltrain.models.recurrent import Recurrent
from dltrain.tasks.ctc import Ctc
from dltrain.tasks.ctc_baseline import Unigram
from dltrain.tasks.ctc_search import PrefixSearch, best_paths, score, search_prefixes

LETTERS = "_ab c"  # token 0 is the blank
LENGTHS, WIDTHS = torch.tensor([9, 4, 7]), torch.tensor([3, 1, 4])


def decode(tokens: list[int]) -> str:
    return "".join(LETTERS[token] for token in tokens if token)


def build(**options: Any) -> Ctc:
    return Ctc(len(LETTERS), 0, decode, **options)


def batch() -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(0)
    transcript = torch.tensor([[1, 1, 2, 0], [4, 0, 0, 0], [2, 3, 1, 2]])
    inputs = torch.randn(3, 9, 6, generator=random)
    return {"inputs": inputs, "lengths": LENGTHS, "transcript": transcript, "transcript_lengths": WIDTHS}


def one_by_one(whole: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Yield each example as a batch without padding."""
    for row, (steps, tokens) in enumerate(zip(LENGTHS.tolist(), WIDTHS.tolist(), strict=True)):
        one = {name: value[row : row + 1] for name, value in whole.items()}
        yield {**one, "inputs": one["inputs"][:, :steps], "transcript": one["transcript"][:, :tokens]}


def network() -> nn.Module:
    torch.manual_seed(0)
    return Recurrent("gru", 6, len(LETTERS), hidden_size=5, num_layers=1, bidirectional=True, each_step=True)


class Given(nn.Module):
    """Model whose outputs are its inputs."""

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        return x


def test_the_loss_equals_the_sum_of_torch_losses_of_unpadded_examples() -> None:
    model, task, criterion = network(), build(), nn.CTCLoss(blank=0, reduction="sum")
    found = task.loss(model, batch(), 0.0)
    total = torch.zeros(())
    for one in one_by_one(batch()):
        steps = model(one["inputs"]).log_softmax(-1).transpose(0, 1)
        total = total + criterion(steps, one["transcript"], one["lengths"], one["transcript_lengths"])
    assert found.weight == 8
    torch.testing.assert_close(found.total * found.weight, total)
    ours = torch.autograd.grad(found.total * found.weight, list(model.parameters()))
    for gradient, expected in zip(ours, torch.autograd.grad(total, list(model.parameters())), strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-5)


def test_the_metrics_of_a_batch_equal_those_of_its_examples_one_by_one() -> None:
    task = build(beam=3)
    whole = task.evaluate(network().eval(), [batch()])
    single = task.evaluate(network().eval(), list(one_by_one(batch())))
    assert whole.metrics == pytest.approx(single.metrics) and set(whole.metrics) == {"loss", "cer", "wer"}


def steps_of(seed: int, steps: int, vocabulary: int = 3, scale: float = 1.5) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(steps, vocabulary, generator=random, dtype=torch.float64)).log_softmax(-1)


def sums_over_paths(steps: Tensor) -> dict[tuple[int, ...], float]:
    """Return the probability of every transcript: the sum over all paths that collapse to it."""
    found: dict[tuple[int, ...], float] = {}
    for path in itertools.product(range(steps.shape[1]), repeat=len(steps)):
        text = tuple(token for token, _ in itertools.groupby(path) if token)
        probability = float(steps[range(len(steps)), list(path)].sum().exp())
        found[text] = found.get(text, 0.0) + probability
    return found


@pytest.mark.parametrize("seed", range(4))
def test_a_wide_beam_finds_the_most_likely_transcript_of_an_exhaustive_search(seed: int) -> None:
    steps = steps_of(seed, 6)
    expected = sums_over_paths(steps)
    best = max(expected, key=expected.__getitem__)
    found = PrefixSearch(0, beam=200)(steps[None], torch.tensor([6]))
    assert tuple(found.tokens[0]) == best
    assert found.scores[0] == pytest.approx(torch.tensor(expected[best]).log().item())
    order = sorted(expected, key=expected.__getitem__, reverse=True)
    assert search_prefixes(steps, 0, 200)[:10] == order[:10]
    some = order[:20]
    assert score(steps, some, 0).exp().tolist() == pytest.approx([expected[text] for text in some])


def test_a_beam_of_one_takes_the_best_path() -> None:
    steps = torch.stack([steps_of(seed, 12, 5) for seed in range(20)])
    lengths = torch.arange(20) % 12 + 1
    found = PrefixSearch(0, beam=1)(steps, lengths)
    for row, length, tokens in zip(steps, lengths.tolist(), found.tokens, strict=True):
        path = row[:length].argmax(-1).tolist()
        assert tokens == [token for token, _ in itertools.groupby(path) if token]
    assert found.tokens == best_paths(steps, lengths, 0)


@pytest.mark.parametrize("beam", [2, 3, 8])
def test_a_beam_never_scores_below_the_best_path(beam: int) -> None:
    steps = torch.stack([steps_of(seed, 14, 6) for seed in range(30)])
    lengths = torch.full((30,), 14)
    greedy, wide = (PrefixSearch(0, width)(steps, lengths) for width in (1, beam))
    pairs = list(zip(wide.scores, greedy.scores, strict=True))
    assert all(ours >= base for ours, base in pairs) and any(ours > base + 1e-6 for ours, base in pairs)


def given(paths: list[list[int]]) -> Tensor:
    """Return outputs with the given best paths; shorter paths are padded with the token c."""
    width = max(map(len, paths))
    rows = torch.tensor([path + [4] * (width - len(path)) for path in paths])
    return 20.0 * nn.functional.one_hot(rows, len(LETTERS)).float()


def test_error_rates_count_edits_of_all_references_and_ignore_padding() -> None:
    paths = [[1, 1, 0, 2, 2, 0], [0, 0, 0], [1, 3, 2, 0, 2]]  # ab, nothing, a bb
    references = [[1, 2, 2], [4], [1, 3, 2]]  # abb: 1 deletion; c: 1 deletion; "a b": 1 insertion
    widths = torch.tensor(list(map(len, references)))
    transcript = torch.tensor([row + [0] * (3 - len(row)) for row in references])
    lengths = torch.tensor(list(map(len, paths)))
    example = {"inputs": given(paths), "lengths": lengths, "transcript": transcript, "transcript_lengths": widths}
    evaluation = build().evaluate(Given(), [example])
    assert evaluation.metrics["cer"] == pytest.approx(3 / 7)
    assert evaluation.metrics["wer"] == pytest.approx(3 / 4)  # abb, c and b are wrong; a is right
    assert [line["transcript"] for line in build().predict(Given(), example)] == ["ab", "", "a bb"]


def test_the_baseline_repeats_the_most_frequent_token_except_spaces() -> None:
    spaces = {**batch(), "transcript": torch.tensor([[3, 3, 2, 0], [3, 0, 0, 0], [2, 3, 1, 2]])}
    unigram = Unigram([spaces], len(LETTERS), [0, 3])
    assert unigram.token == 2 and unigram.rate == 8 / 20
    assert unigram(torch.tensor([10, 1])) == [[2] * 4, []]
    del spaces["lengths"]  # three inputs without padding
    assert Unigram([spaces], len(LETTERS), [0, 3]).rate == 8 / (3 * spaces["inputs"].shape[1])


def test_the_error_rates_of_the_baseline_are_computed_from_its_transcripts() -> None:
    task = build()
    example = {**batch(), "transcript": torch.tensor([[1, 2, 2, 0], [4, 0, 0, 0], [2, 3, 1, 2]])}
    assert task.fit_baselines([example], None) == 'baseline: "b", 0.4 times per step'
    evaluation = task.evaluate(Given(), [{**example, "inputs": torch.zeros(3, 9, len(LETTERS))}])
    # bbbb for abb, bb for c, bbb for "b ab": two edits each.
    assert evaluation.baselines == {"unigram": {"cer": 6 / 8, "wer": 1.0}}


def test_a_recording_is_shown_with_the_transcripts_if_the_data_have_frequency_bands() -> None:
    task = build(bands=5, step_seconds=0.02)
    evaluation = task.evaluate(Given(), [{**batch(), "inputs": torch.randn(3, 9, len(LETTERS))}])
    transcripts, recording = task.show(Given(), evaluation)
    assert "reference" in str(transcripts.text) and recording.image is not None and recording.image.shape[0] == 3
    assert len(build().show(Given(), evaluation)) == 1


def test_a_beam_of_zero_is_rejected() -> None:
    with pytest.raises(ConfigError, match=r"task\.beam: expected a whole number of at least 1, got 0"):
        build(beam=0)
