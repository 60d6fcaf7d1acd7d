"""Runs whose schedule depends on their number of steps are extended only with --change-schedule."""

from collections.abc import Callable

import pytest

from dltrain.cli import main
from dltrain.runs.launch import Outcome


def test_an_extension_that_changes_the_learning_rate_requires_the_flag_change_schedule(
    train: Callable[..., Outcome], capsys: pytest.CaptureFixture[str]
) -> None:
    run = train("model=mlp", "data=digits", "optimizer/schedule=cosine", "optimizer.lr=0.005", "trainer.max_steps=4")
    status = (run.folder / "status.json").read_bytes()
    assert main.main(["resume", str(run.folder), "trainer.max_steps=8"]) == 2
    rates = "he learning rate changes from 0.000732 to 0.0025 at step 4"
    error = capsys.readouterr().err
    assert "trainer.max_steps: expected 4, got 8. The" in error and rates in error and "--change-schedule" in error
    assert (run.folder / "status.json").read_bytes() == status
    assert main.main(["resume", str(run.folder), "trainer.max_steps=8", "--change-schedule"]) == 0
    assert rates in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_whose_schedule_does_not_depend_on_max_steps_can_be_extended(train: Callable[..., Outcome]) -> None:
    run = train(
        "model=mlp", "data=digits", "optimizer/schedule=step", "optimizer.schedule.step_size=3", "trainer.max_steps=4"
    )
    assert main.main(["resume", str(run.folder), "trainer.max_steps=5"]) == 0
