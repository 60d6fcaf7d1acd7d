"""A small version of experiment=transformer_memorize: random pairs are memorized in 100 full-batch steps."""

import json
from pathlib import Path

import pytest

from dltrain.cli.main import main

SMALL = ["model.hidden_size=32", "model.num_layers=1", "model.num_heads=4", "optimizer.lr=5e-3"]
SMALL += ["data.pairs=8", "data.steps=10", "data.vocabulary=40", "data.batch_size=8", "trainer.log_media=false"]
SMALL += ["trainer.checkpoint_every=100 epochs"]


def test_a_small_transformer_memorizes_random_pairs_in_100_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["experiment=transformer_memorize", *SMALL, "device=cpu", "hydra.run.dir=run"]) == 0
    result = json.loads(Path("run/result.json").read_text())
    assert result["steps"] == 100
    assert result["test"]["token_accuracy"] >= 0.992
