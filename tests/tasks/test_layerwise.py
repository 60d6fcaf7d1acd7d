"""Layer-wise pretraining: the parameters, inputs, losses and metrics of each stage."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator, nn
from torch.nn import functional as F

from dltrain.config import compose
from dltrain.errors import ConfigError
from dltrain.loggers.console import Console
from dltrain.models.rbm import DBN
from dltrain.runs import assemble, dry_run, launch
from dltrain.tasks.base import GenerateRequest
from dltrain.tasks.classification import Classification
from dltrain.tasks.layerwise import Layerwise

SMALL = ["model=dbn", "data=digits", "data.num_labels=40", "model.hidden_size=[12,10,8]", "task.pretrain_epochs=2"]
SMALL += ["trainer.epochs=2", "trainer.log_media=false", "device=cpu"]
EPOCH = -(-1299 // 64)  # steps per epoch of pretraining: all 1,299 training digits, labeled or not, in batches of 64
State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[launch.Outcome, assemble.Components]:
    """Pretrain with a learning rate of 0.002 and fine-tune; return the outcome and untrained components."""
    return trained(tmp_path_factory.mktemp("plain"), "task.pretrain_lr=0.002", "trainer.log_every=1 epoch")


def trained(folder: Path, *more: str) -> tuple[launch.Outcome, assemble.Components]:
    """Train a DBN and keep all checkpoints; return the outcome and newly built, untrained components."""
    job = compose.compose([*SMALL, "trainer.keep_last=99", f"hydra.run.dir={folder / 'run'}", *more])
    outcome = launch.train(job, Console(), 0.0)
    assert outcome.exit_code == 0
    return outcome, assemble.build_components(job)


def last_of_each_stage(outcome: launch.Outcome) -> list[State]:
    """Return the weights at the end of each stage."""
    files = sorted((outcome.folder / "checkpoints").glob("step-*.pt"))
    found = [torch.load(file, weights_only=True) for file in files]
    return list({state["loop"]["stage"]: state["model"] for state in found}.values())


def lines(outcome: launch.Outcome, split: str) -> list[dict[str, Any]]:
    logged = [json.loads(line) for line in (outcome.folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in logged if line["split"] == split]


@pytest.mark.parametrize(
    "more",
    [
        [],
        ["task.persistent=true", "task.cd_steps=2", "trainer.accumulate=2", "regularization=l2"],
        pytest.param(
            ["task.method=denoising", "device.precision=bf16", "optimizer=adamw", "regularization.clip_norm=1"],
            marks=pytest.mark.slow,
        ),
    ],
    ids=["CD-1", "PCD-2 with accumulation and weight decay", "denoising in bf16 with clipping"],
)
def test_every_pretraining_stage_trains_only_one_layer(
    more: list[str], tmp_path: Path, plain: tuple[launch.Outcome, assemble.Components]
) -> None:
    outcome, fresh = trained(tmp_path, *more) if more else plain
    ends = last_of_each_stage(outcome)
    assert len(ends) == 4
    before = {name: value.clone() for name, value in fresh.model.state_dict().items()}
    names = ("up.weight", "up.bias", "down.bias")
    upwards = {f"layers.{number}.{name}" for number in range(3) for name in names[:2]}
    expected = [{f"layers.{number}.{name}" for name in names} for number in range(3)]
    expected.append(upwards | {"head.weight", "head.bias"})
    for after, changed in zip(ends, expected, strict=True):
        assert {name for name in after if not torch.equal(after[name], before[name])} == changed
        before = after


def test_pretraining_reads_all_examples_and_fine_tuning_reads_only_labeled_examples(
    plain: tuple[launch.Outcome, assemble.Components],
) -> None:
    outcome, components = plain
    stages = components.task.stages(components.model)
    assert [stage.data for stage in stages] == ["unlabeled"] * 3 + ["train"]
    batches = dry_run.build_batches(components, components.data.load())
    assert batches["train"].examples == 40 and batches["unlabeled"].examples == 1299
    assert {frozenset(batch) for batch in batches["unlabeled"].epoch(0)} == {frozenset({"inputs"})}
    assert outcome.result["steps"] == 3 * 2 * EPOCH + 2 * 1


def test_the_loss_and_learning_rate_and_metric_of_every_layer_are_logged(
    plain: tuple[launch.Outcome, assemble.Components],
) -> None:
    outcome, _ = plain
    logged = [{name for name in line if name.startswith(("loss", "lr", "grad"))} for line in lines(outcome, "train")]
    for number in (1, 2, 3):
        assert {f"loss_layer{number}", f"lr_layer{number}", f"grad/norm_layer{number}"} in logged
    assert {"loss", "lr", "grad/norm"} in logged
    rates = {v for line in lines(outcome, "train") for k, v in line.items() if k.startswith("lr_layer")}
    assert rates == {0.002}
    watched = [name for line in lines(outcome, "val") for name in line if name.startswith(("reconstruction", "acc"))]
    assert watched == [f"reconstruction_layer{n}" for n in (1, 1, 2, 2, 3, 3)] + ["accuracy"] * 2
    assert {"loss", "accuracy", "top5_accuracy", "macro_f1"} == set(outcome.result["test"])


@pytest.mark.parametrize("method", ["contrastive_divergence", pytest.param("denoising", marks=pytest.mark.slow)])
def test_layers_learn_to_reconstruct_their_inputs(method: str, tmp_path: Path) -> None:
    more = [f"task.method={method}", "model.hidden_size=[64,32]", "task.pretrain_epochs=8", "optimizer.lr=0.005"]
    more += ["trainer.checkpoint_every=100 epochs"]
    outcome, _ = trained(tmp_path, *more)
    for number in (1, 2):
        logged = [line.get(f"reconstruction_layer{number}") for line in lines(outcome, "val")]
        found = [value for value in logged if value is not None]
        # 64 * log(2) is the cross-entropy of predicting 1/2 for each of the 64 inputs.
        assert found[-1] < found[0] and found[-1] < 0.98 * 64 * np.log(2)


def test_without_pretraining_there_is_one_stage(tmp_path: Path) -> None:
    outcome, components = trained(tmp_path, "task.pretrain_epochs=0")
    assert [stage.name for stage in components.task.stages(components.model)] == ["fine_tuning"]
    assert outcome.result["steps"] == 2
    assert "reconstruction_layer1" not in {name for line in lines(outcome, "val") for name in line}


def layerwise(**more: Any) -> Layerwise:
    return Layerwise(3, shape=[1, 2, 3], low=[-1.0], high=[3.0], **more)


def test_the_loss_of_a_denoising_layer_equals_the_formula() -> None:
    torch.manual_seed(0)
    network, task = DBN(6, 3, [5, 4]), layerwise(method="denoising", noise=0.4)
    unit = torch.rand(7, 6)
    turn = task.stages(network)[1].turns[0]
    torch.manual_seed(3)
    loss = turn.loss({"inputs": 4 * unit.view(7, 1, 2, 3) - 1}, 0.0)
    first, second = network.layers
    below = torch.sigmoid(unit @ first.up.weight.t() + first.up.bias).detach()
    torch.manual_seed(3)
    left = below * (torch.rand(7, 5) >= 0.4)
    assert 0 < (left == 0).sum() < left.numel()
    hidden = torch.sigmoid(left @ second.up.weight.t() + second.up.bias)
    again = torch.sigmoid(hidden @ second.up.weight + second.down.bias)
    expected = F.binary_cross_entropy(again, below, reduction="sum") / 7
    torch.testing.assert_close(loss.total, expected)
    assert loss.weight == 7


def test_a_layer_reads_the_probabilities_of_the_layer_below() -> None:
    torch.manual_seed(0)
    network, task = DBN(6, 3, [5, 4]), layerwise()
    unit = torch.rand(7, 6)
    batch = {"inputs": 4 * unit.view(7, 1, 2, 3) - 1, "targets": torch.zeros(7, dtype=torch.int64)}
    goal = task.stages(network)[1].goal
    assert goal is not None and goal.metric == "reconstruction_layer2"
    first, second = network.layers
    below = torch.sigmoid(unit @ first.up.weight.t() + first.up.bias)
    again = torch.sigmoid(torch.sigmoid(below @ second.up.weight.t() + second.up.bias) @ second.up.weight)
    expected = F.binary_cross_entropy(again, below, reduction="sum") / 7
    with torch.no_grad():
        found = goal.evaluate(network, [batch, batch]).metrics["reconstruction_layer2"]
    assert found == pytest.approx(expected.item(), rel=1e-5)


def test_predictions_equal_those_of_a_classifier_on_pixels_from_0_to_1() -> None:
    torch.manual_seed(0)
    network, task, plain = DBN(6, 3, [5]), layerwise(), Classification(3)
    unit, targets = torch.rand(7, 1, 2, 3), torch.randint(0, 3, (7,))
    batch, scaled = {"inputs": unit, "targets": targets}, {"inputs": 4 * unit - 1, "targets": targets}
    torch.testing.assert_close(task.loss(network, scaled, 0.0).total, plain.loss(network, batch, 0.0).total)
    with torch.no_grad():
        assert task.evaluate(network, [scaled]).metrics == pytest.approx(plain.evaluate(network, [batch]).metrics)
        found, expected = task.predict(network, scaled), plain.predict(network, batch)
    assert [line["probability"] for line in found] == pytest.approx([line["probability"] for line in expected])


def test_samples_of_a_dbn_are_reproducible_and_decoded_by_its_lower_layer() -> None:
    torch.manual_seed(0)
    network, task = DBN(6, 3, [5, 4]), layerwise()
    before = torch.get_rng_state()
    with torch.no_grad():
        requests = [GenerateRequest(9, Generator().manual_seed(seed), torch.device("cpu")) for seed in (0, 0, 1)]
        one, same, other = (task.generate(network, request) for request in requests)
        again = task.generate(network, dataclasses.replace(requests[0], given=torch.full((2, 1, 2, 3), 0.3)))
        frames = [task.frame(network) for _ in range(2)]
    assert one.shape == (9, 1, 2, 3) and again.shape == (2, 1, 2, 3)
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert one.min() >= 0 and one.max() <= 1
    assert torch.equal(*frames) and torch.equal(before, torch.get_rng_state())
    with torch.no_grad():
        network.layers[1].up.weight.zero_()
        network.layers[1].down.bias.copy_(torch.tensor([50.0, -50.0, 50.0, -50.0, 50.0]))
        constant = task.generate(network, requests[0])
    below = torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0])
    expected = torch.sigmoid(below @ network.layers[0].up.weight + network.layers[0].down.bias)
    torch.testing.assert_close(constant, expected.detach().view(1, 1, 2, 3).expand(9, -1, -1, -1))


def test_a_model_without_rbm_layers_is_rejected() -> None:
    with pytest.raises(ConfigError, match="such as dbn"):
        layerwise().stages(nn.Linear(6, 3))
