"""SSDLite: a small detector with default boxes at six resolutions."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection import ssd, ssdlite
from torchvision.models.detection._utils import retrieve_out_channels
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList

from dltrain.errors import ConfigError, format_error
from dltrain.models.detection_backbones import make_mobilenet, norm_maker, replace_first_convolution
from dltrain.models.detectors import OneStage, match_priors, overlaps, take
from dltrain.models.layers import check_sizes

SIZE = (320, 320)  # image size of the published network; images may have any size
MAPS = 6
IOU = 0.5  # minimum IoU of a match; the best default box for each ground-truth box is matched at any IoU above 0


class SSDLite(OneStage, ssd.SSD):
    """SSDLite with MobileNetV3-Large; weights have the names of torchvision's ``ssdlite320_mobilenet_v3_large``.

    Args:
        channels: Channels of the images.
        object_outputs: Number of classes of objects plus 1 for the background.
        norm: Normalization: ``batch``, ``frozen``, ``group`` or ``layer``.
        width_mult: Multiplier of the number of channels in MobileNet and the layers after it, above 0.
        min_score: Minimum score of a detection.
        nms_iou: IoU above which the lower-scoring of two detections of a class is removed.
        max_boxes: Maximum number of detections per image.

    Source: Liu et al. 2016, "SSD: Single shot multibox detector"; Sandler et al. 2018, "MobileNetV2", section 6.2;
    Howard et al. 2019, "Searching for MobileNetV3", section 6.3.
    Differs: each loss is a sum divided by the number of matched default boxes plus the number of images; the weighted
    mean over chunks of a batch therefore equals the loss of the whole batch.
    """

    neg_to_pos_ratio: float

    def __init__(
        self,
        channels: int,
        object_outputs: int,
        norm: str = "batch",
        width_mult: float = 1.0,
        min_score: float = 0.05,
        nms_iou: float = 0.55,
        max_boxes: int = 100,
    ) -> None:
        check_sizes(channels=channels, object_outputs=object_outputs, max_boxes=max_boxes)
        if width_mult <= 0:
            raise ConfigError(format_error("model.width_mult", "a number above 0", width_mult))
        make = partial(nn.BatchNorm2d, eps=0.001, momentum=0.03) if norm == "batch" else norm_maker(norm)
        features: Any = make_mobilenet(make, width_mult).features
        for module in features.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.03)
        network = ssdlite.SSDLiteFeatureExtractorMobileNet(features, _last_stage(features), make, width_mult)
        boxes = DefaultBoxes([[2, 3]] * MAPS, min_ratio=0.2, max_ratio=0.95)
        widths, counts = retrieve_out_channels(network, SIZE), boxes.num_anchors_per_location()
        replace_first_convolution(network, "features.0.0.0", channels)
        super().__init__(
            network,
            boxes,
            SIZE,
            object_outputs,
            head=ssdlite.SSDLiteHead(widths, counts, object_outputs, make),
            score_thresh=min_score,
            nms_thresh=nms_iou,
            detections_per_img=max_boxes,
            topk_candidates=300,
        )

    def losses(
        self, outputs: dict[str, Tensor], anchors: Tensor, levels: list[int], boxes: Tensor, kinds: Tensor, real: Tensor
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Return the cross-entropy of classes, the smooth L1 loss of boxes, and their weight.

        The cross-entropy is summed over the matched default boxes and over the unmatched ones with the largest
        cross-entropy, up to three per matched default box of an image (hard negative mining).
        """
        matches = match_priors(overlaps(boxes, real, anchors), IOU)
        matched = matches >= 0
        weight = matched.sum() + len(boxes)
        logits = outputs["cls_logits"]
        classes = torch.where(matched, take(kinds, matches), 0)
        entropy = F.cross_entropy(logits.flatten(0, 1), classes.flatten(), reduction="none").view_as(classes)
        background = torch.where(matched, -torch.inf, entropy.detach())
        rank = background.argsort(1, descending=True).argsort(1)
        worst = ~matched & (rank < self.neg_to_pos_ratio * matched.sum(1, keepdim=True))
        places = anchors.expand(len(boxes), -1, -1)
        target = torch.where(matched[..., None], take(boxes, matches), places)
        moves = self.encode(target, places)
        distance = F.smooth_l1_loss(outputs["bbox_regression"], moves, reduction="none").sum(2)
        sums = {
            "classes": torch.where(matched | worst, entropy, 0.0).sum(),
            "boxes": torch.where(matched, distance, 0.0).sum(),
        }
        return {name: value / weight for name, value in sums.items()}, weight

    def detect(
        self, outputs: dict[str, Tensor], anchors: Tensor, levels: list[int], sizes: list[tuple[int, int]]
    ) -> list[dict[str, Tensor]]:
        """Return the detections of each image."""
        return self.postprocess_detections(outputs, [anchors] * len(sizes), sizes)


class DefaultBoxes(DefaultBoxGenerator):
    """Default boxes of torchvision that are kept on the device.

    torchvision computes them on the CPU and copies them in each step, which waits for the GPU.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.known: dict[Any, Tensor] = {}  # by the sizes of images and feature maps

    @torch.inference_mode(False)
    def forward(self, images: ImageList, maps: list[Tensor]) -> list[Tensor]:
        """Return the default boxes of each image, (N, 4)."""
        first, size = maps[0], images.tensors.shape[2:]
        key = (size, *(each.shape[2:] for each in maps), first.dtype, first.device)
        if key not in self.known:
            self.known[key] = super().forward(images, maps)[0]
        return [self.known[key]] * len(images.image_sizes)


def _last_stage(features: nn.Sequential) -> int:
    """Return the index of the block that begins the last stage; its expansion is the first feature map."""
    return max(number for number, block in enumerate(features) if getattr(block, "_is_cn", False))
