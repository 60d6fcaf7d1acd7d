"""Carrying the state from batch to batch gives the same losses as one pass over the whole stream."""

import itertools
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dltrain.data.loader import Batches
from dltrain.datasets.text import Text
from dltrain.errors import ConfigError
from dltrain.models.gpt import GPT
from dltrain.models.recurrent import Recurrent
from dltrain.models.transformer import Transformer
from dltrain.tasks.language_modeling import LanguageModeling
from dltrain.training.step import split

LENGTH, STREAMS = 6, 4


@pytest.fixture
def data(tmp_path: Path) -> Text:
    (tmp_path / "a.txt").write_text("".join(chr(97 + number * number % 23) for number in range(1003)))
    return Text(str(tmp_path / "a.txt"), context_length=LENGTH, batch_size=STREAMS, streams=True)


def network(data: Text, cell: str = "lstm") -> Recurrent:
    torch.manual_seed(0)
    size = data.spec.tokens.size
    return Recurrent(cell, size, size, hidden_size=8, vocabulary=size, each_step=True, causal=True)


def task(data: Text) -> LanguageModeling:
    return LanguageModeling(data.spec.tokens.size, LENGTH, decode=data.spec.tokens.decode)


def losses_in_one_pass(model: Recurrent, tokens: Tensor) -> Tensor:
    """Return the losses of all tokens of a stream except the first, computed in one pass."""
    states, _ = model.layers(model.steps(tokens[None, :-1]))
    return F.cross_entropy(model.head(states)[0], tokens[1:], reduction="none")


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_training_losses_equal_those_of_one_pass_over_each_stream(data: Text, cell: str) -> None:
    model, learning = network(data, cell), task(data)
    batches = list(Batches(data.load().train, STREAMS, training=True).epoch(0))
    losses = [learning.loss(model, batch, 0.0) for batch in batches]
    tokens = data.tokenizer.encode_content(data.tokenizer.read(data.path)).tokens.long()[:803]
    windows = (len(tokens) - 1) // LENGTH
    sizes = [windows // STREAMS + (stream < windows % STREAMS) for stream in range(STREAMS)]
    ends = [0, *itertools.accumulate(size * LENGTH for size in sizes)]
    each = [losses_in_one_pass(model, tokens[a : b + 1]).split(LENGTH) for a, b in itertools.pairwise(ends)]
    expected = [torch.stack([stream[n] for stream in each if n < len(stream)]).mean() for n in range(max(sizes))]
    assert windows % STREAMS and len(losses) == len(expected)
    torch.testing.assert_close(torch.stack([loss.total for loss in losses]), torch.stack(expected))
    again = learning.loss(model, batches[0], 0.0)
    torch.testing.assert_close(again.total, losses[0].total, msg="an epoch begins without a state")


def test_gradients_do_not_flow_into_the_previous_batch(data: Text) -> None:
    model, learning = network(data), task(data)
    first, second, *_ = Batches(data.load().train, STREAMS, training=True).epoch(0)
    learning.loss(model, first, 0.0).total.backward()
    with torch.no_grad():
        _, state = model.layers(model.steps(first["inputs"]))
    model.zero_grad()
    learning.loss(model, second, 0.0).total.backward()
    found = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    outputs, _ = model.layers(model.steps(second["inputs"]), state)
    F.cross_entropy(model.head(outputs).flatten(0, 1), second["targets"].flatten()).backward()
    torch.testing.assert_close(found, [p.grad for p in model.parameters()])


@pytest.mark.parametrize("chunks", [2, 3, 4])
def test_micro_batches_carry_the_same_state_as_whole_batches(data: Text, chunks: int) -> None:
    model, whole, parts = network(data), task(data), task(data)
    for batch in Batches(data.load().train, STREAMS, training=True).epoch(0):
        whole.loss(model, batch, 0.0)
        for chunk in split([batch], chunks):
            parts.loss(model, chunk, 0.0)
        states = parts.state_dict()["carried"]
        torch.testing.assert_close(states, whole.state_dict()["carried"])
        assert len(states["hidden"]) == STREAMS and not states["hidden"].requires_grad


def test_losses_of_evaluation_and_prediction_equal_those_of_one_pass_over_the_text(data: Text) -> None:
    model, learning = network(data).eval(), task(data)
    data_of_one = Text(str(data.path), context_length=LENGTH, batch_size=1, streams=True)
    with torch.no_grad():
        for split_name, text in (("val", slice(803, 903)), ("test", slice(903, None))):
            tokens = data.tokenizer.encode_content(data.tokenizer.read(data.path)).tokens.long()[text]
            expected = float(losses_in_one_pass(model, tokens).mean())
            metrics = learning.evaluate(model, Batches(getattr(data_of_one.load(), split_name), 1)).metrics
            assert metrics["loss"] == pytest.approx(expected, rel=1e-5)
            row = {"inputs": tokens[None], "targets": torch.cat([tokens[1:], torch.tensor([-1])])[None]}
            (line,) = learning.predict(model, {**row, "continues": torch.tensor([False])})
            assert line["nats_per_character"] == pytest.approx(expected, rel=1e-5)


def test_evaluation_in_at_most_16_streams_predicts_each_token_except_the_first_once(data: Text) -> None:
    batches = list(Batches(data.load().test, 64))
    assert max(len(batch["inputs"]) for batch in batches) == 16
    targets = torch.cat([batch["targets"].flatten() for batch in batches])
    known = targets[targets >= 0]
    tokens = data.tokenizer.encode_content(data.tokenizer.read(data.path)).tokens.long()[904:]
    assert torch.equal(known.sort().values, tokens.sort().values)


def transformer(size: int) -> nn.Module:
    return Transformer(size, LENGTH, size, hidden_size=8, vocabulary=size, each_step=True, causal=True)


@pytest.mark.parametrize(
    "make", [transformer, lambda size: GPT(size, LENGTH, size, hidden_size=8)], ids=["transformer", "gpt"]
)
def test_a_model_that_carries_no_state_in_training_is_rejected(data: Text, make) -> None:  # type: ignore[no-untyped-def]
    (batch, *_) = Batches(data.load().train, STREAMS).epoch(0)
    with pytest.raises(ConfigError, match=r"^data.streams: not supported .* carries no state from batch to batch"):
        task(data).loss(make(data.spec.tokens.size).train(), batch, 0.0)


def test_overlapping_windows_are_rejected_for_streams(data: Text) -> None:
    with pytest.raises(ConfigError, match=r"data.stride: expected null or 6 with data.streams=true, got 2"):
        Text(str(data.path), context_length=LENGTH, stride=2, streams=True)
