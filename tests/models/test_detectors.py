"""Losses and detections of each detector, compared with torchvision's for the same weights."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import FrozenBatchNorm2d

from dltrain.errors import ConfigError
from dltrain.models.detection_backbones import STRIDES
from dltrain.models.detectors import Detector
from dltrain.models.faster_rcnn import FasterRCNN
from dltrain.models.fcos import FCOS, Vote
from dltrain.models.retinanet import RetinaNet
from dltrain.models.ssdlite import DefaultBoxes, SSDLite

SIDE = 64
SMALL: dict[type[Detector], dict[str, Any]] = {
    FCOS: {"backbone": "narrow", "fpn_width": 32, "num_convs": 1},
    RetinaNet: {"backbone": "narrow", "fpn_width": 32},
    SSDLite: {"width_mult": 0.25},
    FasterRCNN: {"backbone": "narrow", "fpn_width": 32, "hidden_size": 16},
}
ONE_STAGE = (FCOS, RetinaNet, SSDLite)
PLAIN = {"min_size": SIDE, "max_size": SIDE, "image_mean": [0.0] * 3, "image_std": [1.0] * 3}
NAMES = {"classification": "classes", "bbox_regression": "boxes", "bbox_ctrness": "centerness"}
DetectorClass = type[Detector]


def build(kind: DetectorClass, seed: int = 0, **changes: Any) -> Detector:
    torch.manual_seed(seed)
    return kind(**{"channels": 3, "object_outputs": 4, "min_score": 0.01, **SMALL[kind], **changes})


def example(count: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Return images, ground-truth boxes and classes; the last image has no box, and the second has a row of padding."""
    draw = torch.Generator().manual_seed(1)
    corners = torch.rand(count, 4, 2, generator=draw) * 30
    boxes = torch.cat([corners, corners + 8 + 24 * torch.rand(count, 4, 2, generator=draw)], -1)
    kinds = torch.randint(1, 4, (count, 4), generator=draw)
    kinds[1, 3] = kinds[-1] = 0
    return torch.rand(count, 3, SIDE, SIDE, generator=draw), boxes * (kinds > 0)[..., None], kinds


def targets(boxes: Tensor, kinds: Tensor) -> list[dict[str, Tensor]]:
    return [{"boxes": box[kind > 0], "labels": kind[kind > 0]} for box, kind in zip(boxes, kinds, strict=True)]


def reference(model: Any) -> nn.Module:
    """Return torchvision's detector built from copies of the modules of `model`, without resizing or normalization."""
    shared = (
        {"score_thresh": model.score_thresh, "detections_per_img": model.detections_per_img}
        if hasattr(model, "score_thresh")
        else {}
    )
    parts = copy.deepcopy(model)
    if isinstance(model, FCOS):
        detector = detection.FCOS(
            parts.backbone, 4, anchor_generator=parts.anchor_generator, head=parts.head, **PLAIN, **shared
        )
    elif isinstance(model, RetinaNet):
        detector = detection.RetinaNet(
            parts.backbone, 4, anchor_generator=parts.anchor_generator, head=parts.head, **PLAIN, **shared
        )
    elif isinstance(model, SSDLite):
        mean = {name: PLAIN[name] for name in ("image_mean", "image_std")}
        more = {"nms_thresh": model.nms_thresh, "topk_candidates": model.topk_candidates, **mean, **shared}
        detector = detection.ssd.SSD(parts.backbone, parts.anchor_generator, (SIDE, SIDE), 4, head=parts.head, **more)
    else:
        detector = detection.FasterRCNN(
            parts.backbone,
            rpn_anchor_generator=parts.rpn.anchor_generator,
            rpn_head=parts.rpn.head,
            box_roi_pool=parts.roi_heads.box_roi_pool,
            box_head=parts.roi_heads.box_head,
            box_predictor=parts.roi_heads.box_predictor,
            box_score_thresh=model.roi_heads.score_thresh,
            **PLAIN,
        )
    detector.load_state_dict(model.state_dict())
    return detector.train(model.training)


@pytest.mark.parametrize("kind", ONE_STAGE)
def test_losses_of_a_batch_equal_torchvision(kind: DetectorClass) -> None:
    x, boxes, kinds = example()
    model = build(kind)
    expected = reference(model)(list(x), targets(boxes, kinds))
    result = model(x, boxes, kinds)
    # torchvision divides by the number of matches; dltrain's FCOS and SSDLite divide by matches plus images.
    factor = 1.0 if kind is RetinaNet else result["weight"] / (result["weight"] - len(x))
    assert result["losses"].keys() == {NAMES[name] for name in expected}
    for name, value in expected.items():
        torch.testing.assert_close(result["losses"][NAMES[name]] * factor, value, rtol=1e-5, atol=1e-6)


def test_losses_of_faster_rcnn_equal_torchvision_for_the_same_samples() -> None:
    x, boxes, kinds = example()
    model = build(FasterRCNN)
    other = reference(model)
    torch.manual_seed(3)
    expected = other(list(x), targets(boxes, kinds))
    torch.manual_seed(3)
    # torchvision draws a random number per image to choose its size, even if there is only one size.
    for _ in x:
        torch.empty(1).uniform_()
    losses = model(x, boxes, kinds)["losses"]
    assert len(losses) == len(expected) == 4
    torch.testing.assert_close(sum(losses.values()), sum(expected.values()))
    torch.testing.assert_close(losses["classes"], expected["loss_classifier"])


@pytest.mark.parametrize("kind", SMALL)
def test_detections_equal_torchvision(kind: DetectorClass) -> None:
    x, _, _ = example()
    model = build(kind).eval()
    with torch.inference_mode():
        found, expected = model(x)["detections"], reference(model)(list(x))
    assert len(found) == len(x) and sum(len(each["scores"]) for each in found) > 10
    for each, other in zip(found, expected, strict=True):
        torch.testing.assert_close(each, other)


@pytest.mark.parametrize("kind", ONE_STAGE)
def test_the_weighted_mean_loss_of_single_images_equals_the_loss_of_the_batch(kind: DetectorClass) -> None:
    x, boxes, kinds = example(4)
    model = build(kind).eval()
    whole, parts = model(x, boxes, kinds), [model(*(each[n : n + 1] for each in (x, boxes, kinds))) for n in range(4)]
    for name, value in whole["losses"].items():
        mean = sum(part["losses"][name] * part["weight"] for part in parts) / sum(part["weight"] for part in parts)
        torch.testing.assert_close(mean, value)


@pytest.mark.parametrize("kind", ONE_STAGE)
def test_padding_and_crowds_and_boxes_without_area_do_not_change_the_losses(kind: DetectorClass) -> None:
    x, boxes, kinds = example()
    model = build(kind).eval()
    more = torch.cat([boxes, torch.tensor([[[5.0, 5.0, 40.0, 50.0], [0.0] * 4, [9.0, 9.0, 9.0, 30.0]]] * 3)], 1)
    more_kinds = torch.cat([kinds, torch.tensor([[-2, 0, 1]] * 3)], 1)
    torch.testing.assert_close(model(x, more, more_kinds)["losses"], model(x, boxes, kinds)["losses"])


@pytest.mark.parametrize("kind", SMALL)
def test_every_parameter_gets_a_gradient(kind: DetectorClass) -> None:
    x, boxes, kinds = example(6)
    model = build(kind)
    sum(model(x, boxes, kinds)["losses"].values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("kind", SMALL)
def test_a_batch_without_boxes_has_finite_losses_and_gradients(kind: DetectorClass) -> None:
    x, boxes, kinds = example()
    model = build(kind)
    losses = model(x, torch.zeros_like(boxes), torch.zeros_like(kinds))["losses"]
    sum(losses.values()).backward()
    assert all(value.isfinite() for value in losses.values())
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("kind", SMALL)
def test_boxes_are_computed_in_full_precision_under_bfloat16_autocast(kind: DetectorClass) -> None:
    x, boxes, kinds = example()
    model = build(kind).eval()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        result = model(x, boxes, kinds)
    with torch.inference_mode():
        exact = model(x, boxes, kinds)
    assert {each[name].dtype for each in result["detections"] for name in ("boxes", "scores")} == {torch.float32}
    assert any((each["boxes"] != each["boxes"].bfloat16().float()).any() for each in result["detections"])
    for name, value in exact["losses"].items():
        torch.testing.assert_close(result["losses"][name], value, rtol=0.05, atol=0.02)


@pytest.mark.parametrize("kind", SMALL)
def test_a_detector_builds_and_runs_on_the_meta_device(kind: DetectorClass) -> None:
    with torch.device("meta"):
        model = build(kind, channels=1)
        model(torch.empty(2, 1, SIDE, SIDE), torch.empty(2, 1, 4), torch.empty(2, 1, dtype=torch.int64))
    assert {p.device.type for p in model.parameters()} == {"meta"}


@pytest.mark.parametrize("kind", SMALL)
def test_saved_weights_load_and_give_the_same_detections(kind: DetectorClass) -> None:
    x, _, _ = example()
    model, other = build(kind).eval(), build(kind, seed=1).eval()
    other.load_state_dict(model.state_dict())
    with torch.inference_mode():
        for each, same in zip(model(x)["detections"], other(x)["detections"], strict=True):
            assert all(torch.equal(each[name], same[name]) for name in each)


def test_evaluation_of_faster_rcnn_repeats_its_samples_and_keeps_the_state_of_the_global_generator() -> None:
    x, boxes, kinds = example()
    model = build(FasterRCNN).eval()
    state = torch.get_rng_state()
    with torch.inference_mode():
        one, other = (model(x, boxes, kinds)["losses"] for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state) and not model.rpn.training
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_backbone_has_the_configured_norm() -> None:
    def norms(name: str) -> set[type[nn.Module]]:
        kinds = (nn.BatchNorm2d, FrozenBatchNorm2d, nn.GroupNorm)
        return {type(module) for module in build(FCOS, norm=name).backbone.modules() if isinstance(module, kinds)}

    assert norms("batch") == {nn.BatchNorm2d}
    assert norms("frozen") == {FrozenBatchNorm2d}
    assert norms("group") == norms("layer") == {nn.GroupNorm}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fpn_width": 48}, "model.fpn_width: expected a multiple of 32, got 48"),
        ({"backbone": "resnet19"}, "model.backbone: expected one of"),
        ({"norm": "none"}, "model.norm: expected one of batch frozen group layer, got none"),
        ({"norm": "frosen"}, r"model.norm: expected one of batch frozen group layer, .* Did you mean frozen\?"),
        ({"max_boxes": 0}, "model.max_boxes: expected a whole number of at least 1"),
        ({"levels": 6}, "model.levels: expected a whole number from 1 to 5, got 6"),
    ],
)
def test_wrong_arguments_are_rejected(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(FCOS, **change)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "make", "parameters"),
    [
        (FCOS, detection.fcos_resnet50_fpn, 32_269_600),
        (RetinaNet, detection.retinanet_resnet50_fpn, 34_014_999),
        (FasterRCNN, detection.fasterrcnn_resnet50_fpn, 41_755_286),
        (SSDLite, detection.ssdlite320_mobilenet_v3_large, 3_440_060),
    ],
)
def test_the_default_detector_has_the_same_parameters_as_in_torchvision(kind: Any, make: Any, parameters: int) -> None:
    model, other = kind(3, 91), make(weights=None, weights_backbone=None, num_classes=91)
    # Some published numbers of parameters are for frozen batch norm, whose weight and bias are buffers.
    frozen = sum(p.numel() for m in other.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters())
    found = sum(p.numel() for p in model.parameters())
    assert parameters in (found, found - frozen)
    model.load_state_dict(other.state_dict())


@pytest.mark.parametrize("backbone", ["narrow", "narrow8", "resnet18"])
@pytest.mark.parametrize("fine", [False, True])
def test_fcos_anchors_are_as_large_as_the_stride_of_their_feature_map(backbone: str, fine: bool) -> None:
    model = build(FCOS, backbone=backbone, fine=fine)
    maps = list(model.backbone(torch.zeros(2, 3, 128, 256)).values())
    strides = [STRIDES[backbone] * 2**level // (2 if fine else 1) for level in range(5)]
    assert [tuple(level.shape) for level in maps] == [(2, 32, 128 // each, 256 // each) for each in strides]
    (anchors,) = model.anchor_generator(ImageList(torch.zeros(2, 3, 128, 256), [(128, 256)]), maps)
    sides = torch.cat([torch.full((128 // each * (256 // each),), float(each)) for each in strides])
    assert torch.equal(anchors[:, 2:] - anchors[:, :2], sides[:, None].expand(-1, 2))


@pytest.mark.parametrize(("levels", "fine"), [(1, False), (2, False), (4, False), (2, True)])
def test_losses_of_fcos_with_fewer_levels_equal_torchvision_on_the_finest_feature_maps(levels: int, fine: bool) -> None:
    x, boxes, kinds = example()
    model = build(FCOS, levels=levels, fine=fine)
    found = model(x, boxes, kinds)
    finest = copy.deepcopy(model.backbone)
    parts = copy.deepcopy(model)
    parts.backbone = Finest(finest, levels)
    expected = reference(parts)(list(x), targets(boxes, kinds))
    factor = found["weight"] / (found["weight"] - len(x))
    for name, value in expected.items():
        torch.testing.assert_close(found["losses"][NAMES[name]] * factor, value, rtol=1e-5, atol=1e-6)
    assert [len(each["boxes"]) for each in model.eval()(x)["detections"]] == [100] * len(x)


class Finest(nn.Module):
    """Backbone that returns only the `levels` finest feature maps of another backbone."""

    def __init__(self, backbone: nn.Module, levels: int) -> None:
        super().__init__()
        self.backbone, self.levels = backbone, levels
        self.out_channels = backbone.out_channels

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return dict(list(self.backbone(x).items())[: self.levels])


def test_box_weight_multiplies_only_the_loss_of_the_boxes() -> None:
    one, three = (build(FCOS, box_weight=weight)(*example())["losses"] for weight in (1.0, 3.0))
    torch.testing.assert_close(three, {**one, "boxes": 3 * one["boxes"]})


def test_box_voting_averages_overlapping_boxes_of_the_same_class_with_scores_as_weights() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 11], [0, 0, 10, 15], [0, 0, 10, 10], [5, 5, 5, 5]])
    scores, labels = torch.tensor([0.8, 0.4, 0.3, 0.2, 0.1]), torch.tensor([1, 1, 1, 2, 2])
    found = Vote(nms_iou=0.7, vote_iou=0.9, max_boxes=3)({"boxes": boxes, "scores": scores, "labels": labels})
    # The second box is averaged with the first; the third overlaps the first too little; the fourth has another class.
    mean = torch.tensor([0.0, 0, 10, (0.8 * 10 + 0.4 * 11) / 1.2])
    torch.testing.assert_close(found["boxes"], torch.stack([mean, boxes[2], boxes[3]]))
    assert found["scores"].tolist() == scores[[0, 2, 3]].tolist() and found["labels"].tolist() == [1, 1, 2]
    every = Vote(nms_iou=0.7, vote_iou=0.9, max_boxes=9)({"boxes": boxes, "scores": scores, "labels": labels})
    assert every["boxes"][-1].tolist() == [5, 5, 5, 5]


def test_with_a_vote_iou_near_1_detections_equal_plain_non_maximum_suppression() -> None:
    x, _, _ = example()
    plain, voting = build(FCOS).eval(), build(FCOS, vote_iou=0.9999).eval()
    with torch.inference_mode():
        for one, other in zip(plain(x)["detections"], voting(x)["detections"], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-2)


def test_default_boxes_are_computed_once_for_each_size_and_equal_those_of_torchvision() -> None:
    options: dict[str, Any] = {"min_ratio": 0.2, "max_ratio": 0.95}
    ours, theirs = DefaultBoxes([[2, 3]] * 2, **options), DefaultBoxGenerator([[2, 3]] * 2, **options)
    for size in (64, 96):
        images = ImageList(torch.zeros(2, 3, size, 64), [(size, 64)] * 2)
        maps = [torch.zeros(2, 8, size // stride, 64 // stride) for stride in (16, 32)]
        with torch.inference_mode():
            found = ours(images, maps)
        assert len(found) == 2 and not found[0].is_inference()
        assert torch.equal(found[0], theirs(images, maps)[0])
        assert ours(images, maps)[0] is found[0]
