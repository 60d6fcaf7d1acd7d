"""Initial weights of the token embedding, from a file of word vectors."""

import torch
from torch import Tensor, nn

from dltrain.data.tokens import Tokens
from dltrain.errors import ConfigError, format_error
from dltrain.runs.weight_files import token_texts
from dltrain.runs.word_vectors import KEY, read_vectors
from dltrain.training.transfer import Loaded


def load_embeddings(model: nn.Module, tokens: Tokens | None, dependent: set[str], name: str) -> Loaded:
    """Initialize each token's embedding with the vector of its word.

    Tokens that are not words of the file keep random values, scaled to the standard deviation of the vectors found.

    Args:
        tokens: Vocabulary of the inputs; None if they are not text.
        dependent: Weights whose shape depends on the size of the vocabulary.
        name: File of word vectors.

    Raises:
        ConfigError: The inputs are not text, the model does not have exactly one token embedding, its width differs
            from the width of the vectors, or the file is invalid or contains no token.
    """
    texts = token_texts(tokens)
    modules = {f"{part}.weight": module for part, module in model.named_modules() if isinstance(module, nn.Embedding)}
    chosen = [part for part in modules if part in dependent]
    if texts is None or len(chosen) != 1:
        several = f"a {type(model).__name__} does not have exactly one token embedding"
        reason = several if texts else "the inputs are not text"
        raise ConfigError(f"{KEY}: not supported because {reason}")
    words = [text.strip() for text in texts]
    found, weight = read_vectors(name, set(words)), modules[chosen[0]].weight
    if found.width != weight.shape[1]:
        expected = f"vectors of {weight.shape[1]} numbers, the width of the embedding"
        hint = f"Set model.hidden_size={found.width}"
        raise ConfigError(format_error(KEY, expected, f"{found.width} in {name}", hint))
    rows = [row for row, word in enumerate(words) if word in found.vectors]
    if not rows:
        raise ConfigError(format_error(KEY, "a file with words of the training texts", name, "It contains none."))
    _copy(weight, rows, torch.stack([found.vectors[words[row]] for row in rows]))
    note = f"word vectors: {len(rows):,} of {len(words):,} tokens found; other tokens have random values"
    new = {part: "not in the word vectors" for part in model.state_dict() if part != chosen[0]}
    return Loaded(name, found.sha256, chosen, new, note=note)


@torch.no_grad()
def _copy(weight: Tensor, rows: list[int], vectors: Tensor) -> None:
    weight.mul_(vectors.std(correction=0) / weight.std(correction=0))
    weight[rows] = vectors.to(weight)
