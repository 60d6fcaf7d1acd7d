"""Rename the weights in a file to the names in a timm network that lists the same layers in the same order.

    python convert_weights.py efficientnet_lite0.pth tf_efficientnet_lite0 lite0.pt

Weights are paired by their position. Layers of the same shape in a different order are not detected: compare the
outputs of the network with the outputs of the program that the file was written for.
"""

import sys

import torch
from torch import Tensor


def rename(source: dict[str, Tensor], target: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of `source` under the names of `target`.

    Raises:
        ValueError: The numbers of tensors, their kinds (such as ``weight`` or ``running_mean``) or shapes differ.
    """
    if len(source) != len(target):
        raise ValueError(f"expected {len(target)} tensors, as in the network, got {len(source)}")
    for (old, value), (new, like) in zip(source.items(), target.items(), strict=True):
        if (kind(old), value.shape) != (kind(new), like.shape):
            raise ValueError(f"expected {new} {tuple(like.shape)}, got {old} {tuple(value.shape)}")
    return dict(zip(target, source.values(), strict=True))


def kind(name: str) -> str:
    """Return the last component of a dotted name."""
    return name.rpartition(".")[2]


def load(path: str) -> dict[str, Tensor]:
    """Return the tensors in a file.

    Raises:
        ValueError: The file was not written by `torch.save`, or needs classes other than tensors.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # its type depends on the content of the file
        raise ValueError(
            f"{path}: expected tensors written by torch.save, got {type(error).__name__}: {error}"
        ) from error


def main(source: str, name: str, out: str) -> None:
    """Rename the weights in `source` for the timm network `name`, print the pairs of names, and write `out`."""
    import timm  # takes seconds

    with torch.device("meta"):
        target = timm.create_model(name).state_dict()
    weights = load(source)
    renamed = rename(weights, target)
    for old, new in zip(weights, renamed, strict=True):
        print(f"{old} -> {new}")
    torch.save(renamed, out)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: python convert_weights.py SOURCE NAME OUT")
    try:
        main(*sys.argv[1:])
    except (OSError, RuntimeError, ValueError) as error:
        sys.exit(f"convert_weights.py: {error}")
