"""Windows of a sequence of tokens, for language models."""

from torch import Tensor, nn
from torch.nn import functional as F

from dltrain.data.loader import Batch
from dltrain.datasets.text_tokenizers import Encoded

UNKNOWN = -1  # the token after the end of a text
EVALUATION_STREAMS = 16


class NextToken(nn.Module):
    """Windows of tokens as inputs and targets: the targets are the inputs shifted by one token.

    The token -1, which follows the end of a text, becomes the target -1 and the input 0. A causal model does not read
    this input to predict earlier tokens.

    Args:
        border: Token between documents that are isolated: the batch then has the number of the document of each input.
            This token is the first one of the document that follows it: the last token of a document predicts it, and
            it predicts the next document. None for one document.

    Shape:
        tokens (B, length + 1) -> inputs (B, length), targets (B, length), both int64, and with a border documents
        (B, length), int64; characters and spelling (B,), of the targets, stay as they are
    """

    def __init__(self, border: int | None = None) -> None:
        super().__init__()
        self.border = border

    def forward(self, rows: Batch) -> Batch:
        """Prepare any number of windows at once."""
        tokens, others = rows["tokens"].long(), {name: value for name, value in rows.items() if name != "tokens"}
        batch = {"inputs": tokens[:, :-1].clamp(min=0), "targets": tokens[:, 1:].contiguous(), **others}
        if self.border is None:
            return batch
        return {**batch, "documents": (tokens[:, :-1] == self.border).cumsum(1)}


def measures(part: Encoded, length: int) -> dict[str, Tensor]:
    """Return characters and spelling of the targets of each window, int32 (N,); nothing if the content is not text."""
    if part.sizes is None:
        return {}
    fields = {"characters": part.sizes, "spelling": part.spelling}
    missing = -(len(part.tokens) - 1) % length
    return {name: F.pad(each[1:], (0, missing)).view(-1, length).sum(1).int() for name, each in fields.items()}
