"""FCOS: a detector that predicts, at each pixel of the feature maps, the distances to the edges of a box."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection import fcos
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import batched_nms, box_iou, generalized_box_iou_loss, sigmoid_focal_loss

from dltrain.errors import ConfigError, format_error
from dltrain.models.detection_backbones import STRIDES, make_pyramid
from dltrain.models.detectors import UNMATCHED, OneStage, Outputs, one_hot, take
from dltrain.models.layers import check_sizes

LEVELS = 5
READ = 3  # number of backbone stages that the pyramid reads unless `fine`; further maps are computed from the last map
MAX_VOTES = 1000  # maximum number of detections of an image before they are averaged
GROUP = 8  # channels that are normalized together in the heads
# A location can be matched only to boxes whose farthest edge is REACH to 2 * REACH strides away. The first level has no
# minimum and the last level no maximum.
REACH = 4


class FCOS(OneStage, fcos.FCOS):
    """FCOS with a feature pyramid; weights have the names of torchvision's ``fcos_resnet50_fpn``.

    Args:
        channels: Channels of the images.
        object_outputs: Number of classes of objects plus 1 for the background.
        backbone: ``resnet18`` to ``resnet152``; ``narrow`` or ``narrow8`` for small images.
        norm: Normalization of the backbone: ``batch``, ``frozen``, ``group`` or ``layer``.
        fpn_width: Channels of the pyramid and of the heads, a multiple of 32.
        num_convs: Convolutions of each head before its output.
        fine: Whether the finest feature map comes from the first stage of the backbone and has half the usual stride,
            to separate objects that are close together. The fifth map is then pooled from the fourth.
        min_score: Minimum score of a detection.
        nms_iou: IoU above which the lower-scoring of two detections of a class is removed.
        max_boxes: Maximum number of detections per image.
        levels: Number of feature maps to use, starting with the finest; boxes on the last one have no maximum size.
        box_weight: Weight of the box loss.
        vote_iou: A kept box is averaged with boxes of its class if their IoU is at least this; 1 for no averaging.

    Source: Tian, Shen, Chen, He 2019, "FCOS: Fully convolutional one-stage object detection", with center sampling.
    Differs: losses are sums divided by the number of locations matched to a box plus the number of images, so that
    images without boxes contribute and a batch computed in chunks has the same loss.
    """

    center_sampling_radius: float

    def __init__(
        self,
        channels: int,
        object_outputs: int,
        backbone: str = "resnet50",
        norm: str = "batch",
        fpn_width: int = 256,
        num_convs: int = 4,
        fine: bool = False,
        min_score: float = 0.05,
        nms_iou: float = 0.6,
        max_boxes: int = 100,
        levels: int = 5,
        box_weight: float = 1.0,
        vote_iou: float = 1.0,
    ) -> None:
        check_sizes(object_outputs=object_outputs, num_convs=num_convs, max_boxes=max_boxes, levels=levels)
        if levels > LEVELS:
            raise ConfigError(format_error("model.levels", f"a whole number from 1 to {LEVELS}", levels))
        extra = not fine and levels > READ
        pyramid = make_pyramid(backbone, channels, norm, fpn_width, first=1 if fine else 2, extra=extra)
        finest = STRIDES[backbone] // 2 if fine else STRIDES[backbone]
        sizes = tuple((finest * 2**level,) for level in range(levels))
        super().__init__(
            pyramid,
            object_outputs,
            anchor_generator=AnchorGenerator(sizes, ((1.0,),) * levels),
            head=_make_head(fpn_width, object_outputs, num_convs),
            score_thresh=min_score,
            nms_thresh=nms_iou if vote_iou == 1 else 1.0,
            detections_per_img=max_boxes if vote_iou == 1 else MAX_VOTES,
        )
        self.levels, self.box_weight = levels, box_weight
        self.suppress = None if vote_iou == 1 else Vote(nms_iou, vote_iou, max_boxes)

    def detect(
        self, outputs: Outputs, anchors: Tensor, levels: list[int], sizes: list[tuple[int, int]]
    ) -> list[dict[str, Tensor]]:
        """Return the detections of each image; `levels` has the number of pixels of each feature map."""
        found = super().detect(outputs, anchors, levels, sizes)
        return found if self.suppress is None else [self.suppress(each) for each in found]

    def losses(
        self, outputs: dict[str, Tensor], anchors: Tensor, levels: list[int], boxes: Tensor, kinds: Tensor, real: Tensor
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Return the focal loss of classes, GIoU loss of boxes and cross-entropy of centerness, and their weight."""
        matches = self.match_places(anchors, levels, boxes, real)
        matched = matches != UNMATCHED
        weight = matched.sum() + len(boxes)
        logits = outputs["cls_logits"]
        classes = one_hot(take(kinds, matches), logits.shape[2], matched)
        places = anchors.expand(len(boxes), -1, -1)
        target = torch.where(matched[..., None], take(boxes, matches), places)
        found = self.box_coder.decode(outputs["bbox_regression"], places)
        left, top, right, bottom = self.box_coder.encode(places, target).unbind(-1)
        center = _balance(left, right) * _balance(top, bottom)
        of_center = F.binary_cross_entropy_with_logits(outputs["bbox_ctrness"][..., 0], center.sqrt(), reduction="none")
        sums = {
            "classes": sigmoid_focal_loss(logits, classes, reduction="sum"),
            "boxes": self.box_weight * torch.where(matched, generalized_box_iou_loss(found, target), 0.0).sum(),
            "centerness": torch.where(matched, of_center, 0.0).sum(),
        }
        return {name: value / weight for name, value in sums.items()}, weight

    def match_places(self, anchors: Tensor, levels: list[int], boxes: Tensor, real: Tensor) -> Tensor:
        """Return the index of the smallest box that each location can be matched to, or `UNMATCHED`: (B, N)."""
        places, strides = (anchors[:, :2] + anchors[:, 2:]) / 2, anchors[:, 2] - anchors[:, 0]
        centers = (boxes[..., :2] + boxes[..., 2:]) / 2
        near = (places[:, None] - centers[:, None]).abs().amax(-1) < self.center_sampling_radius * strides[:, None]
        edges = torch.cat([places[:, None] - boxes[:, None, :, :2], boxes[:, None, :, 2:] - places[:, None]], -1)
        farthest, low, high = edges.amax(-1), REACH * strides, 2 * REACH * strides
        low = torch.cat([torch.zeros_like(low[: levels[0]]), low[levels[0] :]])[:, None]
        high = torch.cat([high[: -levels[-1]], torch.full_like(high[-levels[-1] :], torch.inf)])[:, None]
        fits = near & (edges.amin(-1) > 0) & (farthest > low) & (farthest < high) & real[:, None]
        areas = (boxes[..., 2:] - boxes[..., :2]).prod(-1)[:, None]
        smallest, matches = torch.where(fits, areas, torch.inf).min(-1)
        return torch.where(smallest < torch.inf, matches, UNMATCHED)


@dataclass(frozen=True)
class Vote:
    """Non-maximum suppression that replaces each kept box by the score-weighted mean of similar boxes of its class.

    Args:
        nms_iou: IoU above which the lower-scoring of two detections of a class is removed.
        vote_iou: Boxes whose IoU with the kept box is at least this are averaged.
        max_boxes: Maximum number of detections to keep.

    Source: Gidaris, Komodakis 2015, "Object detection via a multi-region and semantic segmentation-aware CNN model".
    """

    nms_iou: float
    vote_iou: float
    max_boxes: int

    def __call__(self, found: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the kept detections of an image: ``boxes`` (N, 4), ``scores`` (N,) and ``labels`` (N,)."""
        boxes, scores, labels = found["boxes"], found["scores"], found["labels"]
        kept = batched_nms(boxes, scores, labels, self.nms_iou)[: self.max_boxes]
        near = (labels[kept][:, None] == labels) & (box_iou(boxes[kept], boxes) >= self.vote_iou)
        near[torch.arange(len(kept), device=kept.device), kept] = True  # the IoU is NaN for a box without area
        weights = scores * near
        means = weights @ boxes / weights.sum(1, keepdim=True)
        return {"boxes": means, "scores": scores[kept], "labels": labels[kept]}


def _make_head(width: int, outputs: int, num_convs: int) -> fcos.FCOSHead:
    """Return torchvision's head with groups of 8 channels in each group norm; torchvision always has 32 groups."""

    def norm(channels: int) -> nn.Module:
        return nn.GroupNorm(channels // GROUP, channels)

    head = fcos.FCOSHead(width, 1, outputs, num_convs)
    head.classification_head = fcos.FCOSClassificationHead(width, 1, outputs, num_convs, norm_layer=norm)
    head.regression_head = fcos.FCOSRegressionHead(width, 1, num_convs, norm_layer=norm)
    return head


def _balance(one: Tensor, other: Tensor) -> Tensor:
    """Return the smaller distance divided by the larger one, at least 0."""
    return (torch.minimum(one, other) / torch.maximum(one, other)).clamp(min=0)
