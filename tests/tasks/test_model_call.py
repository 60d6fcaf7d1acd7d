"""Models receive the batch fields that are arguments of their `forward`."""

import pytest
import torch
from torch import Tensor, nn

from dltrain.errors import ConfigError
from dltrain.tasks.model_call import call_model


class Masked(nn.Module):
    """Model that sums each sequence, except its padding, and multiplies the sum by an optional factor."""

    def forward(self, tokens: Tensor, lengths: Tensor, *, factor: Tensor | None = None) -> Tensor:
        inside = torch.arange(tokens.shape[1]) < lengths[:, None]
        total = (tokens * inside).sum(1)
        return total if factor is None else factor * total


BATCH = {
    "targets": torch.tensor([0, 1]),
    "lengths": torch.tensor([1, 3]),
    "inputs": torch.tensor([[1.0, 2.0, 4.0], [8.0, 16.0, 32.0]]),
}


def test_forward_receives_the_inputs_and_the_fields_it_names() -> None:
    assert call_model(Masked(), BATCH).tolist() == [1, 56]
    assert call_model(Masked(), {**BATCH, "factor": torch.tensor(2)}).tolist() == [2, 112]
    assert torch.equal(
        call_model(nn.Identity(), {"targets": BATCH["targets"], "inputs": BATCH["inputs"]}), BATCH["inputs"]
    )


def test_fields_passed_by_the_caller_replace_fields_of_the_batch() -> None:
    changed = call_model(Masked(), BATCH, inputs=torch.ones(2, 3), factor=torch.tensor(3))
    assert changed.tolist() == [3, 9]
    assert set(BATCH) == {"targets", "lengths", "inputs"}


def test_a_model_without_a_lengths_argument_is_rejected_for_padded_data() -> None:
    with pytest.raises(
        ConfigError, match=r"^model: not supported for these data because Linear.forward has no arg.* l"
    ):
        call_model(nn.Linear(3, 1), BATCH)


def test_forward_hooks_of_the_model_are_called() -> None:
    model, outputs = Masked(), []
    model.register_forward_hook(lambda module, args, output: outputs.append(output))
    assert torch.equal(call_model(model, BATCH), outputs[0])
