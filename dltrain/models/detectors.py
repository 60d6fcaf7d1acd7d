"""Base classes of detectors: losses and detections of a batch, and the matching of anchors to boxes."""

import contextlib
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection._utils import encode_boxes
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou

Outputs = dict[str, Any]
UNMATCHED, BETWEEN = -1, -2  # instead of the index of a box: background, and anchors that the losses ignore


class Detector(nn.Module):
    """Mixin that lets torchvision's detectors read batches of images of the same size with padded boxes.

    In training, the output has ``losses``, a dict of means, and ``weight``, their weight in means over batches. In
    evaluation, it has ``detections``, a dict of ``boxes`` (N, 4), ``scores`` (N,) and ``labels`` (N,) for each image,
    and also ``losses`` and ``weight`` if boxes are given. On the meta device, it has the outputs of all heads.

    Shape:
        x (B, channels, height, width); boxes (B, M, 4) as left, top, right, bottom in pixels; kinds (B, M), classes
        starting at 1, 0 for padding and negative for boxes that training ignores.
    """

    backbone: nn.Module

    def forward(self, x: Tensor, boxes: Tensor | None = None, kinds: Tensor | None = None) -> Outputs:
        """Return losses and detections; autocast applies only to the backbone."""
        features = self.backbone(x)
        with _full_precision(x):
            features = {name: value.float() for name, value in features.items()}
            if x.is_meta:
                return self.dense(features, x)
            learned = None
            if boxes is not None and kinds is not None:
                learned = boxes.float(), kinds, (kinds > 0) & (boxes[..., 2:] > boxes[..., :2]).all(-1)
            return self.compute(features, x, learned)

    @abstractmethod
    def dense(self, features: dict[str, Tensor], x: Tensor) -> Outputs:
        """Return the outputs whose shapes do not depend on the values of the images."""

    @abstractmethod
    def compute(self, features: dict[str, Tensor], x: Tensor, learned: tuple[Tensor, Tensor, Tensor] | None) -> Outputs:
        """Return losses and detections; `learned` has boxes, kinds, and a mask of the boxes to learn."""


class OneStage(Detector):
    """Detector whose head has outputs for every anchor of every feature map."""

    head: nn.Module
    anchor_generator: Callable[..., list[Tensor]]
    box_coder: Any  # a `BoxCoder` of torchvision
    levels: int | None = None  # number of feature maps to use, starting with the finest; None for all

    def dense(self, features: dict[str, Tensor], x: Tensor) -> Outputs:
        """Return the outputs of the head."""
        return self.head(list(features.values())[: self.levels])

    def compute(self, features: dict[str, Tensor], x: Tensor, learned: tuple[Tensor, Tensor, Tensor] | None) -> Outputs:
        """Return losses and detections, computed from the outputs of the head."""
        maps = list(features.values())[: self.levels]
        outputs, size = self.head(maps), (x.shape[2], x.shape[3])
        (anchors,) = self.anchor_generator(ImageList(x, [size]), maps)
        levels = [m.shape[2] * m.shape[3] for m in maps]
        result: Outputs = {}
        if learned is not None:
            result["losses"], result["weight"] = self.losses(outputs, anchors, levels, *learned)
        if not self.training:
            result["detections"] = self.detect(outputs, anchors, levels, [size] * len(x))
        return result

    def encode(self, target: Tensor, places: Tensor) -> Tensor:
        """Return the outputs of the head that would give the boxes `target` at the anchors `places`, (B, N, 4)."""
        # `BoxCoder.encode_single` would copy its weights to the device, which waits for the GPU.
        weights = torch.stack([target.new_full((), weight) for weight in self.box_coder.weights])
        return encode_boxes(target.flatten(0, 1), places.flatten(0, 1), weights).view_as(places)

    @abstractmethod
    def losses(
        self, outputs: Outputs, anchors: Tensor, levels: list[int], boxes: Tensor, kinds: Tensor, real: Tensor
    ) -> tuple[dict[str, Tensor], float | Tensor]:
        """Return the losses and their weight."""

    def detect(
        self, outputs: Outputs, anchors: Tensor, levels: list[int], sizes: list[tuple[int, int]]
    ) -> list[dict[str, Tensor]]:
        """Return the detections of each image; `levels` has the number of pixels of each feature map."""
        anchors_per_place = len(anchors) // sum(levels)
        parts = [count * anchors_per_place for count in levels]
        by_level = {name: list(value.split(parts, 1)) for name, value in outputs.items()}
        return self.postprocess_detections(by_level, [list(anchors.split(parts))] * len(sizes), sizes)

    postprocess_detections: Callable[..., list[dict[str, Tensor]]]


def _full_precision(x: Tensor) -> contextlib.AbstractContextManager[None]:
    """Return a context that disables autocast, under which boxes would be wrong by several pixels."""
    return contextlib.nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)


def overlaps(boxes: Tensor, real: Tensor, anchors: Tensor) -> Tensor:
    """Return the IoU of each box (B, M, 4) with each anchor (N, 4), or -1 where `real` (B, M) is false: (B, M, N)."""
    quality = box_iou(boxes.flatten(0, 1), anchors).view(*boxes.shape[:2], len(anchors))
    return torch.where(real[..., None], quality, -1.0)


def match_anchors(quality: Tensor, low: float, high: float) -> Tensor:
    """Return the index of the box matched to each anchor, `UNMATCHED` or `BETWEEN`: (B, M, N) -> (B, N).

    An anchor is matched to the box with which it has the highest IoU, if this IoU is at least `high`. For each box,
    the anchor with the highest IoU is always matched, if this IoU is above 0. Any other anchor is `UNMATCHED` if its
    highest IoU is below `low`, and `BETWEEN` otherwise.

    Args:
        quality: Result of `overlaps`.
    """
    value, matches = quality.max(1)
    most = quality.amax(2, keepdim=True)
    best = ((quality == most) & (most > 0)).any(1)
    found = torch.where(value < low, UNMATCHED, torch.where(value < high, BETWEEN, matches))
    return torch.where(best, matches, found)


def match_priors(quality: Tensor, threshold: float) -> Tensor:
    """Return the index of the box matched to each anchor by the rule of SSD, or `UNMATCHED`: (B, M, N) -> (B, N).

    For each box, the anchor with the highest IoU is matched to this box if the IoU is above 0, even if the anchor has a
    higher IoU with another box. Any other anchor is matched to the box with which it has the highest IoU, if this IoU
    is at least `threshold`.

    Args:
        quality: Result of `overlaps`.
    """
    value, matches = quality.max(1)
    found = torch.where(value < threshold, UNMATCHED, matches)
    most, best = quality.max(2)
    count, anchors = quality.shape[1:]
    places = torch.where(most > 0, best, anchors)  # the column after the last anchor is for boxes without an anchor
    found = torch.cat([found, found[:, :1]], 1)
    numbers = torch.arange(count, device=quality.device).expand_as(places)
    return found.scatter(1, places, numbers)[:, :-1]


def take(values: Tensor, matches: Tensor) -> Tensor:
    """Return the row of `values` (B, M, ...) for each match (B, N), or the first row for anchors without a box."""
    places = matches.clamp(min=0)
    if values.dim() == 2:
        return values.gather(1, places)
    return values.gather(1, places[..., None].expand(-1, -1, values.shape[2]))


def one_hot(kinds: Tensor, classes: int, matched: Tensor) -> Tensor:
    """Return a tensor with 1 at the class of each matched anchor and 0 elsewhere, float32 (B, N, classes)."""
    numbers = torch.arange(classes, device=kinds.device)
    return ((kinds[..., None] == numbers) & matched[..., None]).float()
