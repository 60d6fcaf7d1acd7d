"""Transfer learning: freezing and unfreezing parts of a model, and learning rates of the loaded weights."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from torch import nn

from dltrain.errors import ConfigError, format_error, suggest
from dltrain.tasks.base import Stage, Turn

AUTO = "auto"
WEIGHTS = "a run folder, a .safetensors or .pt file of weights, or torchvision:NAME"
MAX_NAMED = 6  # maximum number of weights named in a message


@dataclass(frozen=True)
class Transfer:
    """The group ``transfer`` of a configuration.

    Args:
        weights: Source of the initial weights; None for random weights.
        embeddings: File of word vectors for the token embedding; None for random vectors.
        freeze: Names or patterns of modules or weights, or ``auto`` for all loaded weights except those of the output
            layers.
        unfreeze_at: Epoch from which frozen modules are trained, or one epoch per entry of ``freeze``; None to never
            unfreeze them.
        lr_scale: Learning rate factor of the loaded weights, or one factor per entry of ``freeze``.
    """

    weights: str | None = None
    embeddings: str | None = None
    freeze: Sequence[str] | str = ()
    unfreeze_at: int | Sequence[int] | None = None
    lr_scale: float | Sequence[float] = 1.0

    @property
    def needs_loaded(self) -> bool:
        """Whether the frozen parameters or learning rates depend on which weights were loaded."""
        return self.freeze == AUTO or (not isinstance(self.lr_scale, Sequence) and self.lr_scale != 1)


@dataclass(frozen=True)
class Loaded:
    """Record of the loaded initial weights of a model: source, names, and which weights were not loaded.

    Args:
        origin: Source of the weights.
        sha256: Hash of the file.
        names: Weights and buffers that were loaded.
        new: Reason for each weight that was not loaded, by the weight's name.
        unused: Names in the source that the model does not have.
        heads: Weights in `names` whose shape depends on the number of outputs.
        note: A line for the user.
    """

    origin: str
    sha256: str
    names: list[str]
    new: dict[str, str] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)
    heads: list[str] = field(default_factory=list)
    note: str = ""

    def describe(self) -> list[str]:
        """Return lines that count the loaded weights and name new and unused weights."""
        lines = [f"initial weights: {len(self.names)} of {len(self.names) + len(self.new)} from {self.origin}"]
        lines += [f"  {self.note}"] * bool(self.note)
        reasons: dict[str, list[str]] = {}
        for name, reason in self.new.items():
            reasons.setdefault(reason, []).append(name)
        lines += [f"  new: {list_names(names)}: {reason}" for reason, names in reasons.items()]
        return lines + [f"  not in this model: {list_names(self.unused)}"] * bool(self.unused)


def list_names(names: list[str]) -> str:
    """Return the first names of a list, and how many more there are."""
    more = [f"and {len(names) - MAX_NAMED} more"] * (len(names) > MAX_NAMED)
    return " ".join([*names[:MAX_NAMED], *more])


class _Part(NamedTuple):
    """Parameters that are trained from the same epoch on, with the same learning rate factor."""

    parameters: list[nn.Parameter]
    until: float  # epoch from which they are trained: 0 if they are never frozen, infinity if they stay frozen
    rate: float


def build_transfer(node: Mapping[str, Any], option: str) -> Transfer:
    """Return the settings of the group ``transfer``; `option` is the name of the selected option."""
    transfer = Transfer(**node)
    errors = []
    if not isinstance(transfer.weights, str | None):
        errors.append(format_error("transfer.weights", WEIGHTS, transfer.weights))
    if not isinstance(transfer.embeddings, str | None):
        errors.append(format_error("transfer.embeddings", "a text file of word vectors", transfer.embeddings))
    if transfer.embeddings is not None and transfer.weights is not None:
        reason = "the weights of transfer.weights contain an embedding"
        errors.append(f"transfer.embeddings: not supported with transfer.weights because {reason}")
    if option != "none" and transfer.weights is None and transfer.embeddings is None:
        errors.append(format_error("transfer.weights", WEIGHTS, None, f"transfer={option} needs initial weights."))
    modules = transfer.freeze if isinstance(transfer.freeze, list | tuple) else None
    if modules is None and transfer.freeze != AUTO:
        errors.append(format_error("transfer.freeze", "auto or a list of modules", transfer.freeze))
    entries = 1 if modules is None else len(modules)
    for name, value in (("unfreeze_at", transfer.unfreeze_at), ("lr_scale", transfer.lr_scale)):
        if isinstance(value, Sequence) and len(value) != entries:
            expected = f"a number, or a list with one number per entry of transfer.freeze ({entries})"
            errors.append(format_error(f"transfer.{name}", expected, value))
    if errors:
        raise ConfigError(*errors)
    return transfer


def plan(
    stages: list[Stage],
    model: nn.Module,
    transfer: Transfer,
    loaded: Collection[str],
    epochs: int | None,
    heads: Collection[str] = (),
) -> list[Stage]:
    """Remove frozen parameters from the stages of a task, and split a stage at each epoch that unfreezes modules.

    Args:
        loaded: Names of the initial weights that were loaded.
        epochs: Epochs of a stage that does not set its own number.
        heads: Output weights in `loaded`; ``freeze: auto`` does not freeze them.
    """
    parts = _parts(model, transfer, loaded, heads)
    rates = {p: part.rate for part in parts for p in part.parameters if part.rate != 1}
    borders = sorted({part.until for part in parts if 0 < part.until < float("inf")})
    if borders and len(stages) > 1:
        raise ConfigError("transfer.unfreeze_at: not supported because the training of this task has several stages")
    if not borders:
        return [_without(stage, parts, 0, rates) for stage in stages]
    (stage,) = stages
    last = epochs if stage.epochs is None else stage.epochs
    if last is not None and borders[-1] >= last:
        expected = f"at most {last - 1}, because training has {last} epochs"
        raise ConfigError(format_error("transfer.unfreeze_at", expected, f"{borders[-1]:.0f}"))
    starts, ends = [0, *map(int, borders)], [*map(int, borders), last]
    return [
        replace(
            _without(stage, parts, start, rates),
            name=f"{stage.name} from epoch {start}",
            epochs=None if end is None else end - start,
        )
        for start, end in zip(starts, ends, strict=True)
    ]


def _parts(model: nn.Module, transfer: Transfer, loaded: Collection[str], heads: Collection[str]) -> list[_Part]:
    """Return disjoint groups of loaded parameters, with the epochs for which they are frozen and their rate factor."""
    loaded_parameters = [p for name, p in model.named_parameters() if name in loaded]
    never = 0 if transfer.freeze == () else float("inf")
    until = _each(never if transfer.unfreeze_at is None else transfer.unfreeze_at, transfer.freeze)
    if transfer.freeze == AUTO:
        (rate,) = _each(transfer.lr_scale, AUTO)
        outputs = [p for name, p in model.named_parameters() if name in heads]
        output_ids = set(map(id, outputs))
        others = [p for p in loaded_parameters if id(p) not in output_ids]
        return [_Part(others, until[0], rate), _Part(outputs, 0, rate)]
    found: list[_Part] = []
    listed = isinstance(transfer.lr_scale, Sequence)
    rates = _each(transfer.lr_scale if listed else 1.0, transfer.freeze)
    scale = 1.0 if isinstance(transfer.lr_scale, Sequence) else transfer.lr_scale
    loaded_ids = set(map(id, loaded_parameters))
    taken: set[int] = set()
    for pattern, epoch, rate in zip(transfer.freeze, until, rates, strict=True):
        chosen = [p for p in _matching(model, pattern) if id(p) not in taken]
        taken |= set(map(id, chosen))
        new = [p for p in chosen if id(p) not in loaded_ids]
        found += [_Part([p for p in chosen if id(p) in loaded_ids], epoch, rate * scale), _Part(new, epoch, rate)]
    return [*found, _Part([p for p in loaded_parameters if id(p) not in taken], 0, scale)]


def _each(value: Any, entries: Sequence[str] | str) -> list[Any]:
    """Return one value per entry of ``transfer.freeze``."""
    if isinstance(value, Sequence):
        return list(value)
    return [value] * (1 if isinstance(entries, str) else len(entries))


def _matching(model: nn.Module, pattern: str) -> list[nn.Parameter]:
    """Return the parameters whose name, or the name of a module that contains them, matches `pattern`."""
    found, names = [], dict[str, None]()
    for name, parameter in model.named_parameters():
        parts = name.split(".")
        prefixes = [".".join(parts[:count]) for count in range(1, len(parts) + 1)]
        names |= dict.fromkeys(prefixes[:-1])
        if any(fnmatchcase(prefix, pattern) for prefix in prefixes):
            found.append(parameter)
    if not found:
        hint = suggest(pattern, names) or f"The modules are: {' '.join(names)}."
        raise ConfigError(format_error("transfer.freeze", "modules of the model", pattern, hint))
    return found


def _without(stage: Stage, parts: list[_Part], epoch: int, rates: Mapping[nn.Parameter, float]) -> Stage:
    """Return a copy of a stage without the parameters that are frozen at an epoch."""
    frozen = {id(p) for part in parts for p in part.parameters if epoch < part.until}
    turns = []
    for turn in stage.turns:
        owned = [p for p in turn.parameters if id(p) not in frozen]
        if not owned:
            raise ConfigError(_nothing_learns(stage, turn))
        turns.append(replace(turn, parameters=owned, rates={p: rates[p] for p in owned if p in rates}))
    return replace(stage, turns=turns)


def _nothing_learns(stage: Stage, turn: Turn) -> str:
    of_turn = f" of the {turn.name}" if len(stage.turns) > 1 else ""
    hint = "Name the modules to freeze: transfer.freeze=[MODULE,...]"
    return format_error("transfer.freeze", f"at least one trainable parameter{of_turn}", "none", hint)
