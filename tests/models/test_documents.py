"""Documents packed into one sequence have the same outputs as each document alone."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from dltrain.models.bert import BERT
from dltrain.models.documents import document_positions
from dltrain.models.gpt import GPT
from dltrain.models.recurrent import Recurrent
from dltrain.models.transformer import Transformer

SIZES = {"features": 11, "outputs": 11, "hidden_size": 8, "vocabulary": 11, "each_step": True}
ENCODER = {**SIZES, "length": 12, "num_layers": 2, "num_heads": 2}
TOKENS = {name: size for name, size in ENCODER.items() if name not in ("features", "each_step")}
MODELS: dict[str, Callable[[], nn.Module]] = {
    "gpt": lambda: GPT(**TOKENS),
    "bert": lambda: BERT(**TOKENS, each_step=True),
    "transformer": lambda: Transformer(**ENCODER),
    "causal transformer": lambda: Transformer(**ENCODER, causal=True),
    "rnn": lambda: Recurrent("rnn", **SIZES),
    "bidirectional gru": lambda: Recurrent("gru", **SIZES, bidirectional=True),
    "lstm": lambda: Recurrent("lstm", **SIZES, learn_initial_state=True),
    "normalized lstm": lambda: Recurrent("lstm", **SIZES, layer_norm=True),
}
DOCUMENTS = torch.tensor([[0, 0, 0, 0, 1, 1, 1, 2, 3, 3, 3, 3], [0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2]])


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    model = MODELS[name]().double().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)  # large enough that every part of the model changes the output
    return model


def tokens(seed: int = 0) -> Tensor:
    return torch.randint(0, 11, DOCUMENTS.shape, generator=torch.Generator().manual_seed(seed))


def test_positions_restart_with_each_document() -> None:
    expected = [[0, 1, 2, 3, 0, 1, 2, 0, 0, 1, 2, 3], [0, 0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2]]
    assert document_positions(DOCUMENTS).tolist() == expected


@pytest.mark.parametrize("name", MODELS)
def test_packed_documents_have_the_outputs_and_gradients_of_each_document_alone(name: str) -> None:
    model, x = build(name), tokens()
    packed = model(x, documents=DOCUMENTS)
    alone = torch.zeros_like(packed)
    for row, numbers in enumerate(DOCUMENTS):
        for number in numbers.unique():
            own = numbers == number
            alone[row, own] = model(x[row : row + 1, own])[0]
    torch.testing.assert_close(packed, alone, rtol=1e-9, atol=1e-9)
    found = [
        torch.autograd.grad(each.sin().sum(), list(model.parameters()), allow_unused=True) for each in (packed, alone)
    ]
    for ours, expected in zip(*found, strict=True):
        assert (ours is None) == (expected is None)
        if ours is not None:
            torch.testing.assert_close(ours, expected, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("name", MODELS)
def test_no_output_of_a_document_changes_if_another_document_changes(name: str) -> None:
    model, x = build(name).float(), tokens()
    other = torch.where((DOCUMENTS == 1) | (DOCUMENTS == 3), tokens(1), x)
    same = (DOCUMENTS == 0) | (DOCUMENTS == 2)
    before, after = (model(each, documents=DOCUMENTS) for each in (x, other))
    assert torch.equal(before[same], after[same]) and not torch.equal(before, after)
    assert not torch.equal(model(x)[same], model(other)[same])
