"""Short runs with extreme values are rejected, diverge, run out of memory, or finish with finite test results."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dltrain.cli.main import main

RUNS = [
    ["model=mlp", "data=digits", "model.hidden_size=8"],
    [
        "model=lstm",
        "data=timeseries",
        "data.series=sunspots",
        "data.window=12",
        "data.horizon=3",
        "model.hidden_size=4",
    ],
    ["model=gan", "data=ring", "model.hidden_size=8", "data.batch_size=64"],
    ["model=vae", "data=digits", "model.hidden_size=8", "model.latent=2"],
    ["model=gpt", "data=text", "model.hidden_size=8", "model.num_layers=1", "model.num_heads=2", "data.stride=4096"],
    ["model=rbm", "data=digits", "model.hidden_size=8"],
]
EXTREMES = {
    "optimizer.lr": ["1e38", "1e30", "1e10", "1e-38", "0"],
    "optimizer.eps": ["1e-300", "1e-38", "1e38"],
    "optimizer.weight_decay": ["1e38", "1e300", "-1"],
    "regularization.l2": ["1e38", "1e39"],
    "regularization.l1": ["1e38"],
    "regularization.dropout": ["0.999999", "1"],
    "regularization.clip_norm": ["1e-38", "1e38"],
    "regularization.ema_decay": ["0.9999999"],
    "trainer.max_minutes": ["1e-9", "1e300"],
    "trainer.accumulate": ["1000000"],
    "trainer.on_non_finite": ["skip", "ignore"],
    "seed": ["9223372036854775807", "1" * 5000],
    "data.batch_size": ["1", "1000000000"],
    "data.validation": ["0", "0.99"],
}


def is_finite(value: Any) -> bool:
    """Return whether every number in a JSON value is finite."""
    if isinstance(value, dict | list):
        return all(map(is_finite, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, float) or math.isfinite(value)


def check_run(seed: int, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Train two steps with one to three extreme values, and check the exit code, the messages and the result."""
    random = np.random.default_rng(seed)
    keys = random.choice(list(EXTREMES), size=int(random.integers(1, 4)), replace=False)
    words = [f"{key}={random.choice(EXTREMES[key])}" for key in keys]
    run = folder / str(seed)
    overrides = [
        *RUNS[seed % len(RUNS)],
        *words,
        "device=cpu",
        "trainer.log_media=false",
        "trainer.max_steps=2",
        f"hydra.run.dir={run}",
    ]
    code = main(overrides)
    error = capfd.readouterr().err
    assert code in (0, 2, 3, 4), (seed, overrides, code, error)
    assert "Traceback" not in error, (seed, overrides, error)
    if code == 2:
        assert not run.exists(), (seed, overrides, error)
    if code == 0:
        result = json.loads((run / "result.json").read_text())
        assert result["test"] and is_finite(result["test"]), (seed, overrides, result["test"])


def test_runs_with_extreme_values_end_without_a_traceback_and_with_finite_results(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for seed in range(6):
        check_run(seed, tmp_path, capfd)


@pytest.mark.slow
def test_many_more_runs_with_extreme_values_end_without_a_traceback_and_with_finite_results(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for seed in range(6, 300):
        check_run(seed, tmp_path, capfd)
