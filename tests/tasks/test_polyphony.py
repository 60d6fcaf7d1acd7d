"""Polyphonic music: metrics and baselines compared with formulas in double precision; sampling."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dltrain.data.loader import Batches
from dltrain.datasets.note_frames import NOTES, piano_notes
from dltrain.datasets.piano_roll import PianoRoll
from dltrain.errors import ConfigError
from dltrain.models.recurrent import Recurrent
from dltrain.models.transformer import Transformer
from dltrain.tasks.base import TextRequest
from dltrain.tasks.note_baselines import NoteCounts
from dltrain.tasks.polyphony import Polyphony

PIECES = [
    [[60, 64, 67]] * 3 + [[62, 65]] * 2,
    [[60], [60, 64], [], [64]],
    [[50, 60, 64, 67], [60, 64]] * 4 + [[62]],
]


class Echo(nn.Module):
    """Model whose logits are a fixed linear function of the previous frame."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(NOTES, NOTES, generator=generator))

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        return x @ self.weight - 1.5


def task(**options: object) -> Polyphony:
    notes = piano_notes()
    return Polyphony(NOTES, 16, notes.encode, notes.decode, notes.lowest, **options)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PianoRoll:
    path = tmp_path_factory.mktemp("rolls") / "rolls.json"
    path.write_text(json.dumps({"train": PIECES, "valid": PIECES[:1], "test": PIECES}))
    return PianoRoll(str(path))


def arrays() -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the previous frames and the target frames of each piece in double precision."""
    found = []
    for piece in PIECES:
        true = np.zeros((len(piece), NOTES))
        for step, pitches in enumerate(piece):
            true[step, [pitch - 21 for pitch in pitches]] = 1
        found.append((np.vstack([np.zeros((1, NOTES)), true[:-1]]), true))
    return found


def formula(probabilities: list[np.ndarray]) -> dict[str, float]:
    """Compute the metrics by their published formulas, summing over all notes and frames."""
    nll = hits = every = expected_hits = expected_all = frames = 0.0
    for (_, true), found in zip(arrays(), probabilities, strict=True):
        for row, p in zip(true, found, strict=True):
            frames += 1
            nll -= sum(math.log(q if note else 1 - q) for note, q in zip(row, p, strict=True))
            hits += sum(note and q > 0.5 for note, q in zip(row, p, strict=True))
            every += sum(bool(note) or q > 0.5 for note, q in zip(row, p, strict=True))
            expected_hits += (row * p).sum()
            expected_all += (row + p - row * p).sum()
    return {"loss": nll / frames, "accuracy": hits / every, "expected_accuracy": expected_hits / expected_all}


def test_metrics_of_a_model_equal_the_formulas_for_any_batch_size(data: PianoRoll) -> None:
    model, splits = Echo(), data.load()
    weight = model.weight.detach().double().numpy()
    expected = formula([1 / (1 + np.exp(-(before @ weight - 1.5))) for before, _ in arrays()])
    for size in (1, 2, 3):
        with torch.inference_mode():
            metrics = task().evaluate(model, Batches(splits.test, size)).metrics
        assert metrics == pytest.approx(expected, rel=1e-5)
    (batch,) = Batches(replace(splits.test, plan=None), 3)  # one padded batch of all pieces
    loss = task().loss(model, batch, 0.0)
    assert loss.total.item() == pytest.approx(expected["loss"], rel=1e-5) and float(loss.weight) == 18


def test_the_loss_of_a_batch_is_the_mean_of_its_parts_weighted_by_their_frames(data: PianoRoll) -> None:
    model = Echo()
    (whole,) = Batches(replace(data.load().test, plan=None), 3)
    parts = [task().loss(model, {name: value[n : n + 1] for name, value in whole.items()}, 0.0) for n in range(3)]
    mean = sum(part.total * part.weight for part in parts) / sum(part.weight for part in parts)
    assert task().loss(model, whole, 0.0).total.item() == pytest.approx(mean.item(), rel=1e-6)


def test_a_batch_of_unknown_frames_has_weight_0_and_zero_gradients() -> None:
    model, frames = Echo(), torch.zeros(2, 8, NOTES)
    loss = task().loss(model, {"inputs": frames, "targets": frames - 1}, 0.0)
    loss.total.backward()
    assert float(loss.weight) == 0 and loss.total.item() == 0 and model.weight.grad.abs().sum() == 0


def test_baselines_equal_the_formulas_and_ignore_transposition(data: PianoRoll, tmp_path: Path) -> None:
    sounding, frames = sum(true.sum(0) for _, true in arrays()), 18
    frequencies = (sounding + 1) / (frames + 2)
    with_note = sum(before.sum(0) for before, _ in arrays())
    both = sum((before * true).sum(0) for before, true in arrays())
    after = [(sounding - both + 1) / (frames - with_note + 2), (both + 1) / (with_note + 2)]
    expected = {
        "note frequencies": formula([np.tile(frequencies, (len(true), 1)) for _, true in arrays()]),
        "repeat last frame": formula([np.where(before > 0, after[1], after[0]) for before, _ in arrays()]),
    }
    (tmp_path / "rolls.json").write_text(json.dumps({"train": PIECES, "test": PIECES, "valid": PIECES}))
    transposed = PianoRoll(str(tmp_path / "rolls.json"), transpose=5)
    for each in (data, transposed):
        splits, own = each.load(), task()
        own.fit_baselines(Batches(splits.train, 2, training=True, seed=3), None)
        with torch.inference_mode():
            baselines = own.evaluate(Echo(), Batches(splits.test, 2)).baselines
        assert list(baselines) == list(expected)
        for name, found in baselines.items():
            assert found == pytest.approx(expected[name], rel=1e-5)


def test_a_note_that_never_sounds_in_the_training_data_has_a_finite_loss(data: PianoRoll) -> None:
    counts = NoteCounts(Batches(data.load().train, 3))
    assert counts.overall.isfinite().all() and counts.after.isfinite().all()


def models() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    sizes = {"outputs": NOTES, "hidden_size": 16, "num_layers": 1, "each_step": True, "causal": True}
    return {
        "lstm": Recurrent("lstm", NOTES, **sizes).eval(),
        "transformer": Transformer(NOTES, 16, **sizes).eval(),
    }


def written(own: Polyphony, model: nn.Module, **request: object) -> str:
    with torch.inference_mode():
        return "".join(own.write(model, TextRequest(**request)))


@pytest.mark.parametrize("name", ["lstm", "transformer"])
def test_greedy_music_has_the_notes_that_the_model_predicts_from_the_earlier_frames(name: str) -> None:
    model, own = models()[name], task()
    text = written(own, model, prompt="60 64, 62", length=6, temperature=0.0)
    frames = own.encode(text)
    assert frames[:2] == [[39, 43], [41]] and len(frames) == 8
    read = torch.zeros(1, 9, NOTES)
    for step, notes in enumerate(frames, 1):
        read[0, step, notes] = 1
    with torch.inference_mode():
        logits = model(read)[0]
    for step in range(2, 8):
        assert frames[step] == (logits[step] > 0).nonzero()[:, 0].tolist()


def test_sampled_notes_have_the_probabilities_of_the_model_at_the_requested_temperature() -> None:
    model, own = Echo(), task()
    with torch.no_grad():
        model.weight.zero_()
    frames = own.encode(written(own, model, length=400, temperature=0.5))
    share = sum(map(len, frames)) / (400 * NOTES)
    assert share == pytest.approx(1 / (1 + math.exp(3)), abs=0.004)
    assert written(own, model, length=5, seed=1) == written(own, model, length=5, seed=1)
    assert written(own, model, length=5, seed=1) != written(own, model, length=5, seed=2)


def test_a_transformer_generates_more_frames_than_it_can_read_at_once() -> None:
    text = written(task(), models()["transformer"], length=40, temperature=1.0)
    assert len(text.splitlines()) == 40


def test_unsupported_options_and_invalid_prompts_are_rejected() -> None:
    model = Echo()
    with pytest.raises(ConfigError, match=r"^--top-k: not supported because the notes of a frame are drawn"):
        written(task(), model, top_k=3)
    with pytest.raises(ConfigError, match=r"^--beam: not supported because music is sampled"):
        written(task(), model, beam=3)
    with pytest.raises(ConfigError, match=r"^--prompt: expected frames of MIDI pitches"):
        written(task(), model, prompt="")
    with pytest.raises(ConfigError, match=r"^task\.prompt: expected frames of MIDI pitches .*, got x"):
        task(prompt="x")
    without_text = Polyphony(NOTES, 16)
    with pytest.raises(ConfigError, match=r"^--prompt: not supported because the data cannot turn text into frames"):
        written(without_text, model, prompt="60")
    with pytest.raises(ConfigError, match=r"^task\.temperature: expected a number above 0"):
        task(temperature=0.0)


def test_one_image_shows_a_piece_with_its_prediction_and_a_sample(data: PianoRoll) -> None:
    own, model = task(prompt="60 64 67"), models()["lstm"]
    with torch.inference_mode():
        evaluation = own.evaluate(model, Batches(data.load().test, 3))
        (picture,) = own.show(model, evaluation)
    assert picture.tag == "piano roll" and picture.image.shape == (3, 720, 540)
    assert picture.image.float().std() > 10  # notes are dark


def test_a_prediction_states_the_likelihood_of_a_piece_and_the_notes_that_follow() -> None:
    model, (before, true) = Echo(), arrays()[0]
    weight = model.weight.detach().double().numpy()
    p = 1 / (1 + np.exp(-(before @ weight - 1.5)))
    targets = torch.from_numpy(np.vstack([true, np.full((3, NOTES), -1)])).float()
    inputs = torch.from_numpy(np.vstack([before, true[-1:], np.zeros((2, NOTES))])).float()
    (line,) = task().predict(model, {"inputs": inputs[None], "targets": targets[None]})
    assert line["frames"] == 5
    assert line["nats_per_frame"] == pytest.approx(-np.log(np.where(true > 0, p, 1 - p)).sum() / 5, rel=1e-5)
    following = true[-1] @ weight - 1.5
    assert line["next"] == " ".join(str(note + 21) for note in np.flatnonzero(following > 0))
