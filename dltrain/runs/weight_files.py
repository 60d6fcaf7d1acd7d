"""Read initial weights, and the names of their outputs and tokens, from a run folder, a file or torchvision."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor
from yaml import YAMLError

from dltrain import redaction
from dltrain.config import instantiate
from dltrain.data.spec import Spec
from dltrain.data.tokens import Tokens
from dltrain.datasets.tokenizer_file import read_tokenizer
from dltrain.errors import CheckpointError, ConfigError, format_error
from dltrain.runs import job as jobs
from dltrain.storage import fitted, run_files, safe_read
from dltrain.storage.checkpoint_format import describe_load_error, effective_weights, load_file
from dltrain.storage.checkpoints import Checkpoints
from dltrain.training.transfer import WEIGHTS

KEY = "transfer.weights"
TORCHVISION = "torchvision:"
# Pairs of task keys: the key for the names of the outputs, and the key for their number.
OUTPUT_NAMES = (
    *[("class_names", "classes"), ("pixel_class_names", "pixel_classes"), ("object_class_names", "object_classes")],
    ("tag_names", "tags"),
    *[("target_names", "targets"), ("target_names", "columns")],
)
WRAPPERS = ("state_dict", "model")  # keys under which files of other programs store the weights
TOKENIZER = "tokenizer.json"  # file next to published weights, with their vocabulary
PREFIX = "module."  # prefix that torch's DistributedDataParallel adds to names


@dataclass(frozen=True)
class InitialWeights:
    """Named weights, with the names of the model's outputs and tokens if known.

    Args:
        origin: Source of the weights, for messages.
        outputs: Names of the outputs, such as classes; None if unknown.
        tokens, target_tokens: The vocabularies of inputs and targets as text, one entry per token; None if unknown.
        sha256: Hash of the file.
    """

    tensors: Mapping[str, Tensor]
    origin: str
    sha256: str
    outputs: list[str] | None = None
    tokens: list[str] | None = None
    target_tokens: list[str] | None = None


def read_weights(name: str, allow: tuple[str, ...]) -> InitialWeights:
    """Read the weights that ``transfer.weights`` names.

    Raises:
        ConfigError: The source does not exist, cannot be loaded, or contains no named tensors.
    """
    if name.startswith(TORCHVISION):
        from dltrain.datasets.pretrained import download  # imports torchvision

        return _read_file(download(name.removeprefix(TORCHVISION)), name)
    path = Path(name).expanduser()
    if path.is_dir():
        return _read_run(path, run_files.BEST, allow)
    if path.parent.name == run_files.CHECKPOINTS and (path.parents[1] / run_files.JOB).is_file():
        return _read_run(path.parents[1], path.name, allow)
    if not path.is_file():
        raise ConfigError(format_error(KEY, WEIGHTS, name, "It does not exist."))
    return _read_file(path, name)


def _read_run(path: Path, checkpoint: str, allow: tuple[str, ...]) -> InitialWeights:
    """Read the weights of a run's checkpoint: the moving average if it has one."""
    path = jobs.find_run(str(path))
    saved = Checkpoints(path)
    try:
        state = saved.load(checkpoint)
    except CheckpointError as error:
        raise ConfigError(*(f"{KEY}: {line}" for line in error.problems)) from error
    file = saved.path / saved.resolve(checkpoint)
    origin = f"{path} ({file.name}, step {state['loop']['step']:,})"
    outputs = output_names(_resolved_task(path))
    return InitialWeights(effective_weights(state), origin, _hash(file), outputs, *_tokens_of_run(path, allow))


def _resolved_task(path: Path) -> dict[str, Any]:
    try:
        config = yaml.safe_load(safe_read.read_yaml_text(path / run_files.CONFIG))
    except (OSError, ValueError, YAMLError):
        return {}
    return safe_read.get_mapping(config, "task") if isinstance(config, dict) else {}


def output_names(task: Mapping[str, Any]) -> list[str] | None:
    """Return the names of a task's outputs, or their indices if only their number is known; None if neither is known.

    Args:
        task: The task's resolved configuration.
    """
    for names, count in OUTPUT_NAMES:
        if isinstance(task.get(names), list | tuple) and redaction.MASK not in str(task[names]):
            return list(map(str, task[names]))
        if isinstance(task.get(count), int):
            return [str(number) for number in range(task[count])]
    return None


def _tokens_of_run(path: Path, allow: tuple[str, ...]) -> tuple[list[str] | None, list[str] | None]:
    """Return the vocabularies of inputs and targets of a run, from its fitted state if stored; None if unknown."""
    stored = fitted.load(path)  # None for runs of earlier versions, whose data are read again
    try:
        job = jobs.load_job(path, allow)
        known = {} if stored is None else {"fitted": stored}
        spec = instantiate.build(job.resolved["data"], "data", job.allow, **known).spec
    except ConfigError:
        return None, None
    return (token_texts(spec.tokens), token_texts(spec.target_tokens)) if isinstance(spec, Spec) else (None, None)


def token_texts(tokens: Tokens | None) -> list[str] | None:
    """Return the text of each token; None if there are no tokens or they cannot be decoded."""
    if tokens is None or tokens.decode is None:
        return None
    return [tokens.decode([number]) for number in range(tokens.size)]


def _read_file(file: Path, origin: str) -> InitialWeights:
    """Read a file of named weights, without running any code in it."""
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file as load_safetensors

            content: Any = load_safetensors(file)
        else:
            content = load_file(file)
    except Exception as error:  # invalid files raise almost any exception
        reason = f"It does not load as tensors and plain values: {describe_load_error(error)}."
        raise ConfigError(format_error(KEY, "a file of weights", file, reason)) from None
    for wrapper in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    named = isinstance(content, dict) and all(isinstance(name, str) for name in content)
    tensors = {n: v for n, v in content.items() if isinstance(v, Tensor)} if named else {}
    if not tensors:
        raise ConfigError(format_error(KEY, "a file of weights", file, "It contains no named tensors."))
    if all(name.startswith(PREFIX) for name in tensors):
        tensors = {name.removeprefix(PREFIX): value for name, value in tensors.items()}
    return InitialWeights(tensors, origin, _hash(file), tokens=_published_tokens(file))


def _published_tokens(file: Path) -> list[str] | None:
    """Return the vocabulary from ``tokenizer.json`` in the folder of published weights, or None without this file."""
    tokenizer = file.with_name(TOKENIZER)
    if not tokenizer.is_file():
        return None
    try:
        return token_texts(read_tokenizer(str(tokenizer)).tokens)
    except ConfigError as error:
        raise ConfigError(*(re.sub(r"^[\w.]+:", f"{KEY}: {tokenizer}:", line) for line in error.problems)) from error


def _hash(file: Path) -> str:
    with open(file, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
