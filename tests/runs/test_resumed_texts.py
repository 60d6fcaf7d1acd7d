"""A run on texts that resumes within an epoch ends with the same weights as an uninterrupted run."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from run_examples import interrupted, model_of

from dltrain.cli.main import main
from dltrain.runs.launch import Outcome
from dltrain.storage.checkpoints import Checkpoints

LSTM = ["model=lstm", "model.hidden_size=8", "model.num_layers=1"]
TEXT = ["data=text", "data.context_length=8", "data.streams=true", "data.batch_size=4"]
STEPS = ["trainer.checkpoint_every=2 steps", "trainer.eval_every=100 steps", "regularization.dropout=0.2"]
STEPS += ["trainer.keep_last=9", "trainer.max_steps=6"]
RUNS = {
    "words": [*LSTM, *TEXT, "data.tokens=words"],
    "bpe": [*LSTM, *TEXT, "data.tokens=bpe", "data.max_words=270"],
    "wordpiece": [*LSTM, *TEXT, "data.tokens=wordpiece", "data.max_words=40"],
    "attention": [*LSTM, "model.readout=attention", "data=text_table"],
    "bag_of_words": ["model=bag_of_words", "data=text_table"],
}


@pytest.mark.parametrize(
    "kind", [kind if kind == "words" else pytest.param(kind, marks=pytest.mark.slow) for kind in RUNS]
)
def test_a_resumed_run_equals_an_uninterrupted_one(
    kind: str, train: Callable[..., Outcome], own_files: dict[str, Path], tmp_path: Path
) -> None:
    if kind in ("bpe", "wordpiece"):
        pytest.importorskip("tokenizers")
    text = tmp_path / "book.txt"
    text.write_text("It was the white whale, and the ship was lost.\n" * 40)
    path = text if "data=text" in RUNS[kind] else own_files["text_table"]
    column = [] if path == text else ["data.column=kind", "data.batch_size=16"]
    dropout = [word for word in STEPS if kind != "bag_of_words" or "dropout" not in word]
    overrides = [*RUNS[kind], *column, f"data.path={path}", *dropout]
    whole = train(*overrides)
    part = interrupted(whole, 4, tmp_path / "part")
    assert main(["resume", str(part)]) == 0
    one, other = model_of(whole), Checkpoints(part).load("last.pt")["model"]
    assert all(torch.equal(one[name], other[name]) for name in one)
