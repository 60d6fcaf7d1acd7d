"""Updates, losses and metrics of adversarial training, compared with the papers' formulas and scikit-learn."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from gan_examples import image_gan, losses_by_hand, point_gan
from sklearn.metrics import roc_auc_score
from task_examples import request
from torch import nn

from dltrain.config import compose
from dltrain.data.loader import Batch
from dltrain.errors import ConfigError
from dltrain.loggers.console import Console
from dltrain.models.feedforward import MLP
from dltrain.models.gan import DCGAN, GAN
from dltrain.runs import assemble, dry_run, inference, launch
from dltrain.storage.checkpoints import Checkpoints
from dltrain.tasks.adversarial import Adversarial, critic_auc
from dltrain.tasks.gan_losses import GAN_LOSSES
from dltrain.training import device as devices
from dltrain.training.evaluation import run_in_eval_mode
from dltrain.training.step import StepInfo, StepRunner

RING = {"shape": [2], "classes": 8, "class_names": [str(n) for n in range(8)]}
IMAGE = {"shape": [1, 8, 8], "low": [-0.5], "high": [1.5], "classes": 3}
LOSSES = sorted(GAN_LOSSES)
SMALL = ["model.hidden_size=16", "model.num_layers=2", "model.latent=4", "data.batch_size=64", "device=cpu"]


def batch_of(count: int = 32, shape: tuple[int, ...] = (2,), classes: int = 8) -> Batch:
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(count) % classes
    return {"inputs": torch.randn(count, *shape, generator=generator), "targets": labels}


def on_cpu(model: nn.Module) -> devices.Device:
    return devices.select_device("cpu", "fp32", False, False, False, model)


def compose_components(*overrides: str) -> tuple[compose.Job, assemble.Components]:
    job = compose.compose([*overrides, "trainer.log_every=1", "trainer.epochs=1"])
    return job, assemble.build_components(job)


# Updates of critic and generator --------------------------------------------------------------------------------------

TURNS = {
    "fp32": ["model=gan", "data=ring", *SMALL],
    "bf16": ["model=gan", "data=ring", *SMALL, "device.precision=bf16"],
    "accumulated": ["model=gan", "data=ring", *SMALL, "trainer.accumulate=3"],
    "clipped": ["model=gan", "data=ring", *SMALL, "task.loss_name=wasserstein", "task.clip=0.01"],
    "penalized": ["model=gan", "data=ring", *SMALL, "task.loss_name=wasserstein", "device.precision=bf16"],
    "spectral": ["model=gan", "data=ring", *SMALL, "model.spectral=true", "task.loss_name=hinge"],
    "images": ["model=dcgan", "data=digits", "model.hidden_size=4", "device=cpu", "device.precision=bf16"],
}
COMPILED = [
    pytest.param(name, True, marks=pytest.mark.slow, id=f"{name}, compiled")
    for name in ("bf16", "penalized", "spectral", "images")
]


@pytest.mark.parametrize(("kind", "compiled"), [*((name, False) for name in TURNS), *COMPILED])
def test_each_update_changes_only_the_weights_and_gradients_of_its_own_network(kind: str, compiled: bool) -> None:
    _, components = compose_components(*TURNS[kind], f"device.compile={str(compiled).lower()}")
    (stage,) = components.task.stages(components.model)
    runner = StepRunner(components.task, components.build_optimizer, components.trainer, components.device, Console())
    runner.begin_stage(stage, 10)
    batches = dry_run.build_batches(components, components.data.load())["train"].epoch(0)
    group = [next(batches) for _ in range(components.trainer.accumulate)]
    critic, generator = list(components.model.critic.parameters()), list(components.model.generator.parameters())
    for turn, own, others in zip(stage.turns, (critic, generator), (generator, critic), strict=True):
        assert {id(p) for p in turn.parameters} == {id(p) for p in own}
        before, theirs = [[p.detach().clone() for p in half] for half in (own, others)]
        for p in others:
            p.grad = torch.full_like(p, 7.0)
        runner.run(replace(stage, turns=[replace(turn, every=1)]), group, StepInfo(0, 0, 0.0), measure_norm=True)
        assert all(torch.equal(p, value) for p, value in zip(others, theirs, strict=True))
        assert all(p.grad is not None and bool((p.grad == 7.0).all()) for p in others)
        # Biases are not checked: the output bias of the critic can stay the same, because its gradients on real and
        # generated examples can cancel.
        assert all(p.dim() < 2 or not torch.equal(p, value) for p, value in zip(own, before, strict=True))
        for p in others:
            p.grad = None


def test_the_generator_is_updated_every_n_critic_steps_and_the_critic_may_have_its_own_learning_rate() -> None:
    critic, generator = Adversarial(**RING, n_critic=5, critic_lr=0.1).stages(point_gan())[0].turns
    assert (critic.every, generator.every) == (1, 5)
    assert (critic.lr, generator.lr) == (0.1, None)


# Losses --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_computed_from_real_and_newly_generated_examples(name: str) -> None:
    task, model, batch = Adversarial(**RING, loss_name=name, penalty=0.0), point_gan(), batch_of()
    torch.manual_seed(5)
    loss = task.loss(model, batch, 0.0)
    torch.manual_seed(5)
    fake = model.generator(torch.randn(32, 4), None)
    expected = losses_by_hand(name, model.critic(batch["inputs"], None).flatten(), model.critic(fake, None).flatten())
    torch.testing.assert_close(loss.total, expected[0])
    torch.manual_seed(5)
    torch.testing.assert_close(task.generator_loss(model, batch).total, expected[1])
    assert loss.weight == 32
    assert not torch.equal(task.generator_loss(model, batch).total, expected[1])  # different noise


def test_a_critic_with_batch_norm_reads_real_and_generated_examples_separately() -> None:
    torch.manual_seed(0)
    task, model = Adversarial([1, 16, 16], [-1.0], [1.0]), DCGAN(1, 16, 16, 1, latent=4, hidden_size=4)
    batch = batch_of(8, (1, 16, 16))
    torch.manual_seed(5)
    total = task.loss(model, batch, 0.0).total
    torch.manual_seed(5)
    fake = model.generator(torch.randn(8, 4), None).tanh()
    by_hand = losses_by_hand(
        "non_saturating", model.critic(batch["inputs"], None).flatten(), model.critic(fake, None).flatten()
    )
    mixed = losses_by_hand(
        "non_saturating", *(half.flatten() for half in model.critic(torch.cat([batch["inputs"], fake]), None).chunk(2))
    )
    torch.testing.assert_close(total, by_hand[0])
    assert not torch.allclose(total, mixed[0])


def test_an_unknown_loss_is_rejected_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match=r"task\.loss_name.*Did you mean wasserstein"):
        Adversarial(**RING, loss_name="waserstein")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, 0.0),
        ({"loss_name": "wasserstein"}, 10.0),
        ({"loss_name": "wasserstein", "clip": 0.01}, 0.0),
        ({"loss_name": "hinge", "penalty": 1.0}, 1.0),
        ({"loss_name": "wasserstein", "penalty": 0.0}, 0.0),
    ],
)
def test_by_default_a_wasserstein_critic_has_a_gradient_penalty_unless_its_weights_are_clipped(
    arguments: dict[str, Any], expected: float
) -> None:
    task = Adversarial(**RING, **arguments)
    assert task.penalty == expected
    assert ("gradient_penalty" in task.loss(point_gan(), batch_of(), 0.0).parts) is bool(expected)


def test_weights_are_clipped_only_in_updates_of_the_critic() -> None:
    task, model = Adversarial(**RING, loss_name="wasserstein", clip=0.01), point_gan()
    before = [p.detach().clone() for p in model.generator.parameters()]
    task.generator_loss(model, batch_of())
    assert max(p.abs().max().item() for p in model.critic.parameters()) > 0.1
    task.loss(model, batch_of(), 0.0).total.backward()
    assert max(p.abs().max().item() for p in model.critic.parameters()) == pytest.approx(0.01)
    assert all(torch.equal(p, value) for p, value in zip(model.generator.parameters(), before, strict=True))


# Combinations of model and task -------------------------------------------------------------------------------------


def test_a_gradient_penalty_with_batch_norm_is_rejected() -> None:
    task = Adversarial(**IMAGE, loss_name="wasserstein")
    with pytest.raises(ConfigError, match=r"model\.critic_norm: expected layer or none"):
        task.stages(DCGAN(1, 16, 16, 1))
    assert task.stages(DCGAN(1, 16, 16, 1, critic_norm="layer"))


def test_a_model_without_a_generator_and_a_critic_is_rejected() -> None:
    with pytest.raises(ConfigError, match="a generator and a critic"):
        Adversarial(**RING).stages(MLP(2, 8))


def test_the_model_selects_task_and_optimizer_and_both_can_be_overridden() -> None:
    config = compose.compose(["model=dcgan", "data=mnist"]).config
    assert config["task"]["_target_"] == "dltrain.tasks.adversarial.Adversarial"
    assert (config["optimizer"]["lr"], config["optimizer"]["betas"]) == (2e-4, [0.5, 0.999])
    overridden = compose.compose(["model=dcgan", "data=mnist", "optimizer=rmsprop", "task=variational"]).choices
    assert (overridden["optimizer"], overridden["task"]) == ("rmsprop", "variational")


# Images and their scale ----------------------------------------------------------------------------------------------


def test_samples_of_images_are_in_the_input_range_and_samples_of_points_are_unbounded() -> None:
    task, model = Adversarial(**IMAGE), image_gan()
    with torch.no_grad():
        for p in model.generator.parameters():
            p.mul_(100)
    samples = task.sample(model, torch.randn(50, 4), None)
    assert samples.min().item() == pytest.approx(-0.5) and samples.max().item() == pytest.approx(1.5)
    raw, unit = model.generator(torch.ones(2, 4), None), task.sample(model, torch.ones(2, 4), None)
    torch.testing.assert_close(unit, (raw.tanh() + 1) / 2 * 2.0 - 0.5)
    plain, z = point_gan(), torch.randn(3, 4)
    assert torch.equal(Adversarial(**RING).sample(plain, z, None), plain.generator(z, None))


# Evaluation ----------------------------------------------------------------------------------------------------------


def test_metrics_of_the_critic_are_computed_from_its_outputs() -> None:
    task, model = Adversarial(**RING), point_gan()
    batches = [batch_of(), batch_of(20)]
    found = run_in_eval_mode(task.evaluate, model, on_cpu(model), batches)
    real = model.critic(torch.cat([b["inputs"] for b in batches]), None).flatten()
    drawn = torch.randn(52, 4, generator=torch.Generator().manual_seed(0))
    fake = model.critic(model.generator(drawn, None), None).flatten()
    critic, generator = losses_by_hand("non_saturating", real, fake)
    expected = {"loss": critic, "loss_generator": generator, "critic_real": real.mean(), "critic_fake": fake.mean()}
    for name, value in expected.items():
        assert found.metrics[name] == pytest.approx(value.item(), rel=1e-5), name
    truth = [1] * 52 + [0] * 52
    auc = roc_auc_score(truth, torch.cat([real, fake]).tolist())
    assert found.metrics["critic_auc"] == pytest.approx(auc, abs=1e-6)


def test_a_constant_critic_has_an_auc_of_one_half() -> None:
    assert critic_auc(torch.zeros(5), torch.zeros(7)).item() == 0.5


def test_evaluation_is_bitwise_reproducible_and_leaves_torchs_random_state_unchanged() -> None:
    task, model = Adversarial(**RING), point_gan()
    device = on_cpu(model)
    state = torch.get_rng_state()
    one, other = (run_in_eval_mode(task.evaluate, model, device, [batch_of(100)]) for _ in range(2))
    frames = [run_in_eval_mode(task.frame, model, device) for _ in range(2)]
    assert one.metrics == other.metrics
    assert frames[0] is not None and torch.equal(frames[0], frames[1])  # type: ignore[arg-type]
    run_in_eval_mode(lambda judged: task.show(judged, one), model, device)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_monitored_metric_is_coverage_for_points_with_classes_and_the_frechet_distance_otherwise() -> None:
    assert (Adversarial(**RING).goal.metric, Adversarial(**RING).goal.better) == ("coverage", "max")
    assert (Adversarial(**IMAGE).goal.metric, Adversarial(**IMAGE).goal.better) == ("frechet", "min")
    assert Adversarial(shape=[2]).goal.metric == "frechet"


def test_the_number_of_missed_modes_is_reported() -> None:
    model = point_gan()
    evaluation = run_in_eval_mode(Adversarial(**RING).evaluate, model, on_cpu(model), [batch_of(200)])
    assert evaluation.notes == [f"the generator misses {8 - evaluation.metrics['modes']:.0f} of 8 modes"]


# Samples -------------------------------------------------------------------------------------------------------------


def test_critic_outputs_are_always_shown_but_samples_only_if_they_are_images_or_2d_points() -> None:
    shown = {}
    for task, model, batch in (
        (Adversarial(**RING), point_gan(), batch_of(40)),
        (Adversarial(**IMAGE), image_gan(), batch_of(40, (1, 8, 8), 3)),
        (Adversarial(shape=[5]), GAN([5], 5, 1, latent=4), {"inputs": torch.randn(40, 5)}),
    ):
        evaluation = run_in_eval_mode(task.evaluate, model, on_cpu(model), [batch])
        shown[tuple(task.shape)] = [item.tag for item in task.show(model, evaluation)]
        frame = task.frame(model)
        assert (frame is None) == (task.shape == [5])
        assert frame is None or (frame.dtype, frame.shape[0]) == (torch.uint8, 3)
    assert shown == {(2,): ["samples", "critic"], (1, 8, 8): ["samples", "critic"], (5,): ["critic"]}


def test_grid_columns_are_classes_and_the_samples_of_a_row_share_their_noise() -> None:
    task, model = Adversarial(**IMAGE), image_gan(conditional=True, classes=3).eval()
    inputs = []
    model.generator.register_forward_hook(lambda module, read, output: inputs.append(read))
    task.frame(model)
    noise, labels = (torch.cat(values) for values in zip(*inputs, strict=True))
    assert torch.equal(labels, torch.arange(63) % 3)
    assert torch.equal(noise[0::3], noise[1::3]) and torch.equal(noise[0::3], noise[2::3])
    assert len({tuple(row) for row in noise[0::3].tolist()}) == 21


def test_generated_images_are_in_the_unit_range_and_determined_by_the_seed() -> None:
    task, model = Adversarial(**IMAGE), image_gan().eval()
    one, same, other = (task.generate(model, request(10, seed)) for seed in (0, 0, 1))
    assert one.shape == (10, 1, 8, 8) and torch.equal(one, same) and not torch.equal(one, other)
    assert one.min() >= 0 and one.max() <= 1


def test_only_a_conditional_model_can_generate_a_given_class() -> None:
    task, model = Adversarial(**IMAGE), image_gan(conditional=True, classes=3).eval()
    noise = torch.randn(10, 4, generator=torch.Generator().manual_seed(0))
    expected = task.pixel_range.to_unit(task.sample(model, noise, torch.full((10,), 2)))
    torch.testing.assert_close(task.generate(model, request(10, label=2)), expected)
    with pytest.raises(ConfigError, match="--class: expected a class from 0 to 2, got 3"):
        task.generate(model, request(10, label=3))
    with pytest.raises(ConfigError, match="not conditional"):
        task.generate(image_gan(), request(10, label=2))


def test_a_gan_cannot_reconstruct_given_examples() -> None:
    with pytest.raises(ConfigError, match="--given"):
        Adversarial(**IMAGE).generate(image_gan(), request(3, given=torch.zeros(3, 1, 8, 8)))


@pytest.mark.parametrize("count", [1, 5, 20])
def test_interpolation_generates_the_requested_number_of_images(count: int) -> None:
    task, model = Adversarial(**IMAGE), image_gan(conditional=True, classes=3).eval()
    assert len(task.generate(model, request(count, interpolate=True))) == count


# Whole runs ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_trained_conditional_generator_generates_the_requested_class(tmp_path: Path) -> None:
    overrides = ["experiment=ring_gan", "model.conditional=true", "trainer.max_steps=400", "model.hidden_size=64"]
    job = compose.compose([*overrides, "trainer.eval_every=400", "device=cpu", f"hydra.run.dir={tmp_path / 'run'}"])
    assert launch.train(job, Console(), 0.0).state == "finished"
    found = inference.load_trained(inference.rebuild_components(job), tmp_path / "run", "best.pt").components
    for mode in (0, 3, 6):
        generated = run_in_eval_mode(
            lambda model, mode=mode: found.task.generate(model, request(200, label=mode)), found.model, found.device
        )
        turns = (torch.atan2(generated[:, 1], generated[:, 0]) / (2 * math.pi) * 8).round() % 8
        assert (turns == mode).float().mean() > 0.8


def test_the_averaged_generator_is_evaluated_and_stored(tmp_path: Path) -> None:
    overrides = ["model=gan", "data=ring", *SMALL, "trainer.max_steps=5", "regularization.ema_decay=0.9"]
    overrides += ["trainer.log_media=false"]
    job = compose.compose([*overrides, f"hydra.run.dir={tmp_path / 'run'}"])
    assert launch.train(job, Console(), 0.0).state == "finished"
    result = json.loads((tmp_path / "run" / "result.json").read_text())["test"]
    state, figures = Checkpoints(tmp_path / "run").load("best.pt"), {}
    components = assemble.build_components(job)
    batches = dry_run.build_batches(components, components.data.load())["test"]
    for name, weights in (("average", state["average"]["model"]), ("model", state["model"])):
        components.model.load_state_dict(weights)
        figures[name] = run_in_eval_mode(components.task.evaluate, components.model, components.device, batches).metrics
    assert figures["average"] == result != figures["model"]
