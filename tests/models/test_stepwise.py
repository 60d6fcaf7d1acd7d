"""Outputs of models that read a sequence in pieces, compared with the outputs for the whole sequence."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dltrain.errors import ConfigError
from dltrain.models.encoder_decoder import EncoderDecoder
from dltrain.models.gpt import GPT
from dltrain.models.recurrent import Recurrent
from dltrain.models.seq2seq import Seq2Seq
from dltrain.models.t5 import T5

VOCABULARY, LENGTH = 11, 12


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    if name == "gpt":
        return GPT(VOCABULARY, LENGTH, VOCABULARY, hidden_size=16, num_layers=2, num_heads=4, dropout=0.5).eval()
    sizes = {"features": VOCABULARY, "outputs": VOCABULARY, "hidden_size": 16, "vocabulary": VOCABULARY}
    return Recurrent(name, **sizes, dropout=0.5, each_step=True, causal=True).eval()


def keys_of(state: Any) -> Tensor:
    return state["blocks"]["0"]["keys"]


def count_rows(model: nn.Module) -> list[int]:
    """Return a list to which each call of a linear or recurrent layer appends the number of vectors that it reads."""
    rows = list[int]()
    for layer in model.modules():
        if isinstance(layer, nn.Linear | nn.RNNBase):
            layer.register_forward_hook(lambda _, args, output: rows.append(args[0].shape[:-1].numel()))
    return rows


def tokens(steps: int, batch_size: int = 3) -> Tensor:
    return torch.randint(VOCABULARY, (batch_size, steps), generator=torch.Generator().manual_seed(1))


def in_pieces(model: Any, whole: Tensor, sizes: list[int]) -> tuple[Tensor, Any]:
    """Return the outputs of consecutive pieces of a sequence, and the last state."""
    state, outputs = model.start(len(whole)), []
    for piece in whole.split(sizes, dim=1):
        output, state = model(piece, state=state)
        outputs.append(output)
    return torch.cat(outputs, dim=1), state


def leaves(state: Any) -> list[Tensor]:
    return [leaf for part in state.values() for leaf in (leaves(part) if isinstance(part, dict) else [part])]


@pytest.mark.parametrize("sizes", [[1] * LENGTH, [5, 1, 4, 2], [LENGTH]], ids=str)
@pytest.mark.parametrize("name", ["gpt", "rnn", "lstm", "gru"])
def test_outputs_of_consecutive_pieces_equal_the_outputs_of_the_whole_sequence(name: str, sizes: list[int]) -> None:
    model, whole = build(name), tokens(LENGTH)
    outputs, state = in_pieces(model, whole, sizes)
    torch.testing.assert_close(outputs, model(whole))
    assert all(len(leaf) == len(whole) for leaf in leaves(state)), "the first axis of the state is the batch"


@pytest.mark.parametrize("name", ["gpt", "rnn", "lstm", "gru"])
def test_indexing_a_state_selects_the_rows_to_continue(name: str) -> None:
    model, whole = build(name), tokens(LENGTH)

    def rows(state: Any) -> Any:
        return {key: rows(part) if isinstance(part, dict) else part[[2, 0]] for key, part in state.items()}

    _, state = in_pieces(model, whole[:, :-1], [LENGTH - 1])
    output, _ = model(whole[[2, 0], -1:], state=rows(state))
    torch.testing.assert_close(output, model(whole[[2, 0]])[:, -1:])


SOURCE_READERS = {"transformer": EncoderDecoder, "t5": T5, "seq2seq": Seq2Seq}


@pytest.mark.parametrize("name", ["gpt", "lstm", *SOURCE_READERS])
@torch.no_grad()
def test_each_step_reads_only_the_new_token(name: str) -> None:
    torch.manual_seed(0)
    if name in SOURCE_READERS:
        sizes: dict[str, Any] = {"attention": "general"} if name == "seq2seq" else {"num_heads": 4}
        model = SOURCE_READERS[name](VOCABULARY, VOCABULARY, hidden_size=16, num_layers=2, **sizes).eval()
        state = model(tokens(5))
    else:
        model = build(name)
        state = model.start(3)
    rows = count_rows(model)
    for step in tokens(LENGTH).split(1, dim=1):
        _, state = model(step, state=state)
    assert set(rows) == {3}, "earlier tokens or the source were computed again"


@torch.inference_mode()
def test_a_cache_grows_in_place_and_is_copied_only_when_its_memory_is_full() -> None:
    model, whole = GPT(VOCABULARY, 300, VOCABULARY, hidden_size=8, num_layers=1, num_heads=2).eval(), tokens(300, 1)
    state, places = model.start(1), set()
    for step in whole.split(1, dim=1):
        output, state = model(step, state=state)
        places.add(keys_of(state).data_ptr())
    assert len(places) <= 5, "memory is allocated for 1, 64, 130, 262 and 526 steps"
    torch.testing.assert_close(output, model(whole)[:, -1:])


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_a_state_can_be_continued_twice(context: Any) -> None:
    model, whole = build("gpt"), tokens(4)
    with context():
        _, state = in_pieces(model, whole, [3, 1])
        keys = keys_of(state).clone()
        (_, first), (_, second) = (model(tokens(6)[:, number : number + 1], state=state) for number in (4, 5))
        output, _ = model(whole[:, :1], state=first)
        expected = model(torch.cat([whole, tokens(6)[:, 4:5], whole[:, :1]], dim=1))[:, -1:]
    torch.testing.assert_close(output, expected)
    assert torch.equal(keys_of(state), keys)
    assert not torch.equal(keys_of(first), keys_of(second))
    with torch.no_grad():  # inference tensors cannot be changed in place outside inference mode
        outside, _ = model(whole[:, :1], state=first)
    torch.testing.assert_close(outside, expected)


def test_a_full_gpt_cache_is_recomputed_from_the_second_half_of_its_tokens() -> None:
    model, whole = build("gpt"), tokens(3 * LENGTH)
    state = model.start(len(whole))
    begin = 0
    for end in range(1, whole.shape[1] + 1):
        output, state = model(whole[:, end - 1 : end], state=state)
        begin = end - LENGTH // 2 if end - begin > LENGTH else begin
        torch.testing.assert_close(output, model(whole[:, begin:end])[:, -1:])
        sizes = {leaf.shape[-2] for block in state["blocks"].values() for leaf in block.values()}
        assert sizes == {state["tokens"].shape[1]} == {end - begin}
        assert end - begin <= LENGTH


def test_a_gpt_rejects_pieces_longer_than_its_context() -> None:
    model, whole = build("gpt"), tokens(LENGTH + 3)
    outputs, _ = in_pieces(model, whole, [LENGTH, 3])
    torch.testing.assert_close(outputs[:, LENGTH:], model(whole[:, 3 + LENGTH // 2 :])[:, -3:])
    with pytest.raises(ConfigError, match=r"model.length: expected at least 15 \(the length of the input\), got 12"):
        in_pieces(model, whole, [LENGTH + 3])


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_the_state_of_a_recurrent_network_equals_the_state_of_torch(cell: str) -> None:
    model, whole = build(cell), tokens(LENGTH)
    _, state = in_pieces(model, whole, [7, 5])
    _, expected = model.layers(model.steps(whole))
    for part, values in zip(state.values(), expected if cell == "lstm" else [expected], strict=True):
        torch.testing.assert_close(part, values.transpose(0, 1))


@pytest.mark.parametrize(("name", "value"), [("bidirectional", True), ("linear_skip", 12), ("readout", "mean")])
def test_models_that_need_the_whole_sequence_cannot_read_step_by_step(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"^model.{name}: not supported because the model gets one step at a time"):
        Recurrent("gru", 3, 2, **{name: value}).start(4)
