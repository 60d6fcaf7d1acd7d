"""Bag of words: a linear model on TF-IDF features."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dltrain.errors import ConfigError
from dltrain.models.layers import check_sizes, inside


class BagOfWords(nn.Module):
    """Linear model on the TF-IDF features of a text: token counts times ``idf``, scaled to L2 norm 1.

    The order of the words has no effect.

    Args:
        vocabulary, outputs: At least 1.
        each_step: Must be False, because a bag of words has no steps.
        idf: Inverse document frequency of each token, (vocabulary,); 0 for special tokens.

    Shape: int64 (B, T) -> (B, outputs).
    Source: Sparck Jones 1972; Salton and Buckley 1988; defined as in scikit-learn's TfidfVectorizer.
    """

    idf: Tensor

    def __init__(self, vocabulary: int, outputs: int, idf: Tensor, each_step: bool = False) -> None:
        super().__init__()
        check_sizes(vocabulary=vocabulary, outputs=outputs)
        if each_step:
            raise ConfigError("model: not supported for outputs at every step because a bag of words has no steps")
        self.register_buffer("idf", torch.zeros(vocabulary))
        self.idf[: len(idf)].copy_(idf)
        self.head = nn.Linear(vocabulary, outputs)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return the outputs of each text.

        Args:
            lengths: Tokens of each text, int64 (B,) on the CPU; later tokens are padding. None for no padding.
        """
        return self.head(self.features(x, lengths))

    def features(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return the TF-IDF features (B, vocabulary); 0 for a text without known words."""
        own = torch.ones(x.shape, device=x.device) if lengths is None else inside(lengths, x.shape[1], x.device).float()
        counts = self.idf.new_zeros(len(x), len(self.idf)).scatter_add_(1, x, own.to(self.idf.dtype))
        return F.normalize(counts * self.idf, dim=1)
