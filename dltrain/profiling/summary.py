"""Summary of a model on the meta device: layers, parameters, multiply-adds and memory of a training step."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from dltrain.profiling.receptive_field import ReceptiveField


@dataclass(frozen=True)
class Row:
    """One layer in the summary of a model.

    Args:
        name: Path in the model; ``(model)`` is the model itself, excluding its layers.
        shape: Shape of its output in the last call, including the batch size; empty if the output has no tensor.
        parameters: Number of parameters; shared parameters are counted in the first layer that has them.
        multiply_adds: Multiply-adds of one forward pass of the batch: matrix products, convolutions and attention.
        receptive_field: Steps or pixels of the input that one output depends on, per axis; None if undefined.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    parameters: int
    multiply_adds: int
    receptive_field: tuple[int, ...] | None


@dataclass(frozen=True)
class Memory:
    """Memory of a training step, in bytes.

    Args:
        parameters: Parameters and buffers.
        gradients: Gradients of the trainable parameters.
        activations: Tensors saved for the backward pass, and the batch.
    """

    parameters: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        """Sum of all parts."""
        return self.parameters + self.gradients + self.optimizer + self.activations


@dataclass(frozen=True)
class Summary:
    """A model, layer by layer, in the order in which the layers are first called."""

    rows: tuple[Row, ...]
    parameters: int
    trainable: int
    multiply_adds: int
    memory: Memory
    batch_size: int


def summarize(
    make: Callable[[], nn.Module],
    batch: Mapping[str, Tensor],
    optimizer_states: int,
    call_model: Callable[[nn.Module, Mapping[str, Tensor]], Any],
) -> Summary:
    """Return the summary of a model, from one forward pass on the meta device.

    Shapes, parameters and multiply-adds are exact; causal attention includes the masked half, as in most papers.
    Activation memory is an estimate for float32 without compilation: recurrent layers are counted step by step, dropout
    masks as floats, and attention as a fused kernel; autocast and kernel workspace are ignored.

    Args:
        make: Function that builds the model; called on the meta device.
        batch: The fields of a batch on the meta device.
        optimizer_states: Values of optimizer state per trainable parameter: 0 for SGD, 1 with momentum, 2 for Adam.
        call_model: Function that calls the model with the fields of the batch that it reads.
    """
    with torch.device("meta"):
        model = make().to("meta").train()
    inputs = list(batch.values())
    saved: dict[int, torch.UntypedStorage] = {}  # keeps storages alive, so that no later one gets the same address

    def save(tensor: Tensor) -> None:
        saved.setdefault(tensor.untyped_storage()._cdata, tensor.untyped_storage())

    tracer = _Tracer(model, inputs)
    hooks = torch.autograd.graph.saved_tensors_hooks(save, lambda packed: packed)
    with torch.enable_grad(), hooks, _FusedAttention(), tracer:
        call_model(model, batch)
    for tensor in inputs:
        save(tensor)
    weights = [*model.parameters(), *model.buffers()]
    known = {tensor.untyped_storage()._cdata for tensor in weights}
    activations = sum(storage.nbytes() for address, storage in saved.items() if address not in known)
    trainable = [p for p in model.parameters() if p.requires_grad]
    memory = Memory(_bytes(weights), _bytes(trainable), optimizer_states * _bytes(trainable), activations)
    return Summary(
        rows=tuple(tracer.rows(model)),
        parameters=sum(p.numel() for p in model.parameters()),
        trainable=sum(p.numel() for p in trainable),
        multiply_adds=sum(tracer.multiply_adds.values()),
        memory=memory,
        batch_size=len(inputs[0]),
    )


class _Tracer(TorchDispatchMode):
    """Record of the output, the receptive field and the multiply-adds of each layer in a forward pass."""

    def __init__(self, model: nn.Module, inputs: Sequence[Tensor]) -> None:
        super().__init__()
        self.receptive_field = ReceptiveField(inputs)
        self.multiply_adds: dict[nn.Module, int] = defaultdict(int)
        self.outputs: dict[nn.Module, Tensor | None] = {}
        self.active = [model]
        for module in model.modules():
            module.register_forward_pre_hook(self._enter)
            module.register_forward_hook(self._leave)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        flops = flop_registry.get(func._overloadpacket)
        if flops is not None:
            self.multiply_adds[self.active[-1]] += flops(*args, **(kwargs or {}), out_val=out) // 2
        self.receptive_field.update(func, args, out)
        return out

    def _enter(self, module: nn.Module, inputs: Any) -> None:
        self.active.append(module)
        self.outputs.setdefault(module, None)

    def _leave(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self.active.pop()
        # The first tensor is the output: a recurrent layer also returns its state.
        self.outputs[module] = next((leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)), None)

    def rows(self, model: nn.Module) -> Iterator[Row]:
        """Yield a row for each layer without sublayers, or with parameters or multiply-adds outside its sublayers."""
        names = {module: name for name, module in model.named_modules()}
        counted: set[Tensor] = set()
        for module, output in self.outputs.items():
            own = set(self._own(module)) - counted
            counted |= own
            inner = any(child in self.outputs for child in module.modules() if child is not module)
            if inner and not own and not self.multiply_adds[module]:
                continue
            yield Row(
                name=names[module] or "(model)",
                kind=type(module).__name__,
                shape=() if output is None else tuple(output.shape),
                parameters=sum(p.numel() for p in own),
                multiply_adds=self.multiply_adds[module],
                receptive_field=None if output is None else self.receptive_field.field(output),
            )

    def _own(self, module: nn.Module) -> Iterator[Tensor]:
        """Yield parameters of a module and of submodules that it does not call, such as attention's `out_proj`."""
        yield from module.parameters(recurse=False)
        for child in module.children():
            if child not in self.outputs:
                yield from self._own(child)


class _FusedAttention(TorchFunctionMode):
    """Mode that replaces attention by a fused kernel.

    On the meta device, torch's default kernel saves all attention weights.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is scaled_dot_product_attention and len(args) >= 3:
            query, key, value = args[:3]
            fits = query.dim() == 4 and query.shape[-1] == value.shape[-1] and query.shape[1] == key.shape[1]
            if fits:
                return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value)[0]
        return func(*args, **kwargs)


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
