"""Word-for-word translation, the baseline of translation."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

MAX_PAIRS = 20_000  # training pairs to read, rounded up to whole batches
BITS = 24  # bits of a token in a key
MASK = 2**BITS - 1


class WordForWord:
    """Translation of each source token by the target token most strongly associated with it, in source order.

    The translation ``t`` of a token ``s`` has the highest Dice coefficient ``2 n(s, t) / (n(s) + n(t))``, where
    ``n(s)`` is the number of training pairs that contain ``s``, and ``n(s, t)`` is the number of pairs that contain
    ``s`` and ``t``. Tokens that occur in no training pair are left out.

    Args:
        train: Training batches with ``inputs``, ``targets`` and, if inputs are padded, ``lengths``; about the first
            `MAX_PAIRS` examples are read.
        excluded: Target tokens that are not words, such as padding.

    Source: Dice 1945; as a score of translations, Smadja, McKeown and Hatzivassiloglou 1996, section 6.
    """

    def __init__(self, train: Iterable[Mapping[str, Tensor]], excluded: Iterable[int]) -> None:
        marks, self.pairs = torch.tensor(list(excluded)), 0
        joint, left, right = [], [], []
        for batch in train:
            if self.pairs >= MAX_PAIRS:
                break
            self.pairs += len(batch["inputs"])
            sources, is_source = _sources(batch)
            targets = batch["targets"].cpu()
            is_target = ~torch.isin(targets, marks)
            rows = torch.arange(len(targets))[:, None] << BITS
            left.append((rows | sources)[is_source].unique() & MASK)
            right.append((rows | targets)[is_target].unique() & MASK)
            keys = (rows | sources)[:, :, None] << BITS | targets[:, None]
            both = is_source[:, :, None] & is_target[:, None]
            joint.append(keys[both].unique() & (MASK << BITS | MASK))
        found, counts = torch.cat(joint).unique(return_counts=True)
        source, target = found >> BITS, found & MASK
        sizes = torch.cat(left).bincount()[source] + torch.cat(right).bincount()[target]
        order = (2 * counts / sizes).argsort(stable=True)  # the best translation of a token comes last, and is kept
        self.dictionary = dict(zip(source[order].tolist(), target[order].tolist(), strict=True))

    def __call__(self, batch: Mapping[str, Tensor]) -> list[list[int]]:
        """Return the translation of each source."""
        tokens, is_source = _sources(batch)
        rows = (row[known].tolist() for row, known in zip(tokens, is_source, strict=True))
        return [[self.dictionary[token] for token in row if token in self.dictionary] for row in rows]


def _sources(batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return the source tokens of a batch, and which of them are not padding, both (B, S) on the CPU."""
    tokens = batch["inputs"].cpu()
    lengths = batch.get("lengths", torch.full((len(tokens),), tokens.shape[1]))
    return tokens, torch.arange(tokens.shape[1]) < lengths[:, None]
