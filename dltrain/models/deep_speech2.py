"""Deep Speech 2: convolutions over time and frequency, and recurrent layers in both directions."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dltrain.errors import choose
from dltrain.models.layers import READOUTS, check_sizes, inside, read_out
from dltrain.models.recurrent_layers import CELLS

KERNEL = (5, 5)  # over time (frames in the first convolution, steps in the second) and bands


class DeepSpeech2(nn.Module):
    """Two convolutions over time and frequency, bidirectional recurrent layers, and a linear output layer.

    Each convolution halves the number of bands. The first one also reduces the frames of each step to one.

    Args:
        bands: Mel bands of a frame, at least 1.
        frames: Frames of a step, at least 1.
        outputs: Size of an output, at least 1.
        channels: Channels of the convolutions, at least 1.
        cell: ``lstm``, ``gru`` or ``rnn``.
        hidden_size, num_layers: Width of each direction, and number of recurrent layers; at least 1.
        dropout: Dropout probability of the output of the convolutions and of each recurrent layer, in [0, 1).
        each_step: Return an output at every step; otherwise one per recording.
        readout: Input of the output layer without ``each_step``: the ``last`` state, or the ``mean`` or ``max`` of all
            states.

    Shape: (B, T, frames * bands) -> (B, T, outputs) with ``each_step``, otherwise (B, outputs).
    Source: Amodei et al. 2016, "Deep Speech 2", section 3.
    Differs: layer norm instead of batch norm, so that outputs depend neither on padding nor on other recordings; small
    kernels; ReLU is not clipped.
    """

    def __init__(
        self,
        bands: int,
        frames: int,
        outputs: int,
        channels: int = 16,
        cell: str = "lstm",
        hidden_size: int = 128,
        num_layers: int = 2,
        dropout: float = 0.0,
        each_step: bool = False,
        readout: str = "mean",
    ) -> None:
        super().__init__()
        check_sizes(dropout, bands=bands, frames=frames, outputs=outputs, channels=channels)
        check_sizes(hidden_size=hidden_size, num_layers=num_layers)
        self.bands, self.each_step = bands, each_step
        self.readout = choose("model.readout", readout, {name: name for name in READOUTS})
        build, middle = choose("model.cell", cell, CELLS), (KERNEL[0] // 2, KERNEL[1] // 2)
        halves = (bands + 1) // 2, (bands + 3) // 4
        self.convolutions = nn.ModuleList(
            [
                nn.Conv2d(1, channels, KERNEL, stride=(frames, 2), padding=middle),
                nn.Conv2d(channels, channels, KERNEL, stride=(1, 2), padding=middle),
            ]
        )
        self.norms = nn.ModuleList(nn.LayerNorm([channels, half]) for half in halves)
        widths = [channels * halves[1], *[2 * hidden_size] * (num_layers - 1)]
        self.forwards = nn.ModuleList(build(width, hidden_size, batch_first=True) for width in widths)
        self.backwards = nn.ModuleList(build(width, hidden_size, batch_first=True) for width in widths)
        for name, bias in self.named_parameters():
            if cell == "lstm" and name.endswith("bias_ih_l0"):
                nn.init.ones_(bias[hidden_size : 2 * hidden_size])  # open forget gates, as in `Recurrent`
        self.layer_norms = nn.ModuleList(nn.LayerNorm(2 * hidden_size) for _ in widths)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(2 * hidden_size, outputs)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return the outputs at every step or of the whole recording.

        Args:
            lengths: Steps of each recording, int64 (B,) on the CPU; later steps are padding. None for no padding.
        """
        own = None if lengths is None else inside(lengths, x.shape[1], x.device)
        x = x if own is None else x * own[:, :, None]
        x = x.reshape(len(x), 1, -1, self.bands)
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = F.relu(norm(convolution(x).transpose(1, 2))).transpose(1, 2)  # (B, channels, T, bands)
            x = x if own is None else x * own[:, None, :, None]  # the next convolution would read the padding
        x = self.dropout(x.transpose(1, 2).flatten(2))
        order = None if own is None else _reversal(own)
        for forward, backward, norm in zip(self.forwards, self.backwards, self.layer_norms, strict=True):
            after = _reverse(backward(_reverse(x, order))[0], order)
            x = self.dropout(norm(torch.cat([forward(x)[0], after], dim=-1)))
        return self.head(x if self.each_step else read_out(x, lengths, self.readout))


def _reversal(own: Tensor) -> Tensor:
    """Return the positions (B, T) that reverse the steps of each recording and keep its padding at the end.

    Reversed inputs give the same outputs as packed sequences, and are faster.
    """
    steps = torch.arange(own.shape[1], device=own.device)
    return torch.where(own, own.sum(1, keepdim=True) - 1 - steps, steps)


def _reverse(x: Tensor, order: Tensor | None) -> Tensor:
    return x.flip(1) if order is None else x.take_along_dim(order[:, :, None], dim=1)
