"""The state of a task advances once per step, even if the step is repeated with smaller batches."""

import functools
from pathlib import Path

import pytest
import torch
from small_loop import make_loop
from torch import Tensor, nn

from dltrain.config import compose
from dltrain.data.loader import Batches
from dltrain.data.spec import Source
from dltrain.runs import dry_run
from dltrain.tasks.base import Batch, Loss
from dltrain.tasks.contrastive_divergence import ContrastiveDivergence

UNITS, EXAMPLES, BATCH = 7, 24, 8


class Turning(nn.Module):
    """An RBM whose Gibbs step rotates the units by one, so that the rotation of a chain shows its number of steps."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(UNITS, UNITS), nn.Linear(UNITS, UNITS)
        with torch.no_grad():
            for layer, shift in ((self.up, 0), (self.down, 1)):
                layer.weight.copy_(60 * torch.eye(UNITS).roll(shift, 0))
                layer.bias.fill_(-30)


class Crowded(ContrastiveDivergence):
    """Contrastive divergence that runs out of memory in given calls, after its chains have advanced.

    Args:
        room: Number of the call -> largest batch that does not run out of memory.
    """

    def __init__(self, room: dict[int, int]) -> None:
        super().__init__([1, 1, UNITS], [0.0], [1.0], persistent=True)
        self.room, self.calls = room, 0

    def loss(self, model: nn.Module, batch: Batch, progress: float) -> Loss:
        loss, self.calls = super().loss(model, batch, progress), self.calls + 1
        if len(batch["inputs"]) > self.room.get(self.calls, EXAMPLES):
            raise RuntimeError("out of memory")
        return loss


def source() -> Source:
    states = torch.rand(EXAMPLES, 1, 1, UNITS, generator=torch.Generator().manual_seed(0)).round()
    return Source({"inputs": states}, nn.Identity())


def first_batch() -> Tensor:
    return next(Batches(source(), BATCH, seed=3, training=True).epoch(0))["inputs"].flatten(1)


@pytest.mark.parametrize(
    ("room", "calls"),
    [({}, 6), ({1: 4}, 1 + 6 * 2), ({3: 4}, 2 + 1 + 4 * 2), ({1: 4, 3: 2}, 1 + 2 + 6 * 4)],
    ids=["never", "first step", "third step", "second half of the first step"],
)
def test_persistent_chains_advance_once_per_step(room: dict[int, int], calls: int, tmp_path: Path) -> None:
    make = functools.partial(torch.optim.SGD, lr=0.0)
    task = Crowded(room)
    loop = make_loop(tmp_path, task, Turning(), make, batch_size=BATCH, train=source(), val=False, split_on_oom=True)
    loop.run()
    assert (loop.state.step, task.calls) == (6, calls)
    assert torch.equal(task.chains.visible, first_batch().roll(6, 1))


def test_creating_the_stages_again_does_not_change_persistent_chains() -> None:
    task = Crowded({})
    task.loss(Turning(), {"inputs": first_batch()[:, None, None]}, 0.0)
    task.stages(Turning())
    assert torch.equal(task.state_dict()["chains"], first_batch().roll(1, 1))


def test_a_dry_run_does_not_create_persistent_chains() -> None:
    words = ["model=rbm", "data=digits", "task.persistent=true", "model.hidden_size=8", "device=cpu"]
    with dry_run.prepare_run(compose.compose(words)) as (components, _):
        assert components.task.state_dict() == {"chains": None}
