"""Recurrent networks: simple RNN, LSTM and GRU."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dltrain.errors import ConfigError, choose, format_error
from dltrain.models.attention_pooling import AttentionPooling
from dltrain.models.documents import read_each
from dltrain.models.layers import READOUTS, LinearSkip, State, Steps, check_sizes, read_out
from dltrain.models.recurrent_init import initialize
from dltrain.models.recurrent_layers import PARTS, LockedDropout, Parts, Stack, build_layers, run_layer
from dltrain.models.recurrent_ragged import run_ragged

ATTENTION = "attention"  # readout
SPEED_NOTE = "model.layer_norm: computed step by step, without the fused recurrent kernels of torch and cuDNN"


class Recurrent(nn.Module):
    """Stacked recurrent layers and a linear output layer, applied at every step or once per sequence.

    Args:
        cell: ``rnn``, ``lstm`` or ``gru``.
        features, outputs, hidden_size, num_layers: At least 1.
        bidirectional: Read the steps in both directions in each layer and concatenate the states.
        dropout: Dropout probability of each layer's output, and of the inputs if ``lengths`` are given, in [0, 1); it
            is not applied to the recurrent state.
        activation: ``tanh`` or ``relu`` for rnn; None for lstm and gru, whose activation functions are fixed.
        vocabulary: Number of distinct tokens; None for numeric inputs.
        each_step: Return an output at every step; otherwise one per sequence.
        causal: Whether outputs must not depend on later steps; excludes ``bidirectional``.
        readout: Input of the output layer without ``each_step``: the ``last`` state, or the ``mean`` or ``max`` of all
            states, or their attention-weighted mean (``attention``).
        layer_norm: Use layer norm inside the cell; see `dltrain.models.recurrent_layers.NormalizedCell`. The layers are
            then computed step by step, without the fast kernels of torch.
        locked_dropout: Whether dropout sets the same features to 0 at all steps of a sequence.
        weight_dropout: Dropout probability of the hidden-to-hidden weights, in [0, 1), with one mask for all steps.
        residual: Add the input of each layer after the first to its output; needs at least two layers.
        tie_embeddings: Whether the output layer shares the weights of the embedding of the tokens.
        learn_initial_state: Whether the state before the first step is learned instead of zero.
        recurrent_init: Initial hidden-to-hidden weights; see `dltrain.models.recurrent_init.initialize`.
        forget_bias: Initial bias of the forget gates of an lstm; None for 1.
        linear_skip: Number of values in an example's input (steps times features), for a linear layer on the whole
            input. The network adds the outputs of this layer, which are 0 at first, to its own; None for no layer.

    Shape: (B, T, features), images (B, C, H, W) as H steps, or tokens int64 (B, T) -> (B, T, outputs) with
    ``each_step``, otherwise (B, outputs).
    Source: Elman 1990; Hochreiter and Schmidhuber 1997 with the forget gate of Gers et al. 2000; Cho et al. 2014. The
    initial forget gate bias of 1 follows Jozefowicz, Zaremba and Sutskever 2015; the linear layer is the
    autoregressive component of Lai et al. 2018 (LSTNet), over all columns; shared weights, Press and Wolf 2017; locked
    and weight dropout, Merity, Keskar and Socher 2018 (AWD-LSTM).
    """

    def __init__(
        self,
        cell: str,
        features: int,
        outputs: int,
        hidden_size: int = 64,
        num_layers: int = 2,
        bidirectional: bool = False,
        dropout: float = 0.0,
        activation: str | None = None,
        vocabulary: int | None = None,
        each_step: bool = False,
        causal: bool = False,
        linear_skip: int | None = None,
        readout: str = "last",
        layer_norm: bool = False,
        locked_dropout: bool = False,
        weight_dropout: float = 0.0,
        residual: bool = False,
        tie_embeddings: bool = False,
        learn_initial_state: bool = False,
        recurrent_init: str = "uniform",
        forget_bias: float | None = None,
    ) -> None:
        super().__init__()
        check_sizes(dropout, features=features, outputs=outputs, vocabulary=vocabulary, linear_skip=linear_skip)
        check_sizes(hidden_size=hidden_size, num_layers=num_layers)
        _check_fit(causal and bidirectional, linear_skip, each_step or vocabulary is not None)
        self.hidden_size, self.num_layers, self.weight_dropout = hidden_size, num_layers, weight_dropout
        self.bidirectional, self.each_step = bidirectional, each_step
        self.readout = choose("model.readout", readout, {name: name for name in (*READOUTS, ATTENTION)})
        self.steps = Steps(features, hidden_size, vocabulary)
        sizes = self.steps.width, hidden_size, num_layers, bidirectional
        drop = LockedDropout(dropout) if locked_dropout else nn.Dropout(dropout)
        self.layers = build_layers(cell, *sizes, drop, activation, layer_norm, residual, weight_dropout)
        initialize(self.layers, cell, recurrent_init, forget_bias)
        directions = 2 if bidirectional else 1
        self.parts, initial = PARTS[cell], torch.zeros(num_layers * directions, 1, hidden_size)
        learned = self.parts if learn_initial_state else ()
        self.initial = nn.ParameterDict({part: nn.Parameter(initial.clone()) for part in learned})
        self.dropout = drop
        tied = _tied_head(self.steps.embedding, outputs, bidirectional) if tie_embeddings else None
        self.head = tied or nn.Linear(hidden_size * directions, outputs)
        pools = readout == ATTENTION and not each_step
        self.pool = AttentionPooling(hidden_size * directions) if pools else None
        self.skip = None if linear_skip is None else LinearSkip(linear_skip, outputs)
        self.speed_note = SPEED_NOTE if layer_norm else None

    def forward(
        self, x: Tensor, lengths: Tensor | None = None, state: State | None = None, documents: Tensor | None = None
    ) -> Any:
        """Return the outputs at every step or after all steps; with a `state`, also the state after these steps.

        Args:
            lengths: Steps of each sequence, int64 (B,) on the CPU; later steps are padding. None for no padding.
            state: State returned by `start` or an earlier call. None starts from the initial state and returns only the
                outputs.
            documents: Index of the document of each step, int64 (B, T): each document starts from the initial state.
                None for one document.
        """
        if state is not None:
            return self._continue(x, state)
        steps = self.steps(x)
        states = self._states(steps, lengths) if documents is None else read_each(self._run_ragged, steps, documents)
        if not self.each_step and self.bidirectional and self.readout == "last":
            forward, backward = states.split(self.hidden_size, dim=-1)  # the backward direction ends at the first step
            states = torch.cat([read_out(forward, lengths, "last"), backward[:, 0]], dim=-1)
        elif self.pool is not None:
            states, _ = self.pool(states, lengths)
        elif not self.each_step:
            states = read_out(states, lengths, self.readout)
        outputs = self.head(self.dropout(states))
        return outputs if self.skip is None else outputs + self.skip(x)

    def attention_weights(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return the attention weight of each step, float32 (B, T), for ``readout: attention``.

        Raises:
            ConfigError: The readout is not ``attention``, or the model returns an output at every step.
        """
        if self.each_step:
            raise ConfigError("model.readout: not supported because the model returns an output at every step")
        if self.pool is None:
            raise ConfigError(format_error("model.readout", "attention, the only readout with weights", self.readout))
        return self.pool(self._states(self.steps(x), lengths), lengths)[1]

    def start(self, batch_size: int) -> State:
        """Return the initial state, zeros or learned values.

        The hidden state and, for lstm, the cell state have the shape (B, num_layers, hidden_size).

        Raises:
            ConfigError: The model needs the whole sequence for an output.
        """
        whole = not self.each_step and self.readout != "last"
        excluded = {"bidirectional": self.bidirectional, "linear_skip": self.skip is not None, "readout": whole}
        for name, is_excluded in excluded.items():
            if is_excluded:
                reason = "the model gets one step at a time, not the whole sequence"
                raise ConfigError(f"model.{name}: not supported because {reason}")
        zeros = next(self.parameters()).new_zeros(self.num_layers, 1, self.hidden_size)
        initial = self._initial() or (zeros,) * len(self.parts)
        first = (part.transpose(0, 1).expand(batch_size, -1, -1) for part in initial)
        return dict(zip(self.parts, first, strict=True))

    def _before(self, batch_size: int) -> Parts | None:
        """Return the learned initial state of each sequence; None for zeros."""
        return tuple(part.expand(-1, batch_size, -1).contiguous() for part in self._initial()) or None

    def _initial(self) -> Parts:
        """Return the learned initial state, layers first; empty if it is not learned."""
        return tuple(self.initial[part] for part in self.parts) if self.initial else ()

    def _continue(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        before = tuple(state[part].transpose(0, 1).contiguous() for part in self.parts)  # torch has the layers first
        states, after = run_layer(self.layers, self.steps(x), before, self.weight_dropout)
        outputs = self.head(self.dropout(states if self.each_step else states[:, -1]))
        return outputs, {name: part.transpose(0, 1) for name, part in zip(self.parts, after, strict=True)}

    def _states(self, steps: Tensor, lengths: Tensor | None) -> Tensor:
        """Return the state after each step; states at padding are not used."""
        return self._run(steps if lengths is None else self.dropout(steps), lengths)

    def _run(self, steps: Tensor, lengths: Tensor | None) -> Tensor:
        """Return the state after each step, from the initial state, without dropout of the inputs."""
        if lengths is not None and self.bidirectional:
            return self._run_ragged(steps, lengths)
        # The forward direction reads padding only after all other steps.
        return run_layer(self.layers, steps, self._before(len(steps)), self.weight_dropout)[0]

    def _run_ragged(self, steps: Tensor, lengths: Tensor) -> Tensor:
        """Return the state after each step of sequences of different lengths; states at padding are not used."""
        before = self._before(len(steps))
        if isinstance(self.layers, Stack):
            return self.layers(steps, before, lengths)[0]
        return run_ragged(self.layers, steps, lengths, before, self.weight_dropout)[0]  # type: ignore[arg-type]


class TiedHead(nn.Module):
    """Linear output layer with the weights of an embedding; the state dict of this module does not contain them.

    Shape: (..., width) -> (..., vocabulary).
    """

    def __init__(self, embedding: nn.Embedding) -> None:
        super().__init__()
        self._embedding = (embedding,)  # in a tuple, so that the weights are not parameters of two modules
        self.bias = nn.Parameter(torch.zeros(embedding.num_embeddings))

    def forward(self, x: Tensor) -> Tensor:
        """Return a logit for each token of the vocabulary."""
        return F.linear(x, self._embedding[0].weight, self.bias)


def _tied_head(embedding: nn.Embedding | None, outputs: int, bidirectional: bool) -> TiedHead:
    """Initialize the weights of `embedding` and return an output layer that shares them."""
    reason = None
    if embedding is None:
        reason = "the inputs are numbers, not tokens"
    elif embedding.num_embeddings != outputs:
        reason = f"the model has {outputs} outputs, not one for each of {embedding.num_embeddings} tokens"
    elif bidirectional:
        reason = "the states of both directions are twice as wide as the embedding"
    if embedding is None or reason is not None:
        raise ConfigError(f"model.tie_embeddings: not supported because {reason}")
    nn.init.normal_(embedding.weight, std=embedding.embedding_dim**-0.5)
    return TiedHead(embedding)


def _check_fit(bidirectional: bool, linear_skip: int | None, tokens: bool) -> None:
    """Reject a backward direction that reads the targets, and `linear_skip` for tokens or outputs at every step."""
    if bidirectional:
        reason = "this task predicts the next step, which the backward direction would read"
        raise ConfigError(f"model.bidirectional: not supported because {reason}")
    if linear_skip is not None and tokens:
        expected = "null for tokens and for outputs at every step"
        raise ConfigError(format_error("model.linear_skip", expected, linear_skip))
