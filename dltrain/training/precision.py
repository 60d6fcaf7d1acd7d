"""Compute layers in fp32 if the run's precision has no kernels for them, and advise on fast precisions for this CPU."""

import contextlib
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.rnn import PackedSequence

from dltrain.errors import ConfigError
from dltrain.training.device import DTYPES, Device


def use_fp32_where_needed(model: nn.Module, device: Device) -> str | None:
    """Make layers compute in fp32 if torch has no kernel for them in the run's precision; return a note about them.

    Recurrent, linear, attention and convolutional layers are tested in a forward and a backward pass, each with its own
    weights and settings.

    Raises:
        ConfigError: None of these layers can be computed in the run's precision.
    """
    if not may_lack_kernels(device):
        return None
    layers = [layer for layer in model.modules() if example_inputs(layer)]
    missing = [layer for layer in layers if not is_supported(layer, device)]
    if not missing:
        return None
    kinds = " and ".join(dict.fromkeys(layer._get_name() for layer in missing))
    reason = f"torch has no {device.precision} kernel for {kinds} on this {device.device.type.upper()}"
    if len(missing) == len(layers):
        raise ConfigError(f"device.precision: not supported because {reason}. Use device.precision=fp32.")
    for layer in missing:
        layer.forward = MethodType(_forward_in_fp32, layer)  # deepcopy binds the method to the copy
    return f"{kinds}: computed in fp32, because {reason}; the other layers are computed in {device.precision}"


def may_lack_kernels(device: Device) -> bool:
    """Return whether the precision may lack kernels on this device; fp32 and CUDA have all kernels."""
    return device.precision in DTYPES and device.device.type != "cuda"


def is_supported(layer: nn.Module, device: Device) -> bool:
    """Return False if `layer` and its gradients can be computed in fp32, but not in the run's precision."""
    return _is_computed(layer, device, device.autocast()) or not _is_computed(layer, device, contextlib.nullcontext())


def _is_computed(layer: nn.Module, device: Device, precision: contextlib.AbstractContextManager[None]) -> bool:
    """Return whether `layer` and its gradients can be computed; keep its tensors and the random state unchanged."""
    with contextlib.suppress(Exception), precision:  # a subclass may expect other inputs
        tensors = {name: p.detach().clone().requires_grad_() for name, p in layer.named_parameters()}
        tensors |= {name: buffer.clone() for name, buffer in layer.named_buffers()}
        inputs = tuple(x.to(device.device) for x in example_inputs(layer))
        with torch.random.fork_rng(devices=[]):
            output = functional_call(layer, tensors, inputs)
        (output if isinstance(output, Tensor) else output[0]).sum().backward()
        return True
    return False


def example_inputs(layer: nn.Module) -> tuple[Tensor, ...]:
    """Return small inputs of `layer` if autocast lowers its precision; an empty tuple for other layers."""
    if isinstance(layer, nn.RNNBase):
        return (torch.zeros(1, 1, layer.input_size),)
    if isinstance(layer, nn.Linear):
        return (torch.zeros(1, layer.in_features),)
    if isinstance(layer, nn.MultiheadAttention):
        return tuple(torch.zeros(1, 1, width) for width in (layer.embed_dim, layer.kdim, layer.vdim))
    if isinstance(layer, _ConvNd):
        extents = [d * (k - 1) + 1 for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        return (torch.zeros(1, layer.in_channels, *extents),)
    return ()


def _forward_in_fp32(layer: nn.Module, *args: Any, **named: Any) -> Any:
    with torch.autocast(next(layer.parameters()).device.type, enabled=False):
        return type(layer).forward(layer, *_to_fp32(args), **{name: _to_fp32(value) for name, value in named.items()})


def _to_fp32(value: Any) -> Any:
    if isinstance(value, PackedSequence) or (isinstance(value, Tensor) and value.is_floating_point()):
        return value.float()
    return tuple(map(_to_fp32, value)) if isinstance(value, tuple) else value


def advise(model: nn.Module, device: Device) -> str | None:
    """Return a note if another precision is faster on this CPU."""
    if device.device.type != "cpu":
        return None
    convolves = any(isinstance(layer, _ConvNd) for layer in model.modules())
    if device.precision in DTYPES and not _is_fast(device.precision, convolves):
        lower = device.precision
        return f"torch has no fast {lower} kernels for this CPU: device.precision={lower} is much slower than fp32"
    features = torch.cpu.get_capabilities()
    in_hardware = features.get("amx_bf16", False) or features.get("avx512_bf16", False)
    # A convolution without overlap, as in the patch embedding of a ViT, is a matrix product, which autocast slows down.
    gains = any(isinstance(m, nn.LSTM) or (isinstance(m, _ConvNd) and _overlaps(m)) for m in model.modules())
    if device.precision == "fp32" and gains and in_hardware and _is_fast("bf16", convolves):
        return "This CPU multiplies bf16 in hardware: device.precision=bf16 is usually faster."
    return None


def _overlaps(layer: _ConvNd) -> bool:
    """Return whether the kernel is larger than the stride along any axis."""
    return any(kernel > stride for kernel, stride in zip(layer.kernel_size, layer.stride, strict=True))


def _is_fast(precision: str, convolves: bool) -> bool:
    """Return whether oneDNN has optimized kernels for `precision` on this CPU."""
    if not torch.backends.mkldnn.is_available():
        return False
    if precision == "fp16" and convolves and not torch.cpu.get_capabilities().get("amx_fp16", False):
        return False  # oneDNN computes the gradient of a convolution's weights with slow reference code
    return getattr(torch.ops.mkldnn, f"_is_mkldnn_{precision}_supported")()
