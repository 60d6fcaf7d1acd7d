"""Devices, precisions and memory formats."""

import contextlib
import ctypes
import platform
import re
import resource
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dltrain.data.loader import Batches
from dltrain.data.spec import Source
from dltrain.errors import ConfigError
from dltrain.training import device
from dltrain.training.device import Device

CPU = torch.device("cpu")
CUDA = torch.cuda.is_available()


def cpu(**given: Any) -> Device:
    settings = {"precision": "fp32", "channels_last": False, "compile": False, "deterministic": False}
    return Device(CPU, **{**settings, **given})


def choose(model: nn.Module | None = None, **given: Any) -> Device:
    settings = {"name": "cpu", "precision": "auto", "compile": False, "channels_last": "auto", "deterministic": False}
    return device.select_device(**{**settings, **given}, model=model or nn.Linear(2, 2))


@pytest.fixture(autouse=True)
def as_before() -> Any:
    """Reset the settings of the process after the test."""
    yield
    device.configure_process(cpu(), 0)


def test_auto_precision_on_a_cpu_is_fp32() -> None:
    assert choose().precision == "fp32"
    assert choose().device == CPU


def test_auto_selects_the_best_available_device() -> None:
    best = "cuda" if CUDA else "mps" if torch.backends.mps.is_available() else "cpu"
    assert device.resolve_device("auto") == best


def test_channels_last_is_used_for_weights_and_batches_of_images_and_clips() -> None:
    device = Device(torch.device("cpu"), "fp32", True, False, False)
    over_time, image, matrix = device.place(nn.ModuleList([nn.Conv3d(3, 4, 3), nn.Conv2d(3, 4, 3), nn.Linear(3, 4)]))
    assert over_time.weight.is_contiguous(memory_format=torch.channels_last_3d)
    assert image.weight.is_contiguous(memory_format=torch.channels_last) and matrix.weight.is_contiguous()
    # With one input channel, `is_contiguous` is true for both layouts, so check the output layout.
    gray = device.place(nn.Conv2d(1, 6, 5))
    assert gray(torch.randn(2, 1, 28, 28)).is_contiguous(memory_format=torch.channels_last)
    (batch,) = Batches(Source({"inputs": torch.randn(4, 3, 5, 5, 5)}, nn.Identity()), 4, channels_last=True)
    assert batch["inputs"].is_contiguous(memory_format=torch.channels_last_3d)
    over_time(batch["inputs"]).sum().backward()
    assert over_time.weight.grad is not None


def test_channels_last_auto_is_on_only_for_models_with_convolutions() -> None:
    assert choose(nn.Sequential(nn.Conv2d(3, 4, 3))).channels_last
    assert not choose(nn.Linear(3, 4)).channels_last
    assert not choose(nn.Conv2d(3, 4, 3), channels_last=False).channels_last


def test_channels_last_does_not_change_the_weights() -> None:
    model = nn.Conv2d(3, 4, 3)
    before = model.weight.detach().clone()
    (weight, _) = cpu(channels_last=True).place(model).parameters()
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(weight, before)


@pytest.mark.skipif(CUDA, reason="needs a machine without CUDA")
def test_an_unavailable_device_is_rejected_and_the_available_devices_are_listed() -> None:
    with pytest.raises(ConfigError, match=r"device: expected a device of this machine, got cuda.*Usable here:.*cpu"):
        device.resolve_device("cuda")


def test_an_unknown_device_is_rejected() -> None:
    with pytest.raises(ConfigError, match="one of auto cpu cuda mps, got tpu"):
        device.resolve_device("tpu")


def test_tf32_is_rejected_without_cuda() -> None:
    with pytest.raises(ConfigError, match=r"device\.precision.*Only CUDA has tf32"):
        choose(precision="tf32")


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_matrix_products_use_the_chosen_precision_while_weights_stay_fp32(precision: str, dtype: torch.dtype) -> None:
    model, context = nn.Linear(4, 4), cpu(precision=precision).autocast()
    for _ in range(2):
        with context:
            assert model(torch.ones(1, 4)).dtype == dtype
    assert model(torch.ones(1, 4)).dtype == torch.float32
    assert model.weight.dtype == torch.float32


def test_only_fp16_needs_a_scaler_and_each_optimizer_gets_its_own() -> None:
    assert cpu(precision="fp32").make_scaler() is None
    assert cpu(precision="bf16").make_scaler() is None
    fp16 = cpu(precision="fp16")
    assert isinstance(fp16.make_scaler(), torch.amp.GradScaler)
    assert fp16.make_scaler() is not fp16.make_scaler()


def test_fp32_needs_no_autocast() -> None:
    assert isinstance(cpu().autocast(), contextlib.nullcontext)


def test_deterministic_algorithms_are_enabled_for_a_run_and_disabled_for_the_next_run() -> None:
    for deterministic in (True, False):
        device.configure_process(cpu(deterministic=deterministic), 0)
        assert torch.are_deterministic_algorithms_enabled() == deterministic


@pytest.mark.parametrize(("precision", "expected"), [("fp32", "highest"), ("tf32", "high"), ("bf16", "high")])
def test_matmul_precision_is_set_for_a_run_and_reset_for_the_next_run(precision: str, expected: str) -> None:
    device.configure_process(cpu(precision=precision), 0)
    assert torch.get_float32_matmul_precision() == expected
    assert torch.backends.cudnn.allow_tf32 == (precision != "fp32")
    device.configure_process(cpu(), 0)
    assert torch.get_float32_matmul_precision() == "highest"
    assert not torch.backends.cudnn.allow_tf32


def test_the_seed_determines_the_random_state_at_the_start_of_a_run() -> None:
    torch.rand(3)
    device.configure_process(cpu(), 5)
    drawn = torch.rand(3)
    assert torch.equal(drawn, torch.rand(3, generator=torch.Generator().manual_seed(5)))


def test_the_device_is_described_in_one_line() -> None:
    line = cpu(precision="bf16", channels_last=True, compile=True).describe()
    assert line.startswith("CPU in bf16, ") and re.search(r"\b(1 thread|\d+ threads), channels_last, compiled$", line)
    assert "\n" not in line


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_the_peak_memory_is_between_the_current_memory_and_the_peak_of_getrusage() -> None:
    current = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20
    highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    assert 0.95 * current <= device.peak_memory_mb(CPU) <= 1.05 * highest


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_freed_memory_is_reused_by_the_next_tensor() -> None:
    def faults() -> int:
        """Return the number of page faults while a tensor of 64 MB (about 16,000 pages) is filled."""
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(16_000_000)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    libc = ctypes.CDLL(None)
    for limit in (device.M_MMAP_THRESHOLD, device.M_TRIM_THRESHOLD):
        libc.mallopt(limit, 128 * 1024)  # the default of glibc; earlier tests may have changed the limits
    libc.malloc_trim(0)
    device.configure_process(cpu(), 0)
    for _ in range(12):
        faults()  # the first tensors need new memory
    assert faults() < 2_000
