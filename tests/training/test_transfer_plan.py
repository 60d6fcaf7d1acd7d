"""Stages with frozen modules, the epochs at which modules are unfrozen, and learning rates of modules."""

from typing import Any

import pytest
import torch
from small_loop import CLASSES
from torch import nn

from dltrain.errors import ConfigError
from dltrain.tasks.base import Stage
from dltrain.tasks.classification import Classification
from dltrain.training.transfer import Transfer, build_transfer, plan


class Deep(nn.Module):
    """Three layers and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.low, self.mid, self.high, self.head = (nn.Linear(2, 2) for _ in range(4))


def stages(model: nn.Module, loaded: list[str], epochs: int | None = 6, **given: Any) -> list[Stage]:
    return plan(Classification(CLASSES).stages(model), model, Transfer(**given), loaded, epochs)


def learning(model: nn.Module, found: list[Stage]) -> list[tuple[int | None, set[str]]]:
    """Return the epochs of each stage and the modules that it trains."""
    names = {id(p): name.partition(".")[0] for name, p in model.named_parameters()}
    return [(stage.epochs, {names[id(p)] for turn in stage.turns for p in turn.parameters}) for stage in found]


def rates(model: nn.Module, stage: Stage) -> dict[str, float]:
    (turn,) = stage.turns
    return {name: turn.rates.get(p, 1.0) for name, p in model.named_parameters() if name.endswith("weight")}


BODY = [f"{layer}.{kind}" for layer in ("low", "mid", "high") for kind in ("weight", "bias")]
ALL = {"low", "mid", "high", "head"}


def test_transfer_without_settings_keeps_the_stages_of_the_task() -> None:
    model = Deep()
    assert learning(model, stages(model, [])) == [(None, ALL)]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"freeze": "auto"}, [(None, {"head"})]),
        ({"freeze": ["low", "mid"]}, [(None, {"high", "head"})]),
        ({"freeze": ["[mh]i*"]}, [(None, {"low", "head"})]),
        ({"freeze": "auto", "unfreeze_at": 2}, [(2, {"head"}), (4, ALL)]),
        (
            {"freeze": ["low", "mid", "high"], "unfreeze_at": [5, 3, 1]},
            [(1, {"head"}), (2, {"high", "head"}), (2, {"mid", "high", "head"}), (1, ALL)],
        ),
        ({"freeze": ["low", "mid"], "unfreeze_at": [0, 2]}, [(2, ALL - {"mid"}), (4, ALL)]),
    ],
)
def test_frozen_modules_are_trained_from_their_unfreeze_epoch_on(
    given: dict[str, Any], expected: list[tuple[int | None, set[str]]]
) -> None:
    model = Deep()
    assert learning(model, stages(model, BODY, **given)) == expected


def test_the_last_stage_is_unlimited_if_the_number_of_epochs_is_not_set() -> None:
    model = Deep()
    found = stages(model, BODY, epochs=None, freeze="auto", unfreeze_at=2)
    assert [stage.epochs for stage in found] == [2, None]


def test_lr_scale_is_one_factor_for_all_loaded_weights_or_a_list_with_a_factor_per_freeze_entry() -> None:
    model = Deep()
    (stage,) = stages(model, BODY, lr_scale=0.1)
    assert rates(model, stage) == {"low.weight": 0.1, "mid.weight": 0.1, "high.weight": 0.1, "head.weight": 1.0}
    (stage,) = stages(model, [], freeze=["low", "mid"], unfreeze_at=0, lr_scale=[0.01, 0.1])
    assert rates(model, stage) == {"low.weight": 0.01, "mid.weight": 0.1, "high.weight": 1.0, "head.weight": 1.0}
    frozen, thawed = stages(model, BODY, freeze=["low"], unfreeze_at=1, lr_scale=0.1)
    assert rates(model, frozen)["mid.weight"] == 0.1 and rates(model, thawed)["low.weight"] == 0.1


def test_a_parameter_belongs_to_the_first_freeze_entry_that_matches() -> None:
    model = Deep()
    (stage,) = stages(model, [], freeze=["low.weight", "*"], unfreeze_at=0, lr_scale=[0.5, 0.25])
    assert rates(model, stage) == {"low.weight": 0.5, "mid.weight": 0.25, "high.weight": 0.25, "head.weight": 0.25}


def test_planning_the_stages_changes_neither_model_nor_task() -> None:
    model = Deep()
    task = Classification(CLASSES)
    before = task.stages(model)
    plan(before, model, Transfer(freeze="auto", unfreeze_at=1, lr_scale=0.5), BODY, 3)
    assert learning(model, before) == [(None, ALL)] and not before[0].turns[0].rates
    assert all(p.requires_grad and p.isfinite().all() for p in model.parameters())
    assert torch.is_grad_enabled()


def test_unfreezing_is_rejected_for_tasks_with_several_stages() -> None:
    model = Deep()
    two = 2 * Classification(CLASSES).stages(model)
    assert len(plan(two, model, Transfer(freeze=["low"]), [], 3)) == 2
    with pytest.raises(ConfigError, match=r"transfer.unfreeze_at: not supported .* several stages"):
        plan(two, model, Transfer(freeze=["low"], unfreeze_at=1), [], 3)


def test_transfer_options_other_than_none_require_weights_or_embeddings() -> None:
    node = {"weights": None, "freeze": "auto", "unfreeze_at": None, "lr_scale": 1.0}
    with pytest.raises(ConfigError, match=r"transfer=freeze needs initial weights"):
        build_transfer(node, "freeze")
    assert build_transfer({**node, "freeze": []}, "none") == Transfer(freeze=[])
