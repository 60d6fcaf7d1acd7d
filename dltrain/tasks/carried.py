"""State of a recurrent model that is carried from batch to batch along contiguous streams."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dltrain.errors import ConfigError
from dltrain.tasks.model_call import call_model

State = dict[str, Any]  # nested dictionaries of tensors, batch axis first


class CarriedState:
    """State of a model after the last batch of each stream: row `s` belongs to stream `s`.

    Gradients stop at the start of each batch (truncated back-propagation through time).

    Source: Williams and Peng 1990, "An efficient gradient-based algorithm for on-line training of recurrent network
    trajectories".
    """

    def __init__(self, state: State | None = None) -> None:
        self.state = state

    def call_model(self, model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
        """Return a model's outputs, computed from the state after the previous batch if ``continues`` is true."""
        if "continues" not in batch:
            return call_model(model, batch)
        start = getattr(model, "start", None)
        if start is None:
            reason = f"a {type(model).__name__} carries no state from batch to batch"
            raise ConfigError(f"data.streams: not supported because {reason}; rnn, lstm and gru do")
        inputs, rows = batch["inputs"], batch.get("rows")
        first = 0 if rows is None else int(rows[0])  # both ``rows`` and ``continues`` are on the CPU
        last = first + len(inputs)
        before = start(len(inputs))
        if self.state is not None and bool(batch["continues"][0]):
            before = _each(lambda part: part[first:last].to(inputs.device), self.state)
        outputs, after = call_model(model, batch, state=before)
        self._keep(_each(lambda part: part.detach().float(), after), first, last)
        return outputs

    def _keep(self, after: State, first: int, last: int) -> None:
        """Replace the state of the streams from `first` to `last - 1`."""
        if self.state is None or (first == 0 and last >= _rows(self.state)):
            self.state = after
        else:
            self.state = _each(lambda old, new: torch.cat([old[:first], new, old[last:]]), self.state, after)


def _each(function: Callable[..., Tensor], *states: State) -> State:
    """Return a state whose tensors are ``function`` of the corresponding tensors of the states."""
    return {
        name: _each(function, *parts) if isinstance(parts[0], dict) else function(*parts)
        for name, *parts in ((name, *(state[name] for state in states)) for name in states[0])
    }


def _rows(state: State) -> int:
    part = next(iter(state.values()))
    return _rows(part) if isinstance(part, dict) else len(part)
