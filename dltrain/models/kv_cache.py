"""Cache of keys and values that grows step by step without copying the earlier steps each time."""

from dataclasses import dataclass

import torch
from torch import Tensor

SPARE = 64  # minimum number of steps for which memory is reserved


@dataclass
class _Memory:
    """Allocated memory, and the number of its steps that are used."""

    steps: Tensor  # (B, heads, capacity, size)
    used: int

    def continues(self, before: Tensor, new: Tensor) -> bool:
        """Return whether `new` can be written after `before`, a view of this memory, without changing other results."""
        return (
            self.used == before.shape[2]
            and before.shape[2] + new.shape[2] <= self.steps.shape[2]
            and self.steps.dtype == new.dtype
            and (torch.is_inference_mode_enabled() or not self.steps.is_inference())
        )


def append_steps(before: Tensor, new: Tensor) -> Tensor:
    """Return `before` followed by `new` along the steps, both (B, heads, steps, size), in the dtype of `new`.

    Without gradients, the result is a view of memory with room for more steps, into which the next call writes. When
    the memory is full, all steps are copied into memory of twice the size, so that n steps cost O(n) copies in total.
    The steps are also copied if `before` cannot be extended in place, for example because it was already extended, so
    that earlier results never change.
    """
    if torch.is_grad_enabled():
        return torch.cat([before.to(new.dtype), new], dim=2)
    start, end = before.shape[2], before.shape[2] + new.shape[2]
    memory: _Memory | None = getattr(before, "_memory", None)
    if memory is None or not memory.continues(before, new):
        memory = _Memory(new.new_empty(*new.shape[:2], max(2 * end, SPARE), new.shape[3]), start)
        memory.steps[:, :, :start] = before
    memory.steps[:, :, start:end] = new
    memory.used = end
    result = memory.steps[:, :, :end]
    result._memory = memory  # type: ignore[attr-defined]
    return result
