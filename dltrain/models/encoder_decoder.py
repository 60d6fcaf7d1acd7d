"""Transformer that reads a source and writes a target: the encoder-decoder of Vaswani et al. 2017."""

import math
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from dltrain.errors import ConfigError, choose
from dltrain.models.attention import padding_mask
from dltrain.models.blocks import Block, state_norm
from dltrain.models.layers import State, check_sizes
from dltrain.models.positions import embed_positions

FIRST = 64  # sinusoids to compute in advance if the data have no maximum length
POSITIONS = ("sinusoidal", "learned", "rotary", "none")


class EncoderDecoder(nn.Module):
    """Transformer encoder and decoder; each block of the decoder attends to the encoded source.

    Called with a source and the previous tokens of the target, the model returns all outputs. To write step by step,
    call it with the source alone for the state before the first token, then with tokens and a state. The state holds
    the keys and values of the source, which are computed once, and of the tokens written so far.

    Args:
        vocabulary, outputs: Number of distinct tokens of the source and of the target.
        length, target_length: Maximum steps of source and target for learned positions; other positions have no limit.
        hidden_size, num_layers: Width of the states, and number of blocks of the encoder and of the decoder.
        num_heads: Number of attention heads; divides ``hidden_size``.
        num_kv_heads: Number of heads of keys and values; divides ``num_heads``; None for ``num_heads``.
        ffn_ratio: Width of the feed-forward layers, as a multiple of ``hidden_size``, at least 1.
        gated: See `Block`.
        pre_norm: Whether norms precede the layers; then a norm follows the last block. Otherwise norms follow the sums.
        norm: ``layer`` or ``rms``.
        positions: ``sinusoidal``, ``learned``, ``rotary`` (in self-attention) or ``none``.
        tie_embeddings: Whether the output layer shares the weights of the target embedding and, with
            ``shared_vocabulary``, the source embedding too.
        shared_vocabulary: Whether source and target have the same vocabulary.
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
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_sizes(dropout, vocabulary=vocabulary, outputs=outputs, length=length, target_length=target_length)
        check_sizes(hidden_size=hidden_size, num_layers=num_layers, num_heads=num_heads, ffn_ratio=ffn_ratio)
        choose("model.positions", positions, {name: name for name in POSITIONS})
        if positions == "learned" and None in (length, target_length):
            raise ConfigError("model.positions: learned is not supported because the data have no maximum length")
        is_shared = bool(tie_embeddings and shared_vocabulary)
        self.target_embedding = nn.Embedding(outputs, hidden_size)
        self.source_embedding = None if is_shared else nn.Embedding(vocabulary, hidden_size)
        self.source_positions = embed_positions(positions, length or FIRST, hidden_size, std=1.0)
        self.target_positions = embed_positions(positions, target_length or FIRST, hidden_size, std=1.0)
        self.dropout = nn.Dropout(dropout)
        sizes = hidden_size, num_heads, ffn_ratio * hidden_size, activation, dropout
        options: dict[str, Any] = {"pre_norm": pre_norm, "norm": norm, "gated": gated, "num_kv_heads": num_kv_heads}
        options["rotary"] = positions == "rotary"
        self.encoder = nn.ModuleList(Block(*sizes, **options) for _ in range(num_layers))
        self.encoder_norm = state_norm(norm, hidden_size) if pre_norm else nn.Identity()
        self.decoder = nn.ModuleList(Block(*sizes, causal=True, cross=True, **options) for _ in range(num_layers))
        self.decoder_norm = state_norm(norm, hidden_size) if pre_norm else nn.Identity()
        self.head = None if tie_embeddings else nn.Linear(hidden_size, outputs)
        self.apply(_initialize)

    def forward(
        self, x: Tensor, previous: Tensor | None = None, lengths: Tensor | None = None, state: State | None = None
    ) -> Any:
        """Return the logits of each next token, the state after the source, or, given a `state`, logits and state.

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
        for block in self.encoder:
            states = block(states, mask)
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
        mask, blocks = state.get("source_mask"), {}
        for number, block in enumerate(self.decoder):
            name = str(number)
            states, blocks[name] = block.extend(  # type: ignore[operator]
                states, state["blocks"][name], source=state["source"][name], source_mask=mask
            )
        states = self.decoder_norm(states)
        logits = F.linear(states, self.target_embedding.weight) if self.head is None else self.head(states)
        return logits, {**state, "blocks": blocks}

    def _embed(self, tokens: Tensor, embedding: nn.Embedding, positions: nn.Module, start: int) -> Tensor:
        return self.dropout(positions(embedding(tokens) * math.sqrt(embedding.embedding_dim), start))


def _initialize(module: nn.Module) -> None:
    if isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=module.embedding_dim**-0.5)
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
