"""``dltrain predict --explain``: predictions are explained by colors over an image or by weights of words."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugin_util import markdown_to_safe_html

from dltrain.cli.main import main
from dltrain.plots import heat
from dltrain.tasks.word_weights import highlighted


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder, random = tmp_path / "in", np.random.default_rng(0)
    folder.mkdir()
    for name in ("one", "two"):
        Image.fromarray(random.integers(0, 256, (16, 16), dtype=np.uint8)).save(folder / f"{name}.png")
    return folder


def test_explain_draws_one_explanation_per_image_and_does_not_change_predictions(
    finished_run: Callable[..., Path], pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = finished_run("augmented")
    assert main(["predict", str(run), str(pictures)]) == 0
    plain = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert main(["predict", str(run), str(pictures), "--explain", "--out", str(tmp_path / "out")]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    files = [line.pop("explanation") for line in lines]
    assert lines == plain and files == [str(tmp_path / "out" / f"{name}.png") for name in ("one", "two")]
    for file in files:
        drawn = np.array(Image.open(file))
        assert drawn.shape == (heat.MIN_SIDE, heat.MIN_SIDE, 3)  # 8x8 pixels, enlarged
        assert (drawn[..., 0] != drawn[..., 2]).any()  # colored


@pytest.mark.parametrize(
    ("kind", "words", "message"),
    [
        ("augmented", [], "--explain: not supported without --out FOLDER, where the images are written"),
        ("plain", ["--out", "out"], "--explain: not supported because this model has no feature maps"),
        ("forecast", ["--out", "out"], "--explain: not supported because the task is Forecasting"),
    ],
)
def test_an_explanation_that_is_not_supported_is_rejected_with_the_reason(
    kind: str,
    words: list[str],
    message: str,
    finished_run: Callable[..., Path],
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    inputs = [] if kind == "forecast" else [str(pictures)]
    assert main(["predict", str(finished_run(kind)), *inputs, "--explain", *words]) == 2
    captured = capsys.readouterr()
    assert message in captured.err.splitlines()[-1] and not captured.out
    assert not (tmp_path / "out").exists()


def test_predict_and_tensorboard_explain_a_vision_transformer_by_its_attention(
    train: Callable[..., Path], pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train("model=vit", "model.num_layers=1", "model.hidden_size=8", "data=digits", "trainer.log_media=true")
    capsys.readouterr()
    assert main(["predict", str(run), str(pictures / "one.png"), "--explain", "--out", str(tmp_path / "out")]) == 0
    (line,) = map(json.loads, capsys.readouterr().out.splitlines())
    drawn = np.array(Image.open(line["explanation"]))[:: heat.MIN_SIDE // 8, :: heat.MIN_SIDE // 8]  # 8x8 pixels
    plain = (drawn[..., 0] == drawn[..., 1]) & (drawn[..., 0] == drawn[..., 2])
    assert plain.sum() == 1  # only the pixel with the least attention is not colored; patches are single pixels
    accumulator = EventAccumulator(str(run), size_guidance={"images": 0})
    accumulator.Reload()
    assert [tag for tag in accumulator.Tags()["images"] if "attention" in tag]


CAPTIONS = {
    ("classification", "kind"): r"\w, predicted \w+ \(\d\.\d\d\): ",
    ("regression", "price"): r"price -?[\d.e-]+, predicted -?[\d.e-]+: ",
}


@pytest.mark.parametrize(("task", "column"), CAPTIONS)
def test_explain_prints_the_weight_of_each_word_and_tensorboard_highlights_the_words(
    task: str,
    column: str,
    train: Callable[..., Path],
    small_data: Callable[[str], list[str]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    lstm = ["model=lstm", "model.hidden_size=8", "model.num_layers=1"]
    keys = ["model.readout=attention", f"task={task}", f"data.column={column}", "trainer.log_media=true"]
    run = train(*lstm, *small_data("text_table"), *keys, "trainer.max_steps=2")
    capsys.readouterr()
    assert main(["predict", str(run), "--text", "a good film", "--explain"]) == 0
    (line,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert [each["word"] for each in line["words"]] == ["a", "good", "film"]
    assert sum(each["weight"] for each in line["words"]) == pytest.approx(1)
    accumulator = EventAccumulator(str(run), size_guidance={"tensors": 0})
    accumulator.Reload()
    tag, *_ = [tag for tag in accumulator.Tags()["tensors"] if "attention" in tag]
    text = accumulator.Tensors(tag)[-1].tensor_proto.string_val[0].decode()
    assert re.search(CAPTIONS[task, column], text) and markdown_to_safe_html(text).count("<p>") > 2
    if task == "regression":
        return
    other = train(*lstm, *small_data("text_table"), "trainer.max_steps=2")
    capsys.readouterr()
    assert main(["predict", str(other), "--text", "a good film", "--explain"]) == 2
    assert "model.readout: expected attention, the only readout with weights, got last" in capsys.readouterr().err


def test_words_with_large_weights_are_highlighted_and_markdown_symbols_are_escaped() -> None:
    weights = [("*", 0.05), ("<b>", 0.1), ("good", 0.65), ("film", 0.2)]
    text = highlighted([{"word": word, "weight": weight} for word, weight in [*weights, *[("_x_", 0.0)] * 4]])
    shown = markdown_to_safe_html(text)
    assert shown == "<p>* &lt;b&gt; <strong><em>good</em></strong> film _x_ _x_ _x_ _x_</p>"
