"""Network for clips: a CNN on each frame, followed by an LSTM."""

from typing import Any

from torch import Tensor, nn

from dltrain.models.convolutional import CNN
from dltrain.models.layers import activation as make_activation
from dltrain.models.layers import check_sizes


class CNNLSTM(nn.Module):
    """CNN on each frame, followed by an LSTM over the frames; the output is computed after the last frame.

    Args:
        channels, height, width: Size of the frames, at least 1.
        outputs: At least 1.
        blocks: Blocks of the CNN; see `dltrain.models.convolutional.CNN`.
        frame_features: Number of features that the CNN returns for each frame, at least 1.
        hidden_size: Width of the LSTM, at least 1.
        num_layers: Layers of the LSTM, at least 1.
        activation: Activation function of the CNN.
        norm: Normalization in the CNN: ``batch``, ``layer``, ``group`` or ``none``.
        dropout: Dropout probability between LSTM layers and before the output layer, in [0, 1).

    Shape: (B, channels, frames, height, width) -> (B, outputs), for any number of frames.
    Source: Donahue et al. 2015, "Long-term recurrent convolutional networks for visual recognition and description".
    Differs: the paper averages the outputs of all frames.
    """

    def __init__(
        self,
        channels: int,
        height: int,
        width: int,
        outputs: int,
        blocks: list[dict[str, Any]],
        frame_features: int = 64,
        hidden_size: int = 64,
        num_layers: int = 1,
        activation: str = "relu",
        norm: str = "batch",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_sizes(dropout, outputs=outputs, frame_features=frame_features)
        check_sizes(hidden_size=hidden_size, num_layers=num_layers)
        self.frames = CNN(channels, height, width, frame_features, blocks, [], activation, norm)
        self.activation = make_activation(activation)
        between = dropout if num_layers > 1 else 0.0  # torch warns about dropout with one layer
        self.lstm = nn.LSTM(frame_features, hidden_size, num_layers, batch_first=True, dropout=between)
        for name, bias in self.lstm.named_parameters():
            if name.startswith("bias_ih"):
                # Forget gates start open, so that gradients pass through many frames.
                nn.init.ones_(bias[hidden_size : 2 * hidden_size])
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(hidden_size, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs of each clip."""
        each = self.activation(self.frames(x.transpose(1, 2).flatten(0, 1)))
        states, _ = self.lstm(each.unflatten(0, (x.shape[0], x.shape[2])))
        return self.head(self.dropout(states[:, -1]))
