"""Where a run computes and in which precision. What runs is decided by what the machine is, never by a stopwatch."""

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

from dltrain.errors import ConfigError, format_error

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Device:
    """The machine as a run uses it.

    Args:
        device: Where tensors live.
        precision: What arithmetic is done in: fp32, tf32, bf16 or fp16; weights stay in fp32.
        channels_last: Pictures and convolution weights have their channels innermost.
        compile: Whether the model is compiled.
        deterministic: Only algorithms that give the same bytes every time.
    """

    device: torch.device
    precision: str
    channels_last: bool
    compile: bool
    deterministic: bool

    def autocast(self) -> contextlib.AbstractContextManager:
        """The context in which a loss is computed; may be entered again and again."""
        if self.precision not in DTYPES:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, DTYPES[self.precision])

    def scaler(self) -> torch.amp.GradScaler | None:
        """A loss scaler where gradients would underflow (fp16), one per optimizer."""
        return torch.amp.GradScaler(self.device.type) if self.precision == "fp16" else None

    def place(self, model: nn.Module) -> nn.Module:
        """The model on the device, laid out for it."""
        layout = torch.channels_last if self.channels_last else torch.preserve_format
        return model.to(self.device, memory_format=layout)  # type: ignore[call-overload]

    def describe(self) -> str:
        """One line for people."""
        name = torch.cuda.get_device_name() if self.device.type == "cuda" else self.device.type.upper()
        threads = f", {torch.get_num_threads()} threads" if self.device.type == "cpu" else ""
        extras = [word for word, on in (("channels_last", self.channels_last), ("compiled", self.compile)) if on]
        return ", ".join([f"{name} in {self.precision}{threads}", *extras])


def choose(
    name: str, precision: str, compile: bool, channels_last: bool | str, deterministic: bool, model: nn.Module
) -> Device:
    """Decide where and how ``model`` runs.

    Raises:
        ConfigError: When the device that was asked for is not there, or cannot do the precision.
    """
    device = torch.device(find(name))
    if channels_last == "auto":
        channels_last = device.type != "mps" and any(isinstance(m, nn.Conv2d) for m in model.modules())
    return Device(device, find_precision(precision, device), bool(channels_last), compile, deterministic)


def find(name: str) -> str:
    """The device's type: the one asked for, or the best there is."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return next(kind for kind, found in there.items() if found)
    if name not in there:
        raise ConfigError(format_error("device.name", "one of auto cpu cuda mps", name))
    if not there[name]:
        usable = " ".join(kind for kind, found in there.items() if found)
        raise ConfigError(
            format_error("device", "a device of this machine", name, f"{why_not(name)} Usable here: {usable}.")
        )
    return name


def why_not(name: str) -> str:
    """Why a device cannot be used."""
    if name == "mps":
        return "This machine or this build of torch has no Metal."
    if torch.version.cuda is None:
        return "This build of torch has no CUDA."
    return f"torch {torch.__version__} finds no NVIDIA GPU or driver."


def find_precision(precision: str, device: torch.device) -> str:
    """The precision that runs: the one asked for, or what the device does best without a surprise."""
    if precision == "auto":
        if device.type != "cuda":
            return "fp32"
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if precision == "tf32" and device.type != "cuda":
        raise ConfigError(
            format_error("device.precision", "auto fp32 bf16 or fp16 on this device", precision, "Only CUDA has tf32.")
        )
    return precision


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: a device's or, in the words of torch's allocator, the machine's."""
    words = ("can't allocate memory", "not enough memory", "out of memory")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in words)
    )


def random_state() -> dict[str, Any]:
    """Every random generator that a model may draw from, as tensors and plain Python."""
    plain = np.random.get_state(legacy=False)
    state = {**plain["state"], "key": plain["state"]["key"].tolist()}
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
        "python": random.getstate(),
        "numpy": {**plain, "state": state},
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """Go on drawing where `random_state` was taken; generators of devices that are not here are left out."""
    torch.set_rng_state(state["torch"])
    for number, numbers in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(numbers, number)
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    key = np.array(state["numpy"]["state"]["key"], dtype=np.uint32)
    np.random.set_state({**state["numpy"], "state": {**state["numpy"]["state"], "key": key}})


def prepare(device: Device, seed: int) -> None:
    """Set the process up for one run; also undoes what an earlier run of a sweep left behind."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    spare_compiler(not device.compile)
    if torch.are_deterministic_algorithms_enabled() != device.deterministic:  # the call imports torch's compiler, 3 s
        torch.use_deterministic_algorithms(device.deterministic)
    torch.backends.cudnn.benchmark = device.device.type == "cuda" and not device.deterministic
    torch.set_float32_matmul_precision("highest" if device.precision == "fp32" else "high")
    torch.backends.cudnn.allow_tf32 = device.precision != "fp32"
    torch.set_flush_denormal(True)
    if device.device.type == "cpu":
        hold_memory()
    if device.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()


def hold_memory() -> None:
    """Keep what a step has freed for the next step, instead of giving it back to the system and asking for it again.

    By default glibc gives back every block above 32 MB at once, and the system hands out zeroed pages one by one when
    it is asked again, which takes a tenth of the time of a step of a large network. Other C libraries have no such
    call.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        change = ctypes.CDLL(None).mallopt
        change(M_MMAP_THRESHOLD, 2**31 - 1)
        change(M_TRIM_THRESHOLD, 2**31 - 1)


def spare_compiler(spare: bool) -> None:
    """Keep torch.optim from importing torch's compiler, which takes two seconds, in a run that compiles nothing.

    These methods import it at their first call to be told to stay out of it, and remember the answer in an attribute;
    here is the answer. Where another version of torch has no such attribute, nothing happens.
    """
    for name in ("add_param_group", "state_dict", "load_state_dict", "zero_grad"):
        inner: Any = getattr(getattr(torch.optim.Optimizer, name), "__wrapped__", None)
        if inner is None:
            continue
        if spare and "torch._dynamo" not in sys.modules:
            inner.__dynamo_disable = inner
        elif not spare and vars(inner).get("__dynamo_disable") is inner:
            del vars(inner)["__dynamo_disable"]


def peak_memory_mb(device: torch.device) -> float:
    """Return the peak memory in MB: the device's on CUDA, else the process's; NaN where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    try:
        # Linux counts in ru_maxrss what the parent held when it forked this process; this it does not.
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 2**10
    except (OSError, IndexError):
        try:
            import resource
        except ImportError:  # Windows
            return math.nan
        unit = 2**20 if sys.platform == "darwin" else 2**10
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
