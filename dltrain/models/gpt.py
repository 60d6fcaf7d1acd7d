"""GPT: a decoder-only language model."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dltrain.errors import ConfigError, format_error
from dltrain.models.blocks import Block
from dltrain.models.documents import document_positions, same_document
from dltrain.models.layers import State, check_sizes
from dltrain.models.positions import Positions
from dltrain.models.published_layouts import gpt2_names, shorten_positions


class GPT(nn.Module):
    """Causal transformer whose output layer shares the weights of the token embedding.

    Weights of GPT-2 in the layout of Hugging Face's transformers can be loaded as initial weights, with ``gelu_tanh``
    as the activation; only the first ``length`` of their positions are used.

    When generating step by step, the model caches the keys and values of at most ``length`` tokens. When the cache is
    full, it is recomputed for the last half of the tokens, because their positions change.

    Args:
        vocabulary, length, hidden_size, num_layers: At least 1.
        outputs: Equal to ``vocabulary``.
        num_heads: Number of attention heads; divides ``hidden_size``.
        dropout: Dropout probability of the embeddings, attention weights and residual branches, in [0, 1).
        causal: Whether the task needs outputs that do not depend on later tokens; must be true.

    Shape: int64 (B, T), T up to ``length`` -> (B, T, vocabulary), the logits of each next token.
    Source: Radford et al. 2019, "Language models are unsupervised multitask learners" (GPT-2), section 2.3; shared
    weights, Press and Wolf 2017.
    """

    def __init__(
        self,
        vocabulary: int,
        length: int,
        outputs: int,
        hidden_size: int = 128,
        num_layers: int = 4,
        num_heads: int = 4,
        dropout: float = 0.0,
        activation: str = "gelu",
        bias: bool = True,
        causal: bool = True,
    ) -> None:
        super().__init__()
        check_sizes(dropout, vocabulary=vocabulary, length=length)
        check_sizes(hidden_size=hidden_size, num_layers=num_layers, num_heads=num_heads)
        if outputs != vocabulary:
            hint = "A gpt predicts the next token; use another model for other tasks."
            raise ConfigError(format_error("model.outputs", f"{vocabulary}, the size of the vocabulary", outputs, hint))
        if not causal:
            reason = "a gpt reads only earlier tokens, and the task needs a model that reads all tokens"
            raise ConfigError(f"model: not supported because {reason}; use another model, such as bert or transformer")
        self.embedding = nn.Embedding(vocabulary, hidden_size)
        self.positions = Positions(length, hidden_size)
        self.dropout = nn.Dropout(dropout)
        sizes = hidden_size, num_heads, 4 * hidden_size
        blocks = [Block(*sizes, activation, dropout, causal=True, bias=bias) for _ in range(num_layers)]
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(hidden_size, bias=bias)
        self.apply(_initialize)
        for block in blocks:
            for projection in (block.mix, block.down):
                # Residual states sum 2 * num_layers branches; this scale makes their variance independent of depth.
                nn.init.normal_(projection.weight, std=0.02 / math.sqrt(2 * num_layers))

    def forward(self, x: Tensor, state: State | None = None, documents: Tensor | None = None) -> Any:
        """Return the logits of each next token; with a `state`, also the state after these tokens.

        Args:
            documents: Index of the document of each token, int64 (B, T): tokens attend only to their own document, and
                positions restart with each document. None for one document.
        """
        if state is not None:
            return self._continue(x, state)
        mask = None if documents is None else same_document(documents)
        positions = None if documents is None else document_positions(documents)
        x = self.dropout(self.positions(self.embedding(x), positions=positions))
        for block in self.blocks:
            x = block(x, mask)
        return F.linear(self.norm(x), self.embedding.weight)

    def start(self, batch_size: int) -> State:
        """Return the initial state: no tokens, and empty keys and values for each block."""
        tokens = torch.empty(batch_size, 0, dtype=torch.int64, device=self.embedding.weight.device)
        caches = {
            str(number): block.empty_cache(batch_size)  # type: ignore[operator]
            for number, block in enumerate(self.blocks)
        }
        return {"tokens": tokens, "blocks": caches}

    def adapt_weights(self, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Convert GPT-2 weights of Hugging Face's transformers to the names of this model."""
        return shorten_positions(gpt2_names(weights), "positions.weight", len(self.positions.weight))

    def _continue(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        if self.training:
            raise ConfigError("data.streams: not supported because a gpt carries no state from batch to batch")
        tokens, new, length = torch.cat([state["tokens"], x], dim=1), x.shape[1], len(self.positions.weight)
        if tokens.shape[1] > length:
            x = tokens = tokens[:, -max(new, length // 2) :]
            state = self.start(len(x))
        x = self.positions(self.embedding(x), state["tokens"].shape[1])
        caches = {}
        for number, block in enumerate(self.blocks):
            x, caches[str(number)] = block.extend(x, state["blocks"][str(number)])  # type: ignore[operator]
        logits = F.linear(self.norm(x[:, -new:]), self.embedding.weight)
        return logits, {"tokens": tokens, "blocks": caches}


def _initialize(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
