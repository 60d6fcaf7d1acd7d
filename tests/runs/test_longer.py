"""A run that is prolonged under a schedule that depends on the length of training."""

from collections.abc import Callable

import pytest

from dltrain.cli import main
from dltrain.runs.launch import Outcome


def test_a_longer_run_does_not_jump_to_another_learning_rate_without_a_word(
    train: Callable[..., Outcome], capsys: pytest.CaptureFixture[str]
) -> None:
    run = train("model=mlp", "data=digits", "optimizer/schedule=cosine", "optimizer.lr=0.005", "trainer.max_steps=4")
    status = (run.folder / "status.json").read_bytes()
    assert main.main(["resume", str(run.folder), "trainer.max_steps=8"]) == 2
    rates = "the learning rate changes from 0.000732 to 0.0025 at step 4"
    refused = capsys.readouterr().err
    assert "trainer.max_steps: not supported" in refused and rates in refused and "--change-schedule" in refused
    assert (run.folder / "status.json").read_bytes() == status
    assert main.main(["resume", str(run.folder), "trainer.max_steps=8", "--change-schedule"]) == 0
    assert rates in capsys.readouterr().err


def test_a_schedule_that_does_not_depend_on_the_length_lets_a_run_grow(train: Callable[..., Outcome]) -> None:
    run = train(
        "model=mlp", "data=digits", "optimizer/schedule=step", "optimizer.schedule.step_size=3", "trainer.max_steps=4"
    )
    assert main.main(["resume", str(run.folder), "trainer.max_steps=5"]) == 0
