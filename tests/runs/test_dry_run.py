"""The dry run uses two examples if all batches have the same shape or on_oom is shrink, otherwise the widest batch."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from dltrain.config import compose
from dltrain.errors import ConfigError
from dltrain.runs import assemble, dry_run


def dry_run_shapes(*overrides: str) -> tuple[list[torch.Size], dict[str, dict[str, Tensor]], bool]:
    """Return the shapes of the inputs of a dry run, the widest batches, and whether gradients were computed."""
    job = compose.compose([*overrides, "device=cpu"])
    components = assemble.build_components(job)
    batches = dry_run.build_batches(components, components.data.load())
    shapes, computed = list[torch.Size](), list[bool]()
    components.model.register_forward_pre_hook(lambda module, inputs: shapes.append(inputs[0].shape))
    heads = (module for module in components.model.modules() if isinstance(module, nn.Linear | nn.Conv2d))
    next(heads).weight.register_hook(lambda gradient: computed.append(True))
    dry_run.dry_run(components, batches, job)
    return shapes, {name: batches[name].widest() for name in ("train", "test")}, bool(computed)


@pytest.mark.parametrize("plan", [[], ["data.max_tokens=256", "data.max_length=32"], ["data.batching=random"]])
def test_the_dry_run_uses_the_widest_batch_of_texts_and_computes_its_gradients(
    plan: list[str], small_data: Callable[[str], list[str]]
) -> None:
    shapes, widest, gradients = dry_run_shapes("model=lstm", *small_data("text_table"), *plan)
    # If a batch has only one example, the dry run first computes the losses of one example.
    assert shapes[-2:] == [widest["train"]["inputs"].shape, widest["test"]["inputs"].shape]
    assert len(widest["train"]["inputs"]) > 2 and gradients


def test_the_dry_run_uses_two_examples_if_on_oom_is_shrink(
    small_data: Callable[[str], list[str]],
) -> None:
    shapes, widest, _ = dry_run_shapes("model=lstm", *small_data("text_table"), "trainer.on_oom=shrink")
    assert shapes[-2] == (2, widest["train"]["inputs"].shape[1])


def test_the_dry_run_uses_two_examples_if_all_batches_have_the_same_shape() -> None:
    shapes, _, gradients = dry_run_shapes("model=mlp", "data=digits")
    assert [shape[0] for shape in shapes] == [2, 2] and not gradients


ONE_AT_A_TIME = ["data=shapes", "data.image_size=32", "data.batch_size=1"]


def test_a_batch_of_one_is_rejected_if_batch_norm_would_get_one_value_per_channel() -> None:
    with pytest.raises(ConfigError) as caught:
        dry_run_shapes("model=deeplabv3", "model.backbone=mobilenet_v3_large", *ONE_AT_A_TIME)
    assert caught.value.problems == (
        "data.batch_size: expected a size that leaves no batch of one example (400 training examples), got 1. "
        "Batch normalization needs at least two examples in every batch.",
    )


def test_a_batch_of_one_is_accepted_if_batch_norm_gets_many_values_per_channel() -> None:
    job = compose.compose(["model=unet", "model.hidden_size=[2,4]", *ONE_AT_A_TIME, "device=cpu"])
    with dry_run.prepare_run(job) as (components, _):
        assert any(isinstance(module, nn.BatchNorm2d) for module in components.model.modules())
        assert components.model.training
