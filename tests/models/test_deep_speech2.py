"""Deep Speech 2: layers compared with torch on packed sequences; padding does not change outputs or gradients."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import rnn

from dltrain.models.deep_speech2 import DeepSpeech2

LENGTHS = torch.tensor([9, 1, 12, 5])
BANDS, FRAMES = 6, 2
BUILDS = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}


def build(cell: str = "lstm", **options: object) -> DeepSpeech2:
    torch.manual_seed(0)
    options = {"each_step": True, "num_layers": 1, **options}
    return DeepSpeech2(BANDS, FRAMES, 4, channels=3, cell=cell, hidden_size=7, **options).eval()


def recordings(width: int = 12) -> Tensor:
    x = torch.randn(len(LENGTHS), width, BANDS * FRAMES, generator=torch.Generator().manual_seed(1))
    return x * (torch.arange(width) < LENGTHS[:, None])[:, :, None]


@pytest.mark.parametrize("cell", BUILDS)
def test_a_layer_equals_a_bidirectional_layer_of_torch_on_packed_sequences(cell: str) -> None:
    model, reference, found = build(cell), BUILDS[cell](6, 7, batch_first=True, bidirectional=True), list[Tensor]()
    with torch.no_grad():
        for name, parameter in reference.named_parameters():
            ours = model.backwards[0] if name.endswith("_reverse") else model.forwards[0]
            parameter.copy_(ours.get_parameter(name.removesuffix("_reverse")))
    model.forwards[0].register_forward_pre_hook(lambda layer, inputs: found.append(inputs[0]))
    model.layer_norms[0].register_forward_pre_hook(lambda layer, inputs: found.append(inputs[0]))
    model(recordings(), LENGTHS)
    packed = rnn.pack_padded_sequence(found[0], LENGTHS, batch_first=True, enforce_sorted=False)
    expected, _ = rnn.pad_packed_sequence(reference(packed)[0], batch_first=True, total_length=12)
    own = torch.arange(12) < LENGTHS[:, None]
    torch.testing.assert_close(found[1][own], expected[own])


@pytest.mark.parametrize("options", [{}, {"each_step": False}, {"each_step": False, "readout": "last"}])
def test_outputs_of_padded_recordings_equal_the_outputs_of_each_recording_alone(options: dict[str, object]) -> None:
    model = build(num_layers=2, **options)
    padded = model(recordings(), LENGTHS)
    wider = model(torch.cat([recordings(), torch.ones(4, 4, 12)], dim=1), LENGTHS)
    for row, length in enumerate(LENGTHS.tolist()):
        alone = model(recordings()[row : row + 1, :length])[0]
        end = length if model.each_step else None
        torch.testing.assert_close(padded[row][:end], alone)
        torch.testing.assert_close(wider[row][:end], alone)


def test_gradients_of_padded_recordings_equal_the_gradients_of_each_recording_alone() -> None:
    model, own = build(), (torch.arange(12) < LENGTHS[:, None])[:, :, None]
    (model(recordings(), LENGTHS) * own).square().sum().backward()
    padded = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    for row, length in enumerate(LENGTHS.tolist()):
        model(recordings()[row : row + 1, :length]).square().sum().backward()
    for parameter, expected in zip(model.parameters(), padded, strict=True):
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("frames", [1, 2, 3])
def test_each_step_has_an_output_for_any_number_of_frames_per_step(frames: int) -> None:
    model = DeepSpeech2(5, frames, 4, channels=2, hidden_size=3, each_step=True)
    assert [model(torch.randn(2, steps, 5 * frames)).shape for steps in (1, 2, 7)] == [(2, 1, 4), (2, 2, 4), (2, 7, 4)]
