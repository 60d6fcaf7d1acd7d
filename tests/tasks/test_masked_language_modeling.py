"""Masked language modeling: the choice of masked tokens, the loss, metrics, and predicted tokens."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dltrain.data.inputs import InputFiles
from dltrain.data.loader import Batches
from dltrain.data.ragged import Ragged
from dltrain.datasets.text import Text
from dltrain.datasets.text_table import TextTable
from dltrain.errors import ConfigError
from dltrain.keyed_random import mix
from dltrain.tasks.masked_language_modeling import IGNORED, MaskedLanguageModeling

PAD, UNKNOWN, BEGIN, END, MASK = range(5)
SIZE = 1000


def task(**options: Any) -> MaskedLanguageModeling:
    special = {"mask_token": MASK, "pad_token": PAD, "begin_token": BEGIN, "end_token": END}
    return MaskedLanguageModeling(**{"vocabulary": SIZE, **special, **options})


def corrupted(tokens: Tensor, seed: int = 0, **options: Any) -> dict[str, Tensor]:
    return task(**options).corrupt({"inputs": tokens}, mix(torch.arange(len(tokens)) + seed))


class Table(nn.Module):
    """Model whose logits at each step depend only on the token of that step."""

    def __init__(self, size: int = SIZE) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(size, size)

    def forward(self, x: Tensor) -> Tensor:
        return self.table(x)


def test_15_percent_of_the_tokens_are_chosen_and_of_these_80_percent_masked_and_10_percent_replaced() -> None:
    tokens = torch.randint(5, SIZE, (1000, 100), generator=torch.Generator().manual_seed(0))
    found = corrupted(tokens)
    chosen = found["targets"] != IGNORED
    masked, read = chosen & (found["masked"] == MASK), found["masked"]
    replaced = chosen & (read != tokens) & ~masked
    kept = chosen & (read == tokens)
    assert torch.equal(found["inputs"], tokens) and torch.equal(found["targets"][chosen], tokens[chosen])
    assert torch.equal(read[~chosen], tokens[~chosen])
    shares = [float(part.sum() / whole) for part, whole in ((chosen, tokens.numel()), (masked, chosen.sum()))]
    shares += [float(part.sum() / chosen.sum()) for part in (replaced, kept)]
    assert shares == pytest.approx([0.15, 0.8, 0.1, 0.1], abs=0.01)
    assert float(read[replaced].double().mean()) == pytest.approx(SIZE / 2, rel=0.05)  # uniform over the vocabulary
    by_step = chosen.double().mean(0)
    assert float(by_step.min()) > 0.1 and float(by_step.max()) < 0.2  # equally likely at every position


def test_pad_begin_and_end_tokens_are_never_chosen_and_empty_texts_have_no_targets() -> None:
    tokens = torch.full((400, 6), PAD)
    tokens[:, :4] = torch.tensor([BEGIN, 7, 8, END])
    found = corrupted(tokens, mask_share=1.0)
    assert ((found["targets"] != IGNORED) == torch.tensor([False, True, True, False, False, False])).all()
    whole = {"inputs": torch.full((3, 4), 9), "lengths": torch.tensor([2, 0, 4])}
    chosen = task(mask_share=1.0).corrupt(whole, mix(torch.arange(3)))["targets"] != IGNORED
    assert chosen.sum(1).tolist() == [2, 0, 4]


def test_tokens_after_the_end_of_a_text_are_never_chosen(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("abcdefghij" * 30)
    data = Text(str(tmp_path / "a.txt"), context_length=16, special_tokens=True)
    splits = data.load()
    found = task(vocabulary=11, mask_token=10, pad_token=None, begin_token=None, end_token=None, mask_share=1.0)
    for source in (splits.train, splits.test):
        chosen = [batch["targets"] != IGNORED for batch in Batches(source, 8, corrupt=found.corrupt)]
        if source is splits.test:  # 30 tokens in two rows of 16
            assert [int(part.sum()) for part in chosen] == [30]
        else:
            assert all(part.all() for part in chosen)


def test_the_choice_of_masked_tokens_depends_only_on_the_key_of_the_example() -> None:
    tokens = torch.randint(5, SIZE, (8, 32))
    whole, again, other = corrupted(tokens), corrupted(tokens[3:5], seed=3), corrupted(tokens, seed=100)
    assert torch.equal(whole["masked"][3:5], again["masked"]) and torch.equal(whole["targets"][3:5], again["targets"])
    assert not torch.equal(whole["targets"], other["targets"])


def test_the_loss_is_the_mean_cross_entropy_of_the_masked_tokens_and_its_weight_is_their_number() -> None:
    batch, model = corrupted(torch.randint(5, SIZE, (4, 40))), Table()
    hidden = batch["targets"] != IGNORED
    loss = task().loss(model, batch, 0.0)
    expected = F.cross_entropy(model(batch["masked"])[hidden], batch["inputs"][hidden])
    torch.testing.assert_close(loss.total, expected)
    assert int(loss.weight) == int(hidden.sum()) > 0
    smoothed = task(label_smoothing=0.1).loss(model, batch, 0.0).total
    expected = F.cross_entropy(model(batch["masked"])[hidden], batch["inputs"][hidden], label_smoothing=0.1)
    torch.testing.assert_close(smoothed, expected)


def test_without_masked_tokens_the_loss_and_its_gradients_are_0_with_weight_0() -> None:
    batch, model = corrupted(torch.full((2, 8), BEGIN)), Table()
    loss = task().loss(model, batch, 0.0)
    loss.total.backward()
    assert loss.total.item() == 0 and int(loss.weight) == 0 and not model.table.weight.grad.any()


def test_metrics_are_means_over_the_masked_tokens_of_all_batches() -> None:
    batch, model = corrupted(torch.randint(5, SIZE, (9, 30))), Table()
    hidden = batch["targets"] != IGNORED
    parts = [{name: value[rows] for name, value in batch.items()} for rows in (slice(7), slice(7, 9))]
    metrics = task().evaluate(model, parts).metrics
    logits = model(batch["masked"])[hidden]
    assert metrics["loss"] == pytest.approx(F.cross_entropy(logits, batch["inputs"][hidden]).item(), rel=1e-5)
    assert metrics["perplexity"] == pytest.approx(math.exp(metrics["loss"]))
    hits = (logits.argmax(-1) == batch["inputs"][hidden]).double().mean()
    assert metrics["masked_accuracy"] == pytest.approx(float(hits))


def test_the_baseline_predicts_tokens_by_their_frequency() -> None:
    tokens = torch.tensor([[5, 5, 5, 6]] * 50)
    found = task(vocabulary=7)
    batch = found.corrupt({"inputs": tokens}, mix(torch.arange(50)))
    assert found.fit_baselines([batch], None) is None
    baseline = found.evaluate(Table(7), [batch]).baselines["token frequencies"]
    hidden = batch["inputs"][batch["targets"] != IGNORED]
    nats = {5: -math.log(151 / 207), 6: -math.log(51 / 207)}  # counts of 150 and 50, plus 1 for each of the 7 tokens
    assert baseline["loss"] == pytest.approx(sum(nats[int(token)] for token in hidden) / len(hidden), rel=1e-5)
    assert baseline["masked_accuracy"] == pytest.approx(float((hidden == 5).double().mean()))


def test_masks_of_a_text_are_filled_in(tmp_path: Path) -> None:
    lines = "\n".join(f"good film number {n % 3},{n % 2}" for n in range(40))
    (tmp_path / "a.csv").write_text(f"text,kind\n{lines}\n")
    data = TextTable(str(tmp_path / "a.csv"), column="kind", special_tokens=True)
    tokens = data.spec.tokens
    assert tokens is not None and tokens.decode is not None and tokens.encode is not None
    found = MaskedLanguageModeling(tokens.size, tokens.mask, tokens.pad, tokens.begin, tokens.end, tokens.decode)
    film = tokens.encode("film")[0]

    def model(x: Tensor) -> Tensor:
        return F.one_hot(torch.full_like(x, film), tokens.size).float() * 9

    (row,) = (part.rows["tokens"] for part in data.inputs(InputFiles(text="good <mask> number")))
    assert isinstance(row, Ragged)
    inputs = row.values[None].long()
    network = nn.Identity()
    network.forward = model  # type: ignore[assignment]
    (line,) = found.predict(network, {"inputs": inputs})
    assert line["text"] == "good film number" and next(iter(line["masks"][0])) == "film"
    with pytest.raises(ConfigError, match="text: expected at least one <mask>"):
        found.predict(network, {"inputs": inputs.clamp(min=5)})


def test_a_vocabulary_without_a_mask_token_is_rejected() -> None:
    with pytest.raises(ConfigError, match=r"^task: not supported because the vocabulary has no mask token\."):
        task(mask_token=None)


class Pairs(Table):
    """Model with logits for each step and two logits for each pair."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        logits = super().forward(x)
        return logits, logits.mean(1)[:, :2]


def test_the_next_sentence_loss_is_added_and_the_next_sentence_accuracy_is_a_mean_over_pairs() -> None:
    tokens, classes = torch.randint(5, SIZE, (9, 30)), torch.arange(9) % 2
    batch = corrupted(tokens) | {"not_next": classes}
    model, found = Pairs(), task(next_sentence=True)
    hidden = batch["targets"] != IGNORED
    logits, pairs = model(batch["masked"])
    masked, of_pairs = F.cross_entropy(logits[hidden], tokens[hidden]), F.cross_entropy(pairs, classes)
    loss = found.loss(model, batch, 0.0)
    torch.testing.assert_close(loss.total, masked + of_pairs)
    assert int(loss.weight) == int(hidden.sum())
    assert {name: float(value) for name, value in loss.parts.items()} == pytest.approx(
        {"masked": masked.item(), "next_sentence": of_pairs.item()}
    )
    parts = [{name: value[rows] for name, value in batch.items()} for rows in (slice(7), slice(7, 9))]
    metrics = found.evaluate(model, parts).metrics
    assert metrics["loss"] == pytest.approx((masked + of_pairs).item(), rel=1e-5)
    assert metrics["perplexity"] == pytest.approx(math.exp(masked.item()), rel=1e-4)
    hits = (pairs.argmax(1) == classes).double().mean()
    assert metrics["next_sentence_accuracy"] == pytest.approx(float(hits))
    # Without next_sentence, the pair logits are ignored.
    torch.testing.assert_close(task().loss(model, batch, 0.0).total, masked)
    with pytest.raises(ConfigError, match=r"^model: expected a model that predicts whether a passage follows another"):
        found.loss(Table(), batch, 0.0)
    with pytest.raises(ConfigError, match=r"^task.next_sentence: expected null for data without pairs of passages"):
        found.loss(model, corrupted(tokens), 0.0)


def test_without_masked_tokens_the_loss_of_pairs_has_weight_0_and_zero_gradients() -> None:
    batch, model = corrupted(torch.full((2, 8), BEGIN)) | {"not_next": torch.tensor([0, 1])}, Pairs()
    loss = task(next_sentence=True).loss(model, batch, 0.0)
    loss.total.backward()
    assert int(loss.weight) == 0 and not model.table.weight.grad.any()
