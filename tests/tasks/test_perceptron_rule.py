"""Rosenblatt's perceptron rule: its update, its convergence, Novikoff's bound, and XOR."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dltrain.config import compose
from dltrain.datasets.synthetic import GATE_INPUTS, GATES
from dltrain.loggers.console import Console
from dltrain.runs import assemble, dry_run, launch
from dltrain.tasks.perceptron_rule import PerceptronRule

ROSENBLATT = ["model=perceptron", "task=perceptron_rule", "optimizer=sgd", "optimizer.lr=1", "data.batch_size=1"]
ROSENBLATT += ["device=cpu", "trainer.log_every=1000", "trainer.log_media=false"]
ROSENBLATT += ["trainer.checkpoint_every=1000 epochs"]  # save only at the end
SEPARABLE = ["and", "or", "nand", "nor"]
SELDOM = "trainer.eval_every=1000 epochs"  # evaluate only at the end


def train_perceptron(folder: Path, *more: str) -> tuple[launch.Outcome, assemble.Components]:
    job = compose.compose([*ROSENBLATT, f"hydra.run.dir={folder / 'run'}", *more])
    outcome = launch.train(job, Console(), 0.0)
    assert outcome.exit_code == 0
    return outcome, assemble.build_components(job)


def examples(components: assemble.Components, epochs: int) -> list[tuple[np.ndarray, int]]:
    """Return each training example in the order of the run: its inputs with a 1 for the bias, and its class."""
    batches = dry_run.build_batches(components, components.data.load())["train"]
    found = [batch for epoch in range(epochs) for batch in batches.epoch(epoch)]
    return [(np.append(b["inputs"].flatten().double().numpy(), 1.0), int(b["targets"])) for b in found]


def weights(state: dict[str, torch.Tensor]) -> np.ndarray:
    """Return weights and bias, (outputs, inputs + 1)."""
    weight, bias = (state[f"layers.1.{name}"].double() for name in ("weight", "bias"))
    return torch.cat([weight, bias[:, None]], 1).numpy()


def last_weights(outcome: launch.Outcome) -> np.ndarray:
    return weights(torch.load(outcome.folder / "checkpoints" / "last.pt", weights_only=True)["model"])


@pytest.mark.parametrize("gate", ["nand", "xor"])
def test_each_step_with_one_example_is_rosenblatts_update(gate: str, tmp_path: Path) -> None:
    outcome, components = train_perceptron(tmp_path, "data=gates", f"data.gate={gate}", "trainer.epochs=7", SELDOM)
    w = start = weights(components.model.state_dict())[0]
    for x, target in examples(components, 7):
        y = 1 if target == 1 else -1
        if y * (w @ x) <= 0:
            w = w + y * x
    assert np.abs(w - start).max() >= 1
    np.testing.assert_allclose(last_weights(outcome)[0], w, atol=1e-5)


def test_a_multiclass_mistake_updates_the_target_class_and_the_other_class_with_the_largest_output(
    tmp_path: Path,
) -> None:
    outcome, components = train_perceptron(tmp_path, "data=digits", "data.num_labels=200", "trainer.epochs=2")
    w = weights(components.model.state_dict()).copy()
    mistakes = 0
    for x, target in examples(components, 2):
        scores = w @ x
        others = np.delete(np.arange(10), target)
        rival = others[np.argmax(scores[others])]
        if scores[target] <= scores[rival]:
            w[target] += x
            w[rival] -= x
            mistakes += 1
    assert mistakes > 50
    np.testing.assert_allclose(last_weights(outcome), w, atol=1e-3)


def test_an_output_of_exactly_0_is_a_mistake_and_updates_the_weights() -> None:
    x, targets = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([1, 0])
    unit = nn.Linear(2, 1)
    nn.init.zeros_(unit.weight)
    nn.init.zeros_(unit.bias)
    task = PerceptronRule(2)
    loss = task.loss(unit, {"inputs": x, "targets": targets}, 0.0)
    loss.total.backward()
    assert unit.weight.grad is not None and unit.bias.grad is not None
    torch.testing.assert_close(unit.weight.grad[0], -(x[0] - x[1]) / 2)
    torch.testing.assert_close(unit.bias.grad, torch.zeros(1))
    assert task.evaluate(unit, [{"inputs": x, "targets": targets}]).metrics == {"loss": 0, "accuracy": 0, "mistakes": 2}


def test_equal_outputs_are_a_mistake_and_change_the_weights_of_only_one_other_class() -> None:
    units = nn.Linear(2, 3, bias=False)
    nn.init.zeros_(units.weight)
    x = torch.tensor([[1.0, 2.0]])
    PerceptronRule(3).loss(units, {"inputs": x, "targets": torch.tensor([2])}, 0.0).total.backward()
    assert units.weight.grad is not None
    assert units.weight.grad[2].tolist() == [-1, -2]
    assert sorted(row.tolist() for row in units.weight.grad[:2]) == [[0, 0], [1, 2]]


def test_correct_predictions_do_not_change_the_weights() -> None:
    unit = nn.Linear(1, 1)
    with torch.no_grad():
        unit.weight.fill_(1.0)
        unit.bias.fill_(-0.5)
    task, batch = PerceptronRule(2), {"inputs": torch.tensor([[1.0], [0.0]]), "targets": torch.tensor([1, 0])}
    task.loss(unit, batch, 0.0).total.backward()
    assert unit.weight.grad is not None and unit.weight.grad.item() == 0
    assert task.evaluate(unit, [batch]).metrics == {"loss": 0, "accuracy": 1, "mistakes": 0}
    assert [line["class"] for line in task.predict(unit, batch)] == [1, 0]


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
@pytest.mark.parametrize(
    "gate", ["nand", *(pytest.param(gate, marks=pytest.mark.slow) for gate in ("and", "or", "nor"))]
)
def test_the_rule_converges_on_linearly_separable_classes(gate: str, seed: int, tmp_path: Path) -> None:
    outcome, _ = train_perceptron(tmp_path, "data=gates", f"data.gate={gate}", f"seed={seed}", SELDOM)
    assert outcome.result["test"] == {"loss": 0, "accuracy": 1, "mistakes": 0}


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
@pytest.mark.parametrize("gate", ["xor", pytest.param("xnor", marks=pytest.mark.slow)])
def test_one_unit_does_not_learn_classes_that_are_not_linearly_separable(gate: str, seed: int, tmp_path: Path) -> None:
    outcome, _ = train_perceptron(tmp_path, "data=gates", f"data.gate={gate}", f"seed={seed}", "trainer.epochs=20")
    events = [json.loads(line) for line in (outcome.folder / "metrics.jsonl").read_text().splitlines()]
    accuracies = [line["accuracy"] for line in events if line["split"] == "val"]
    assert len(accuracies) == 20 and max(accuracies) <= 0.75


@pytest.mark.parametrize("gate", SEPARABLE)
def test_the_number_of_updates_from_zero_weights_satisfies_novikoffs_bound(gate: str) -> None:
    normals: dict[str, list[float]] = {
        "and": [1, 1, -1.5],
        "or": [1, 1, -0.5],
        "nand": [-1, -1, 1.5],
        "nor": [-1, -1, 0.5],
    }
    x = np.column_stack([GATE_INPUTS, np.ones(4)])
    y = 2 * np.array(GATES[gate]) - 1
    normal = np.array(normals[gate]) / np.linalg.norm(normals[gate])
    bound = (np.linalg.norm(x, axis=1).max() / (y * (x @ normal)).min()) ** 2
    task, unit, mistakes = PerceptronRule(2), nn.Linear(2, 1), 0
    nn.init.zeros_(unit.weight)
    nn.init.zeros_(unit.bias)
    optimizer = torch.optim.SGD(unit.parameters(), lr=1.0)
    for _ in range(100):
        for inputs, target in zip(GATE_INPUTS, GATES[gate], strict=True):
            batch: dict[str, Any] = {"inputs": torch.tensor([inputs]), "targets": torch.tensor([target])}
            loss = task.loss(unit, batch, 0.0)
            mistakes += int(1 - loss.parts["accuracy"])
            optimizer.zero_grad()
            loss.total.backward()
            optimizer.step()
    assert 0 < mistakes <= bound


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_a_multilayer_perceptron_solves_xor(seed: int, tmp_path: Path) -> None:
    overrides = [
        "model=mlp",
        "data=gates",
        "data.gate=xor",
        "trainer.epochs=100",
        "device=cpu",
        "trainer.log_media=false",
        SELDOM,
        SELDOM.replace("eval", "checkpoint"),
        f"seed={seed}",
    ]
    outcome = launch.train(compose.compose([*overrides, f"hydra.run.dir={tmp_path / 'run'}"]), Console(), 0.0)
    assert outcome.result["test"]["accuracy"] == 1
