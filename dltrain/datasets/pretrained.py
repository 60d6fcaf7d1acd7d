"""Download weights of torchvision, verified by hash, and check the normalization of images."""

import os
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any

import torch
from torch.hub import download_url_to_file
from torchvision import models

from dltrain.errors import ConfigError, format_error, suggest

KEY = "transfer.weights"
TOLERANCE = 0.005  # how far each mean and standard deviation may differ from the expected one, for pixels from 0 to 1


def download(name: str) -> Path:
    """Download weights of torchvision, such as ``ResNet18_Weights.IMAGENET1K_V1``, and return their file.

    A file that exists in the folder ``weights`` of the data folder is not downloaded again.

    Raises:
        ConfigError: torchvision has no weights of this name, or the download failed.
    """
    known = [str(weights) for model in models.list_models() for weights in models.get_model_weights(model)]
    if name not in known:
        expected = "a name of torchvision's weights, such as torchvision:ResNet18_Weights.IMAGENET1K_V1"
        names = (f"torchvision:{each}" for each in known)
        raise ConfigError(format_error(KEY, expected, f"torchvision:{name}", suggest(f"torchvision:{name}", names)))
    url = models.get_weight(name).url
    folder = Path(os.environ.get("DLTRAIN_DATA", "~/.cache/dltrain")).expanduser() / "weights"
    file = folder / url.rpartition("/")[2]
    if not file.is_file():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # File names end with the first digits of the hash.
            download_url_to_file(url, str(file), file.stem.rpartition("-")[2], progress=False)
        except (OSError, RuntimeError, HTTPException) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
            hint = f"Check the network, or download {url} and set {KEY} to the file."
            raise ConfigError(f"{KEY}: downloading {name} into {folder} failed: {reason}. {hint}") from error
    return file


def compare_normalization(name: str, data: Mapping[str, Any]) -> str:
    """Return a warning if images are not normalized as when the weights were trained, otherwise an empty string.

    Args:
        name: Weights of torchvision.
        data: Configuration of the data. Nothing is compared unless it has ``mean`` and ``std``.
    """
    preset = models.get_weight(name).transforms()
    expected = {key: getattr(preset, key, None) for key in ("mean", "std")}
    if None in (*expected.values(), *map(data.get, expected)):
        return ""
    pairs = [map(torch.tensor, (data[key], numbers)) for key, numbers in expected.items()]
    if all(bool(((here - there).abs() <= TOLERANCE).all()) for here, there in pairs):
        return ""
    trained = " ".join(f"data.{key}={numbers}".replace(" ", "") for key, numbers in expected.items())
    return f"data.mean, data.std: the weights were trained on images with a different normalization: {trained}"
