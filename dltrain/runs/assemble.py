"""What a run is made of: configuration -> data, task, model, device, each of the facts the one before states."""

import dataclasses
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import nn

from dltrain.config import compose, instantiate, schema
from dltrain.config.compose import Job
from dltrain.data.spec import Data, Spec
from dltrain.errors import ConfigError, format_error
from dltrain.optim.optimizer import Optimizer, Regularization
from dltrain.tasks.base import Task, Turn
from dltrain.training import device as devices
from dltrain.training.device import Device
from dltrain.training.state import TrainerConfig

Facts = dict[str, Any]

# Stated by the task, not by the data.
TASK_FACTS = ("outputs", "each_step", "causal", "statistics", "answers", "visible", "lowest")


@dataclass
class Components:
    """What a run is made of, before anything is trained; its fingerprint is that of its data once they are read."""

    config: dict[str, Any]
    data: Data
    task: Task
    model: nn.Module
    device: Device
    trainer: TrainerConfig
    notes: tuple[str, ...] = ()
    fingerprint: dict[str, str] = dataclasses.field(default_factory=dict)


def build_components(job: Job) -> Components:
    """Build data, task and model, each of the facts the one before states, and put the model on the device.

    Raises:
        ConfigError: With the mistakes of all three, as far as they can be told apart.
    """
    settings = OmegaConf.to_container(job.config.device, resolve=True)
    problems: list[str] = []
    with collect_errors(problems):
        devices.find(settings["name"])  # type: ignore[call-overload, index]
    with collect_errors(problems):
        build_trainer_config(OmegaConf.to_container(job.config))  # type: ignore[arg-type]
    with collect_errors(problems):
        data: Data = instantiate.build(node(job, "data"), "data", job.allow)
    if problems:
        # Data that cannot be built have said in their YAML what they would state: is the pair wrong, too?
        declared: Facts = dict.fromkeys([*raw(job, "data").get("_provides_", []), *TASK_FACTS], True)
        for group in ("task", "model"):
            with collect_errors(problems):
                require_facts(job, group, declared)
        raise ConfigError(*problems)
    task, facts = build_task(job, data.spec)
    model = build_model(job, facts)
    device = devices.choose(**settings, model=model)  # type: ignore[arg-type]
    devices.prepare(device, job.config.seed)
    model = device.place(model)
    if device.compile:
        for part in callable_modules(model):
            part.compile()
    notes = tuple(note for note in (unused_regularization(job), devices.faster_precision(device, model)) if note)
    config = resolved(job, facts)
    return Components(config, data, task, model, device, build_trainer_config(config), notes)


def build_trainer_config(config: dict[str, Any]) -> TrainerConfig:
    """When things happen in a run.

    Raises:
        ConfigError: When nothing says when it ends.
    """
    trainer = config["trainer"]
    if trainer["epochs"] is None and trainer["max_steps"] is None:
        raise ConfigError(format_error("trainer.epochs", "a whole number", None, "trainer.max_steps is null, too."))
    log, evaluation, checkpoint = (
        schema.span(trainer[name]) or (1.0, "epoch") for name in ("log_every", "eval_every", "checkpoint_every")
    )
    return TrainerConfig(
        epochs=trainer["epochs"],
        max_steps=trainer["max_steps"],
        accumulate=trainer["accumulate"],
        log_every=log,
        eval_every=evaluation,
        checkpoint_every=checkpoint,
        early_stopping=config["regularization"]["early_stopping_patience"],
        max_minutes=trainer["max_minutes"],
        on_non_finite=trainer["on_non_finite"],
        shrink=trainer["on_oom"] == "shrink",
    )


def build_task(job: Job, spec: Spec) -> tuple[Task, Facts]:
    """The task for data with these facts, and the facts with what the task adds.

    Raises:
        ConfigError: When the data do not state what the task needs.
    """
    facts = spec_facts(spec)
    require_facts(job, "task", facts)
    task: Task = instantiate.build(node(job, "task", facts), "task", job.allow)
    return task, facts | task.facts()


def spec_facts(spec: Spec) -> Facts:
    """What data state, by name."""
    return {field.name: getattr(spec, field.name) for field in dataclasses.fields(spec)}


def build_model(job: Job, facts: Facts) -> nn.Module:
    """The model for these facts, with the weights that the seed names.

    Raises:
        ConfigError: When the facts lack what the model needs.
    """
    require_facts(job, "model", facts)
    torch.manual_seed(job.config.seed)
    return instantiate.build(node(job, "model", facts), "model", job.allow)


def callable_modules(model: nn.Module) -> list[nn.Module]:
    """The modules that a task calls: those that the model names in ``parts`` (``generator``, ``critic``), or itself."""
    return [getattr(model, name) for name in getattr(model, "parts", ())] or [model]


def node(job: Job, group: str, facts: Facts | None = None) -> dict[str, Any]:
    """The configuration of one group as plain Python, with the facts filled in."""
    whole = OmegaConf.create({}, flags={"allow_objects": True})
    whole.merge_with(job.config)
    whole.spec = facts or {}
    return OmegaConf.to_container(whole[group], resolve=True)  # type: ignore[return-value]


def raw(job: Job, group: str) -> dict[str, Any]:
    """The configuration of one group as plain Python, as YAML has it."""
    return OmegaConf.to_container(job.config[group])  # type: ignore[return-value]


def resolved(job: Job, facts: Facts) -> dict[str, Any]:
    """The whole configuration with everything filled in, as it is kept; functions are named by what they are."""
    groups = {str(key): node(job, str(key), facts) for key, value in job.config.items() if OmegaConf.is_dict(value)}
    plain = {key: value for key, value in job.config.items() if not OmegaConf.is_dict(value)}
    return yaml_values({**plain, **groups})


def yaml_values(value: Any) -> Any:
    """``value`` with only what YAML can say."""
    if isinstance(value, dict):
        return {str(k): yaml_values(v) for k, v in value.items() if k != "_provides_"}
    if OmegaConf.is_config(value) or isinstance(value, list | tuple):
        return [yaml_values(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else f"<{type(value).__name__}>"


@contextmanager
def collect_errors(problems: list[str]) -> Iterator[None]:
    """Gather the mistakes of several steps, to say them together."""
    try:
        yield
    except ConfigError as error:
        problems += error.problems


def require_facts(job: Job, group: str, facts: Facts) -> None:
    """Refuse a pair in which the data, or the task, do not state a fact that ``group`` needs.

    Raises:
        ConfigError: Saying which fact is missing and which options would fit.
    """
    needed = instantiate.needs(raw(job, group), group, job.allow)
    missing = [fact for fact in needed if facts.get(fact) is None]
    if not missing:
        return
    ours = f"{group}={job.choices[group]}"
    other = "task" if set(missing) & set(TASK_FACTS) else "data"
    theirs = f"{other}={job.choices[other]}"
    fit = f"Data that fit {ours}: {matching_data(job, needed)}"
    if other == "task":
        fit = f"It is made for {matching_task(job, group)}"
    elif group == "task" and (task := suggest_task(missing, facts)):
        fit = f"What {theirs} predicts are {task}. {fit}"
    lacking = f"{ours} needs {' and '.join(missing)}, which {theirs} does not state"
    raise ConfigError(f"{ours} {theirs}: {lacking}. {fit}.")


def suggest_task(missing: Iterable[str], facts: Facts) -> str | None:
    """What data answer instead of what a task asks for, and the task that asks for that."""
    others = {
        "classes": ("targets", "numbers: add task=regression"),
        "targets": ("classes", "classes: add task=classification"),
    }
    return next((said for fact, (there, said) in others.items() if fact in missing and facts.get(there)), None)


def matching_data(job: Job, needed: Iterable[str]) -> str:
    """The data that state these facts, as far as they are facts of data."""
    wanted = set(needed) - set(TASK_FACTS)
    options = compose.options("data", job.config_dirs).items()
    return " ".join(name for name, option in options if wanted <= set(option.get("_provides_", []))) or "none"


def matching_task(job: Job, group: str) -> str:
    """The task that an option names in its own YAML; others fit any task that answers something."""
    written = compose.options(group, job.config_dirs).get(job.choices[group], {}).get("defaults", [])
    tasks = [name for entry in written if isinstance(entry, dict) for key, name in entry.items() if "/task" in key]
    return f"task={tasks[0]}" if tasks else "a task that asks for an answer, such as classification"


def unused_regularization(job: Job) -> str | None:
    """Say which regularization was asked for that nothing in this run reads."""
    written = str([raw(job, group) for group in ("model", "task", "data", "optimizer")])
    names = [name for name in ("dropout", "label_smoothing") if job.config.regularization.get(name)]
    idle = [name for name in names if f"${{regularization.{name}}}" not in written]
    return f"nothing in this run reads regularization.{' or regularization.'.join(idle)}" if idle else None


def build_optimizer(job: Job, components: Components, turn: Turn, steps: int) -> Optimizer:
    """The optimizer of one turn, as YAML describes it."""
    described = dict(components.config["optimizer"])
    if turn.lr is not None:
        described["lr"] = turn.lr
    schedule = instantiate.build(described.pop("schedule"), "optimizer.schedule", job.allow)
    owned = {id(p) for p in turn.parameters}
    fields = {field.name for field in dataclasses.fields(Regularization)}
    regularization = Regularization(**{k: v for k, v in components.config["regularization"].items() if k in fields})
    return Optimizer(
        instantiate.partial(described, "optimizer", job.allow),
        turn.parameters,
        schedule,
        steps,
        regularization,
        components.device.scaler(),
        partial=any(p.requires_grad and id(p) not in owned for p in components.model.parameters()),
        skip=components.trainer.on_non_finite == "skip",
    )
