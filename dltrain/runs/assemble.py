"""Build the components of a run from its configuration: the data, then the task, then the model."""

import dataclasses
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from dltrain.config import instantiate, schema
from dltrain.config.compose import Job
from dltrain.config.facts import Fact, fill_facts
from dltrain.data.spec import Data, Fitted, Spec
from dltrain.errors import CheckpointError, ConfigError, OutOfMemory, enumerate_names, format_error
from dltrain.optim.optimizer import Optimizer
from dltrain.optim.regularization import Regularization
from dltrain.runs import compatibility
from dltrain.runs.compatibility import Facts
from dltrain.storage import run_files
from dltrain.storage.checkpoint_format import STATE_ERRORS
from dltrain.tasks.base import Stage, Task, Turn
from dltrain.training import device as devices
from dltrain.training import precision
from dltrain.training.device import Device
from dltrain.training.state import TrainerConfig
from dltrain.training.transfer import Loaded, Transfer, build_transfer, plan


@contextmanager
def memory_errors() -> Iterator[None]:
    """Convert out-of-memory errors to `OutOfMemory`; for use as a context manager or a decorator."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not devices.is_out_of_memory(error):
            raise
        tried = re.search(r"tried to allocate [\d.]+ \w+|sizes=.*", str(error), re.IGNORECASE)
        what = tried[0] if tried else str(error).split("\n")[0]
        raise OutOfMemory(f"out of memory: {what}. Use a smaller model or less data.") from error


CLASSES = ("classes", "class_names")  # spec values that tasks refer to if their targets are classes


@dataclass
class Components:
    """Components of a run."""

    config: dict[str, Any]  # the content of ``config.yaml``, with all spec values filled in
    allow: tuple[str, ...]  # prefixes of modules that the command allows in ``_target_``
    data: Data  # not loaded yet
    task: Task
    model: nn.Module  # on its device, with its initial weights
    device: Device
    trainer: TrainerConfig
    transfer: Transfer
    loaded: Loaded | None = None  # record of the initial weights that were loaded
    notes: tuple[str, ...] = ()
    fingerprint: dict[str, str] = dataclasses.field(default_factory=dict)  # of each split, once the data are loaded
    asks_for_classes: bool = True  # the task uses `CLASSES`; otherwise, targets that could be classes stay numbers
    fitted: Fitted | None = None  # the fitted state of the data: stored by an earlier run, or to be stored
    description: list[str] = dataclasses.field(default_factory=list)  # lines about the data, once they are loaded

    def stages(self) -> list[Stage]:
        """Return the task's stages without frozen parameters, split at epochs that unfreeze modules; see `plan`."""
        names, heads = (self.loaded.names, self.loaded.heads) if self.loaded else ([], [])
        return plan(self.task.stages(self.model), self.model, self.transfer, names, self.trainer.epochs, heads)

    def build_optimizer(self, turn: Turn, steps: int) -> Optimizer:
        """Return the optimizer of a turn (one of the updates of a step) for a stage of `steps` steps."""
        node = dict(self.config["optimizer"])
        if turn.lr is not None:
            node["lr"] = turn.lr
        schedule = instantiate.build(node.pop("schedule"), "optimizer.schedule", self.allow)
        names = {field.name for field in dataclasses.fields(Regularization)}
        regularization = {name: value for name, value in self.config["regularization"].items() if name in names}
        owned = {id(p) for p in turn.parameters}
        return Optimizer(
            instantiate.partial(node, "optimizer", self.allow),
            turn.parameters,
            schedule,
            steps,
            Regularization(**regularization),
            self.device.make_scaler(),
            only_own=any(p.requires_grad and id(p) not in owned for p in self.model.parameters()),
            rates=turn.rates,
            skip=self.trainer.on_non_finite == "skip",
        )


@memory_errors()
def build_components(job: Job, fitted: Fitted | None = None, data: Data | None = None) -> Components:
    """Build data, task and model, and move the model to the device; report errors of several groups together."""
    config, errors = job.resolved, list[str]()
    with _collect_errors(errors):
        devices.resolve_device(config["device"]["name"])
    with _collect_errors(errors):
        trainer = _build_trainer_config(config)
    with _collect_errors(errors):
        transfer = build_transfer(config["transfer"], job.choices["transfer"])
    with _collect_errors(errors):
        data = build_data(job, fitted) if data is None else data
    if errors or data is None:
        # The spec values declared in YAML are enough to report unsuitable options together with the other errors.
        declared: Facts = dict.fromkeys([*config["data"].get("_provides_", []), *compatibility.task_facts(job)], True)
        for group in ("task", "model"):
            with _collect_errors(errors):
                compatibility.check_facts(job, group, declared)
        raise ConfigError(*errors)
    if missing := [name for name in ("spec", "batch_size", "workers") if not hasattr(data, name)]:
        expected = "a class with the attributes spec, batch_size and workers"
        got = f"{type(data).__name__} without {enumerate_names(missing)}"
        raise ConfigError(format_error("data._target_", expected, got))
    task, facts = build_task(job, data.spec)
    model = build_model(job, facts)
    device = devices.select_device(**config["device"], model=model)
    devices.configure_process(device, config["seed"])
    model = device.place(model)
    precision_notes = (precision.use_fp32_where_needed(model, device), precision.advise(model, device))
    if device.compile:
        called = [getattr(model, name) for name in getattr(model, "parts", ())]  # modules that the task calls directly
        for module in called or [model]:
            module.compile()
    notes = (*compatibility.unused_settings(job), *precision_notes, getattr(model, "speed_note", None))
    filled = _yaml_values(fill_facts(config, facts))
    classes = any(isinstance(value, Fact) and value.name in CLASSES for value in config["task"].values())
    return Components(
        filled,
        job.allow,
        data,
        task,
        model,
        device,
        trainer,
        transfer,
        notes=tuple(note for note in notes if note),
        asks_for_classes=classes,
        fitted=fitted,
    )


def build_data(job: Job, fitted: Fitted | None = None) -> Data:
    """Return the data of a job, with the state fitted in an earlier run if it is given.

    Raises:
        ConfigError: An argument or a file is wrong.
        CheckpointError: `fitted` does not fit these data.
    """
    if fitted is None:
        return instantiate.build(job.resolved["data"], "data", job.allow)
    try:
        return instantiate.build(job.resolved["data"], "data", job.allow, fitted=fitted)
    except STATE_ERRORS as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise CheckpointError(f"{run_files.FITTED}: rejected because it does not fit these data: {reason}") from error


def _build_trainer_config(config: dict[str, Any]) -> TrainerConfig:
    trainer = config["trainer"]
    if trainer["epochs"] is None and trainer["max_steps"] is None:
        hint = "trainer.max_steps is null too."
        raise ConfigError(format_error("trainer.epochs", "a whole number of at least 1", "null", hint))
    names = ("epochs", "max_steps", "accumulate", "max_minutes", "on_non_finite", "log_media")
    arguments: dict[str, Any] = {name: trainer[name] for name in names}
    for name in ("log_every", "eval_every", "checkpoint_every"):
        arguments[name] = schema.parse_interval(trainer[name]) or (1.0, "epoch")
    return TrainerConfig(
        **arguments,
        early_stopping_patience=config["regularization"]["early_stopping_patience"],
        split_on_oom=trainer["on_oom"] == "shrink",
    )


def build_task(job: Job, spec: Spec) -> tuple[Task, Facts]:
    """Return the task for these data, and the spec values of the data and the task."""
    facts = vars(spec)
    compatibility.check_facts(job, "task", facts)
    node = fill_facts(job.resolved["task"], facts, "task")
    task: Task = instantiate.build(node, "task", job.allow)
    return task, facts | task.facts()


def build_model(job: Job, facts: Facts) -> nn.Module:
    """Return the model for these spec values, with weights initialized from the run's seed."""
    compatibility.check_facts(job, "model", facts)
    node = fill_facts(job.resolved["model"], facts, "model")
    torch.manual_seed(job.resolved["seed"])
    return instantiate.build(node, "model", job.allow)


def _yaml_values(config: dict[str, Any]) -> dict[str, Any]:
    """Convert a configuration to the content of ``config.yaml``.

    Groups come last, ``_provides_`` is left out, and values that YAML cannot hold are replaced by their type names.
    """

    def convert(value: Any) -> Any:
        if isinstance(value, dict):
            return {str(key): convert(item) for key, item in value.items() if key != "_provides_"}
        if isinstance(value, list | tuple):
            return [convert(item) for item in value]
        return value if value is None or isinstance(value, bool | int | float | str) else f"<{type(value).__name__}>"

    return convert(dict(sorted(config.items(), key=lambda item: isinstance(item[1], dict))))


@contextmanager
def _collect_errors(errors: list[str]) -> Iterator[None]:
    """Add the messages of a `ConfigError` to `errors` instead of raising it, to report several errors together."""
    try:
        yield
    except ConfigError as error:
        errors += error.problems
