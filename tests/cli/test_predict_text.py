"""``dltrain predict`` on text: the nats per character equal the loss of evaluation."""

from pathlib import Path

import pytest
import torch
from prediction_examples import TEXT, Predict, SmallData, Train, rebuilt
from torch.nn import functional as F

from dltrain.datasets.time_series import BUNDLED


@pytest.mark.parametrize("characters", [16 * 9 + 1, 150, 2, 16])
def test_nats_per_character_equal_the_loss_of_evaluation(
    characters: int, train: Train, predict: Predict, small_data: SmallData, tmp_path: Path
) -> None:
    folder = train(*TEXT, *small_data("text"))
    known = rebuilt(folder)
    text = (BUNDLED / "moby_dick.txt").read_text()[5000 : 5000 + characters]
    (tmp_path / "mine.txt").write_text(text)
    (line,) = predict(folder, tmp_path / "mine.txt").lines
    tokens = torch.tensor(known.components.data.spec.tokens.encode(text))
    nats = []
    with torch.inference_mode():
        for start in range(0, len(tokens) - 1, 16):
            read, expected = tokens[start : start + 16], tokens[start + 1 : start + 17]
            logits = known.components.model(read[None])[0, : len(expected)]
            nats += F.cross_entropy(logits, expected, reduction="none").tolist()
    assert len(nats) == characters - 1 and line["characters"] == characters
    assert line["nats_per_character"] == pytest.approx(sum(nats) / len(nats), rel=1e-5)
    if characters == 16 * 9 + 1:
        windows = tokens.unfold(0, 17, 16)
        batch = {"inputs": windows[:, :-1], "targets": windows[:, 1:]}
        with torch.inference_mode():
            loss = known.components.task.evaluate(known.components.model, [batch]).metrics["loss"]
        assert line["nats_per_character"] == pytest.approx(loss, rel=1e-5)


def test_text_is_read_from_standard_input_and_checked_against_the_vocabulary(
    train: Train, predict: Predict, small_data: SmallData
) -> None:
    folder = train(*TEXT, *small_data("text"), "data.tokens=bytes")
    (line,) = predict(folder, "-", stdin="Grüße €".encode()).lines
    assert line["characters"] == 7 and line["nats_per_character"] > 0
    characters = train(*TEXT, *small_data("text"))
    for words, stdin, message in (
        (["-"], "Grüße €".encode(), "INPUT 1: expected characters of the training text"),
        (["-"], b"\xff", "INPUT 1: expected UTF-8 text"),
        (["-"], b"", "INPUT 1: expected a text of at least one character"),
        (["--text", "€"], b"", "--text: expected characters of the training text"),
        ([], b"", "INPUT: expected a text file, or - for standard input, got nothing"),
    ):
        result = predict(characters, *words, stdin=stdin)
        assert result.code == 2 and message in result.err
