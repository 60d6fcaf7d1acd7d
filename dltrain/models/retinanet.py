"""RetinaNet: a detector that classifies anchors of several sizes and shapes and predicts their offsets."""

import torch
from torch import Tensor
from torchvision.models.detection import retinanet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import sigmoid_focal_loss

from dltrain.models.detection_backbones import STRIDES, make_pyramid
from dltrain.models.detectors import BETWEEN, OneStage, match_anchors, one_hot, overlaps, take
from dltrain.models.layers import check_sizes

LEVELS = 5
SMALLEST = 4  # side of the smallest square anchor of a level, in strides
# Anchors with an IoU of at least NEAR are matched to a box, and anchors with an IoU below FAR are background. For each
# box, the anchor with the highest IoU is always matched, if this IoU is above 0.
NEAR, FAR = 0.5, 0.4


class RetinaNet(OneStage, retinanet.RetinaNet):
    """RetinaNet with a feature pyramid of five levels and nine anchors at each of their pixels.

    Weights have the names of torchvision's ``retinanet_resnet50_fpn``.

    Args:
        channels: Channels of the images.
        object_outputs: Number of classes of objects plus 1 for the background.
        backbone: ``resnet18`` to ``resnet152``; ``narrow`` or ``narrow8`` for small images.
        norm: Normalization of the backbone: ``batch``, ``frozen``, ``group`` or ``layer``.
        fpn_width: Channels of the pyramid and of the heads, a multiple of 32.
        min_score: Minimum score of a detection.
        nms_iou: IoU above which the lower-scoring of two detections of a class is removed.
        max_boxes: Maximum number of detections per image.

    Source: Lin, Goyal, Girshick, He, Dollar 2017, "Focal loss for dense object detection".
    Differs: as in torchvision, the box loss is L1 instead of smooth L1.
    """

    def __init__(
        self,
        channels: int,
        object_outputs: int,
        backbone: str = "resnet50",
        norm: str = "batch",
        fpn_width: int = 256,
        min_score: float = 0.05,
        nms_iou: float = 0.5,
        max_boxes: int = 100,
    ) -> None:
        check_sizes(object_outputs=object_outputs, max_boxes=max_boxes)
        pyramid = make_pyramid(backbone, channels, norm, fpn_width, first=2, extra=True)
        sides = [SMALLEST * STRIDES[backbone] * 2**level for level in range(LEVELS)]
        sizes = tuple(tuple(int(side * 2 ** (third / 3)) for third in range(3)) for side in sides)
        super().__init__(
            pyramid,
            object_outputs,
            anchor_generator=AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * LEVELS),
            score_thresh=min_score,
            nms_thresh=nms_iou,
            detections_per_img=max_boxes,
        )

    def losses(
        self, outputs: dict[str, Tensor], anchors: Tensor, levels: list[int], boxes: Tensor, kinds: Tensor, real: Tensor
    ) -> tuple[dict[str, Tensor], int]:
        """Return the focal loss of classes and the L1 loss of boxes, as means over images, and the number of images."""
        matches = match_anchors(overlaps(boxes, real, anchors), FAR, NEAR)
        matched = matches >= 0
        count = matched.sum(1).clamp(min=1)
        logits = outputs["cls_logits"]
        classes = one_hot(take(kinds, matches), logits.shape[2], matched)
        focal = sigmoid_focal_loss(logits, classes, reduction="none").sum(2)
        places = anchors.expand(len(boxes), -1, -1)
        target = torch.where(matched[..., None], take(boxes, matches), places)
        moves = self.encode(target, places)
        distance = (outputs["bbox_regression"] - moves).abs().sum(2)
        sums = {
            "classes": torch.where(matches == BETWEEN, 0.0, focal).sum(1),
            "boxes": torch.where(matched, distance, 0.0).sum(1),
        }
        return {name: (value / count).mean() for name, value in sums.items()}, len(boxes)
