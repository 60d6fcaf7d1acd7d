"""Pairs of a passage and either the next passage of its document or a random passage of another document."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from dltrain.data.loader import Batch
from dltrain.data.ragged import Ragged
from dltrain.data.tokens import Tokens
from dltrain.keyed_random import mix, uniform

SPECIAL_TOKENS = 3  # special tokens of a pair: a begin token, and an end token after each passage
NEXT, RANDOM = 0, 1  # classes of pairs, numbered as in BERT


@dataclass(frozen=True, eq=False)
class Passages:
    """Encoded sentences of the documents of a split, and the pairs of passages to read.

    The first passage of a pair has as many whole sentences of a document as fit into half of the pair, or the end of
    one longer sentence. The second passage starts at a sentence and has as many tokens as fit, up to the end of its
    document. Each sentence except the last one of a document is in the first passage of one pair.

    Args:
        sentences: Tokens of all sentences, int32.
        counts: Number of sentences of each document, int64, at least 1 each.
        tokens: Vocabulary, with begin and end tokens.
        length: Number of tokens of a pair, including special tokens and padding.
    """

    sentences: Ragged
    counts: Tensor
    tokens: Tokens
    length: int

    @property
    def room(self) -> int:
        """Maximum number of tokens of both passages together."""
        return self.length - SPECIAL_TOKENS

    @cached_property
    def starts(self) -> Tensor:
        """Index of the first token of each sentence."""
        return self.sentences.starts

    @cached_property
    def first_sentences(self) -> Tensor:
        """For each sentence, index of the first sentence of its document."""
        return (self.counts.cumsum(0) - self.counts).repeat_interleave(self.counts)

    @cached_property
    def own_counts(self) -> Tensor:
        """For each sentence, number of sentences in its document."""
        return self.counts.repeat_interleave(self.counts)

    @cached_property
    def ends(self) -> Tensor:
        """For each sentence, index after the last token of its document."""
        last = self.first_sentences + self.own_counts - 1
        return self.starts[last] + self.sentences.lengths[last]

    def pairs(self) -> tuple[Tensor, Tensor]:
        """Return indices (N,): the first token of each first passage, the first sentence of each second passage."""
        lengths, counts, half = self.sentences.lengths.tolist(), self.counts.tolist(), self.room // 2
        starts, firsts, seconds, begin = self.starts.tolist(), list[int](), list[int](), 0
        for count in counts:
            first = begin
            while first < begin + count - 1:
                second, size = first + 1, lengths[first]
                while second < begin + count - 1 and size + lengths[second] <= half:
                    size, second = size + lengths[second], second + 1
                firsts.append(max(starts[first], starts[second] - half))
                seconds.append(second)
                first = second
            begin += count
        return torch.tensor(firsts, dtype=torch.int64), torch.tensor(seconds, dtype=torch.int64)

    def rows(self, drawn: bool) -> dict[str, Tensor]:
        """Return all pairs as rows: first, first_length, second and not_next (N,), int64, and tokens (N, T), int32.

        Args:
            drawn: Whether to replace each second passage with probability 1/2 by a random one that depends only on the
                index of the pair.
        """
        firsts, seconds = self.pairs()
        rows = {"first": firsts, "first_length": self.starts[seconds] - firsts, "second": seconds}
        rows["not_next"] = torch.full_like(seconds, NEXT)
        if drawn:
            rows |= RandomSecond(self).draw(rows, mix(torch.arange(len(seconds))))
        return rows | {"tokens": Join(self).tokens(rows).int()}


class Join(nn.Module):
    """Module that joins the two passages of each pair into one sequence of tokens.

    Shape:
        rows of `Passages` -> inputs and segments (B, T), int64; lengths (B,), int64 on the CPU; first, first_length,
        second and not_next, unchanged
    """

    values: Tensor
    starts: Tensor
    ends: Tensor

    def __init__(self, passages: Passages) -> None:
        super().__init__()
        self.length, self.special = passages.length, passages.tokens
        names = {"values": passages.sentences.values, "starts": passages.starts, "ends": passages.ends}
        for name, value in names.items():
            self.register_buffer(name, value, persistent=False)

    def second_length(self, rows: Batch) -> Tensor:
        """Return the number of tokens of each second passage, (B,)."""
        room = self.length - SPECIAL_TOKENS - rows["first_length"]
        return torch.minimum(self.ends[rows["second"]] - self.starts[rows["second"]], room)

    def tokens(self, rows: Batch) -> Tensor:
        """Return the begin token, each passage followed by the end token, and padding, (B, T)."""
        assert self.special.begin is not None and self.special.end is not None, "checked in `SentencePairs`"
        steps, split = torch.arange(self.length, device=rows["first"].device), rows["first_length"][:, None] + 1
        last = split + self.second_length(rows)[:, None] + 1
        places = torch.where(
            steps < split, rows["first"][:, None] + steps - 1, self.starts[rows["second"]][:, None] + steps - split - 1
        )
        tokens = self.values[places.clamp(0, len(self.values) - 1)].long()
        tokens = tokens.masked_fill((steps == split) | (steps == last), self.special.end)
        return tokens.masked_fill(steps == 0, self.special.begin).masked_fill(steps > last, self.special.pad or 0)

    def forward(self, rows: Batch) -> Batch:
        """Prepare a batch of pairs from rows that include ``tokens``."""
        lengths = rows["first_length"] + self.second_length(rows) + SPECIAL_TOKENS
        steps = torch.arange(self.length, device=lengths.device)
        inside = (steps > rows["first_length"][:, None] + 1) & (steps < lengths[:, None])
        fields = {"inputs": rows["tokens"].long(), "segments": inside.long(), "lengths": lengths.cpu()}
        return fields | {name: rows[name] for name in ("first", "first_length", "second", "not_next")}


class RandomSecond(nn.Module):
    """Module that replaces each second passage with probability 1/2 by a random one from another document."""

    first_sentences: Tensor
    own_counts: Tensor

    def __init__(self, passages: Passages) -> None:
        super().__init__()
        self.join = Join(passages)
        self.sentences = len(passages.sentences)
        self.register_buffer("first_sentences", passages.first_sentences, persistent=False)
        self.register_buffer("own_counts", passages.own_counts, persistent=False)

    def draw(self, rows: Batch, keys: Tensor) -> Batch:
        """Return ``second``, the first sentence of each second passage, and ``not_next``, the class of each pair."""
        replaced, place = uniform(keys, 2).unbind(1)
        second, own = rows["second"], self.own_counts[rows["second"]]
        # Draw among the sentences of all other documents: skip the indices of the pair's own document.
        drawn = (place.double() * (self.sentences - own)).long()
        drawn = drawn + own * (drawn >= self.first_sentences[second])
        random = replaced < 0.5
        return {"second": torch.where(random, drawn, second), "not_next": torch.where(random, RANDOM, NEXT)}

    def forward(self, batch: Batch, keys: Tensor) -> Batch:
        """Return the prepared pairs, with a random second passage for about half of them."""
        rows = batch | self.draw(batch, keys)
        return batch | self.join({**rows, "tokens": self.join.tokens(rows)})


def encode_documents(documents: Sequence[Sequence[str]], tokens: Tokens, length: int) -> Passages:
    """Return the sentences of documents as tokens, without empty sentences and documents."""
    assert tokens.encode is not None, "vocabularies of texts have a function `encode`"
    encoded = [[ids for ids in map(tokens.encode, document) if ids] for document in documents]
    encoded = [document for document in encoded if document]
    flat = [ids for document in encoded for ids in document]
    values = torch.tensor([token for ids in flat for token in ids], dtype=torch.int32)
    lengths = torch.tensor([len(ids) for ids in flat], dtype=torch.int64)
    counts = torch.tensor([len(document) for document in encoded], dtype=torch.int64)
    return Passages(Ragged(values, lengths), counts, tokens, length)
