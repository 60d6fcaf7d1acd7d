"""Recurrent encoder and decoder with attention, shared by the models for translation and forecasting."""

import torch
from torch import Tensor, nn

from dltrain.errors import ConfigError, choose
from dltrain.models.layers import State, inside
from dltrain.models.recurrent_layers import CELLS, run_layer
from dltrain.models.recurrent_ragged import run_ragged

KINDS = ("none", "additive", "dot", "general")


class Attention(nn.Module):
    """Attention of decoder states to encoder states: ``softmax(score(query, key))`` over the steps of the source.

    The score of a query ``q`` and an encoder state ``m`` is ``v . tanh(W q + U m)`` (``additive``), ``q . m``
    (``dot``) or ``q . (W m)`` (``general``). `keys` computes the part that depends only on the source.

    Args:
        kind: ``additive``, ``general``, or ``dot``, which requires equal widths.
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


class RecurrentEncoderDecoder(nn.Module):
    """Recurrent encoder, and recurrent decoder that starts from the last state of the encoder.

    Args:
        source_embedding, target_embedding: Modules that compute the inputs of encoder and decoder, called by
            subclasses.
        widths: Widths of the inputs of the encoder and of the decoder.
        cell: ``lstm``, ``gru`` or ``rnn``, for encoder and decoder.
        hidden_size, num_layers: Width of the states, and number of layers, of encoder and decoder.
        attention: ``none``, ``additive``, ``dot`` or ``general``; see `Attention`.
        bidirectional: Whether the encoder reads in both directions; a linear layer joins the last states.
        dropout: Dropout probability between layers.
    """

    def __init__(
        self,
        source_embedding: nn.Module,
        target_embedding: nn.Module,
        widths: tuple[int, int],
        cell: str,
        hidden_size: int,
        num_layers: int,
        attention: str,
        bidirectional: bool,
        dropout: float,
    ) -> None:
        super().__init__()
        choose("model.attention", attention, {name: name for name in KINDS})
        if attention == "dot" and bidirectional:
            reason = "the encoder states of both directions are twice as wide as the decoder states"
            raise ConfigError(f"model.attention=dot: not supported with model.bidirectional=true because {reason}")
        build, between = choose("model.cell", cell, CELLS), dropout if num_layers > 1 else 0.0
        layers = hidden_size, num_layers
        self.source_embedding, self.target_embedding = source_embedding, target_embedding
        self.encoder = build(widths[0], *layers, batch_first=True, bidirectional=bidirectional, dropout=between)
        self.decoder = build(widths[1], *layers, batch_first=True, dropout=between)
        for name, bias in self.named_parameters():
            if cell == "lstm" and "bias_ih" in name:
                nn.init.ones_(bias[hidden_size : 2 * hidden_size])  # bias of the forget gates, as in `Recurrent`
        width = hidden_size * (2 if bidirectional else 1)
        self.parts = ("hidden", "cell") if cell == "lstm" else ("hidden",)
        self.bridge = nn.ModuleDict({part: nn.Linear(width, hidden_size) for part in self.parts if bidirectional})
        self.attention = None if attention == "none" else Attention(attention, hidden_size, width)
        self.combine = None if attention == "none" else nn.Linear(hidden_size + width, hidden_size)

    def read(self, steps: Tensor, lengths: Tensor | None = None) -> State:
        """Return the state of the decoder before its first step.

        Args:
            steps: Inputs of the encoder, (B, S, width).
            lengths: Steps of each source, int64 (B,) on the CPU; later steps are padding. None for no padding.
        """
        if lengths is None:
            memory, last = run_layer(self.encoder, steps, None)
        else:
            memory, last = run_ragged(self.encoder, steps, lengths)  # type: ignore[arg-type]
        state = dict(zip(self.parts, last, strict=True))
        for part, bridge in self.bridge.items():  # layers and directions come first: (layers * 2, B, width)
            state[part] = bridge(torch.cat([state[part][0::2], state[part][1::2]], dim=-1))
        state = {part: value.transpose(0, 1) for part, value in state.items()}
        if self.attention is None:
            return state
        every = torch.ones(steps.shape[:2], dtype=torch.bool, device=steps.device)
        is_inside = every if lengths is None else inside(lengths, steps.shape[1], steps.device)
        source = {"memory": memory, "keys": self.attention.keys(memory), "inside": is_inside}
        return {**state, **source, "attention": memory.new_zeros(len(steps), 0, steps.shape[1])}

    def write(self, steps: Tensor, state: State) -> tuple[Tensor, State]:
        """Return the outputs of the decoder (B, T, hidden_size) for its inputs (B, T, width), and the next state."""
        before = tuple(state[part].transpose(0, 1).contiguous() for part in self.parts)  # torch has the layers first
        states, after = self.decoder(steps, before if len(before) > 1 else before[0])
        after = after if isinstance(after, tuple) else (after,)
        state = {**state, **{part: value.transpose(0, 1) for part, value in zip(self.parts, after, strict=True)}}
        if self.attention is not None and self.combine is not None:
            source = (state[part] for part in ("memory", "keys", "inside"))
            contexts, state["attention"] = self.attention(states, *source)
            states = torch.tanh(self.combine(torch.cat([contexts, states], dim=-1)))
        return states, state
