"""Attention weights of words, with and without a function that decodes tokens."""

import pytest
import torch

from dltrain.errors import ConfigError
from dltrain.models.recurrent import Recurrent
from dltrain.tasks.word_weights import word_weights


def test_word_weights_are_rejected_if_tokens_cannot_be_decoded() -> None:
    model = Recurrent("gru", features=5, outputs=2, hidden_size=4, vocabulary=5, readout="attention")
    batch = {"inputs": torch.tensor([[1, 2, 3]]), "lengths": torch.tensor([3])}
    assert [len(words) for words in word_weights(model, batch, str)] == [3]
    with pytest.raises(ConfigError, match=r"^--explain: not supported because the inputs of this run are not text$"):
        word_weights(model, batch, None)
