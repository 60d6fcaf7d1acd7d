"""Warning about images normalized differently from the training data of torchvision's weights."""

from pathlib import Path

import pytest
import torch
from torchvision import models

from dltrain.config import compose
from dltrain.datasets.pretrained import compare_normalization
from dltrain.runs import initial_weights
from dltrain.runs.assemble import build_components

NAME = "ResNet18_Weights.IMAGENET1K_V1"
WARNING = (
    "data.mean, data.std: the weights were trained on images with a different normalization: "
    "data.mean=[0.485,0.456,0.406] data.std=[0.229,0.224,0.225]"
)


@pytest.mark.parametrize(
    ("mean", "std", "expected"),
    [
        (0.5, 0.5, WARNING),
        ([0.485, 0.456, 0.406], 0.5, WARNING),
        ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225], ""),
        ([0.4850, 0.4563, 0.4061], [0.23, 0.222, 0.226], ""),
    ],
)
def test_only_a_different_normalization_is_reported(mean: object, std: object, expected: str) -> None:
    assert compare_normalization(NAME, {"mean": mean, "std": std}) == expected


def test_data_and_weights_without_a_normalization_are_not_compared() -> None:
    assert not compare_normalization(NAME, {"path": "pictures"})
    assert not compare_normalization("FCOS_ResNet50_FPN_Weights.COCO_V1", {"mean": 0.5, "std": 0.5})


def test_a_run_from_torchvision_weights_reports_a_different_normalization(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DLTRAIN_DATA", str(tmp_path))
    file = tmp_path / "weights" / models.get_weight(NAME).url.rpartition("/")[2]
    file.parent.mkdir()
    torch.save({"bn1.weight": torch.ones(64)}, file)
    job = compose.compose(
        ["model=resnet18", "data=digits", "transfer=finetune", f"transfer.weights=torchvision:{NAME}"]
    )
    loaded = initial_weights.prepare(build_components(job), job, None)
    assert loaded is not None and loaded.note == WARNING and f"  {WARNING}" in loaded.describe()
