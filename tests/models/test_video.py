"""Networks for video clips, compared with torchvision and with a loop over frames."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import video

from dltrain.errors import ConfigError
from dltrain.models.video import CNNLSTM
from dltrain.models.video_resnet import VideoResNet

BLOCKS = [{"channels": 4, "pool": "max"}, {"channels": 6, "kernel": 5, "stride": 2}]
PUBLISHED = {"r3d_18": (False, 33_371_472), "r2plus1d_18": (True, 31_505_325)}


@pytest.mark.parametrize("name", PUBLISHED)
def test_networks_have_the_published_number_of_parameters_and_the_weight_shapes_of_torchvision(name: str) -> None:
    factorized, parameters = PUBLISHED[name]
    with torch.device("meta"):
        ours, theirs = VideoResNet(3, 400, factorized), getattr(video, name)(weights=None)
    shapes = [{name: value.shape for name, value in model.state_dict().items()} for model in (ours, theirs)]
    assert shapes[0] == shapes[1]
    assert sum(p.numel() for p in ours.parameters()) == parameters


@pytest.mark.parametrize("name", ["r3d_18", pytest.param("r2plus1d_18", marks=pytest.mark.slow)])
def test_outputs_equal_those_of_torchvision_with_the_same_weights_in_both_memory_layouts(name: str) -> None:
    ours, theirs = VideoResNet(3, 7, PUBLISHED[name][0]).eval(), getattr(video, name)(weights=None, num_classes=7)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 3, 3, 12, 16)
    last = x.contiguous(memory_format=torch.channels_last_3d)
    with torch.inference_mode():
        expected = theirs.eval()(x)
        torch.testing.assert_close(ours(x), expected, atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(ours(last), expected, atol=1e-5, rtol=1e-5)


def test_a_network_can_read_gray_clips() -> None:
    with torch.device("meta"):
        model = VideoResNet(1, 5, factorized=True)
        assert model.stem[0].weight.shape == (45, 1, 1, 7, 7)
        assert model(torch.empty(2, 1, 8, 24, 24)).shape == (2, 5)


def by_hand(state: dict[str, Tensor], clip: Tensor) -> Tensor:
    """Return the outputs for one clip (channels, frames, height, width), computed frame by frame."""
    hidden, cell = torch.zeros(5), torch.zeros(5)
    for frame in clip.unbind(1):
        x = F.conv2d(frame[None], state["frames.features.0.weight"], padding=1)
        x = F.max_pool2d(normalize(x, state, "frames.features.1").relu(), 2)
        x = F.conv2d(x, state["frames.features.4.weight"], padding=2, stride=2)
        x = normalize(x, state, "frames.features.5").relu().flatten()
        x = (state["frames.head.1.weight"] @ x + state["frames.head.1.bias"]).relu()
        gates = state["lstm.weight_ih_l0"] @ x + state["lstm.weight_hh_l0"] @ hidden
        gates = gates + state["lstm.bias_ih_l0"] + state["lstm.bias_hh_l0"]
        input_gate, forget_gate, candidate, output_gate = gates.split(5)
        cell = forget_gate.sigmoid() * cell + input_gate.sigmoid() * candidate.tanh()
        hidden = output_gate.sigmoid() * cell.tanh()
    return state["head.weight"] @ hidden + state["head.bias"]


def normalize(x: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    mean, variance = state[f"{name}.running_mean"], state[f"{name}.running_var"]
    return F.batch_norm(x, mean, variance, state[f"{name}.weight"], state[f"{name}.bias"])


@pytest.mark.parametrize("frames", [1, 4])
def test_the_lstm_reads_the_cnn_features_of_the_frames_in_order(frames: int) -> None:
    torch.manual_seed(0)
    model = CNNLSTM(3, 12, 8, 7, BLOCKS, frame_features=9, hidden_size=5)
    for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm2d)):
        nn.init.uniform_(norm.weight), nn.init.normal_(norm.bias)
        nn.init.normal_(norm.running_mean), nn.init.uniform_(norm.running_var, 0.5, 2.0)
    clips = torch.randn(2, 3, frames, 12, 8)
    expected = torch.stack([by_hand(model.state_dict(), clip) for clip in clips])
    torch.testing.assert_close(model.eval()(clips), expected)


def test_a_cnn_lstm_has_the_same_outputs_for_both_memory_layouts_of_clips() -> None:
    torch.manual_seed(0)
    model, clips = CNNLSTM(3, 12, 8, 7, BLOCKS).eval(), torch.randn(2, 3, 4, 12, 8)
    last = clips.contiguous(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(model(last), model(clips), atol=1e-5, rtol=1e-5)


def test_sizes_below_one_are_rejected() -> None:
    with pytest.raises(ConfigError, match=r"model.frame_features: expected a whole number of at least 1, got 0"):
        CNNLSTM(3, 12, 8, 7, BLOCKS, frame_features=0)
    with pytest.raises(ConfigError, match=r"model.outputs: expected a whole number of at least 1, got 0"):
        CNNLSTM(3, 12, 8, 0, BLOCKS)
    with pytest.raises(ConfigError, match=r"model.channels: expected a whole number of at least 1, got 0"):
        VideoResNet(0, 7, factorized=False)
