"""Every experiment in conf/ is trained, every augmentation is applied, and every key of `regularization` is used."""

from collections.abc import Callable
from pathlib import Path

import pytest
from combinations import CONF, OPTIONS, SMALLER, compose_small
from omegaconf import OmegaConf

from dltrain.config import compose
from dltrain.loggers.console import Console
from dltrain.runs import assemble, dry_run, launch

PACKAGE = CONF.parent / "dltrain"
QUICK = ["trainer.max_steps=2", "trainer.log_media=false", "trainer.eval_examples=64", "device=cpu"]


@pytest.mark.parametrize("option", OPTIONS["augment"])
def test_every_augmentation_gives_a_loss_with_finite_gradients(
    option: str, small_data: Callable[[str], list[str]]
) -> None:
    small = ["model.blocks=[{channels: 4}]", f"augment={option}", "device=cpu"]
    components = assemble.build_components(compose_small("cnn", "npz", "classification", small_data, *small))
    batch = next(dry_run.build_batches(components, components.data.load())["train"].epoch(0))
    components.task.loss(components.model, batch, 0.0).total.backward()
    assert all(bool(parameter.grad.isfinite().all()) for parameter in components.model.parameters())


# Experiments that take several seconds even at a small size; faster tests cover the same models and data.
LONG = {"gpt_moby_dick_cpu", "shapes_detection", "layerwise_mnist", "moving_shapes", "cifar10_resnet20"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in LONG else []) for name in OPTIONS["experiment"]]
)
def test_every_experiment_is_trained_and_evaluated(
    name: str, here: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DLTRAIN_DATA", str(data_root))
    job = compose.compose([f"experiment={name}", *QUICK, *SMALLER.get(name, [])])
    assert launch.train(job, Console(), 0.0).exit_code == 0


def test_every_key_of_regularization_is_used() -> None:
    keys = set(OmegaConf.load(CONF / "regularization" / "none.yaml"))
    written = "".join(file.read_text() for file in CONF.rglob("*.yaml"))
    code = "".join(
        (PACKAGE / name).read_text() for name in ("runs/session.py", "optim/regularization.py", "runs/assemble.py")
    )
    for key in keys:
        assert f"${{regularization.{key}}}" in written or f'"{key}"' in code or f"    {key}: " in code, key
