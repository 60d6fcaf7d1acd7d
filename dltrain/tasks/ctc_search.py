"""Decoding of connectionist temporal classification: the best path, or a beam search over prefixes."""

import math
from collections import defaultdict
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

UNLIKELY = math.log(1e-5)  # tokens of lower probability at a step do not extend a prefix
Prefix = tuple[int, ...]


class Transcriptions(NamedTuple):
    """The best transcript of each example.

    Args:
        tokens: Tokens of each transcript, without blanks.
        scores: Log-probability of each transcript, summed over its alignments.
    """

    tokens: list[list[int]]
    scores: list[float]


class PrefixSearch:
    """Search for the most likely transcripts.

    With a beam of 1, the transcript is the best path: the most likely token of each step, with repeats merged and
    then blanks removed. A wider beam sums over the alignments of each prefix. The best path is always a candidate, so
    the score is never lower than with a beam of 1.

    Args:
        blank: Index of the blank token, which emits no output.
        beam: Number of prefixes to keep at each step, at least 1.

    Source: Graves et al. 2006, section 3.2 (best path); Hannun et al. 2014, "First-pass large vocabulary continuous
    speech recognition using bi-directional recurrent DNNs", algorithm 1, without a language model (prefixes).
    """

    def __init__(self, blank: int, beam: int = 1) -> None:
        self.blank, self.beam = blank, beam

    def __call__(self, steps: Tensor, lengths: Tensor) -> Transcriptions:
        """Return the best transcripts.

        Args:
            steps: Log-probabilities of the tokens at each step, (B, T, vocabulary).
            lengths: Number of steps of each example, int64 (B,) on the CPU.
        """
        paths = best_paths(steps, lengths, self.blank)
        steps, found = steps.detach().double().cpu(), Transcriptions([], [])
        for row, length, path in zip(steps, lengths.tolist(), paths, strict=True):
            candidates = {tuple(path): None}
            if self.beam > 1:
                candidates |= dict.fromkeys(search_prefixes(row[:length], self.blank, self.beam))
            scores = score(row[:length], list(candidates), self.blank)
            best = int(scores.argmax())
            found.tokens.append(list(list(candidates)[best]))
            found.scores.append(float(scores[best]))
        return found


def best_paths(steps: Tensor, lengths: Tensor, blank: int) -> list[list[int]]:
    """Return the tokens of the most likely path of each example, with repeats merged and then blanks removed."""
    rows = (row[:length] for row, length in zip(steps.argmax(-1).cpu(), lengths.tolist(), strict=True))
    return [[token for token in row.unique_consecutive().tolist() if token != blank] for row in rows]


def score(steps: Tensor, candidates: list[Prefix], blank: int) -> Tensor:
    """Return the log-probability of each candidate, (candidates,), summed over its alignments.

    Args:
        steps: Log-probabilities of the tokens at each step of one example, (T, vocabulary).
    """
    lengths = torch.tensor([len(tokens) for tokens in candidates])
    targets = torch.tensor([token for tokens in candidates for token in tokens], dtype=torch.int64)
    every = steps[:, None].expand(-1, len(candidates), -1)
    return -F.ctc_loss(every, targets, torch.full_like(lengths, len(steps)), lengths, blank, reduction="none")


def search_prefixes(steps: Tensor, blank: int, beam: int) -> list[Prefix]:
    """Return the prefixes that a beam search keeps after the last step, the most likely first.

    The search tracks two log-probabilities of each prefix: over alignments that end with a blank, and over all others.
    """
    kept: dict[Prefix, tuple[float, float]] = {(): (0.0, -math.inf)}
    for row in steps.tolist():
        likely = [(token, value) for token, value in enumerate(row) if token != blank and value > UNLIKELY]
        grown: defaultdict[Prefix, list[float]] = defaultdict(lambda: [-math.inf, -math.inf])
        for prefix, (blanked, written) in kept.items():
            total, same = _add(blanked, written), grown[prefix]
            same[0] = _add(same[0], total + row[blank])
            if prefix:
                same[1] = _add(same[1], written + row[prefix[-1]])
            for token, value in likely:
                before = blanked if prefix and token == prefix[-1] else total  # a blank separates equal tokens
                longer = grown[(*prefix, token)]
                longer[1] = _add(longer[1], before + value)
        order = sorted(grown.items(), key=lambda item: -_add(*item[1]))
        kept = {prefix: (both[0], both[1]) for prefix, both in order[:beam]}
    return list(kept)


def _add(one: float, other: float) -> float:
    """Return ``log(exp(one) + exp(other))``."""
    low, high = (one, other) if one < other else (other, one)
    return high if low == -math.inf else high + math.log1p(math.exp(low - high))
