"""Print the mAP of a baseline for `experiment=tree_crowns`: a grid of boxes of the median size.

Run `python docs/tree_crowns_baseline.py`. Like the recipe, it reads your own annotated images from
`$DLTRAIN_DATA/trees` (default `~/.cache/dltrain/trees`): images of trees seen from above, with a Pascal VOC file of
boxes for each. The distance between neighboring boxes is selected on the validation split.
"""

import os
from typing import Any

import torch
from torch import Tensor

from dltrain.datasets.detection_folder import DetectionFolder
from dltrain.metrics.average_precision import AveragePrecision

TILE = 200
DISTANCES = (0.25, 0.5, 0.75, 1.0)  # between neighboring boxes, as multiples of their side


def true_boxes(files: Any) -> list[Tensor]:
    """Return the ground-truth boxes of each tile."""
    return [torch.as_tensor(files.example(number, None).boxes).float() for number in range(len(files))]


def grid(side: Tensor, distance: float) -> Tensor:
    """Return a grid of square boxes inside a tile."""
    edges = torch.arange(0, TILE - float(side) + 1, float(side) * distance)
    left, top = (each.flatten() for each in torch.meshgrid(edges, edges, indexing="xy"))
    return torch.stack([left, top, left + side, top + side], 1)


def score(tiles: list[Tensor], found: Tensor) -> dict[str, float]:
    """Return the metrics if the boxes `found` are detected in every tile."""
    precision = AveragePrecision(["object"])
    answer = {"boxes": found, "scores": torch.ones(len(found)), "labels": torch.ones(len(found), dtype=torch.int64)}
    for boxes in tiles:
        precision.add(boxes, torch.ones(len(boxes), dtype=torch.int64), answer)
    return precision.read()


def main() -> None:
    """Choose the distance on the validation split and print the metrics on the test split."""
    folder = os.path.join(os.environ.get("DLTRAIN_DATA", "~/.cache/dltrain"), "trees")
    splits = DetectionFolder(folder, tile=TILE, image_size=TILE, single_class=True, split_by="area").load()
    train, val, test = (true_boxes(split.rows) for split in (splits.train, splits.val, splits.test) if split)
    every = torch.cat(train)
    side = (every[:, 2:] - every[:, :2]).median()
    print(f"{len(every)} boxes in {len(train)} training tiles, median side {side:.0f} pixels")
    validation = {distance: score(val, grid(side, distance)) for distance in DISTANCES}
    for distance, metrics in validation.items():
        print(f"distance {distance}: validation mAP {metrics['map']:.4f}, mAP50 {metrics['map50']:.4f}")
    best = max(validation, key=lambda distance: validation[distance]["map"])
    metrics = score(test, grid(side, best))
    print(f"test, distance {best}: mAP {metrics['map']:.4f}, mAP50 {metrics['map50']:.4f}, mAR {metrics['mar100']:.4f}")


if __name__ == "__main__":
    main()
