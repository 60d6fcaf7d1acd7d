"""Encoder-decoder Transformer of Vaswani et al. 2017, which maps a source to a target."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from dltrain.errors import ConfigError, choose
from dltrain.models.attention import padding_mask
from dltrain.models.blocks import Block, state_norm
from dltrain.models.layers import State, check_sizes
from dltrain.models.positions import RelativePositions, embed_positions

FIRST = 64  # positions to compute in advance if the data have no maximum length
POSITIONS = ("sinusoidal", "learned", "rotary", "none")
INITS = ("xavier", "uniform")


class ReadAndWrite(nn.Module):
    """Base class of encoder-decoder transformers.

    Called with a source and the tokens of the target so far, the model returns the logits of each next token. To decode
    step by step, call it with the source alone, which returns the initial state, then with tokens and a state. The
    state holds the keys and values of the source, which are computed once, and of the tokens decoded so far.
    """

    head_bias = True  # whether an output layer with its own weights has a bias
    embedding_scale = 1.0  # factor of the embeddings
    output_scale = 1.0  # factor of the states before an output layer that shares the embedding's weights

    def build(
        self,
        sizes: tuple[int | None, int, int],
        num_layers: int,
        make_block: Callable[..., Block],
        make_norm: Callable[[], nn.Module],
        positions: tuple[nn.Module, nn.Module],
        tie_embeddings: bool,
        dropout: float,
        distances: tuple[RelativePositions, RelativePositions] | None = None,
    ) -> None:
        """Create the layers.

        Args:
            sizes: Vocabulary size of the source (None to share the target's embedding), vocabulary size of the target,
                and width of the states.
            make_block: Function that returns a block, given ``causal`` and ``cross``.
            make_norm: Function that returns the norm after the last block.
            positions: Modules that add positions to source and target.
            distances: Relative positions in the self-attention of encoder and decoder; None for no relative positions.
        """
        vocabulary, outputs, width = sizes
        self.target_embedding = nn.Embedding(outputs, width)
        self.source_embedding = None if vocabulary is None else nn.Embedding(vocabulary, width)
        self.source_positions, self.target_positions = positions
        self.encoder_distances = None if distances is None else distances[0]
        self.decoder_distances = None if distances is None else distances[1]
        self.dropout = nn.Dropout(dropout)
        self.encoder = nn.ModuleList(make_block() for _ in range(num_layers))
        self.encoder_norm = make_norm()
        self.decoder = nn.ModuleList(make_block(causal=True, cross=True) for _ in range(num_layers))
        self.decoder_norm = make_norm()
        self.head = None if tie_embeddings else nn.Linear(width, outputs, bias=self.head_bias)

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
            state: State returned by an earlier call.
        """
        if state is not None:
            return self._write(x, state)
        state = self._read(x, lengths)
        return state if previous is None else self._write(previous, state)[0]

    def _read(self, x: Tensor, lengths: Tensor | None) -> State:
        """Return the state before the first token of the target."""
        embedding = self.target_embedding if self.source_embedding is None else self.source_embedding
        states = self._embed(x, embedding, self.source_positions, 0)
        mask = padding_mask(lengths, x.shape[1], x.device)
        scores = mask if self.encoder_distances is None else self.encoder_distances(x.shape[1], x.shape[1], mask)
        for block in self.encoder:
            states = block(states, scores)
        memory = self.encoder_norm(states)
        source, blocks = {}, {}
        for number, block in enumerate(self.decoder):
            source[str(number)] = block.cross.read(memory)  # type: ignore[union-attr, operator]
            blocks[str(number)] = block.empty_cache(len(x))  # type: ignore[operator]
        state: State = {"source": source, "blocks": blocks}
        return state if mask is None else {**state, "source_mask": mask}

    def _write(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """Return the logits after each of the tokens (B, T), and the next state."""
        start = state["blocks"]["0"]["keys"].shape[2]
        states = self._embed(tokens, self.target_embedding, self.target_positions, start)
        mask, blocks, scores = state.get("source_mask"), {}, None
        if self.decoder_distances is not None:
            scores = self.decoder_distances(tokens.shape[1], start + tokens.shape[1])
        for number, block in enumerate(self.decoder):
            name = str(number)
            states, blocks[name] = block.extend(  # type: ignore[operator]
                states, state["blocks"][name], scores, source=state["source"][name], source_mask=mask
            )
        states = self.decoder_norm(states)
        if self.head is None:
            logits = F.linear(states * self.output_scale, self.target_embedding.weight)
        else:
            logits = self.head(states)
        return logits, {**state, "blocks": blocks}

    def _embed(self, tokens: Tensor, embedding: nn.Embedding, positions: nn.Module, start: int) -> Tensor:
        return self.dropout(positions(embedding(tokens) * self.embedding_scale, start))


class EncoderDecoder(ReadAndWrite):
    """Transformer encoder and decoder; each block of the decoder attends to the encoded source.

    Args:
        vocabulary, outputs: Number of distinct tokens of the source and of the target.
        length, target_length: Maximum steps of source and target for learned positions; other positions have no limit.
        hidden_size, num_layers: Width of the states, and number of blocks of the encoder and of the decoder.
        num_heads: Number of attention heads; divides ``hidden_size``.
        num_kv_heads: Number of heads of keys and values; divides ``num_heads``; None for ``num_heads``.
        ffn_ratio: Width of the feed-forward layers, as a multiple of ``hidden_size``, at least 1.
        gated: See `Block`.
        pre_norm: Whether norms precede the layers, with one more norm after the last block; otherwise, norms follow the
            residual sums.
        norm: ``layer`` or ``rms``.
        positions: ``sinusoidal``, ``learned``, ``rotary`` (in self-attention) or ``none``.
        tie_embeddings: Whether the output layer shares the weights of the target embedding and, with
            ``shared_vocabulary``, also of the source embedding.
        shared_vocabulary: Whether source and target have the same vocabulary.
        init: Initial weights of linear layers: ``xavier`` (uniform, Glorot and Bengio 2010), as in `nn.Transformer`, or
            ``uniform``, as in `nn.Linear`, within 1 / sqrt(inputs).
        dropout: Dropout probability of embeddings, attention weights and residual branches, in [0, 1).

    Shape: int64 (B, S) and int64 (B, T) -> (B, T, outputs), the logits of each next token of the target.
    Source: Vaswani et al. 2017, "Attention is all you need", sections 3.1 to 3.5.
    """

    def __init__(
        self,
        vocabulary: int,
        outputs: int,
        length: int | None = None,
        target_length: int | None = None,
        hidden_size: int = 256,
        num_layers: int = 3,
        num_heads: int = 8,
        num_kv_heads: int | None = None,
        ffn_ratio: int = 4,
        activation: str = "relu",
        gated: bool = False,
        pre_norm: bool = False,
        norm: str = "layer",
        positions: str = "sinusoidal",
        tie_embeddings: bool = True,
        shared_vocabulary: bool | None = None,
        init: str = "xavier",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_sizes(dropout, vocabulary=vocabulary, outputs=outputs, length=length, target_length=target_length)
        check_sizes(hidden_size=hidden_size, num_layers=num_layers, num_heads=num_heads, ffn_ratio=ffn_ratio)
        choose("model.positions", positions, {name: name for name in POSITIONS})
        choose("model.init", init, {name: name for name in INITS})
        if positions == "learned" and None in (length, target_length):
            raise ConfigError("model.positions=learned: not supported because the data have no maximum length")
        is_shared = bool(tie_embeddings and shared_vocabulary)
        self.embedding_scale = math.sqrt(hidden_size)
        sizes = hidden_size, num_heads, ffn_ratio * hidden_size, activation, dropout
        options: dict[str, Any] = {"pre_norm": pre_norm, "norm": norm, "gated": gated, "num_kv_heads": num_kv_heads}
        options["rotary"] = positions == "rotary"
        lengths = (length or FIRST, target_length or FIRST)
        source, target = (embed_positions(positions, each, hidden_size, std=1.0) for each in lengths)
        self.build(
            (None if is_shared else vocabulary, outputs, hidden_size),
            num_layers,
            partial(Block, *sizes, **options),
            partial(state_norm, norm, hidden_size) if pre_norm else nn.Identity,
            (source, target),
            tie_embeddings,
            dropout,
        )
        self.apply(partial(_initialize, init=init))


def _initialize(module: nn.Module, init: str) -> None:
    if isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=module.embedding_dim**-0.5)
    if isinstance(module, nn.Linear) and init == "xavier":
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
