"""Extra state of a user's model: state that a checkpoint cannot restore is rejected before training."""

from pathlib import Path

import pytest

from dltrain.cli import main

MODULE = """
from typing import Any
import numpy as np
from torch import Tensor, nn


class Plain(nn.Module):
    def __init__(self, size: int, outputs: int) -> None:
        super().__init__()
        self.layers, self.state = nn.Sequential(nn.Flatten(), nn.Linear(size, outputs)), self.first()

    def first(self) -> Any:
        return {"names": ["a", "b"], "count": 2}

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)

    def get_extra_state(self) -> Any:
        return self.state

    def set_extra_state(self, state: Any) -> None:
        assert state == self.first(), state
        self.state = state


class Numpy(Plain):
    def first(self) -> Any:
        return np.arange(3)
"""
YAML = "# A model of a user.\n_target_: stateful.{}\nsize: ${{spec.size}}\noutputs: ${{spec.outputs}}\n"
TYPED = [
    "--config-dir",
    "mine",
    "data=digits",
    "device=cpu",
    "trainer.log_media=false",
    "allow_targets=[stateful]",
    "trainer.max_steps=2",
]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "stateful.py").write_text(MODULE)
    (tmp_path / "mine" / "model").mkdir(parents=True)
    for name in ("Plain", "Numpy"):
        (tmp_path / "mine" / "model" / f"{name.lower()}.yaml").write_text(YAML.format(name))
    return tmp_path


def test_plain_python_extra_state_is_restored_on_resume(here: Path) -> None:
    assert main.main([*TYPED, "model=plain", "hydra.run.dir=run"]) == 0
    assert main.main(["resume", "run", "allow_targets=[stateful]", "trainer.max_steps=4"]) == 0
    assert main.main(["evaluate", "run", "allow_targets=[stateful]"]) == 0


def test_extra_state_that_no_checkpoint_can_store_is_rejected_before_training(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main([*TYPED, "model=numpy", "hydra.run.dir=run"]) == 2
    stderr = capsys.readouterr().err
    assert "model (_extra_state of its state_dict): expected tensors and plain Python values, got ndarray" in stderr
    assert not (here / "run").exists()
