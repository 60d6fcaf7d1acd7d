"""Summaries and answers: ROUGE, the baselines, and the metrics of each prefix."""

import importlib.util
from typing import Any

import pytest
import torch
from test_translation import Echo
from torch import Tensor

from dltrain.metrics import summaries
from dltrain.tasks.summarization import Summarization
from dltrain.tasks.text_scores import Texts
from dltrain.tasks.text_to_text import TextToText

PAD, UNKNOWN, BEGIN, END = range(4)
WORDS = ["", "", "", "", "summarize", ":", "cats.", "dogs", "bark."]
NEEDS_ROUGE = pytest.mark.skipif(not importlib.util.find_spec("rouge_score"), reason="rouge-score is not installed")


def decode(tokens: list[int]) -> str:
    return " ".join(WORDS[token] for token in tokens if token > END)


def encode(text: str) -> list[int]:
    return [WORDS.index(word) for word in text.split()]


OPTIONS: dict[str, Any] = {
    **{"vocabulary": len(WORDS), "pad_token": PAD, "begin_token": BEGIN, "end_token": END, "unknown_token": UNKNOWN},
    **{"length": 8, "decode": decode, "decode_source": decode},
}


def batch(sources: list[list[int]], targets: list[list[int]]) -> dict[str, Tensor]:
    width, steps = max(map(len, sources)), max(map(len, targets)) + 1
    inputs = torch.tensor([[*row, *[PAD] * (width - len(row))] for row in sources])
    ends = torch.tensor([[*row, END, *[PAD] * (steps - 1 - len(row))] for row in targets])
    previous = torch.cat([torch.full((len(ends), 1), BEGIN), ends[:, :-1]], 1)
    lengths = torch.tensor(list(map(len, sources)))
    return {"inputs": inputs, "lengths": lengths, "targets": ends, "previous": previous}


@NEEDS_ROUGE
def test_rouge_is_the_f1_of_unigrams_bigrams_and_the_longest_common_subsequence() -> None:
    found, definitions = summaries.score_summaries(["the cat sat", "dogs"], ["the cat was sitting", "dog"])
    # "the cat" is common: unigram precision 2/3, recall 2/4; bigram precision 1/2, recall 1/3. "dogs" stems to "dog".
    assert found["rouge1"] == pytest.approx(50 * (2 * (2 / 3) * (2 / 4) / (2 / 3 + 2 / 4) + 1))
    assert found["rouge2"] == pytest.approx(50 * (2 * (1 / 2) * (1 / 3) / (1 / 2 + 1 / 3) + 0))
    assert found["rougeL"] == pytest.approx(found["rouge1"])
    assert "rouge-score 0." in definitions["rouge1"]


@NEEDS_ROUGE
def test_the_baselines_are_the_first_sentence_and_first_words_of_the_source_without_its_prefix() -> None:
    task = Summarization(**OPTIONS, encode=encode, prefixes=("summarize: ",))
    whole = batch([[4, 5, 7, 6, 8], [4, 5, 7, 8]], [[7, 6, 8], [7]])  # summarize : dogs cats. bark.
    task.fit_baselines([whole], None)
    assert set(task.baselines) == {"first sentence", "first 2 words"}, "the targets have two words on average"
    assert task.baselines["first sentence"](whole) == [[7, 6], [7, 8]]
    assert task.baselines["first 2 words"](whole) == [[7, 6], [7, 8]]
    evaluation = task.evaluate(Echo(), [whole])
    scores = summaries.score_summaries(["dogs cats.", "dogs bark."], ["dogs cats. bark.", "dogs"])[0]
    assert evaluation.baselines["first sentence"] == scores
    assert {"loss", "token_accuracy", "rouge1", "rouge2", "rougeL"} == set(evaluation.metrics)


def test_a_baseline_keeps_a_source_that_begins_with_the_name_of_a_prefix_but_has_no_prefix() -> None:
    task = Summarization(**OPTIONS, encode=encode, prefixes=("summarize: ", ""))
    whole = batch([[4, 7, 8], [4, 7, 5, 8]], [[7], [7]])  # summarize dogs bark. / summarize dogs : bark.
    task.fit_baselines([whole], None)
    assert task.baselines["first sentence"](whole) == [[4, 7, 8], [4, 7, 5, 8]]


def test_exact_matches_are_counted_for_each_prefix_and_compared_with_the_most_frequent_answer() -> None:
    task = TextToText(**OPTIONS, prefixes=("summarize: ", "classify: "))
    whole = {**batch([[6], [7], [8], [6]], [[6], [7], [7], [7]]), "text_task": torch.tensor([0, 0, 1, 1])}
    task.fit_baselines([whole, {**whole, "targets": whole["targets"].flip(0)}], None)
    evaluation = task.evaluate(Echo(), [whole])
    assert evaluation.metrics["exact_match"] == 0.5, "the model copies its input"
    assert (evaluation.metrics["exact_match summarize"], evaluation.metrics["exact_match classify"]) == (1, 0)
    baseline = evaluation.baselines["most frequent answer"]
    assert (baseline["exact_match summarize"], baseline["exact_match classify"]) == (0.5, 1)


def test_tasks_with_the_same_prefix_share_their_metrics() -> None:
    task = TextToText(**OPTIONS, prefixes=("classify: ", "classify: "))
    whole = {**batch([[6], [7], [8], [6]], [[6], [7], [7], [7]]), "text_task": torch.tensor([0, 0, 1, 1])}
    assert task.evaluate(Echo(), [whole]).metrics["exact_match classify"] == 0.5


def test_of_kinds_selects_the_texts_of_the_given_tasks() -> None:
    texts = Texts()
    texts.add(["a", "b", "c"], ["a", "x", "c"], [True, False, True], [0, 1, 1])
    assert texts.exact_match == pytest.approx(2 / 3) and texts.of_kinds([1]).exact_match == 0.5 and len(texts) == 3
