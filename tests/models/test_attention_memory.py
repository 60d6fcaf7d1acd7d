"""Memory of attention is linear in the number of steps: no operation returns steps x steps elements."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dltrain.models.attention import padding_mask
from dltrain.models.blocks import Block

STEPS = 512


class Largest(TorchDispatchMode):
    """Dispatch mode that records the size in bytes of the largest tensor that an operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.size = 0

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = operation(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        self.size = max([self.size, *(tensor.untyped_storage().nbytes() for tensor in tensors)])
        return result


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(
    "options", [{}, {"causal": True}, {"causal": True, "rotary": True}, {"num_kv_heads": 1}, {"cross": True}], ids=str
)
def test_no_operation_returns_a_tensor_with_steps_times_steps_elements(options: dict[str, Any], padded: bool) -> None:
    block, x = Block(16, 2, 32, **options).train(), torch.randn(1, STEPS, 16, requires_grad=True)
    with Largest() as largest:
        mask = padding_mask(torch.tensor([STEPS - 5]), STEPS, x.device) if padded else None
        source = None if block.cross is None else block.cross.read(x)
        # Causal attention needs no mask for padding at the end.
        block(x, None if block.causal else mask, source=source, source_mask=mask).sum().backward()
    assert 0 < largest.size < STEPS * STEPS  # size in bytes of a boolean mask of steps x steps
