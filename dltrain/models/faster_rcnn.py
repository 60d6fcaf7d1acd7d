"""Faster R-CNN: a detector that classifies the regions of a region proposal network."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection import faster_rcnn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import MultiScaleRoIAlign

from dltrain.models.detection_backbones import STRIDES, make_pyramid
from dltrain.models.detectors import Detector, Outputs
from dltrain.models.layers import check_sizes

SIDE = 8  # side of a square anchor, in strides of its level
POOLED = 7  # height and width of the features of a region
SAMPLED = 512  # maximum number of regions per image that the losses use
SEED = 0  # seed of the sampled anchors and regions in evaluation
NAMES = {"loss_classifier": "classes", "loss_box_reg": "boxes", "loss_objectness": "proposals"}
NAMES |= {"loss_rpn_box_reg": "proposed_boxes"}


class FasterRCNN(Detector, faster_rcnn.FasterRCNN):
    """Faster R-CNN with a feature pyramid; weights have the names of torchvision's ``fasterrcnn_resnet50_fpn``.

    The losses use anchors and regions that are sampled with torch's global generator, whose state is stored in the
    checkpoints; in evaluation, the seed is fixed. Selecting regions synchronizes the CPU with the device.

    Args:
        channels: Channels of the images.
        object_outputs: Number of classes of objects plus 1 for the background.
        backbone: ``resnet18`` to ``resnet152``; ``narrow`` or ``narrow8`` for small images.
        norm: Normalization of the backbone: ``batch``, ``frozen``, ``group`` or ``layer``.
        fpn_width: Channels of the pyramid, a multiple of 32.
        hidden_size: Width of the two fully connected layers that process each region.
        min_score: Minimum score of a detection.
        nms_iou: IoU above which the lower-scoring of two detections of a class is removed.
        max_boxes: Maximum number of detections per image.

    Source: Ren, He, Girshick, Sun 2015, "Faster R-CNN"; Lin et al. 2017, "Feature pyramid networks for object
    detection".
    """

    rpn: Any  # set by torchvision
    roi_heads: Any

    def __init__(
        self,
        channels: int,
        object_outputs: int,
        backbone: str = "resnet50",
        norm: str = "batch",
        fpn_width: int = 256,
        hidden_size: int = 1024,
        min_score: float = 0.05,
        nms_iou: float = 0.5,
        max_boxes: int = 100,
    ) -> None:
        check_sizes(object_outputs=object_outputs, hidden_size=hidden_size, max_boxes=max_boxes)
        # `narrow` has a stride of 4 at its second stage, the other backbones at their first.
        first = 2 if backbone == "narrow" else 1
        pyramid = make_pyramid(backbone, channels, norm, fpn_width, first, extra=False)
        levels = 5 - first
        stride = STRIDES[backbone] * 2 ** (first - 2)
        sizes = tuple((int(SIDE * stride * 2**level),) for level in range(levels + 1))
        super().__init__(
            pyramid,
            rpn_anchor_generator=AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(sizes)),
            box_roi_pool=MultiScaleRoIAlign([str(level) for level in range(levels)], POOLED, sampling_ratio=2),
            box_head=faster_rcnn.TwoMLPHead(fpn_width * POOLED**2, hidden_size),
            box_predictor=faster_rcnn.FastRCNNPredictor(hidden_size, object_outputs),
            box_score_thresh=min_score,
            box_nms_thresh=nms_iou,
            box_detections_per_img=max_boxes,
            box_batch_size_per_image=SAMPLED,
        )

    def dense(self, features: dict[str, Tensor], x: Tensor) -> Outputs:
        """Return the outputs for all anchors, and for `SAMPLED` regions of each image."""
        scores, moves = self.rpn.head(list(features.values()))
        regions = torch.empty(SAMPLED * len(x), features["0"].shape[1], POOLED, POOLED, device=x.device)
        classes, boxes = self.roi_heads.box_predictor(self.roi_heads.box_head(regions))
        return {"scores": scores, "moves": moves, "classes": classes, "boxes": boxes}

    def compute(self, features: dict[str, Tensor], x: Tensor, learned: tuple[Tensor, Tensor, Tensor] | None) -> Outputs:
        """Return losses and detections.

        Losses, with the number of images as their weight, are returned if `learned` is given; detections are returned
        in evaluation.
        """
        images = ImageList(x, [(x.shape[2], x.shape[3])] * len(x))
        result: Outputs = {}
        if learned is not None:
            with contextlib.nullcontext() if self.training else self._fixed_samples(x.device):
                result["losses"], result["weight"] = self._losses(features, images, *learned), len(x)
        if not self.training:
            proposals, _ = self.rpn(images, features)
            result["detections"], _ = self.roi_heads(features, proposals, images.image_sizes)
        return result

    def _losses(
        self, features: dict[str, Tensor], images: ImageList, boxes: Tensor, kinds: Tensor, real: Tensor
    ) -> dict[str, Tensor]:
        pairs = zip(boxes, kinds, real, strict=True)
        targets = [{"boxes": box[kept], "labels": kind[kept]} for box, kind, kept in pairs]
        proposals, of_proposals = self.rpn(images, features, targets)
        _, of_regions = self.roi_heads(features, proposals, images.image_sizes, targets)
        return {NAMES[name]: value for name, value in (of_regions | of_proposals).items()}

    @contextlib.contextmanager
    def _fixed_samples(self, device: torch.device) -> Iterator[None]:
        """Propose and sample regions as in training, but with a fixed seed; restore the generators afterwards."""
        cuda = [torch.cuda.current_device()] if device.type == "cuda" else []
        with torch.random.fork_rng(devices=cuda):
            torch.manual_seed(SEED)
            self.rpn.training = self.roi_heads.training = True
            try:
                yield
            finally:
                self.rpn.training = self.roi_heads.training = False
