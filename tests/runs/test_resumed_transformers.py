"""A transformer run that resumes within an epoch ends with exactly the weights of an uninterrupted run."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from run_examples import interrupted, model_of

from dltrain.cli.main import main
from dltrain.runs.launch import Outcome
from dltrain.storage.checkpoints import Checkpoints

SMALL = ["model.num_layers=1", "model.num_heads=2", "model.hidden_size=16"]
TEXT = ["data=text", "data.context_length=16", "data.stride=512", "data.batch_size=8", "data.test=0.01"]
STEPS = ["trainer.checkpoint_every=2 steps", "trainer.eval_every=100 steps", "trainer.eval_examples=8"]
STEPS += ["trainer.keep_last=9", "trainer.max_steps=5"]
RUNS = {
    "transformer": ["model=transformer", "data=digits"],
    "transformer_seq2seq": ["model=transformer_seq2seq", "data=reversal", "data.sequences=300", "data.batch_size=16"],
    "t5": ["model=t5", "data=reversal", "data.sequences=300", "data.batch_size=16"],
    "bert": ["model=bert", *TEXT, "data.special_tokens=true", "task=masked_language_modeling"],
    "bert on pairs": [
        "model=bert",
        "data=sentence_pairs",
        "data.max_length=24",
        "data.max_words=500",
        "data.test=0.02",
    ],
    "gpt": ["model=gpt", *TEXT],
    "vit": ["model=vit", "data=digits"],
}


OFTEN = ("transformer_seq2seq", "bert on pairs", "gpt")  # the other kinds are slow tests


@pytest.mark.parametrize("kind", [k if k in OFTEN else pytest.param(k, marks=pytest.mark.slow) for k in RUNS])
def test_a_resumed_transformer_equals_an_uninterrupted_one(
    kind: str, train: Callable[..., Outcome], tmp_path: Path
) -> None:
    decoding = ["task.decode_examples=1"] if "data=reversal" in RUNS[kind] else []
    overrides = [*RUNS[kind], *SMALL, *STEPS, *decoding, "regularization.dropout=0.2", "trainer.log_media=false"]
    whole = train(*overrides)
    part = interrupted(whole, 2, tmp_path / "part")
    assert main(["resume", str(part)]) == 0
    one, other = model_of(whole), Checkpoints(part).load("last.pt")["model"]
    assert all(torch.equal(one[name], other[name]) for name in one)
