"""Device and precision of a run, and the setup of the process."""

import contextlib
import ctypes
import math
import random
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from dltrain.data.loader import LAYOUTS
from dltrain.errors import ConfigError, format_error

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # from glibc's malloc.h

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Device:
    """Device, precision and layout of a run."""

    device: torch.device
    precision: str  # of the arithmetic: fp32, tf32, bf16 or fp16; weights stay in fp32
    channels_last: bool  # images and convolution weights have their channels innermost in memory
    compile: bool
    deterministic: bool

    def autocast(self) -> contextlib.AbstractContextManager[None]:
        """Return the context in which losses are computed; it can be entered repeatedly."""
        if self.precision not in DTYPES:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, DTYPES[self.precision])

    def make_scaler(self) -> torch.amp.GradScaler | None:
        """Return a new loss scaler for fp16, to avoid underflow of gradients; each optimizer needs its own scaler."""
        return torch.amp.GradScaler(self.device.type) if self.precision == "fp16" else None

    def place(self, model: nn.Module) -> nn.Module:
        """Move the model to the device; with `channels_last`, change the memory layout of its convolution weights."""
        model = model.to(self.device)
        if self.channels_last:
            for weight in model.parameters():
                if weight.dim() in LAYOUTS:
                    # Unlike `contiguous`, this also sets the strides of weights with one input channel, which decide
                    # the layout of the outputs.
                    weight.data = weight.data.to(memory_format=LAYOUTS[weight.dim()])
        return model

    def describe(self) -> str:
        """Return device, precision and options in one line."""
        name = torch.cuda.get_device_name() if self.device.type == "cuda" else self.device.type.upper()
        number = torch.get_num_threads()
        threads = f", {number} thread{'s' * (number > 1)}" if self.device.type == "cpu" else ""
        extras = [word for word, on in (("channels_last", self.channels_last), ("compiled", self.compile)) if on]
        return ", ".join([f"{name} in {self.precision}{threads}", *extras])


def select_device(
    name: str, precision: str, compile: bool, channels_last: bool | str, deterministic: bool, model: nn.Module
) -> Device:
    """Return the device and options for a model, with ``auto`` resolved.

    Raises:
        ConfigError: The device or the precision is not supported.
    """
    device = torch.device(resolve_device(name))
    if channels_last == "auto":
        channels_last = device.type != "mps" and any(isinstance(m, nn.Conv2d) for m in model.modules())
    if precision == "auto":
        bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        precision = "fp32" if device.type != "cuda" else "bf16" if bf16 else "fp16"
    if precision == "tf32" and device.type != "cuda":
        expected = "auto, fp32, bf16 or fp16 on this device"
        raise ConfigError(format_error("device.precision", expected, precision, "Only CUDA has tf32."))
    return Device(device, precision, bool(channels_last), compile, deterministic)


def resolve_device(name: str) -> str:
    """Return the type of the device; ``auto`` selects the best available device.

    Raises:
        ConfigError: The device is unknown or not available.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return next(kind for kind, found in available.items() if found)
    if name not in available:
        raise ConfigError(format_error("device.name", "one of auto cpu cuda mps", name))
    if not available[name]:
        usable = " ".join(kind for kind, found in available.items() if found)
        reason = f"torch {torch.__version__} finds no NVIDIA GPU or driver."
        if name == "mps":
            reason = "This machine or this build of torch has no Metal."
        elif torch.version.cuda is None:
            reason = "This build of torch has no CUDA."
        raise ConfigError(format_error("device", "a device of this machine", name, f"{reason} Usable here: {usable}."))
    return name


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether the device or the host ran out of memory, or the size of a tensor overflowed."""
    # torch raises a plain RuntimeError when the host is out of memory.
    words = (
        "can't allocate memory",
        "not enough memory",
        "out of memory",
        "calculation overflowed",
        "multiplication overflow",
    )
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in words)
    )


def random_state() -> dict[str, Any]:
    """Return the random states of torch on CPU and CUDA, of Python and of NumPy, as tensors and Python values."""
    plain = np.random.get_state(legacy=False)
    state = {**plain["state"], "key": plain["state"]["key"].tolist()}
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
        "python": random.getstate(),
        "numpy": {**plain, "state": state},
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """Restore what `random_state` returned, except for devices that do not exist here."""
    torch.set_rng_state(state["torch"])
    for number, numbers in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(numbers, number)
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    key = np.array(state["numpy"]["state"]["key"], dtype=np.uint32)
    np.random.set_state({**state["numpy"], "state": {**state["numpy"]["state"], "key": key}})


def configure_process(device: Device, seed: int) -> None:
    """Set seeds and global options of torch for a run, including options that an earlier run of a sweep changed."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    _skip_compiler_import(not device.compile)
    # Set the option only if it changes: the call imports the compiler, which takes 3 s.
    if torch.are_deterministic_algorithms_enabled() != device.deterministic:
        torch.use_deterministic_algorithms(device.deterministic)
    torch.backends.cudnn.benchmark = device.device.type == "cuda" and not device.deterministic
    torch.set_float32_matmul_precision("highest" if device.precision == "fp32" else "high")
    torch.backends.cudnn.allow_tf32 = device.precision != "fp32"
    torch.set_flush_denormal(True)
    if device.device.type == "cpu":
        _keep_freed_memory()
    if device.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()


def _keep_freed_memory() -> None:
    """Keep the memory freed by a step for the next step instead of returning it to the system.

    By default, glibc returns every block above 32 MB immediately, and getting zeroed pages back one by one takes a
    tenth of the step time of a large network. Other C libraries have no such option.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_THRESHOLD, 2**31 - 1)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def _skip_compiler_import(skip: bool) -> None:
    """Keep torch.optim from importing torch's compiler (2 s) in a run that does not compile.

    On their first call, the methods of `torch.optim.Optimizer` listed below import the compiler to exclude themselves
    from compilation, and cache the result in ``__dynamo_disable``. Setting that attribute here avoids the import.
    Methods that are not wrapped are left unchanged.
    """
    for name in ("add_param_group", "state_dict", "load_state_dict", "zero_grad"):
        inner: Any = getattr(getattr(torch.optim.Optimizer, name), "__wrapped__", None)
        if inner is None:
            continue
        if skip and "torch._dynamo" not in sys.modules:
            inner.__dynamo_disable = inner
        elif not skip and vars(inner).get("__dynamo_disable") is inner:
            del vars(inner)["__dynamo_disable"]


def peak_memory_mb(device: torch.device) -> float:
    """Return the peak memory so far in MiB: of the device on CUDA, else of the process. NaN if unknown."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    try:
        # On Linux ru_maxrss includes the memory of the parent at the time of the fork; VmHWM does not.
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 2**10
    except (OSError, IndexError):
        try:
            import resource
        except ImportError:  # Windows
            return math.nan
        unit = 2**20 if sys.platform == "darwin" else 2**10
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
