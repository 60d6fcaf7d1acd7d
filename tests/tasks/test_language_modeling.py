"""Language modeling, compared with torchmetrics and with predictions of single tokens."""

import math
from pathlib import Path

import pytest
import torch
from bigram import LENGTH, VOCABULARY, Table
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.text import Perplexity

from dltrain.data.loader import Batches
from dltrain.datasets.text import Text
from dltrain.datasets.text_tokenizers import CharacterTokenizer
from dltrain.errors import ConfigError
from dltrain.models.gpt import GPT
from dltrain.models.recurrent import Recurrent
from dltrain.tasks.base import TextRequest
from dltrain.tasks.language_modeling import LanguageModeling

SIZES = [4, 4, 1]


def batches(seed: int = 0) -> list[dict[str, Tensor]]:
    """Return batches with logits as inputs, for an identity model."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(sum(SIZES), LENGTH, VOCABULARY, generator=generator)
    targets = torch.randint(VOCABULARY, (sum(SIZES), LENGTH), generator=generator)
    return [{"inputs": i, "targets": t} for i, t in zip(logits.split(SIZES), targets.split(SIZES), strict=True)]


def test_metrics_over_batches_of_different_sizes_equal_torchmetrics() -> None:
    metrics = LanguageModeling(VOCABULARY, LENGTH).evaluate(nn.Identity(), batches()).metrics
    peer = Perplexity()
    for batch in batches():
        peer.update(batch["inputs"], batch["targets"])
    perplexity = peer.compute().item()
    assert metrics["perplexity"] == pytest.approx(perplexity, rel=1e-5)
    assert metrics["loss"] == pytest.approx(math.log(perplexity), rel=1e-5)
    assert metrics["bits_per_token"] == pytest.approx(math.log2(perplexity), rel=1e-5)


def test_the_training_loss_is_the_mean_over_tokens_and_its_weight_is_the_number_of_tokens() -> None:
    (batch, *_) = batches()
    loss = LanguageModeling(VOCABULARY, LENGTH, label_smoothing=0.2).loss(nn.Identity(), batch, 0.0)
    assert loss.weight == SIZES[0] * LENGTH
    smoothed = 0.8 * F.one_hot(batch["targets"], VOCABULARY) + 0.2 / VOCABULARY
    closed = -(smoothed * batch["inputs"].log_softmax(-1)).sum(-1).mean()
    torch.testing.assert_close(loss.total, closed)


def test_perplexity_that_overflows_is_infinite() -> None:
    logits = torch.zeros(1, LENGTH, VOCABULARY)
    logits[..., 0] = 1e4
    batch = {"inputs": logits, "targets": torch.ones(1, LENGTH, dtype=torch.int64)}
    metrics = LanguageModeling(VOCABULARY, LENGTH).evaluate(nn.Identity(), [batch]).metrics
    assert metrics["perplexity"] == math.inf
    assert metrics["loss"] == pytest.approx(1e4)


def test_a_sample_is_a_markdown_code_block_that_starts_with_the_prompt(table: Table) -> None:
    letters = "abcdefghij\n"
    task = LanguageModeling(
        VOCABULARY,
        LENGTH,
        encode=lambda text: [letters.index(c) for c in text],
        decode=lambda tokens: "".join(letters[t] for t in tokens),
        prompt="bad",
    )
    with torch.no_grad():
        (shown,) = task.show(table, task.evaluate(nn.Identity(), batches()))
    assert shown.tag == "sample" and shown.text is not None
    lines = shown.text.split("\n")
    assert all(line.startswith("    ") for line in lines) and lines[0].startswith("    bad")
    characters = sum(len(line) - 4 for line in lines) + len(lines) - 1
    assert 202 <= characters <= 203, "a newline at the end of the sample is not counted"


def test_no_sample_is_shown_without_a_decoder() -> None:
    task = LanguageModeling(VOCABULARY, LENGTH)
    assert task.show(nn.Identity(), task.evaluate(nn.Identity(), batches())) == []


def test_the_default_prompt_is_the_first_token_if_the_vocabulary_has_no_newline() -> None:
    data = {"encode": CharacterTokenizer("abc").encode, "decode": CharacterTokenizer("abc").decode}
    assert LanguageModeling(3, LENGTH, **data).start == [0]


def test_a_prompt_with_unknown_characters_is_rejected() -> None:
    data = {"encode": CharacterTokenizer("abc").encode, "decode": CharacterTokenizer("abc").decode}
    assert LanguageModeling(3, LENGTH, **data, prompt="cab").start == [2, 0, 1]
    with pytest.raises(ConfigError, match=r"^task.prompt: expected characters of the training text \('abc'\), got 'x'"):
        LanguageModeling(3, LENGTH, **data, prompt="ax")


def test_a_temperature_of_zero_is_rejected() -> None:
    with pytest.raises(ConfigError, match=r"task.temperature: expected a number above 0, got 0"):
        LanguageModeling(3, LENGTH, temperature=0)


@pytest.mark.parametrize("split", ["val", "test"])
def test_the_evaluation_loss_is_the_mean_over_all_tokens_of_a_split(split: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("".join(chr(97 + number * number % 23) for number in range(1003)))
    data = Text(str(tmp_path / "a.txt"), context_length=LENGTH, batch_size=4)
    torch.manual_seed(0)
    model = GPT(data.spec.tokens.size, LENGTH, data.spec.tokens.size, hidden_size=8, num_layers=1, num_heads=2).eval()
    task = LanguageModeling(data.spec.tokens.size, LENGTH)
    with torch.no_grad():
        metrics = task.evaluate(model, Batches(getattr(data.load(), split), 4)).metrics
        whole = data.tokenizer.encode_content((tmp_path / "a.txt").read_bytes()).tokens.long()
        tokens = whole[803:903] if split == "val" else whole[903:]
        nats = []
        for position in range(1, len(tokens)):
            window = tokens[(position - 1) // LENGTH * LENGTH : position]
            nats.append(-float(model(window[None])[0, -1].log_softmax(0)[tokens[position]]))
    assert len(nats) == 99 and 99 % LENGTH, "the last window must be incomplete"
    assert metrics["loss"] == pytest.approx(sum(nats) / len(nats), rel=1e-5)


def test_bits_per_character_include_the_bits_that_spell_unknown_words() -> None:
    own = [{**batch, "characters": torch.full((len(batch["inputs"]),), 9)} for batch in batches()]
    spelled = [{**batch, "spelling": 3 * F.one_hot(torch.tensor(0), len(batch["inputs"]))} for batch in own]
    metrics = LanguageModeling(VOCABULARY, LENGTH).evaluate(nn.Identity(), spelled).metrics
    bits = -sum(
        float(batch["inputs"].double().log_softmax(-1).gather(-1, batch["targets"][:, :, None]).sum()) for batch in own
    ) / math.log(2)
    assert metrics["bits_per_character"] == pytest.approx((bits + 3 * 3 * 8) / (9 * sum(SIZES)), rel=1e-6)


def test_special_tokens_are_not_generated_and_generated_words_are_separated_by_spaces(table: Table) -> None:
    words = ["<unknown>", *"abcdefghij"]
    task = LanguageModeling(
        VOCABULARY,
        LENGTH,
        encode=lambda text: [words.index(word) for word in text.split()],
        decode=lambda tokens: " ".join(words[token] for token in tokens),
        special=(0,),
    )
    with torch.no_grad():
        pieces = list(task.write(table, TextRequest(prompt="a b", length=500, temperature=2.0)))
    text = "".join(pieces)
    assert len(pieces) == 501 and text.split(" ")[:2] == ["a", "b"] and len(text.split(" ")) == 502
    assert "<unknown>" not in text


@pytest.mark.parametrize("steps", [7, 8, 16])
def test_a_recurrent_network_scores_texts_of_any_length_in_windows(steps: int) -> None:
    torch.manual_seed(0)
    model = Recurrent("lstm", 5, 5, hidden_size=4, vocabulary=5, each_step=True, causal=True).eval()
    tokens, targets = torch.randint(0, 5, (1, steps)), torch.randint(0, 5, (1, steps))
    with torch.inference_mode():
        expected = sum(
            F.cross_entropy(model(x)[0], y[0], reduction="sum").item()
            for x, y in zip(tokens.split(8, dim=1), targets.split(8, dim=1), strict=True)
        )
        assert LanguageModeling(5, 8).nll(model, tokens, targets) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("beam", [None, 2])
def test_generated_text_stops_before_the_token_that_ends_a_document(beam: int | None) -> None:
    model, end = Table(), VOCABULARY - 1
    with torch.no_grad():
        model.rows.weight.copy_(20.0 * torch.eye(VOCABULARY).roll(1, dims=1))  # each token is followed by the next one
    letters = "abcdefghi\n|"
    encode, decode = (
        (lambda text: [letters.index(each) for each in text]),
        (lambda own: "".join(letters[n] for n in own)),
    )
    task = LanguageModeling(VOCABULARY, LENGTH, encode, decode, end=end)
    request = TextRequest(prompt="f", length=30, temperature=0.0 if beam is None else None, beam=beam)
    assert "".join(task.write(model, request)) == "fghi\n"


def test_the_loss_of_isolated_documents_does_not_depend_on_earlier_documents(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("|".join(["abcdefg", "hijk", "lmnopq"] * 12))
    data = Text(str(tmp_path / "a.txt"), separator="|", isolate_documents=True, context_length=15)
    batch = {name: value[:1] for name, value in next(iter(Batches(data.load().train, 4))).items()}
    task, model = (
        LanguageModeling(data.spec.tokens.size, 15),
        Recurrent("lstm", 20, 20, 8, vocabulary=20, each_step=True),
    )
    inputs, targets = batch["inputs"], batch["targets"]
    second = targets.masked_fill(batch["documents"] != 2, -1)  # the targets in the second document
    assert second[0, second[0] >= 0].tolist() == data.spec.tokens.encode("hijk|")
    losses = [
        task.evaluate(
            model, [{**batch, "inputs": torch.where(batch["documents"] == 1, changed, inputs), "targets": second}]
        )
        for changed in (inputs, inputs.flip(1))
    ]
    assert losses[0].metrics == losses[1].metrics
    assert math.isfinite(task.loss(model, batch, 0.0).total.item())


def test_a_model_that_cannot_separate_documents_is_rejected() -> None:
    batch = {"inputs": torch.zeros(1, 3, dtype=torch.int64), "targets": torch.zeros(1, 3, dtype=torch.int64)}
    with pytest.raises(ConfigError, match=r"model: not supported .* read one document as the continuation of another"):
        LanguageModeling(VOCABULARY, LENGTH).loss(Table(), {**batch, "documents": batch["inputs"]}, 0.0)
