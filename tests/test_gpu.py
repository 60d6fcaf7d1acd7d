"""Tests that need an NVIDIA GPU: precision, determinism, evaluation on the CPU, synchronization and memory."""

import io
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

from dltrain.config import compose
from dltrain.errors import ConfigError
from dltrain.loggers.console import Console
from dltrain.loggers.tracker import Tracker
from dltrain.runs import assemble, dry_run, launch, session
from dltrain.storage.checkpoints import Checkpoints
from dltrain.storage.run_dir import create
from dltrain.training.loop import grouped
from dltrain.training.meters import Timer
from dltrain.training.signals import Stop

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")]

GPU = "device=cuda"
CNN = ["model=cnn", "model.hidden_size=[16]", "model.blocks=[{channels: 4, pool: max}]", "regularization.dropout=0.2"]


def train(folder: Path, *overrides: str) -> launch.Outcome:
    job = compose.compose([*overrides, f"hydra.run.dir={folder}"])
    return launch.train(job, Console(io.StringIO()), time.perf_counter())


@pytest.fixture(scope="module")
def mnist() -> list[str]:
    """Return the overrides of LeNet-5 on MNIST, or skip the test if the data are missing."""
    overrides = ["experiment=lenet5_mnist", GPU]
    try:
        assemble.build_components(compose.compose([*overrides, "device=cpu"])).data.load()
    except ConfigError as error:
        pytest.skip(str(error))
    return overrides


@pytest.fixture(scope="module")
def fp32(mnist: list[str], tmp_path_factory: pytest.TempPathFactory) -> float:
    """Return the test accuracy in fp32."""
    outcome = train(tmp_path_factory.mktemp("fp32") / "run", *mnist, "device.precision=fp32")
    assert outcome.result["test"]["accuracy"] >= 0.985
    return outcome.result["test"]["accuracy"]


@pytest.mark.parametrize("precision", ["tf32", "bf16", "fp16"])
def test_lower_precision_reaches_the_accuracy_of_fp32_within_0_3_percentage_points(
    precision: str, mnist: list[str], fp32: float, tmp_path: Path
) -> None:
    outcome = train(tmp_path / "run", *mnist, f"device.precision={precision}")
    assert outcome.result["precision"] == precision and outcome.result["device"] == "cuda"
    assert outcome.result["test"]["accuracy"] == pytest.approx(fp32, abs=0.003)
    lines = [json.loads(line) for line in (outcome.folder / "metrics.jsonl").read_text().splitlines()]
    skipped = [line["skipped_steps"] for line in lines if "skipped_steps" in line]
    assert bool(skipped) == (precision == "fp16"), "only fp16 has a gradient scaler"
    assert all(count < 20 for count in skipped)


def test_auto_selects_the_gpu_and_bf16_if_supported(small_data: Callable[[str], list[str]], tmp_path: Path) -> None:
    outcome = train(tmp_path / "run", "model=mlp", *small_data("digits"), "trainer.max_steps=2")
    able = torch.cuda.is_bf16_supported(including_emulation=False)
    assert (outcome.result["device"], outcome.result["precision"]) == ("cuda", "bf16" if able else "fp16")
    assert torch.cuda.get_device_name() in (outcome.folder / "train.log").read_text()


@pytest.mark.parametrize(
    "overrides",
    [
        [*CNN, "data=digits", "data.augment=[crop]"],
        ["model=lstm", "data=timeseries", "data.series=elnino", "data.window=24", "data.horizon=6"],
        ["model=gpt", "data=text", "data.context_length=16", "model.num_layers=1"],
    ],
)
def test_two_deterministic_runs_give_identical_checkpoints(overrides: list[str], tmp_path: Path) -> None:
    found = []
    for name in ("first", "second"):
        # The runs need separate processes because cuBLAS reads its workspace setting when CUDA starts.
        words = [
            *overrides,
            GPU,
            "device.deterministic=true",
            "trainer.max_steps=30",
            f"hydra.run.dir={tmp_path / name}",
        ]
        command = [sys.executable, "-m", "dltrain", *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        checkpoints = Checkpoints(tmp_path / name)
        found.append({file: checkpoints.read_entry(file)["sha256"] for file in ("last.pt", "best.pt")})
    assert found[0] == found[1]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_checkpoint_from_the_gpu_can_be_evaluated_on_the_cpu(
    precision: str, small_data: Callable[[str], list[str]], tmp_path: Path
) -> None:
    common = [*CNN, *small_data("digits"), "regularization.ema_decay=0.9"]
    outcome = train(tmp_path / "run", *common, GPU, f"device.precision={precision}", "trainer.epochs=3")
    saved = Checkpoints(outcome.folder).load("best.pt")
    components = assemble.build_components(compose.compose([*common, "device=cpu"]))
    components.model.load_state_dict(saved["average"]["model"])
    components.model.eval()
    with torch.inference_mode():
        metrics = components.task.evaluate(
            components.model, dry_run.build_batches(components, components.data.load())["test"]
        ).metrics
    tolerance = 1e-3 if precision == "fp32" else 3e-2
    assert metrics["loss"] == pytest.approx(outcome.result["test"]["loss"], rel=tolerance)
    assert metrics["accuracy"] == pytest.approx(outcome.result["test"]["accuracy"], abs=0.01)


@pytest.mark.parametrize(
    "overrides",
    [
        [*CNN, "data=digits", "data.augment=[flip,crop]", "regularization=standard", "regularization.l1=1e-5"],
        ["model=lstm", "data=timeseries", "data.window=24", "data.horizon=6"],
        ["model=gpt", "data=text", "data.context_length=16", "trainer.accumulate=2"],
        ["model=mlp", "data=digits", "device.precision=fp16"],
        ["model=mlp", "data=digits", "optimizer=muon"],
        ["model=vae", "data=digits", "model.conditional=true", "task.binarize=true", "task.warmup=0.5"],
        ["model=conv_autoencoder", "data=digits", "task.corruption=salt_and_pepper", "task.contraction=0.1"],
        ["model=unet", "data=shapes"],
        ["model=fcos", "data=shapes", "model.backbone=narrow"],
        ["model=retinanet", "data=shapes", "model.backbone=narrow"],
        ["model=ssdlite", "data=shapes"],
        [*CNN, "data=digits", "augment=mixup"],
        [*CNN, "data=digits", "augment=cutmix"],
        ["model=resnet18", "data=digits", "augment=affine"],
        ["model=gan", "data=digits"],
        ["model=rbm", "data=digits"],
        ["model=lstm", "data=text", "data.streams=true", "device.precision=bf16"],
        ["model=gru", "data=timeseries", "data.window=24", "data.horizon=6", "regularization.ema_decay=0.9"],
    ],
)
def test_a_training_step_never_waits_for_the_gpu(overrides: list[str], tmp_path: Path) -> None:
    take_steps_without_waiting(overrides, tmp_path)


@pytest.mark.parametrize("model", [["gru"], ["lstm", "model.bidirectional=true"], ["transformer"]])
def test_a_training_step_on_padded_texts_never_waits_for_the_gpu(
    model: list[str], small_data: Callable[[str], list[str]], tmp_path: Path
) -> None:
    name, *options = model
    take_steps_without_waiting([f"model={name}", *options, *small_data("text_table"), "data.batch_size=2"], tmp_path)


def take_steps_without_waiting(overrides: list[str], tmp_path: Path) -> None:
    """Take eight steps, and fail if one of the last five waits for the GPU."""
    job = compose.compose([*overrides, GPU])
    components = assemble.build_components(job)
    batches = dry_run.build_batches(components, components.data.load())
    home = create(str(tmp_path / "run"), tmp_path, "run")
    whole = session.Session(
        job, components, batches, Console(io.StringIO()), home, Timer(time.perf_counter()), Stop(), True
    )
    mode: Any = torch.cuda.get_sync_debug_mode()
    with closing(Tracker(home.path)) as whole.tracker:
        loop = whole._build_loop(components, batches)
        loop.begin_stage()
        groups = grouped(loop.current.batches.epoch(0), loop.config.accumulate)
        for group in itertools.islice(groups, 3):
            loop.take_step(group, measure_norm=True)
        loop.log()
        torch.cuda.set_sync_debug_mode("error")
        try:
            for group in itertools.islice(groups, 5):
                loop.take_step(group, measure_norm=False)
                loop.logger.progress(loop.state, loop.stages, loop.goal.metric)
        finally:
            torch.cuda.set_sync_debug_mode(mode)
        loop.log()
    home.close()
    assert loop.state.step == 8


def test_gpu_memory_does_not_grow_during_training(small_data: Callable[[str], list[str]], tmp_path: Path) -> None:
    overrides = [
        *CNN,
        *small_data("digits"),
        "trainer.max_steps=600",
        "trainer.epochs=null",
        "trainer.log_every=50",
        GPU,
    ]
    outcome = train(tmp_path / "run", *overrides)
    lines = [json.loads(line) for line in (outcome.folder / "metrics.jsonl").read_text().splitlines()]
    peaks = {line["step"]: line["memory/peak_mb"] for line in lines if line["split"] == "train"}
    assert peaks[600] == peaks[100]


def test_environment_json_names_the_gpu(small_data: Callable[[str], list[str]], tmp_path: Path) -> None:
    outcome = train(tmp_path / "run", "model=perceptron", *small_data("digits"), "trainer.max_steps=1", GPU)
    environment = json.loads((outcome.folder / "environment.json").read_text())
    assert torch.cuda.get_device_name() in environment["device"]
    assert environment["cpus"] == os.cpu_count()
