"""Sequence to sequence: a recurrent encoder reads a source, and a recurrent decoder with attention writes a target."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import rnn

from dltrain.errors import ConfigError, choose
from dltrain.models.layers import State, check_sizes, inside
from dltrain.models.positions import NoPositions, Sinusoids
from dltrain.models.recurrent_layers import CELLS

KINDS = ("none", "additive", "dot", "general")
FIRST = 64  # positions to compute in advance


class Attention(nn.Module):
    """Attention of decoder states to encoder states: ``softmax(score(query, key))`` over the steps of the source.

    The score of a query ``q`` and an encoder state ``m`` is ``v . tanh(W q + U m)`` (``additive``), ``q . m``
    (``dot``) or ``q . (W m)`` (``general``). `keys` computes the part that depends only on the source.

    Args:
        kind: ``additive``, ``dot``, for which both widths are equal, or ``general``.
        width: Width of the queries.
        memory_width: Width of the encoder states.

    Source: Bahdanau, Cho and Bengio 2015, appendix A.1.2 (additive); Luong, Pham and Manning 2015, section 3.1.
    """

    def __init__(self, kind: str, width: int, memory_width: int) -> None:
        super().__init__()
        self.keys = nn.Identity() if kind == "dot" else nn.Linear(memory_width, width, bias=kind == "additive")
        self.query = nn.Linear(width, width, bias=False) if kind == "additive" else None
        self.score = nn.Linear(width, 1, bias=False) if kind == "additive" else None

    def forward(self, queries: Tensor, memory: Tensor, keys: Tensor, is_inside: Tensor) -> tuple[Tensor, Tensor]:
        """Return the contexts (B, T, memory_width), which are weighted means of the encoder states, and the weights.

        Args:
            queries: Decoder states (B, T, width).
            memory: Encoder states (B, S, memory_width).
            keys: Output of `self.keys` for the encoder states (B, S, width).
            is_inside: Steps of the source that are not padding, bool (B, S).
        """
        if self.query is None or self.score is None:
            scores = queries @ keys.transpose(1, 2)
        else:
            scores = self.score(torch.tanh(self.query(queries)[:, :, None] + keys[:, None])).squeeze(-1)
        weights = scores.float().masked_fill(~is_inside[:, None], -torch.inf).softmax(-1)
        return weights.to(memory.dtype) @ memory, weights


class Seq2Seq(nn.Module):
    """Encoder and decoder of recurrent layers; the decoder starts from the last state of the encoder.

    Called with a source and the previous tokens of the target, the model returns all outputs. To write step by step,
    call it with the source alone for the state before the first token, then with tokens and a state.

    Args:
        cell: ``lstm``, ``gru`` or ``rnn``, for encoder and decoder.
        vocabulary, outputs: Number of distinct tokens of the source and of the target.
        hidden_size, num_layers: Width of embeddings and states, and number of layers of each part; at least 1.
        attention: ``none``, ``additive``, ``dot`` or ``general``; see `Attention`.
        bidirectional: Whether the encoder reads in both directions; a linear layer joins their last states.
        tie_embeddings: Whether the output layer shares the weights of the target embedding.
        dropout: Dropout probability of embeddings, of layers and of the input of the output layer, in [0, 1).
        positions: ``sinusoidal`` adds the positions of `dltrain.models.positions.Sinusoids` to both embeddings, so that
            attention can depend on the place of a token, as well as on the token; ``none`` adds nothing.

    Shape: int64 (B, S) and int64 (B, T) -> (B, T, outputs), the logits of each next token of the target.
    Source: Sutskever, Vinyals and Le 2014 (encoder and decoder); Luong, Pham and Manning 2015, section 3 (decoder with
    attention, without input feeding); Press and Wolf 2017 (shared weights).
    Differs: additive attention is also computed from the current state of the decoder and does not enter its
    recurrence, so that all steps of a training batch are computed at once.
    """

    def __init__(
        self,
        vocabulary: int,
        outputs: int,
        cell: str = "lstm",
        hidden_size: int = 128,
        num_layers: int = 1,
        attention: str = "additive",
        bidirectional: bool = True,
        tie_embeddings: bool = False,
        dropout: float = 0.0,
        positions: str = "none",
    ) -> None:
        super().__init__()
        check_sizes(dropout, vocabulary=vocabulary, outputs=outputs, hidden_size=hidden_size, num_layers=num_layers)
        choose("model.attention", attention, {name: name for name in KINDS})
        if attention == "dot" and bidirectional:
            reason = "the states of both directions are twice as wide as those of the decoder"
            raise ConfigError(f"model.attention: dot is not supported with model.bidirectional=true because {reason}")
        build, between = choose("model.cell", cell, CELLS), dropout if num_layers > 1 else 0.0
        sizes = hidden_size, hidden_size, num_layers
        self.source_embedding = nn.Embedding(vocabulary, hidden_size)
        self.target_embedding = nn.Embedding(outputs, hidden_size)
        self.encoder = build(*sizes, batch_first=True, bidirectional=bidirectional, dropout=between)
        self.decoder = build(*sizes, batch_first=True, dropout=between)
        for name, bias in self.named_parameters():
            if cell == "lstm" and "bias_ih" in name:
                nn.init.ones_(bias[hidden_size : 2 * hidden_size])  # open forget gates, as in `Recurrent`
        choose("model.positions", positions, {name: name for name in ("none", "sinusoidal")})
        self.positions = NoPositions() if positions == "none" else Sinusoids(FIRST, hidden_size)
        width = hidden_size * (2 if bidirectional else 1)
        self.parts = ("hidden", "cell") if cell == "lstm" else ("hidden",)
        self.bridge = nn.ModuleDict({part: nn.Linear(width, hidden_size) for part in self.parts if bidirectional})
        self.attention = None if attention == "none" else Attention(attention, hidden_size, width)
        self.combine = None if attention == "none" else nn.Linear(hidden_size + width, hidden_size)
        self.dropout = nn.Dropout(dropout)
        self.head = None if tie_embeddings else nn.Linear(hidden_size, outputs)
        if tie_embeddings:
            nn.init.normal_(self.target_embedding.weight, std=hidden_size**-0.5)

    def forward(
        self, x: Tensor, previous: Tensor | None = None, lengths: Tensor | None = None, state: State | None = None
    ) -> Any:
        """Return the logits of each next token, the state after the source, or, given a `state`, logits and state.

        Args:
            x: Source tokens (B, S); with a `state`, the next tokens of the target (B, T).
            previous: For each token to predict, the token before it (B, T); None to read only the source.
            lengths: Steps of each source, int64 (B,) on the CPU; later steps are padding. None for no padding.
            state: State returned by an earlier call. Its part ``attention`` (B, T, S) has the weights of that call.
        """
        if state is not None:
            return self._write(x, state)
        state = self._read(x, lengths)
        return state if previous is None else self._write(previous, state)[0]

    def _read(self, x: Tensor, lengths: Tensor | None) -> State:
        """Return the state before the first token of the target."""
        steps = self.dropout(self.positions(self.source_embedding(x)))
        memory, last = self._encode(steps, lengths)
        state = dict(zip(self.parts, last if isinstance(last, tuple) else (last,), strict=True))
        for part, bridge in self.bridge.items():  # layers and directions come first: (layers * 2, B, width)
            state[part] = bridge(torch.cat([state[part][0::2], state[part][1::2]], dim=-1))
        state = {part: value.transpose(0, 1) for part, value in state.items()}
        if isinstance(self.positions, Sinusoids):
            state["written"] = memory.new_zeros(len(x), 0, 0)  # its number of steps is the position of the next token
        if self.attention is None:
            return state
        every = torch.ones(x.shape, dtype=torch.bool, device=x.device)
        is_inside = every if lengths is None else inside(lengths, x.shape[1], x.device)
        source = {"memory": memory, "keys": self.attention.keys(memory), "inside": is_inside}
        return {**state, **source, "attention": memory.new_zeros(len(x), 0, x.shape[1])}

    def _encode(self, steps: Tensor, lengths: Tensor | None) -> tuple[Tensor, Any]:
        """Return the encoder states (B, S, width) and the last state of each sequence, layers first."""
        if lengths is None:
            return self.encoder(steps)
        # If torch sorted the sequences, it would wait for the GPU.
        lengths, order = lengths.clamp(min=1).sort(descending=True)
        order, inverse = (index.to(steps.device, non_blocking=True) for index in (order, order.argsort()))
        packed = rnn.pack_padded_sequence(steps.index_select(0, order), lengths, batch_first=True)
        states, last = self.encoder(packed)
        states, _ = rnn.pad_packed_sequence(states, batch_first=True, total_length=steps.shape[1])
        last = last if isinstance(last, tuple) else (last,)
        return states.index_select(0, inverse), tuple(part.index_select(1, inverse) for part in last)

    def _write(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """Return the logits after each of the tokens (B, T), and the next state."""
        before = tuple(state[part].transpose(0, 1).contiguous() for part in self.parts)  # torch has the layers first
        start = state["written"].shape[1] if "written" in state else 0
        steps = self.dropout(self.positions(self.target_embedding(tokens), start))
        states, after = self.decoder(steps, before if len(before) > 1 else before[0])
        after = after if isinstance(after, tuple) else (after,)
        state = {**state, **{part: value.transpose(0, 1) for part, value in zip(self.parts, after, strict=True)}}
        if "written" in state:
            state["written"] = steps.new_zeros(len(tokens), start + tokens.shape[1], 0)
        if self.attention is not None and self.combine is not None:
            source = (state[part] for part in ("memory", "keys", "inside"))
            contexts, state["attention"] = self.attention(states, *source)
            states = torch.tanh(self.combine(torch.cat([contexts, states], dim=-1)))
        states = self.dropout(states)
        return (F.linear(states, self.target_embedding.weight) if self.head is None else self.head(states)), state
