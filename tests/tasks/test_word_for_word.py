"""Word-for-word translation, compared with a direct computation."""

import itertools
import random

import torch
from torch import Tensor

from dltrain.tasks import word_for_word
from dltrain.tasks.word_for_word import WordForWord

PAD, END = 0, 3


def batch(pairs: list[tuple[list[int], list[int]]]) -> dict[str, Tensor]:
    width = max(len(source) for source, _ in pairs) + 1
    steps = max(len(target) for _, target in pairs) + 2
    # The sources are padded with 9, so the padding can be recognized only by `lengths`.
    inputs = torch.tensor([source + [9] * (width - len(source)) for source, _ in pairs])
    targets = torch.tensor([[*target, END, *[PAD] * (steps - len(target) - 1)] for _, target in pairs])
    return {"inputs": inputs, "lengths": torch.tensor([len(source) for source, _ in pairs]), "targets": targets}


def drawn(count: int) -> list[tuple[list[int], list[int]]]:
    numbers = random.Random(0)
    sides = [[[numbers.randint(4, 8) for _ in range(numbers.randint(1, 6))] for _ in range(count)] for _ in range(2)]
    return list(zip(*sides, strict=True))


def dice(pairs: list[tuple[list[int], list[int]]], source: int, target: int) -> float:
    both = sum(source in one and target in other for one, other in pairs)
    return 2 * both / max(1, sum(source in one for one, _ in pairs) + sum(target in other for _, other in pairs))


def test_each_source_token_is_translated_to_the_target_token_with_the_highest_dice_coefficient() -> None:
    pairs = drawn(40)
    found = WordForWord([batch(pairs[:25]), batch(pairs[25:])], (PAD, END)).dictionary
    assert set(found) == {4, 5, 6, 7, 8}
    for source, target in found.items():
        assert dice(pairs, source, target) == max(dice(pairs, source, other) for other in range(4, 9))


def test_a_source_is_translated_token_by_token_and_unseen_tokens_are_left_out() -> None:
    pairs = [([4, 5], [7, 6]), ([5], [6]), ([4, 8], [4, 7])]
    translate = WordForWord([batch(pairs)], (PAD, END))
    assert translate.dictionary == {4: 7, 5: 6, 8: 4}
    assert translate(batch([([5, 4, 4, 6], []), ([8], [])])) == [[6, 7, 7], [4]]


def test_batches_are_read_until_the_maximum_number_of_pairs_is_reached(monkeypatch) -> None:
    monkeypatch.setattr(word_for_word, "MAX_PAIRS", 25)
    batches = itertools.repeat(batch(drawn(10)))
    assert WordForWord(batches, (PAD, END)).pairs == 30


def test_the_baseline_is_scored_on_the_same_examples_as_the_model() -> None:
    from test_translation import Echo, copies, task

    whole = copies()
    found = task(length=9)
    found.fit_baselines([whole], None)
    evaluation = found.evaluate(Echo(), [whole])
    words = found.baselines["word for word"](whole)
    expected = [words[row] == target[: target.index(END)] for row, target in enumerate(whole["targets"].tolist())]
    assert evaluation.baselines["word for word"]["exact_match"] == sum(expected) / 3
