"""What a network is made of and what a training step will cost, without training and without memory for it."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from dltrain.profiling.receptive_field import Reach


@dataclass(frozen=True)
class Row:
    """One layer.

    Args:
        name: Its path in the model; ``(model)`` is what the model itself does between its layers.
        kind: Its class.
        shape: Of its output, the batch included; of the last call when it is called several times.
        parameters: Numbers that it owns; those shared with a layer above count there.
        multiply_adds: Of one forward pass of the batch: matrix products, convolutions and attention.
        receptive_field: Steps or pixels of the input that one output depends on, per axis; None where that has no
            meaning.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    parameters: int
    multiply_adds: int
    receptive_field: tuple[int, ...] | None


@dataclass(frozen=True)
class Memory:
    """Bytes that one training step needs at the same time.

    Args:
        parameters: Parameters and buffers.
        gradients: One number per trainable parameter.
        optimizer: What the optimizer keeps between steps.
        activations: What the forward pass keeps for the backward pass, the batch itself included.
    """

    parameters: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.parameters + self.gradients + self.optimizer + self.activations


@dataclass(frozen=True)
class Summary:
    """A model, layer by layer, in the order of the first call."""

    rows: tuple[Row, ...]
    parameters: int
    trainable: int
    multiply_adds: int
    memory: Memory


def summarise(
    make: Callable[[], nn.Module], examples: Sequence[Tensor], batch_size: int, optimizer_states: int
) -> Summary:
    """Run one forward pass without data or arithmetic and write down what happens.

    Exact are shapes, parameters and multiply-adds (the masked half of causal attention counts, as in most papers).
    Activations are those of float32 without compilation: of every tensor kept for the backward pass, once, and of
    attention as its fused kernels keep it. Approximate they are for recurrent layers, which are counted as if
    computed step by step (cuDNN keeps a packed buffer instead), for dropout (a mask of floats here, of bytes on a
    GPU), under autocast (about half), and because a library may need room of its own to work in.

    Args:
        make: Builds the model; called on the meta device.
        examples: One example of each argument of the model, without a batch axis; only shape and type are read.
        batch_size: Examples per batch.
        optimizer_states: Numbers kept per trainable parameter: 0 for SGD, 1 with momentum, 2 for Adam.
    """
    with torch.device("meta"):
        model = make().to("meta").train()
    inputs = [torch.empty((batch_size, *e.shape), dtype=e.dtype, device="meta") for e in examples]
    kept = _Kept([*model.parameters(), *model.buffers()])
    watch = _Watch(model, inputs)
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(kept.keep, kept.fetch), _Fused(), watch:
        model(*inputs)
    trainable = [p for p in model.parameters() if p.requires_grad]
    memory = Memory(
        parameters=_bytes([*model.parameters(), *model.buffers()]),
        gradients=_bytes(trainable),
        optimizer=optimizer_states * _bytes(trainable),
        activations=kept.bytes(inputs),
    )
    return Summary(
        rows=tuple(watch.rows(model)),
        parameters=sum(p.numel() for p in model.parameters()),
        trainable=sum(p.numel() for p in trainable),
        multiply_adds=sum(watch.multiply_adds.values()),
        memory=memory,
    )


class _Watch(TorchDispatchMode):
    """Sees every operation, and charges it to the layer in whose forward it happens."""

    def __init__(self, model: nn.Module, inputs: Sequence[Tensor]) -> None:
        super().__init__()
        self.reach = Reach(inputs)
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
        self.reach.follow(func, args, out)
        return out

    def _enter(self, module: nn.Module, inputs: Any) -> None:
        self.active.append(module)
        self.outputs.setdefault(module, None)

    def _leave(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self.active.pop()
        self.outputs[module] = first_tensor(output)

    def rows(self, model: nn.Module) -> Iterator[Row]:
        """Layers without layers inside, and those that compute or own something beside their layers."""
        names = {module: name for name, module in model.named_modules()}
        seen: set[Tensor] = set()
        for module, output in self.outputs.items():
            own = set(self._own(module)) - seen
            seen |= own
            inner = any(child in self.outputs for child in module.modules() if child is not module)
            if inner and not own and not self.multiply_adds[module]:
                continue
            yield Row(
                name=names[module] or "(model)",
                kind=type(module).__name__,
                shape=() if output is None else tuple(output.shape),
                parameters=sum(p.numel() for p in own),
                multiply_adds=self.multiply_adds[module],
                receptive_field=None if output is None else self.reach.field(output),
            )

    def _own(self, module: nn.Module) -> Iterator[Tensor]:
        """Parameters of a module and of what it contains without calling it, as attention does its projection."""
        yield from module.parameters(recurse=False)
        for child in module.children():
            if child not in self.outputs:
                yield from self._own(child)


class _Fused(TorchFunctionMode):
    """Attention as fused kernels do it; the meta device would write out all weights of all pairs."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is scaled_dot_product_attention and len(args) >= 3:
            query, key, value = args[:3]
            fits = query.dim() == 4 and query.shape[-1] == value.shape[-1] and query.shape[1] == key.shape[1]
            if fits:
                return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value)[0]
        return func(*args, **kwargs)


class _Kept:
    """Storages that the backward pass will need, each once."""

    def __init__(self, standing: Iterable[Tensor]) -> None:
        self.standing = {tensor.untyped_storage()._cdata for tensor in standing}
        self.storages: dict[int, torch.UntypedStorage] = {}

    def keep(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata not in self.standing:
            # Held, so that no later storage takes the same address.
            self.storages[storage._cdata] = storage

    def fetch(self, packed: None) -> Tensor:
        raise RuntimeError("a summary has no backward pass")

    def bytes(self, inputs: Iterable[Tensor]) -> int:
        """Of all kept storages, and of the batch, which stays whether kept or not."""
        for tensor in inputs:
            self.keep(tensor)
        return sum(storage.nbytes() for storage in self.storages.values())


def first_tensor(output: Any) -> Tensor | None:
    """The tensor that speaks for what a layer returns: a recurrent layer also returns its state."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, dict):
        output = list(output.values())
    if isinstance(output, tuple | list):
        return next((found for item in output if (found := first_tensor(item)) is not None), None)
    return None


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
