"""Layers without kernels for the requested precision run in fp32 with a notice, or the model is rejected."""

import contextlib
import copy
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from combinations import FITS
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from dltrain.errors import ConfigError
from dltrain.models.recurrent_ragged import run_ragged
from dltrain.training import precision
from dltrain.training.device import DTYPES, Device

OLDER_CPU = "AVX2"  # oneDNN has no bf16 kernels for this instruction set
OLDER_CPUS = ["SSE41", "AVX2", "AVX512_CORE"]
CONF = Path(__file__).parents[2] / "conf"
NAMES = sorted(file.stem for file in (CONF / "model").glob("*.yaml"))
# Classifiers and segmenters of torchvision, and residual networks deeper than resnet20, are left out: other models have
# the same layers.
LEFT_OUT = re.compile(r"^_target_: dltrain\.models\.(torchvision_networks|segmenters)\.", re.MULTILINE)
MODELS = [name for name in NAMES if not LEFT_OUT.search((CONF / "model" / f"{name}.yaml").read_text())]
MODELS = [name for name in MODELS if not name.startswith("resnet") or name in ("resnet9", "resnet20")]
SMALL = {
    "cnn": ["model.blocks=[{channels: 4}]"],
    "dbn": ["model.hidden_size=[8,8]", "task.pretrain_epochs=1", "data.num_labels=20"],
    "dcgan": ["model.hidden_size=4"],
    "gpt": ["model.hidden_size=8", "model.num_layers=1", "model.num_heads=2"],
    "fcos": ["model.backbone=narrow", "model.fpn_width=32", "model.num_convs=1"],
    "retinanet": ["model.backbone=narrow", "model.fpn_width=32"],
    "fasterrcnn": ["model.backbone=narrow", "model.fpn_width=32", "model.hidden_size=16"],
    "ssdlite": ["model.width_mult=0.25"],
    "resnet9": ["model.hidden_size=[4,8,8,16]"],
    "resnet20": ["model.num_layers=8"],
    "timm": ["model.name=test_efficientnet"],
    "unet": ["model.hidden_size=[4,8]"],
}
STEPS, IMAGES = torch.randn(2, 5, 3), torch.randn(2, 4, 6, 6)
LAYERS: dict[str, tuple[nn.Module, tuple[Tensor, ...]]] = {
    "RNN": (nn.RNN(3, 4, nonlinearity="relu"), (STEPS,)),
    "GRU": (nn.GRU(3, 4, num_layers=2, bidirectional=True), (STEPS,)),
    "LSTM": (nn.LSTM(3, 4), (STEPS,)),
    "LSTM, two layers": (nn.LSTM(3, 4, num_layers=2, batch_first=True, dropout=0.1), (STEPS,)),
    "LSTM, bidirectional": (nn.LSTM(3, 4, bidirectional=True, bias=False), (STEPS,)),
    "LSTM with projections": (nn.LSTM(3, 4, proj_size=2), (STEPS,)),
    "linear": (nn.Linear(3, 4), (STEPS,)),
    "convolution": (nn.Conv2d(4, 8, 3, padding=1, groups=2), (IMAGES,)),
    "dilated convolution": (nn.Conv2d(4, 8, 3, dilation=2, padding=2, padding_mode="circular"), (IMAGES,)),
    "convolution over time": (nn.Conv1d(5, 8, 3), (STEPS,)),
    "transposed convolution": (nn.ConvTranspose2d(4, 8, 4, stride=2, padding=1), (IMAGES,)),
    "channels last": (nn.Conv2d(4, 8, 3).to(memory_format=torch.channels_last), (IMAGES,)),
    "spectral norm": (spectral_norm(nn.Conv2d(4, 8, 3)), (IMAGES,)),
    "attention": (
        nn.MultiheadAttention(4, 2, kdim=3, vdim=5),
        (torch.randn(2, 2, 4), STEPS[:, :2], torch.ones(2, 2, 5)),
    ),
    "embedding": (nn.Embedding(3, 4), (torch.zeros(2, 5, dtype=torch.int64),)),
    "batch norm": (nn.BatchNorm2d(4), (IMAGES,)),
}


def on_cpu(kind: str) -> Device:
    return Device(torch.device("cpu"), kind, channels_last=False, compile=False, deterministic=False)


def computes(layer: nn.Module, inputs: tuple[Tensor, ...], device: Device) -> bool:
    """Return whether a layer can be trained and evaluated on the given inputs."""
    with contextlib.suppress(RuntimeError), device.autocast():
        output = layer.train()(*inputs)
        (output if isinstance(output, Tensor) else output[0]).sum().backward()
        with torch.inference_mode():
            layer.eval()(*inputs)
        return True
    return False


@pytest.mark.parametrize("kind", ["fp32", *DTYPES])
@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_is_computed_in_the_requested_precision_or_in_fp32_with_a_notice(name: str, kind: str) -> None:
    layer, inputs = copy.deepcopy(LAYERS[name])
    device, model = on_cpu(kind), nn.ModuleList([layer, nn.Linear(2, 2)])
    supported = computes(copy.deepcopy(layer), inputs, device)
    note = precision.use_fp32_where_needed(model, device)
    assert (note is None) == supported
    if note is not None:
        assert note.startswith(f"{type(layer).__name__}: computed in fp32, because torch has no {kind} kernel for ")
    assert computes(layer, inputs, device)
    assert computes(copy.deepcopy(model)[0], inputs, device), "a deep copy, as made by EMA, must also work"


def test_a_layer_in_fp32_accepts_states_and_packed_sequences_in_lower_precision() -> None:
    lstm, state = nn.LSTM(3, 4), torch.zeros(1, 5, 4, dtype=torch.bfloat16)
    lstm.forward = precision.MethodType(precision._forward_in_fp32, lstm)
    with on_cpu("bf16").autocast():
        outputs, _ = lstm(STEPS.bfloat16(), hx=(state, state))
        packed, _ = lstm(nn.utils.rnn.pack_sequence([torch.ones(2, 3).bfloat16()]), (state[:, :1], state[:, :1]))
    assert outputs.dtype == packed.data.dtype == torch.float32
    assert list(lstm.state_dict()) == list(nn.LSTM(3, 4).state_dict())


def test_a_layer_in_fp32_reads_sequences_of_different_lengths_in_fp32() -> None:
    lstm, lengths = nn.LSTM(3, 4, batch_first=True), torch.tensor([2, 5])
    expected, _ = run_ragged(lstm, STEPS, lengths)
    lstm.forward = precision.MethodType(precision._forward_in_fp32, lstm)
    with on_cpu("bf16").autocast():
        states, _ = run_ragged(lstm, STEPS, lengths)
    assert states.dtype == torch.float32
    torch.testing.assert_close(states[0, :2], expected[0, :2])
    torch.testing.assert_close(states[1], expected[1])


@pytest.mark.parametrize("kind", DTYPES)
def test_a_model_is_rejected_if_no_layer_can_be_computed_in_the_requested_precision(kind: str) -> None:
    lstm, device = nn.LSTM(3, 4), on_cpu(kind)
    if computes(copy.deepcopy(lstm), (STEPS,), device):
        assert precision.use_fp32_where_needed(lstm, device) is None
        return
    line = f"device.precision: not supported because torch has no {kind} kernel for LSTM on this CPU. Use .*=fp32"
    with pytest.raises(ConfigError, match=line):
        precision.use_fp32_where_needed(lstm, device)


def test_the_search_for_unsupported_layers_changes_neither_the_model_nor_the_random_state() -> None:
    model = nn.ModuleList([spectral_norm(nn.Linear(3, 4)), nn.LSTM(3, 4, num_layers=2, dropout=0.5)])
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    precision.use_fp32_where_needed(model, on_cpu("bf16"))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


class Gated(nn.Linear):
    """A linear layer with a second input."""

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        return super().forward(x) * gate


def test_a_layer_that_needs_additional_inputs_is_not_changed() -> None:
    gated = Gated(3, 4)
    assert precision.use_fp32_where_needed(gated, on_cpu("bf16")) is None
    assert gated(STEPS, torch.ones(4)).shape == (2, 5, 4)


# Advice --------------------------------------------------------------------------------------------------------------


def test_bf16_is_advised_only_if_the_cpu_supports_it_and_the_model_gets_faster() -> None:
    features = torch.cpu.get_capabilities()
    in_hardware = bool(features.get("amx_bf16", False) or features.get("avx512_bf16", False))
    gains = in_hardware and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    assert (precision.advise(nn.LSTM(2, 2), on_cpu("fp32")) is not None) == gains
    assert (precision.advise(nn.Conv2d(2, 2, 3), on_cpu("fp32")) is not None) == gains
    assert precision.advise(nn.Conv2d(2, 2, 2, stride=2), on_cpu("fp32")) is None  # the patch embedding of a ViT
    assert precision.advise(nn.Linear(2, 2), on_cpu("fp32")) is None


@pytest.mark.parametrize(
    ("kernel", "stride", "advised"), [((1, 3), (2, 1), True), ((3, 1), (1, 2), True), ((2, 4), (2, 4), False)]
)
def test_bf16_is_advised_for_convolutions_that_overlap_along_any_axis(
    kernel: tuple[int, int], stride: tuple[int, int], advised: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True})
    monkeypatch.setattr(precision, "_is_fast", lambda *_: True)
    assert (precision.advise(nn.Conv2d(2, 2, kernel, stride), on_cpu("fp32")) is not None) == advised


@pytest.mark.parametrize("kind", DTYPES)
def test_a_precision_without_fast_kernels_is_reported_as_slow(kind: str) -> None:
    slow = not getattr(torch.ops.mkldnn, f"_is_mkldnn_{kind}_supported")()
    note = precision.advise(nn.Linear(2, 2), on_cpu(kind))
    assert (note is not None) == slow
    assert note is None or f"device.precision={kind} is much slower than fp32" in note
    slow = slow or (kind == "fp16" and not torch.cpu.get_capabilities().get("amx_fp16", False))
    assert (precision.advise(nn.Conv2d(2, 2, 1), on_cpu(kind)) is not None) == slow


# Whole models on older CPUs ------------------------------------------------------------------------------------------

PREPARE = """
import json, sys
from dltrain.config import compose
from dltrain.errors import DltrainError
from dltrain.runs.dry_run import prepare_run
for overrides in json.load(sys.stdin):
    try:
        with prepare_run(compose.compose(overrides)) as (components, _):
            print(json.dumps([0, components.notes]))
    except DltrainError as error:
        print(json.dumps([error.code, error.problems]))
"""
TRAIN = """
import contextlib, io, json, sys
from dltrain.cli import main
for number, overrides in enumerate(json.load(sys.stdin)):
    with contextlib.redirect_stdout(io.StringIO()) as output, contextlib.redirect_stderr(output):
        code = main.main([*overrides, "trainer.max_steps=1", "trainer.log_media=false", f"hydra.run.dir=run{number}"])
    print(json.dumps([code, output.getvalue().splitlines()]))
"""


def on_older_cpu(code: str, isa: str, commands: list[list[str]], folder: Path) -> list[tuple[int, list[str]]]:
    """Return the exit code and the output lines of each command, run in one process with ONEDNN_MAX_CPU_ISA=``isa``."""
    ended = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, "ONEDNN_MAX_CPU_ISA": isa},
        input=json.dumps(commands),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0 and "Traceback" not in ended.stderr, ended.stderr
    return [json.loads(line) for line in ended.stdout.splitlines()]


def natural_data(model: str) -> str:
    """Return a data option that the model can read: digits if possible."""
    return "digits" if "digits" in FITS[model] else min(FITS[model])


def check_models(
    code: str, isa: str, kinds: list[str], small_data: Callable[[str], list[str]], folder: Path, models: list[str]
) -> None:
    data = {model: natural_data(model) for model in models}
    commands = [
        [
            f"model={model}",
            *small_data(data[model]),
            *SMALL.get(model, []),
            "device=cpu",
            f"device.precision={kind}",
        ]
        for model in models
        for kind in kinds
    ]
    found = on_older_cpu(code, isa, commands, folder)
    for command, (ended, lines) in zip(commands, found, strict=True):
        output = "\n".join(lines)
        assert ended in (0, 2) and "do not fit together" not in output and "Traceback" not in output, (command, output)
        kind = next(word for word in command if word.startswith("device.precision")).split("=")[1]
        rejected = [line for line in lines if "device.precision: not supported" in line]
        assert len(rejected) == (ended == 2) and all(f"no {kind} kernel for" in line for line in rejected), (
            command,
            output,
        )


@pytest.mark.parametrize("models", [["cnn", "lstm"], pytest.param(MODELS, marks=pytest.mark.slow)], ids=len)
def test_models_are_prepared_for_an_older_cpu_or_rejected_with_a_one_line_error(
    models: list[str], small_data: Callable[[str], list[str]], tmp_path: Path
) -> None:
    check_models(PREPARE, OLDER_CPU, ["bf16"], small_data, tmp_path, models)


@pytest.mark.slow
@pytest.mark.parametrize("isa", OLDER_CPUS)
def test_every_model_trains_on_any_older_cpu_or_is_rejected_with_a_one_line_error(
    isa: str, small_data: Callable[[str], list[str]], tmp_path: Path
) -> None:
    check_models(TRAIN, isa, list(DTYPES), small_data, tmp_path, MODELS)


OWN = """
import torch
from torch import Tensor, nn

class Determinant(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.det(x.unflatten(1, (2, 2)))[:, None]

class Volume(nn.Module):
    def __init__(self, size: int, outputs: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(size, 4), Determinant(), nn.Linear(1, outputs))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)
"""


@pytest.mark.parametrize("kind", ["bf16", pytest.param("fp16", marks=pytest.mark.slow)])
def test_the_error_for_an_unsupported_operation_names_the_user_module(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from dltrain.cli import main

    (tmp_path / "conf" / "model").mkdir(parents=True)
    yaml = "_target_: volume.Volume\nsize: ${spec.size}\noutputs: ${spec.outputs}\n"
    (tmp_path / "conf" / "model" / "volume.yaml").write_text(yaml)
    (tmp_path / "volume.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    arguments: list[Any] = [
        "--config-dir",
        "conf",
        "allow_targets=[volume]",
        "model=volume",
        "data=digits",
        "device=cpu",
    ]
    code = main.main([*arguments, f"device.precision={kind}", "trainer.max_steps=1", "trainer.log_media=false"])
    stderr = capsys.readouterr().err
    with on_cpu(kind).autocast(), contextlib.suppress(RuntimeError):
        torch.det(nn.Linear(2, 2)(torch.ones(2, 2)))
        assert code == 0
        return
    assert code == 2 and stderr.count("\n") <= 2
    assert f"device.precision: not supported because this CPU cannot compute Determinant in {kind}. Use" in stderr
    assert "do not fit together" not in stderr and not list(tmp_path.glob("outputs/*/*"))
