"""Masked spans of tokens: drawn at random and replaced by sentinels, for a whole batch on its device."""

from collections.abc import Collection, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from dltrain.keyed_random import uniform


def count_spans(lengths: Tensor, share: float, span_length: float) -> tuple[Tensor, Tensor]:
    """Return the numbers of masked tokens and of spans in each text, int64 (B,) each.

    At least one token is masked and at least one is not; texts of one token are unchanged.

    Args:
        lengths: Tokens of each text, int64 (B,).
        share: Fraction of the tokens to mask.
        span_length: Mean length of a span.
    """
    masked = (lengths * share).round().long().clamp(min=1).minimum(lengths - 1).clamp(min=0)
    spans = (masked / span_length).round().long().clamp(min=1)
    return masked, spans.minimum(masked).minimum(lengths - masked)


def draw_spans(keys: Tensor, lengths: Tensor, masked: Tensor, spans: Tensor, width: int) -> Tensor:
    """Return which tokens are masked, bool (B, width); texts start with a visible segment and end with a span.

    The masked tokens are divided into spans, and the visible tokens into the same number of segments. All divisions
    without empty spans or segments are equally likely.

    Args:
        keys: Random key of each text, int64 (B,), on the device of the result.
        lengths, masked, spans: Tokens, masked tokens and spans of each text, int64 (B,), on the CPU.
        width: Width of the result, at least the length of the longest text.

    Source: Raffel et al. 2020, section 3.1.4, and ``random_spans_noise_mask`` of the authors' code.
    """
    most = max(1, int(spans.max()))
    lengths, masked, spans = (each.to(keys.device) for each in (lengths, masked, spans))
    # The two random numbers of a position are adjacent, so that they do not depend on the padding of the batch.
    noise = uniform(keys, 2 * width).view(-1, width, 2)
    visible = _divide(lengths - masked, spans, noise[..., 0], most)
    sizes = torch.stack([visible, _divide(masked, spans, noise[..., 1], most)], dim=2).flatten(1)
    borders = sizes.cumsum(1).clamp(max=width)
    turns = torch.zeros(len(keys), width + 1, dtype=torch.int64, device=keys.device)
    parts = turns.scatter_add_(1, borders, torch.ones_like(borders)).cumsum(1)[:, :width]
    return (parts % 2 == 1) & (torch.arange(width, device=keys.device) < lengths[:, None])


def _divide(items: Tensor, parts: Tensor, noise: Tensor, most: int) -> Tensor:
    """Return the sizes of `parts` random, nonempty segments of the items, int64 (B, most); 0 after the last segment."""
    places = torch.arange(noise.shape[1], device=noise.device)
    exists = places < items[:, None]
    inner = exists & (places > 0)
    rank = noise.masked_fill(~inner, torch.inf).argsort(dim=1, stable=True).argsort(dim=1, stable=True)
    part = (inner & (rank < parts[:, None] - 1)).cumsum(1)
    sizes = torch.zeros(len(items), most, dtype=torch.int64, device=noise.device)
    return sizes.scatter_add_(1, part.clamp(max=most - 1), exists.long())


def mask_spans(
    tokens: Tensor, is_masked: Tensor, lengths: Tensor, sentinels: Tensor, end: int, widths: tuple[int, int], pad: int
) -> tuple[Tensor, Tensor]:
    """Return the texts with a sentinel instead of each span, and the removed spans, each after its sentinel.

    The spans are followed by one more sentinel and by the token `end`.

    Args:
        tokens: The texts, int64 (B, T).
        is_masked: Masked tokens, bool (B, T).
        lengths: Tokens of each text, int64 (B,), on the device of the texts.
        sentinels: The sentinels, int64, at least one more than the spans of each text.
        widths: Widths S and U of the two results.
        pad: Token that fills the rest of a row.

    Shape: (B, T) -> (B, S) and (B, U).
    """
    exists = torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]
    is_first = is_masked & ~F.pad(is_masked, (1, 0))[:, :-1]
    number = is_first.cumsum(1)
    marks = sentinels[(number - 1).clamp(min=0)]
    source = _gather(torch.where(is_first, marks, tokens), exists & (~is_masked | is_first), widths[0], pad)
    last = sentinels[number[:, -1:]]
    values = torch.cat([torch.stack([marks, tokens], 2).flatten(1), last, torch.full_like(last, end)], 1)
    kept = F.pad(torch.stack([is_first, is_masked], 2).flatten(1), (0, 2), value=True)
    return source, _gather(values, kept, widths[1], pad)


def _gather(values: Tensor, kept: Tensor, width: int, pad: int) -> Tensor:
    """Return the kept values at the left of each row, then `pad`, (B, width)."""
    places = torch.where(kept, kept.cumsum(1) - 1, width)
    return values.new_full((len(values), width + 1), pad).scatter_(1, places, values)[:, :width]


def fill_spans(source: Sequence[int], target: Sequence[int], sentinels: Collection[int]) -> list[int]:
    """Return a text in which each sentinel is replaced by the tokens after it in `target`; inverts `mask_spans`."""
    marks, spans, current = set(sentinels), dict[int, list[int]](), list[int]()
    for token in target:
        if token in marks:
            current = spans.setdefault(token, [])
        else:
            current.append(token)
    return [piece for token in source for piece in (spans.get(token, []) if token in marks else [token])]
