"""Ten workloads, each with a model and synthetic data.

The data are saved as a file for dltrain and as tensors for the other systems.
"""

import string
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ragged
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import examples
from dltrain.data.loader import Batches
from dltrain.data.spec import Data
from dltrain.datasets.npz import Npz
from dltrain.datasets.text import Text
from dltrain.datasets.text_table import TextTable
from dltrain.datasets.time_series import TimeSeries
from dltrain.models.convolutional import CNN, LeNet5
from dltrain.models.feedforward import MLP
from dltrain.models.gan import DCGAN
from dltrain.models.gpt import GPT
from dltrain.models.recurrent import Recurrent

LossFunction = Callable[[Tensor, Tensor], Tensor]

LR = 1e-3
HELD_OUT = 64  # test examples; evaluation is not part of the measured time
WINDOW, HORIZON = 96, 24
CONTEXT, ALPHABET = 64, string.ascii_letters + string.digits + " .\n"
CIFAR_BLOCKS: list[dict[str, Any]] = [
    {"channels": 32},
    {"channels": 64, "pool": "max"},
    {"channels": 128},
    {"channels": 128, "pool": "max"},
    {"channels": 256},
    {"channels": 256, "pool": "max"},
]


@dataclass(frozen=True)
class Workload:
    """One workload of the comparison.

    Args:
        batch_size: Examples per step.
        steps: Steps of one run, a few seconds on two cores.
        warmup: Steps at the start that are not measured.
        model: Function that returns the model that the other systems train.
        loss: Loss as a function of the model's output and the targets.
        write: Function that writes the file that dltrain reads.
        data: Function that returns dltrain's data set for that file; the other systems use its training split.
        overrides: Overrides for dltrain, in addition to those that `systems.overrides` adds.
        lr: Learning rate.
        keras_loss: Name of the loss for Keras: ``cross_entropy`` or ``mse``.
        bf16: Whether to compare bf16 as well.
        example: The workload's own training loop, which replaces the bare loop; only dltrain is compared with it.
    """

    batch_size: int
    steps: int
    warmup: int
    model: Callable[[], nn.Module]
    loss: LossFunction
    write: Callable[[Path], None]
    data: Callable[[str], Data]
    overrides: tuple[str, ...]
    lr: float = LR
    keras_loss: str = "cross_entropy"
    bf16: bool = False
    example: Callable[[Any], None] | None = None


def resnet18() -> nn.Module:
    from dltrain.models.torchvision_networks import TorchvisionNetwork  # torchvision takes seconds to import

    return TorchvisionNetwork(3, 32, 32, 10, "resnet18", stem="small")


def write_vectors(path: Path) -> None:
    generator = np.random.default_rng(0)
    write_arrays(path, generator.standard_normal((51_200 + HELD_OUT, 32), dtype=np.float32), generator)


def write_digits(path: Path) -> None:
    generator = np.random.default_rng(0)
    write_arrays(path, generator.integers(0, 256, (25_600 + HELD_OUT, 28, 28), dtype=np.uint8), generator)


def write_color_images(path: Path) -> None:
    generator = np.random.default_rng(0)
    write_arrays(path, generator.integers(0, 256, (4_000 + HELD_OUT, 32, 32, 3), dtype=np.uint8), generator)


def write_arrays(path: Path, x: np.ndarray, generator: np.random.Generator) -> None:
    y = generator.integers(0, 10, len(x))
    y[:10] = y[-10:] = np.arange(10)  # all classes are in the training and the test split
    np.savez(path, x_train=x[:-HELD_OUT], y_train=y[:-HELD_OUT], x_test=x[-HELD_OUT:], y_test=y[-HELD_OUT:])


def write_series(path: Path) -> None:
    steps = np.arange(13_600)
    noise = np.random.default_rng(0).standard_normal(len(steps)).cumsum()
    values = 10 * np.sin(steps * 2 * np.pi / 24) + 0.1 * noise
    path.write_text("value\n" + "".join(f"{value:.5f}\n" for value in values))


def write_text(path: Path) -> None:
    characters = np.random.default_rng(0).choice(list(ALPHABET), 30_000)
    path.write_text(ALPHABET + "".join(characters), encoding="utf-8")  # the vocabulary is the whole alphabet


def read_npz(path: str) -> Data:
    return Npz(path, validation=0.0)


def read_unnormalized_npz(path: str) -> Data:
    """Read images with pixels scaled to [0, 1] but not normalized."""
    return Npz(path, validation=0.0, mean=0.0, std=1.0)


def read_series(path: str) -> Data:
    return TimeSeries(path=path, window=WINDOW, horizon=HORIZON, validation=0.0, test=0.02)


def read_text(path: str) -> Data:
    return Text(path, context_length=CONTEXT, validation=0.0, test=0.02)


def read_texts(path: str) -> Data:
    return TextTable(path, validation=0.0, test=0.02)


def token_loss(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def series_loss(forecast: Tensor, targets: Tensor) -> Tensor:
    return F.mse_loss(forecast.view(targets.shape), targets)


ARRAYS = ("data=npz", "data.validation=0.0")
WORKLOADS = {
    "mlp": Workload(
        32,
        3_200,
        20,
        lambda: MLP(size=32, outputs=10, hidden_size=64, num_layers=1),
        F.cross_entropy,
        write_vectors,
        read_npz,
        ("model=mlp", "model.hidden_size=64", "model.num_layers=1", *ARRAYS),
    ),
    "lenet5": Workload(
        64,
        800,
        20,
        lambda: LeNet5(channels=1, height=28, width=28, outputs=10),
        F.cross_entropy,
        write_digits,
        read_npz,
        ("model=lenet5", *ARRAYS),
    ),
    "cnn": Workload(
        200,
        20,
        4,
        lambda: CNN(channels=3, height=32, width=32, outputs=10, blocks=CIFAR_BLOCKS, hidden_size=[1024, 512]),
        F.cross_entropy,
        write_color_images,
        read_npz,
        ("model=cnn", *ARRAYS),
        bf16=True,
    ),
    "resnet18": Workload(
        64,
        12,
        3,
        resnet18,
        F.cross_entropy,
        write_color_images,
        read_npz,
        ("model=resnet18", "model.stem=small", *ARRAYS),
        bf16=True,
    ),
    "lstm": Workload(
        64,
        200,
        20,
        lambda: Recurrent("lstm", features=1, outputs=HORIZON, hidden_size=64, num_layers=2),
        series_loss,
        write_series,
        read_series,
        (
            *("model=lstm", "model.hidden_size=64", "model.num_layers=2", "model.linear_skip=null"),
            *("data=timeseries", "optimizer=adam"),
            *(f"data.window={WINDOW}", f"data.horizon={HORIZON}", "data.validation=0.0", "data.test=0.02"),
        ),
        keras_loss="mse",
        bf16=True,
    ),
    "gpt": Workload(
        12,
        200,
        20,
        lambda: GPT(vocabulary=65, length=CONTEXT, outputs=65, hidden_size=128, num_layers=4, num_heads=4),
        token_loss,
        write_text,
        read_text,
        (
            *("model=gpt", "model.hidden_size=128", "model.num_layers=4", "model.num_heads=4", "data=text"),
            *(f"data.context_length={CONTEXT}", "data.validation=0.0", "data.test=0.02"),
        ),
    ),
    "lstm_text": Workload(
        16,
        200,
        20,
        lambda: Recurrent("lstm", 1, outputs=65, hidden_size=128, num_layers=2, vocabulary=65, each_step=True),
        token_loss,
        write_text,
        read_text,
        (
            *("model=lstm", "model.hidden_size=128", "data=text", f"data.context_length={CONTEXT}"),
            *("data.validation=0.0", "data.test=0.02"),
        ),
    ),
    "texts": Workload(
        64,
        100,
        10,
        ragged.TextClassifier,
        F.cross_entropy,  # unused: `example` computes its own loss
        ragged.write_texts,
        read_texts,
        (
            *("model=lstm", "model.bidirectional=true", "data=text_table", "data.text=text", "data.column=label"),
            *("data.validation=0.0", "data.test=0.02"),
        ),
        example=ragged.classify_texts,
    ),
    "vae": Workload(
        128,
        400,
        20,
        examples.VAE,
        F.cross_entropy,  # unused: `example` computes its own loss
        write_digits,
        read_unnormalized_npz,
        ("model=vae", "data.mean=0.0", "data.std=1.0", "optimizer=adam", *ARRAYS),
        example=examples.vae,
    ),
    "dcgan": Workload(
        64,
        40,
        5,
        lambda: DCGAN(channels=3, height=32, width=32, answers=1, latent=examples.LATENT, hidden_size=16),
        F.cross_entropy,  # unused: `example` computes its own loss
        write_color_images,
        read_npz,
        ("model=dcgan", "model.hidden_size=16", "optimizer=adam_gan", *ARRAYS),
        lr=2e-4,
        example=examples.dcgan,
        bf16=True,
    ),
}
SUFFIX = {"lstm": "csv", "gpt": "txt", "lstm_text": "txt", "texts": "csv"}


def data_path(folder: Path, name: str) -> Path:
    """Return the path of the file that dltrain reads."""
    return folder / f"{name}.{SUFFIX.get(name, 'npz')}"


def prepare(folder: Path, name: str) -> None:
    """Write the data file of a workload, and the prepared tensors of its training split."""
    workload = WORKLOADS[name]
    path = data_path(folder, name)
    workload.write(path)
    source = workload.data(str(path)).load().train
    batch = next(Batches(source, len(source)).epoch(0))
    fields = [key for key in ("inputs", "targets", "lengths") if key in batch]
    torch.save({key: batch[key].clone() for key in fields}, folder / f"{name}.pt")


def tensors(folder: Path, name: str) -> tuple[Tensor, Tensor]:
    """Return the tensors that the other systems train on."""
    loaded = torch.load(folder / f"{name}.pt", weights_only=True)
    return loaded["inputs"], loaded["targets"]
