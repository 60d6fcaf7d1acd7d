"""Baseline for connectionist temporal classification: transcripts that depend only on the length of the input."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor


class Unigram:
    """The most frequent token of the training transcripts, repeated in proportion to the length of the input.

    The number of tokens per step is the number of tokens divided by the number of steps in the training data.

    Args:
        train: Training batches with ``inputs``, ``transcript``, ``transcript_lengths`` and, if inputs are padded,
            ``lengths``.
        vocabulary: Number of distinct tokens.
        excluded: Tokens that cannot be chosen, such as the blank and the space.
    """

    def __init__(self, train: Iterable[Mapping[str, Tensor]], vocabulary: int, excluded: Iterable[int]) -> None:
        counts, tokens, steps = torch.zeros(vocabulary, dtype=torch.int64), 0, 0
        for batch in train:
            lengths, transcript = batch["transcript_lengths"], batch["transcript"].cpu()
            known = transcript[torch.arange(transcript.shape[1]) < lengths[:, None]]
            counts += torch.bincount(known, minlength=vocabulary)
            tokens, steps = tokens + len(known), steps + int(input_lengths(batch).sum())
        counts[list(excluded)] = 0
        self.token, self.rate = int(counts.argmax()), tokens / max(1, steps)

    def __call__(self, lengths: Tensor) -> list[list[int]]:
        """Return the transcript for each of these input lengths."""
        return [[self.token] * round(self.rate * length) for length in lengths.tolist()]


def input_lengths(batch: Mapping[str, Tensor]) -> Tensor:
    """Return the number of steps of each input, int64 (B,) on the CPU."""
    inputs = batch["inputs"]
    return batch["lengths"] if "lengths" in batch else torch.full((len(inputs),), inputs.shape[1])
