"""BERT: a bidirectional Transformer encoder for texts."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dltrain.errors import ConfigError, choose, format_error
from dltrain.models.attention import padding_mask
from dltrain.models.blocks import Block
from dltrain.models.documents import document_positions, same_document
from dltrain.models.layers import check_sizes, inside
from dltrain.models.positions import Positions
from dltrain.models.published_layouts import bert_names, shorten_positions

EPS = 1e-12  # epsilon of the layer norms, as published
SEGMENTS = 2
READOUTS = ("first", "mean")


class BERT(nn.Module):
    """Post-norm Transformer encoder with learned positions and segments.

    The output layer depends on the task: for masked tokens, a layer that shares its output weights with the embedding;
    for one output per step, a linear layer; for one output per text, a linear layer on a vector of the whole text. With
    ``next_sentence``, a linear layer on the pooled first state also predicts whether the second passage follows the
    first.

    Weights of BERT in the layout of Hugging Face's transformers can be loaded as initial weights; only their first
    ``length`` positions are used.

    Args:
        vocabulary, length, outputs, hidden_size, num_layers: At least 1.
        num_heads: Number of attention heads; divides ``hidden_size``.
        ffn_ratio: Width of the feed-forward layers, as a multiple of ``hidden_size``, at least 1.
        dropout: Dropout probability of the embeddings, attention weights, residual branches and inputs of linear output
            layers, in [0, 1).
        each_step: Return an output at every step, otherwise one per text.
        causal: Whether the task needs outputs that do not depend on later tokens; must be false.
        readout: Vector of the whole text: ``first``, a tanh layer on the state of the first token, or ``mean``, the
            mean of all states.
        next_sentence: Also return the logits of two classes for each pair: the second passage follows the first one,
            or it does not. Requires a task that predicts masked tokens.

    Shape: int64 (B, T), T up to ``length`` -> (B, T, outputs) with ``each_step``, otherwise (B, outputs); with
    ``next_sentence``, also (B, 2).
    Source: Devlin et al. 2019, "BERT: Pre-training of deep bidirectional transformers", section 3.
    """

    def __init__(
        self,
        vocabulary: int,
        length: int,
        outputs: int,
        hidden_size: int,
        num_layers: int,
        num_heads: int,
        ffn_ratio: int = 4,
        dropout: float = 0.0,
        activation: str = "gelu",
        each_step: bool = False,
        causal: bool = False,
        readout: str = "first",
        next_sentence: bool | None = None,
    ) -> None:
        super().__init__()
        check_sizes(dropout, vocabulary=vocabulary, length=length, outputs=outputs)
        check_sizes(hidden_size=hidden_size, num_layers=num_layers, num_heads=num_heads, ffn_ratio=ffn_ratio)
        if causal:
            reason = "bert reads all tokens, and the task needs a model that reads only earlier tokens"
            raise ConfigError(f"model: not supported because {reason}; use another model, such as gpt")
        self.each_step = each_step
        self.readout = choose("model.readout", readout, {name: name for name in READOUTS})
        self.embedding = nn.Embedding(vocabulary, hidden_size)
        self.positions = Positions(length, hidden_size)
        self.segments = nn.Embedding(SEGMENTS, hidden_size)
        self.norm = nn.LayerNorm(hidden_size, EPS)
        self.dropout = nn.Dropout(dropout)
        sizes = hidden_size, num_heads, ffn_ratio * hidden_size
        blocks = [Block(*sizes, activation, dropout, pre_norm=False, eps=EPS) for _ in range(num_layers)]
        self.blocks = nn.ModuleList(blocks)
        pooled = next_sentence or (not each_step and readout == "first")
        self.pooler = nn.Linear(hidden_size, hidden_size) if pooled else None
        self.hidden_tokens = MaskedTokens(vocabulary, hidden_size) if each_step and outputs == vocabulary else None
        self.next_sentence = nn.Linear(hidden_size, 2) if next_sentence else None
        self.head = nn.Linear(hidden_size, outputs) if self.hidden_tokens is None else None
        if next_sentence and self.hidden_tokens is None:
            hint = "Use task=masked_language_modeling."
            raise ConfigError(format_error("model.next_sentence", "null for a task without masked tokens", True, hint))
        self.apply(_initialize)

    def encode(
        self,
        x: Tensor,
        lengths: Tensor | None = None,
        segments: Tensor | None = None,
        documents: Tensor | None = None,
    ) -> Tensor:
        """Return the states of all steps, (B, T, hidden_size); see `forward` for the arguments."""
        segment = self.segments.weight[0] if segments is None else self.segments(segments)
        positions = None if documents is None else document_positions(documents)
        x = self.dropout(self.norm(self.positions(self.embedding(x) + segment, positions=positions)))
        mask = padding_mask(lengths, x.shape[1], x.device)
        if documents is not None:
            mask = same_document(documents) if mask is None else mask & same_document(documents)
        for block in self.blocks:
            x = block(x, mask)
        return x

    def pool(self, states: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return the vector of each text: (B, T, hidden_size) -> (B, hidden_size)."""
        if self.pooler is not None:
            return torch.tanh(self.pooler(states[:, 0]))
        if lengths is None:
            return states.mean(1)
        own = inside(lengths, states.shape[1], states.device)[:, :, None]
        return (states * own).sum(1) / own.sum(1)

    def forward(
        self,
        x: Tensor,
        lengths: Tensor | None = None,
        segments: Tensor | None = None,
        documents: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Return the outputs at every step, or of each text; with `next_sentence` also the outputs of each pair.

        Args:
            lengths: Steps of each text, int64 (B,) on the CPU; later steps are padding. None for no padding.
            segments: Index of the segment of each step, 0 or 1, int64 (B, T); None for 0.
            documents: Index of the document of each step, int64 (B, T): steps attend only to their own document, and
                positions restart with each document. None for one document.
        """
        states = self.encode(x, lengths, segments, documents)
        if self.hidden_tokens is not None:
            logits: Tensor = self.hidden_tokens(states, self.embedding.weight)
            if self.next_sentence is None:
                return logits
            return logits, self.next_sentence(self.dropout(self.pool(states, lengths)))
        assert self.head is not None
        outputs: Tensor = self.head(self.dropout(states if self.each_step else self.pool(states, lengths)))
        return outputs

    def adapt_weights(self, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Convert weights of Hugging Face's transformers to the names of this model."""
        return shorten_positions(bert_names(weights), "positions.weight", len(self.positions.weight))


class MaskedTokens(nn.Module):
    """Output layer that returns the logits of the tokens at each step, with the weights of the embedding.

    Shape: (B, T, width), weights (vocabulary, width) -> (B, T, vocabulary).
    """

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.transform = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, EPS)
        self.bias = nn.Parameter(torch.zeros(vocabulary))

    def forward(self, states: Tensor, embedding: Tensor) -> Tensor:
        """Return the logits."""
        return F.linear(self.norm(F.gelu(self.transform(states))), embedding, self.bias)


def _initialize(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
