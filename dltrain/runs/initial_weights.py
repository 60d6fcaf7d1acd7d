"""Load the initial weights of a new run from another run or a file, and record which weights were loaded."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dltrain.config.compose import Job
from dltrain.data.tokens import Tokens
from dltrain.errors import CheckpointError, ConfigError, format_error, shorten
from dltrain.runs.assemble import Components, build_model
from dltrain.runs.weight_files import TORCHVISION, InitialWeights, output_names, read_weights, token_texts
from dltrain.runs.word_embeddings import load_embeddings
from dltrain.storage import run_files, safe_read
from dltrain.training.transfer import Loaded, list_names

KEY = "transfer.weights"
OUTPUTS = ("outputs", "pixel_outputs", "object_outputs")  # spec values for the number of outputs of a model
Facts = Mapping[str, Any]


def prepare(components: Components, job: Job, begun: Path | None) -> Loaded | None:
    """Load the initial weights of a new run and return their record; None without initial weights.

    For a run with a checkpoint, only read the record, or return None if the training stages do not depend on it.

    Args:
        begun: Folder of a run with a checkpoint; None for a new run.
    """
    transfer, model = components.transfer, components.model
    if transfer.weights is None and transfer.embeddings is None:
        return None
    if begun is not None:
        return read_record(begun, model) if transfer.needs_loaded else None
    facts = vars(components.data.spec) | components.task.facts()

    def rebuild(facts: Facts) -> nn.Module:
        with torch.device("meta"), torch.random.fork_rng(devices=[]):
            return build_model(job, dict(facts))

    if transfer.weights is None:
        return load_embeddings(
            model, facts.get("tokens"), _dependent(model, rebuild, facts)[1], str(transfer.embeddings)
        )
    found = read_weights(transfer.weights, job.allow)
    loaded = load(model, rebuild, facts, components.config["task"], found)
    if transfer.weights.startswith(TORCHVISION):
        from dltrain.datasets.pretrained import compare_normalization  # imports torchvision

        name = transfer.weights.removeprefix(TORCHVISION)
        return replace(loaded, note=compare_normalization(name, components.config["data"]))
    return loaded


def load(
    model: nn.Module, rebuild: Callable[[Facts], nn.Module], facts: Facts, task: Facts, found: InitialWeights
) -> Loaded:
    """Copy weights into a model if their name, shape and meaning match, and return a record of them.

    A model may have a method ``adapt_weights(tensors)``, which adapts their names and shapes to this model.
    Weights whose shape depends on the number of outputs are copied only if the outputs have the same names. Weights
    whose shape depends on the vocabulary require the same tokens.

    Args:
        rebuild: Function that builds the same model for other spec values, on the meta device.
        facts: Spec values of the data and the task.
        task: Configuration of the task with its spec values filled in.

    Raises:
        ConfigError: The weights may be for other tokens, or none of them fits.
    """
    heads, embeddings = _dependent(model, rebuild, facts)
    if adapt := getattr(model, "adapt_weights", None):
        found = replace(found, tensors=adapt(found.tensors))
    _check_tokens(embeddings, facts.get("tokens"), found)
    _check_tokens(_of_target(model, rebuild, facts), facts.get("target_tokens"), found, target=True)
    reinitialized = dict.fromkeys(heads, _other_outputs(output_names(task), found))
    state, names, new = model.state_dict(), list[str](), dict[str, str]()
    for name, value in state.items():
        reason = reinitialized.get(name) or _misfit(value, found.tensors.get(name))
        if reason:
            new[name] = reason
        elif isinstance(value, Tensor):
            value.copy_(found.tensors[name])
            names.append(name)
    if not names:
        first = ": ".join(next(iter(new.items()), ("", "")))
        reason = f"None of the {len(found.tensors)} loaded weights fits. First weight of the model: {first}."
        raise ConfigError(format_error(KEY, "weights of this model", found.origin, reason))
    unused = [name for name in found.tensors if name not in state]
    return Loaded(found.origin, found.sha256, names, new, unused, [name for name in names if name in heads])


def _misfit(value: Any, there: Tensor | None) -> str:
    """Return why a weight cannot be copied, or an empty string."""
    if there is None:
        return "not in the loaded weights"
    if value.shape != there.shape:
        return f"shape {tuple(value.shape)} here, {tuple(there.shape)} in the loaded weights"
    return ""


def _dependent(model: nn.Module, rebuild: Callable[[Facts], nn.Module], facts: Facts) -> tuple[set[str], set[str]]:
    """Return the weights whose shape depends on the outputs, and the weights whose shape depends on the tokens.

    If the outputs are tokens, the first set is empty.
    """
    outputs, tokens = facts.get("outputs"), facts.get("tokens")
    more_outputs = {name: facts[name] + 1 for name in OUTPUTS if isinstance(facts.get(name), int)}
    known = {name: facts.get(name) for name in ("tokens", "target_tokens")}
    more_tokens = {name: replace(each, size=each.size + 1) for name, each in known.items() if isinstance(each, Tokens)}
    if tokens is not None and outputs == tokens.size and facts.get("each_step"):  # the outputs are tokens
        return set(), _changed(model, rebuild, {**facts, **more_outputs, **more_tokens})
    heads = _changed(model, rebuild, {**facts, **more_outputs}) if more_outputs else set()
    return heads, _changed(model, rebuild, {**facts, **more_tokens}) if more_tokens else set()


def _of_target(model: nn.Module, rebuild: Callable[[Facts], nn.Module], facts: Facts) -> set[str]:
    """Return the weights whose shape depends on the vocabulary of the targets; none if the targets are not text."""
    if not isinstance(facts.get("target_outputs"), int):
        return set()
    return _changed(model, rebuild, {**facts, "target_outputs": facts["target_outputs"] + 1})


def _changed(model: nn.Module, rebuild: Callable[[Facts], nn.Module], facts: Facts) -> set[str]:
    other = rebuild(facts).state_dict()
    return {name for name, value in model.state_dict().items() if name in other and value.shape != other[name].shape}


def _check_tokens(embeddings: set[str], tokens: Tokens | None, found: InitialWeights, target: bool = False) -> None:
    """Reject weights that may be for other tokens: vocabularies of the same size can have different tokens.

    Args:
        embeddings: Weights that depend on the tokens.
        tokens: Vocabulary of this run.
        target: Whether these are the tokens of the targets.
    """
    if not any(name in found.tensors for name in embeddings):
        return
    here, there = token_texts(tokens), found.target_tokens if target else found.tokens
    if here is not None and here == there:
        return
    expected = f"weights for the same tokens in {list_names(sorted(embeddings))}"
    if there is None:
        hint = "The tokens of these weights cannot be determined. Use a run folder"
        hint += "." if target else ", or put the file tokenizer.json into the folder of the weights."
    elif here is None:
        hint = "The tokens of this run's data cannot be decoded, so they cannot be compared."
    else:
        other = sum(one != two for one, two in zip(here, there, strict=False)) + abs(len(here) - len(there))
        hint = f"{other} of {max(len(here), len(there))} tokens differ."
    raise ConfigError(format_error(KEY, expected, found.origin, hint))


def _other_outputs(here: list[str] | None, found: InitialWeights) -> str:
    """Return why the output weights are reinitialized, or an empty string if the outputs have the same names."""
    if here is not None and here == found.outputs:
        return ""
    there = "unknown" if found.outputs is None else shorten(" ".join(found.outputs))
    return f"different outputs: {shorten(' '.join(here or ['unknown']))} here, {there} in the loaded weights"


def read_record(path: Path, model: nn.Module) -> Loaded:
    """Return the record of the weights that were loaded when the run in a folder began.

    Raises:
        CheckpointError: The file is missing or damaged; without it, the frozen weights are unknown.
    """
    record = safe_read.read_mapping(path / run_files.TRANSFER)
    names = record.get("names")
    if not isinstance(names, list) or not set(map(str, names)) <= set(model.state_dict()):
        file = path / run_files.TRANSFER
        raise CheckpointError(
            f"{file}: missing or damaged. It names the initial weights of this run, which determine what is frozen"
        )
    heads = record.get("heads")  # absent in runs of earlier versions, which also froze loaded heads
    heads = [name for name in names if name in heads] if isinstance(heads, list) else []
    return Loaded(str(record.get("origin")), str(record.get("sha256")), names, heads=heads)
