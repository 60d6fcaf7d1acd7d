"""Beam search for the most likely target of each source, with a model that decodes step by step."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

State = dict[str, Any]  # nested dictionaries of tensors, batch axis first


class Hypotheses(NamedTuple):
    """The best target of each source.

    Args:
        tokens: int64 (B, T), filled with ``end`` after the end of a target.
        scores: Normalized log-probabilities (B,).
    """

    tokens: Tensor
    scores: Tensor


class BeamSearch:
    """Search for the target with the highest score, log P / (number of tokens ** length_penalty).

    Args:
        begin, end: Tokens before the first and after the last token of a target.
        excluded: Tokens that are never generated.
        length: Maximum number of tokens of a target, including the end token; longer targets are truncated.
        beam: Number of unfinished targets to keep for each source; 1 takes the most likely token at each step (greedy).
        length_penalty: 0 compares log-probabilities, which favors short targets; 1 compares their means per token.

    Source: Graves 2012, "Sequence transduction with recurrent neural networks", algorithm 1, and Sutskever, Vinyals and
    Le 2014, section 3.2 (beam search); Wu et al. 2016, section 7 (length normalization, here by a power of the length).
    """

    def __init__(
        self, begin: int, end: int, excluded: tuple[int, ...], length: int, beam: int = 1, length_penalty: float = 1.0
    ) -> None:
        self.begin, self.end, self.excluded = begin, end, list(excluded)
        self.length, self.beam, self.length_penalty = length, beam, length_penalty

    def __call__(self, model: Any, state: State) -> Hypotheses:
        """Return the best target of each source, which never has a lower score than the greedy target.

        A beam may drop the greedy target, so a separate greedy search finds it.

        Args:
            model: ``model.forward(tokens (B, 1), state=state)`` returns logits (B, 1, vocabulary) and the next state.
            state: State before the first token.
        """
        greedy = self._search(model, state, 1)
        if self.beam == 1:
            return greedy
        wide = self._search(model, state, self.beam)
        better = wide.scores > greedy.scores
        tokens = torch.where(better[:, None], wide.tokens, greedy.tokens)
        return Hypotheses(tokens, torch.where(better, wide.scores, greedy.scores))

    def _search(self, model: Any, state: State, beam: int) -> Hypotheses:
        """Return the best target of each source that a beam search of this width finds."""
        rows, device = _rows(state), _device(state)
        if beam > 1:
            state = select(state, torch.arange(rows, device=device).repeat_interleave(beam))
        first = state
        totals = torch.full((rows, beam), -torch.inf, device=device)
        totals[:, 0] = 0  # all paths of a source are equal at the start, so only one is extended
        tokens = torch.full((rows, beam, 1), self.begin, device=device)
        best = _Best(rows, beam, self, device)
        for step in range(1, self.length + 1):
            # Calling `forward` bypasses torch.compile, which would compile again for each new shape of the state.
            logits, state = model.forward(tokens[:, :, -1].reshape(-1, 1), state=state)
            chosen, origin, totals = self._extend(logits[:, -1], totals)
            grown = torch.cat([tokens.gather(1, origin[:, :, None].expand(-1, -1, step)), chosen[:, :, None]], dim=2)
            live = best.add_finished(grown, totals, step)
            tokens, totals = grown.gather(1, live[:, :, None].expand(-1, -1, step + 1)), totals.gather(1, live)
            if beam > 1:  # with a single path, `select` would only copy the state
                starts = torch.arange(0, rows * beam, beam, device=device)[:, None]
                # Tensors that no step has replaced, such as the encoded source, are the same for all paths of a source.
                state = select(state, (origin.gather(1, live) + starts).flatten(), kept=first)
            if best.is_complete():
                break
        return best.read(tokens, totals)

    def _extend(self, logits: Tensor, totals: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the ``2 * beam`` most likely extensions for each source: token, path and log-probability.

        At most ``beam`` of them add the end token, so that at least ``beam`` are unfinished.
        """
        steps = logits.float().log_softmax(-1)
        steps[:, self.excluded] = -torch.inf
        rows, beam = totals.shape
        every = (totals[:, :, None] + steps.view(rows, beam, -1)).flatten(1)
        values, places = every.topk(min(2 * beam, every.shape[1]))
        return places % logits.shape[-1], places // logits.shape[-1], values


class _Best:
    """The best finished target of each source, and the number of finished targets."""

    def __init__(self, rows: int, beam: int, search: BeamSearch, device: torch.device) -> None:
        self.beam, self.search = beam, search
        self.tokens = torch.full((rows, search.length), search.end, device=device)
        self.scores = torch.full((rows,), -torch.inf, device=device)
        self.counts = torch.zeros(rows, dtype=torch.int64, device=device)

    def add_finished(self, paths: Tensor, totals: Tensor, step: int) -> Tensor:
        """Record finished targets among the `beam` most likely paths; return positions (B, beam) of paths to continue.

        Args:
            paths: The token ``begin`` and ``step`` further tokens of each path, most likely path first,
                (B, paths, 1 + step).
            totals: Their log-probabilities (B, paths).
        """
        ended = paths[:, :, -1] == self.search.end
        among = torch.arange(paths.shape[1], device=paths.device) < self.beam
        finished = ended & among & (self.counts < self.beam)[:, None] & totals.isfinite()
        self._keep(paths, totals.masked_fill(~finished, -torch.inf), step)
        self.counts += finished.sum(1)
        return ended.to(torch.uint8).sort(dim=1, stable=True).indices[:, : self.beam]

    def _keep(self, paths: Tensor, totals: Tensor, step: int) -> None:
        scores, place = (totals / step**self.search.length_penalty).max(1)
        better = scores > self.scores
        path = paths[torch.arange(len(paths), device=paths.device), place, 1:]
        self.tokens[:, :step] = torch.where(better[:, None], path, self.tokens[:, :step])
        self.tokens[:, step:] = torch.where(better[:, None], self.search.end, self.tokens[:, step:])
        self.scores = torch.where(better, scores, self.scores)

    def is_complete(self) -> bool:
        """Return whether each source has `beam` finished targets; synchronizes with the device."""
        return bool((self.counts >= self.beam).all())

    def read(self, paths: Tensor, totals: Tensor) -> Hypotheses:
        """Return the best targets, including paths that reached the maximum length without an end token."""
        unfinished = (self.counts < self.beam)[:, None]
        self._keep(paths, totals.masked_fill(~unfinished, -torch.inf), paths.shape[2] - 1)
        return Hypotheses(self.tokens, self.scores)


def select(state: State, rows: Tensor, kept: State | None = None) -> State:
    """Return the given rows of a state; tensors that are the same objects in `kept` are not copied."""
    kept, selected = kept or {}, {}
    for name, part in state.items():
        if part is kept.get(name):
            selected[name] = part
        else:
            selected[name] = (
                select(part, rows, kept.get(name)) if isinstance(part, dict) else part.index_select(0, rows)
            )
    return selected


def _first(state: State) -> Tensor:
    part = next(iter(state.values()))
    return _first(part) if isinstance(part, dict) else part


def _rows(state: State) -> int:
    return len(_first(state))


def _device(state: State) -> torch.device:
    return _first(state).device
