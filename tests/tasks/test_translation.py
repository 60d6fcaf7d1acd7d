"""Translation: the loss without padding, teacher forcing, metrics, predictions, and logged media."""

import importlib.util
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dltrain.errors import ConfigError
from dltrain.metrics import translation as metrics
from dltrain.models.recurrent import Recurrent
from dltrain.models.seq2seq import Seq2Seq
from dltrain.tasks.translation import Translation

PAD, UNKNOWN, BEGIN, END = range(4)
LENGTHS, TARGETS = torch.tensor([5, 1, 7]), [4, 2, 6]
NEEDS_SACREBLEU = pytest.mark.skipif(not importlib.util.find_spec("sacrebleu"), reason="needs sacrebleu")


def decode(tokens: list[int]) -> str:
    return " ".join(f"w{token}" for token in tokens if token not in (PAD, BEGIN, END))


def task(**options: Any) -> Translation:
    special = {"pad_token": PAD, "begin_token": BEGIN, "end_token": END, "unknown_token": UNKNOWN}
    return Translation(
        **{"vocabulary": 9, "length": 8, "decode": decode, "decode_source": decode, **special, **options}
    )


def network(**options: Any) -> Seq2Seq:
    torch.manual_seed(0)
    return Seq2Seq(9, 9, hidden_size=8, **options).eval()


def batch(width: int = 8, steps: int = 8) -> dict[str, Tensor]:
    torch.manual_seed(1)
    rows = [torch.randint(4, 9, (length,)) for length in LENGTHS.tolist()]
    targets = [torch.tensor([*torch.randint(4, 9, (length - 1,)).tolist(), END]) for length in TARGETS]
    inputs, target = (
        torch.stack([F.pad(row, (0, size - len(row))) for row in each])
        for each, size in ((rows, width), (targets, steps))
    )
    previous = torch.cat([torch.full((3, 1), BEGIN), target[:, :-1]], dim=1)
    return {"inputs": inputs, "lengths": LENGTHS, "previous": previous, "targets": target}


def alone(whole: dict[str, Tensor], row: int) -> dict[str, Tensor]:
    """Return one example without padding."""
    own = {name: value[row : row + 1] for name, value in whole.items() if name != "lengths"}
    return {name: value[:, : int(LENGTHS[row]) if name == "inputs" else TARGETS[row]] for name, value in own.items()}


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_of_padded_examples_is_the_weighted_mean_of_their_losses_without_padding(smoothing: float) -> None:
    model, found = network(), task(label_smoothing=smoothing)
    loss = found.loss(model, batch(), 0.5)
    each = [found.loss(model, alone(batch(), row), 0.5) for row in range(3)]
    assert [int(one.weight) for one in each] == TARGETS and int(loss.weight) == sum(TARGETS)
    mean = sum(one.total * one.weight for one in each) / sum(TARGETS)
    torch.testing.assert_close(loss.total, mean)
    torch.testing.assert_close(found.loss(model, batch(16, 24), 0.5).total, loss.total)


def test_the_loss_is_the_mean_negative_log_likelihood_of_the_tokens() -> None:
    model, whole, total = network(), batch(), 0.0
    probabilities = model(whole["inputs"], whole["previous"], LENGTHS).softmax(-1)
    for row, length in enumerate(TARGETS):
        total -= sum(math.log(probabilities[row, step, whole["targets"][row, step]]) for step in range(length))
    assert float(task().loss(model, whole, 0.0).total) == pytest.approx(total / sum(TARGETS), rel=1e-5)


def test_a_batch_without_target_tokens_has_loss_0_weight_0_and_gradients_0() -> None:
    model, whole = network(), batch()
    loss = task().loss(model, {**whole, "targets": torch.zeros_like(whole["targets"])}, 0.0)
    loss.total.backward()
    assert float(loss.total) == 0 and int(loss.weight) == 0
    assert all(float(p.grad.abs().max()) == 0 for p in model.parameters() if p.grad is not None)


def test_the_decoder_reads_target_tokens_when_training_begins_and_predicted_tokens_when_it_ends() -> None:
    model, whole = network(), batch()
    forced = task().loss(model, whole, 1.0).total
    torch.testing.assert_close(task(teacher_forcing=0.0).loss(model, whole, 0.0).total, forced)
    state, previous, outputs = model(whole["inputs"], lengths=LENGTHS), whole["previous"][:, :1], []
    for _ in range(8):
        logits, state = model(previous, state=state)
        outputs.append(logits)
        previous = logits.argmax(-1)
    expected = F.cross_entropy(torch.cat(outputs, 1).flatten(0, 1), whole["targets"].flatten(), ignore_index=PAD)
    own = task(teacher_forcing=0.0).loss(model, whole, 1.0).total
    torch.testing.assert_close(own, expected)
    assert float((own - forced).abs()) > 1e-3
    own.backward()
    assert all(p.grad is not None for p in model.parameters())
    torch.manual_seed(0)
    half = {float(task(teacher_forcing=0.0).loss(model, whole, 0.5).total) for _ in range(5)}
    assert len(half) > 1, "the choice between target and predicted tokens must be random"


class Echo(nn.Module):
    """Sequence-to-sequence model that copies its source and replaces token 8 by `wrong`."""

    def __init__(self, wrong: int = 8) -> None:
        super().__init__()
        self.wrong, self.weight = wrong, nn.Parameter(torch.zeros(()))

    def forward(
        self, x: Tensor, previous: Tensor | None = None, lengths: Tensor | None = None, state: Any = None
    ) -> Any:
        if state is None:
            state = {"source": F.pad(x, (0, 1), value=END), "step": torch.zeros(len(x), dtype=torch.int64)}
            return state if previous is None else self.forward(previous, state=state)[0]
        steps = state["step"][:, None] + torch.arange(x.shape[1])
        tokens = state["source"].gather(1, steps.clamp(max=state["source"].shape[1] - 1))
        tokens = torch.where(tokens == 8, self.wrong, torch.where(tokens == PAD, END, tokens))
        return 50 * F.one_hot(tokens, 9).float(), {**state, "step": state["step"] + x.shape[1]}


def copies() -> dict[str, Tensor]:
    whole = batch(8, 9)
    inputs = whole["inputs"]
    targets = F.pad(inputs, (0, 1)).scatter(1, LENGTHS[:, None], END)
    previous = torch.cat([torch.full((3, 1), BEGIN), targets[:, :-1]], dim=1)
    return {"inputs": inputs, "lengths": LENGTHS, "previous": previous, "targets": targets}


@NEEDS_SACREBLEU
def test_a_perfect_model_has_perfect_scores_with_signatures_of_sacrebleu() -> None:
    found = task(length=9).evaluate(Echo(), [copies()])
    assert found.metrics["token_accuracy"] == found.metrics["exact_match"] == 1
    assert found.metrics["bleu"] == pytest.approx(100) and found.metrics["chrf"] == pytest.approx(100)
    assert "tok:13a" in found.definitions["bleu"] and "nc:6" in found.definitions["chrf"]


def test_accuracy_counts_the_tokens_before_padding_over_all_batches() -> None:
    whole = copies()
    hits = sum(int(((row != 8) & (row != PAD)).sum()) for row in whole["targets"])
    parts = [{name: value[rows] for name, value in whole.items()} for rows in (slice(0, 1), slice(1, 3))]
    found = task(length=9).evaluate(Echo(wrong=4), parts).metrics
    assert found["token_accuracy"] == pytest.approx(hits / int((LENGTHS + 1).sum()))
    assert found["exact_match"] == pytest.approx(sum(8 not in row for row in whole["targets"].tolist()) / 3)
    assert 0 < hits < int((LENGTHS + 1).sum())


@NEEDS_SACREBLEU
def test_an_unknown_word_never_counts_as_a_correct_translation() -> None:
    whole = copies()
    unknown = {
        name: torch.where(value == 8, UNKNOWN, value) if name == "targets" else value for name, value in whole.items()
    }
    found = task(length=9).evaluate(Echo(wrong=UNKNOWN), [unknown]).metrics
    assert found["token_accuracy"] == 1 and found["exact_match"] < 1 and found["bleu"] < 100


def test_decode_examples_limits_the_translated_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "is_available", lambda: False)
    parts = [{name: value[row : row + 1] for name, value in copies().items()} for row in range(3)]
    assert task(length=9, decode_examples=2).evaluate(Echo(), parts).metrics["exact_match"] == 1
    found = task(decode_examples=0)
    evaluation = found.evaluate(Echo(), parts)
    assert set(evaluation.metrics) == {"loss", "token_accuracy"} and found.show(Echo(), evaluation) == []


def test_the_choice_of_translated_examples_does_not_depend_on_the_order_of_the_batches() -> None:
    whole = copies()
    wrong = [8 in row for row in whole["targets"].tolist()]
    assert len(set(wrong)) == 2, "some copies are right and some are wrong"
    for order in ([0, 1, 2], [2, 0, 1], [1, 2, 0]):
        parts = [
            {**{name: value[row : row + 1] for name, value in whole.items()}, "position": torch.tensor([row])}
            for row in order
        ]
        for count in (1, 2, 3):
            found = task(length=9, decode_examples=count).evaluate(Echo(wrong=4), parts)
            assert found.metrics["exact_match"] == pytest.approx(1 - sum(wrong[:count]) / count)


def test_a_note_says_how_to_install_sacrebleu_if_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "is_available", lambda: False)
    note = task().fit_baselines([copies()], None)
    assert note is not None and "pip install 'dltrain[text]'" in note
    assert set(task(length=9).evaluate(Echo(), [copies()]).metrics) == {"loss", "token_accuracy", "exact_match"}


def test_a_prediction_is_a_translation_with_its_score() -> None:
    whole = copies()
    lines = task(length=9, beam=3).predict(Echo(), {name: whole[name] for name in ("inputs", "lengths")})
    assert [line["translation"] for line in lines] == [decode(row) for row in whole["inputs"].tolist()]
    assert all(line["score"] == pytest.approx(0, abs=1e-4) for line in lines)


def test_translations_and_attention_weights_are_shown() -> None:
    for attention in ("additive", "none"):
        model = network(attention=attention)
        evaluation = task().evaluate(model, [batch()])
        media = {each.tag: each for each in task().show(model, evaluation)}
        assert set(media) == {"translations", *(["attention"] if attention != "none" else [])}
        assert (
            "reference" in media["translations"].text
            and decode(batch()["inputs"][0].tolist()) in media["translations"].text
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"teacher_forcing": 1.5}, "task.teacher_forcing: expected a number from 0 to 1, got 1.5"),
        ({"beam": 0}, "task.beam: expected a whole number of at least 1, got 0"),
    ],
)
def test_arguments_out_of_range_are_rejected(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        task(**options)


def test_a_model_that_does_not_read_a_source_is_rejected() -> None:
    model = Recurrent("gru", 9, 9, vocabulary=9, each_step=True)
    with pytest.raises(ConfigError, match="model: expected a model that maps a source to a target, got Recurrent"):
        task().predict(model, {name: batch()[name] for name in ("inputs", "lengths")})
