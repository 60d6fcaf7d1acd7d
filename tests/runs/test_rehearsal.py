"""The dry run computes the batch that needs the most memory."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from dltrain.config import compose
from dltrain.runs import assemble, dry_run


def rehearsed(*overrides: str) -> tuple[list[torch.Size], dict[str, dict[str, Tensor]], bool]:
    """Return the shapes of the inputs of a dry run, the widest batches, and whether gradients were computed."""
    job = compose.compose([*overrides, "device=cpu"])
    components = assemble.build_components(job)
    batches = dry_run.build_batches(components, components.data.load())
    shapes, computed = list[torch.Size](), list[bool]()
    components.model.register_forward_pre_hook(lambda module, inputs: shapes.append(inputs[0].shape))
    head = next(module for module in components.model.modules() if isinstance(module, nn.Linear))
    head.weight.register_hook(lambda gradient: computed.append(True))
    dry_run.dry_run(components, batches, job)
    return shapes, {name: batches[name].widest() for name in ("train", "test")}, bool(computed)


@pytest.mark.parametrize("plan", [[], ["data.max_tokens=256", "data.max_length=32"], ["data.batching=random"]])
def test_the_widest_ragged_batch_is_rehearsed_whole_with_its_gradients(
    plan: list[str], small_data: Callable[[str], list[str]]
) -> None:
    shapes, widest, gradients = rehearsed("model=lstm", *small_data("text_table"), *plan)
    assert shapes == [widest["train"]["inputs"].shape, widest["test"]["inputs"].shape]
    assert len(widest["train"]["inputs"]) > 2 and gradients


def test_a_few_examples_are_rehearsed_if_larger_batches_will_be_split(small_data: Callable[[str], list[str]]) -> None:
    shapes, widest, _ = rehearsed("model=lstm", *small_data("text_table"), "trainer.on_oom=shrink")
    assert shapes[0] == (2, widest["train"]["inputs"].shape[1])


def test_two_examples_of_batches_that_are_all_alike_are_rehearsed() -> None:
    shapes, _, gradients = rehearsed("model=mlp", "data=digits")
    assert [shape[0] for shape in shapes] == [2, 2] and not gradients
