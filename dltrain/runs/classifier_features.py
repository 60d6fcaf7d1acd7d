"""Features of images from the last hidden layer of a trained classifier, for scores of generated images."""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from dltrain.config import instantiate
from dltrain.config.compose import Job
from dltrain.data.spec import Data, Spec
from dltrain.errors import CheckpointError, ConfigError, format_error
from dltrain.runs.assemble import Components, build_model, build_task
from dltrain.runs.job import find_run, load_job
from dltrain.storage import run_files
from dltrain.storage.checkpoint_format import STATE_ERRORS, effective_weights
from dltrain.storage.checkpoints import Checkpoints
from dltrain.tasks.classification import Classification
from dltrain.tasks.pixel_range import PixelRange

KEY = "task.features"


class ClassifierFeatures(nn.Module):
    """A frozen classifier that also returns the input of its last linear layer.

    Args:
        classifier: The trained model.
        model_inputs: Function that converts images in [0, 1] to inputs of the model.
        name: Run and accuracy of the classifier, for reports.

    Raises:
        ValueError: The classifier has no linear layer, the input of its last linear layer is not a matrix with one row
            per image, or the logits are not a matrix.

    Shape:
        - Input: (B, channels, height, width), from 0 (black) to 1 (white)
        - Output: features (B, F) and logits (B, classes)
    """

    def __init__(self, classifier: nn.Module, model_inputs: Callable[[Tensor], Tensor], name: str) -> None:
        super().__init__()
        self.classifier, self.model_inputs, self.name = classifier, model_inputs, name
        self.features: Tensor | None = None  # input of the last linear layer in the current forward pass
        layers = [module for module in classifier.modules() if isinstance(module, nn.Linear)]
        if not layers:
            raise ValueError("the model has no linear layer")
        layers[-1].register_forward_pre_hook(self._store_features)
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return features and logits from one forward pass."""
        logits = self.classifier(self.model_inputs(images))
        features, self.features = self.features, None
        if features is None or features.dim() != 2 or logits.dim() != 2 or len(features) != len(images):
            raise ValueError("the input of the last linear layer and the logits must have one row per image")
        return features.float(), logits.float()

    def _store_features(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.features = inputs[0]


def attach_features(components: Components) -> None:
    """Load the classifier that ``task.features`` names, if any, into a task that scores generated images."""
    folder = components.config["task"].get("features")
    if folder is None or components.task.quality is None:
        return
    device = components.device.device
    # Building a model draws random numbers, which must not change the random state of the run.
    with torch.random.fork_rng(devices=[torch.cuda.current_device()] if device.type == "cuda" else []):
        network = load_features(str(folder), components.data.spec, components.allow)
    components.task.quality.network = network.to(device)


def load_features(folder: str, spec: Spec, allow: tuple[str, ...] = ()) -> ClassifierFeatures:
    """Load the classifier of the run in `folder`, with its best weights.

    Args:
        folder: Folder of a run with the task classification.
        spec: Spec values of the data to score: images of the shape that the classifier was trained on.
        allow: Prefixes of modules that the run's configuration may name.

    Raises:
        ConfigError: There is no such run, or its classifier cannot score these data.
    """
    path = _find_classifier(folder)
    try:
        job = load_job(path, allow)
        data: Data = instantiate.build(job.resolved["data"], "data", allow)
        task, facts = build_task(job, data.spec)
        if not isinstance(task, Classification):
            raise ConfigError(_format_rejection("with the task classification", type(task).__name__.lower(), path))
        if spec.low is None:
            raise ConfigError(format_error(KEY, "null for data that are not images", path))
        if data.spec.shape != spec.shape or data.spec.low is None:
            wanted, got = ("x".join(map(str, each.shape or ())) for each in (spec, data.spec))
            raise ConfigError(_format_rejection(f"that classifies images of shape {wanted}", f"shape {got}", path))
        model = build_model(job, facts)
        model.load_state_dict(effective_weights(Checkpoints(path).load(run_files.BEST)))
        pixel_range = PixelRange(data.spec.low, data.spec.high)
        network = ClassifierFeatures(
            model,
            lambda images: task.model_inputs({"inputs": pixel_range.from_unit(images)}),
            _describe_classifier(path, job),
        )
        network(torch.zeros(2, *(spec.shape or ())))
        return network
    except (ConfigError, CheckpointError) as error:
        raise ConfigError(*(p if p.startswith(KEY) else f"{KEY}: {path}: {p}" for p in error.problems)) from error
    except STATE_ERRORS as error:  # the weights do not fit, or `ClassifierFeatures` rejects the model
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ConfigError(f"{KEY}: not supported because the classifier in {path} cannot be used: {reason}") from error


def _describe_classifier(path: Path, job: Job) -> str:
    """Return the name of a classifier for reports: its run, and its accuracy on its own test split if known."""
    name = f"{job.choices['model']}-{job.choices['data']}/{path.resolve().name}"
    try:
        return f"{name} (accuracy {json.loads((path / run_files.RESULT).read_text())['test']['accuracy']:.3g})"
    except (OSError, ValueError, KeyError, TypeError):
        return name


def _find_classifier(folder: str) -> Path:
    if folder == "latest":
        hint = "Name the run: latest changes with every new run."
        raise ConfigError(format_error(KEY, "the folder of a run", folder, hint))
    try:
        return find_run(folder)
    except ConfigError as error:
        lines = (line.partition(":")[2].replace(", or latest,", ",") for line in error.problems)
        raise ConfigError(*(f"{KEY}:{line}" for line in lines)) from None


def _format_rejection(wanted: str, got: str, path: Path) -> str:
    return format_error(KEY, f"the folder of a run {wanted}", got, f"The folder is {path}.")
