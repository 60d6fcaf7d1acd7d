"""Train with other libraries on the same model, tensors and batch size, with their default logging and progress bars.

Checkpoints, gradient clipping and evaluation are disabled, because dltrain and the bare loop do none of them during
the measured steps; only fastai validates after each epoch, on one batch.
"""

import importlib.util
from typing import Any

import torch
from systems import Task
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset
from workloads import LR

# System -> packages that it needs.
NEEDS = {
    "lightning": ("lightning",),
    "hf": ("transformers", "accelerate"),
    "fastai": ("fastai",),
    "keras": ("keras",),
}


def missing(system: str) -> list[str]:
    """Return the packages that a system needs but that are not installed."""
    return [name for name in NEEDS.get(system, ()) if importlib.util.find_spec(name) is None]


def lightning(task: Task) -> None:
    """Train with Lightning and its TensorBoard logger; the loss is logged as in Lightning's guides."""
    from lightning import LightningModule, Trainer

    loss_of = task.workload.loss

    class Module(LightningModule):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model = model

        def training_step(self, batch: list[Tensor], index: int) -> Tensor:
            inputs, targets = batch
            loss = loss_of(self.model(inputs), targets)
            self.log("train_loss", loss, prog_bar=True)
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), lr=LR)

    task.stamp_torch()
    trainer = Trainer(
        max_steps=task.steps, accelerator="cpu", default_root_dir=task.scratch, enable_checkpointing=False
    )
    loader = DataLoader(task.dataset(), batch_size=task.workload.batch_size, shuffle=True)
    trainer.fit(Module(task.model()), loader)


def hf(task: Task) -> None:
    """Train with Hugging Face's Trainer and AdamW without weight decay, which equals Adam."""
    from transformers import Trainer, TrainingArguments

    loss_of = task.workload.loss

    class Module(nn.Module):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model = model

        def forward(self, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
            outputs = self.model(inputs)
            return {"loss": loss_of(outputs, labels), "logits": outputs}

    class Rows(Dataset[Any]):
        def __init__(self, rows: TensorDataset) -> None:
            self.inputs, self.labels = rows.tensors

        def __len__(self) -> int:
            return len(self.inputs)

        def __getitem__(self, index: int) -> dict[str, Tensor]:
            return {"inputs": self.inputs[index], "labels": self.labels[index]}

    task.stamp_torch()
    arguments = TrainingArguments(
        output_dir=str(task.scratch),
        max_steps=task.steps,
        per_device_train_batch_size=task.workload.batch_size,
        learning_rate=LR,
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        save_strategy="no",
        use_cpu=True,
    )
    Trainer(Module(task.model()), arguments, train_dataset=Rows(task.dataset())).train()


def fastai(task: Task) -> None:
    """Train with fastai's Learner and torch's Adam; fastai validates after each epoch, here on one batch."""
    from fastai.data.core import DataLoaders
    from fastai.learner import Learner
    from fastai.optimizer import OptimWrapper

    importlib.import_module("fastai.callback.progress")  # adds the progress bar to fastai's default callbacks

    def adam(parameters: Any, **options: Any) -> OptimWrapper:
        return OptimWrapper(parameters, torch.optim.Adam, **options)

    task.stamp_torch()
    rows, epochs = whole_epochs(task)
    held = Subset(rows, range(min(len(rows), task.workload.batch_size)))
    loaders = DataLoaders.from_dsets(rows, held, bs=task.workload.batch_size, num_workers=0, device=torch.device("cpu"))
    learner = Learner(loaders, task.model(), loss_func=task.workload.loss, opt_func=adam, path=task.scratch)
    learner.fit(epochs, LR)


def keras(task: Task) -> None:
    """Train the same module with Keras' torch backend and Keras' own Adam."""
    import keras as k

    class Adam(k.optimizers.Adam):
        def apply(self, *args: Any, **kwargs: Any) -> None:
            super().apply(*args, **kwargs)
            task.stamp()

    class Module(k.Model):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.wrapped = k.layers.TorchModuleWrapper(module)

        def call(self, inputs: Tensor) -> Tensor:
            return self.wrapped(inputs)

    def squared(targets: Tensor, forecast: Tensor) -> Tensor:
        return (forecast.view(targets.shape) - targets).square().mean()

    losses = {"mse": squared, "cross_entropy": k.losses.SparseCategoricalCrossentropy(from_logits=True)}
    rows, epochs = whole_epochs(task)
    model = Module(task.model())
    model.compile(optimizer=Adam(LR), loss=losses[task.workload.keras_loss])
    model.fit(DataLoader(rows, batch_size=task.workload.batch_size, shuffle=True), epochs=epochs)


def whole_epochs(task: Task) -> tuple[TensorDataset, int]:
    """Return the rows and the number of epochs for at least ``task.steps`` steps, for trainers that count epochs."""
    rows, wanted = task.dataset(), task.steps * task.workload.batch_size
    if wanted >= len(rows):
        return rows, -(-task.steps // (len(rows) // task.workload.batch_size))  # fastai drops a smaller last batch
    return TensorDataset(*(part[:wanted] for part in rows.tensors)), 1
