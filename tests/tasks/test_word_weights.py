"""Attention weights of words: explanations, and highlighted words in TensorBoard."""

import pytest
import torch
from torch import Tensor, nn

from dltrain.errors import ConfigError
from dltrain.models.recurrent import Recurrent
from dltrain.tasks.word_weights import show_words, word_weights


def test_word_weights_are_rejected_if_tokens_cannot_be_decoded() -> None:
    model = Recurrent("gru", features=5, outputs=2, hidden_size=4, vocabulary=5, readout="attention")
    batch = {"inputs": torch.tensor([[1, 2, 3]]), "lengths": torch.tensor([3])}
    assert [len(words) for words in word_weights(model, batch, str)] == [3]
    with pytest.raises(ConfigError, match=r"^--explain: not supported because the inputs of this run are not text$"):
        word_weights(model, batch, None)


class Custom(nn.Module):
    """Model with attention weights and without an attribute `readout`."""

    def attention_weights(self, x: Tensor, lengths: Tensor) -> Tensor:
        return torch.full(x.shape, 1 / x.shape[1])


def test_words_are_highlighted_for_every_model_with_attention_weights() -> None:
    batch = {"inputs": torch.tensor([[1, 2, 3]]), "lengths": torch.tensor([3])}
    models = [Custom(), nn.Identity()]
    models += [Recurrent("gru", 5, 2, hidden_size=4, vocabulary=5, readout=name) for name in ("attention", "last")]
    shown = [show_words(model, batch, str, lambda texts: ["caption"]) for model in models]
    assert list(map(len, shown)) == [1, 0, 1, 0]
    assert (shown[0][0].text or "").endswith(r"caption: \[1\] \[2\] \[3\]")
