"""Attention pooling: a weighted mean of the states of all steps."""

from torch import Tensor, nn

from dltrain.models.layers import inside


class AttentionPooling(nn.Module):
    """Weighted mean of the states of a sequence, with the weights ``softmax(v . tanh(W h + b))`` over its steps.

    Padding has the weight 0.

    Shape: (B, T, width) -> (B, width), and the weights (B, T), which sum to 1.
    Source: Yang et al. 2016, "Hierarchical attention networks for document classification", section 2.2.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, width)
        self.score = nn.Linear(width, 1, bias=False)

    def forward(self, states: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the means in the dtype of the states, and the weights in float32.

        Args:
            lengths: Steps of each sequence, int64 (B,) on the CPU; later steps are padding. None for no padding.
        """
        scores = self.score(self.hidden(states).tanh()).squeeze(-1).float()
        if lengths is not None:
            scores = scores.masked_fill(~inside(lengths, states.shape[1], states.device), float("-inf"))
        weights = scores.softmax(-1)
        return (weights[:, :, None].to(states.dtype) * states).sum(1), weights
