"""Sequence-to-sequence model: a recurrent encoder of the source, and a recurrent decoder with attention."""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from dltrain.errors import choose
from dltrain.models.layers import State, check_sizes
from dltrain.models.positions import NoPositions, Sinusoids
from dltrain.models.recurrent_encoder_decoder import RecurrentEncoderDecoder

FIRST = 64  # positions to compute in advance


class Seq2Seq(RecurrentEncoderDecoder):
    """Encoder and decoder of recurrent layers; the decoder starts from the last state of the encoder.

    Called with a source and the previous tokens of the target, the model returns the logits of all tokens. To decode
    step by step, call it with the source alone, which returns the initial state, then with tokens and a state.

    Args:
        cell: ``lstm``, ``gru`` or ``rnn``, for encoder and decoder.
        vocabulary, outputs: Number of distinct tokens of the source and of the target.
        hidden_size, num_layers: Width of embeddings and states, and number of layers of encoder and decoder, at
            least 1.
        attention: ``none``, ``additive``, ``dot`` or ``general``; see
            `dltrain.models.recurrent_encoder_decoder.Attention`.
        bidirectional: Whether the encoder reads in both directions; a linear layer joins the last states.
        tie_embeddings: Whether the output layer shares the weights of the target embedding.
        dropout: Dropout probability after the embeddings, between layers and before the output layer, in [0, 1).
        positions: ``sinusoidal`` adds the positions of `dltrain.models.positions.Sinusoids` to both embeddings, so that
            attention can also depend on the position of a token; ``none`` adds nothing.

    Shape: int64 (B, S) and int64 (B, T) -> (B, T, outputs), the logits of each next token of the target.
    Source: Sutskever, Vinyals and Le 2014 (encoder and decoder); Luong, Pham and Manning 2015, section 3 (decoder with
    attention, without input feeding); Press and Wolf 2017 (shared weights).
    Differs: additive attention is computed from the current state of the decoder, not from the previous one, and does
    not enter its recurrence, so that all steps of a training batch are computed together.
    """

    target_embedding: nn.Embedding

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
        check_sizes(dropout, vocabulary=vocabulary, outputs=outputs, hidden_size=hidden_size, num_layers=num_layers)
        source, target = nn.Embedding(vocabulary, hidden_size), nn.Embedding(outputs, hidden_size)
        widths = hidden_size, hidden_size
        super().__init__(source, target, widths, cell, hidden_size, num_layers, attention, bidirectional, dropout)
        choose("model.positions", positions, {name: name for name in ("none", "sinusoidal")})
        self.positions = NoPositions() if positions == "none" else Sinusoids(FIRST, hidden_size)
        self.dropout = nn.Dropout(dropout)
        self.head = None if tie_embeddings else nn.Linear(hidden_size, outputs)
        if tie_embeddings:
            nn.init.normal_(self.target_embedding.weight, std=hidden_size**-0.5)

    def forward(
        self, x: Tensor, previous: Tensor | None = None, lengths: Tensor | None = None, state: State | None = None
    ) -> Any:
        """Return the logits of each next token.

        Without `previous`, return the state after reading the source. With a `state`, return the logits and the next
        state.

        Args:
            x: Source tokens (B, S); with a `state`, the next tokens of the target (B, T).
            previous: For each token to predict, the token before it (B, T); None to read only the source.
            lengths: Steps of each source, int64 (B,) on the CPU; later steps are padding. None for no padding.
            state: State returned by an earlier call. With attention, ``state["attention"]`` has the weights of that
                call, (B, T, S).
        """
        if state is not None:
            return self._write(x, state)
        state = self._read(x, lengths)
        return state if previous is None else self._write(previous, state)[0]

    def _read(self, x: Tensor, lengths: Tensor | None) -> State:
        """Return the state before the first token of the target."""
        state = self.read(self.dropout(self.positions(self.source_embedding(x))), lengths)
        if isinstance(self.positions, Sinusoids):
            written = state["hidden"].new_zeros(len(x), 0, 0)  # its number of steps is the position of the next token
            state["written"] = written
        return state

    def _write(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """Return the logits after each of the tokens (B, T), and the next state."""
        start = state["written"].shape[1] if "written" in state else 0
        steps = self.dropout(self.positions(self.target_embedding(tokens), start))
        states, state = self.write(steps, state)
        if "written" in state:
            state["written"] = steps.new_zeros(len(tokens), start + tokens.shape[1], 0)
        states = self.dropout(states)
        return (F.linear(states, self.target_embedding.weight) if self.head is None else self.head(states)), state
