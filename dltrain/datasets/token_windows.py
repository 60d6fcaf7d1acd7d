"""Windows of a sequence of tokens, for language models."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dltrain.data.loader import Batch
from dltrain.datasets.text_tokenizers import Encoded

UNKNOWN = -1  # the token after the end of a text
EVALUATION_STREAMS = 16


class NextToken(nn.Module):
    """Module that converts windows of tokens to inputs and targets; the targets are the inputs shifted by one token.

    The token -1, which follows the end of a text, becomes the target -1 and the input 0. A causal model does not read
    this input to predict earlier tokens.

    Args:
        border: Token between documents that are read independently of each other; None if windows are not divided into
            documents. The batch gets a field ``documents``, which numbers the documents of a window. The border belongs
            to the document that follows: the model predicts it from the preceding document and reads it as the start of
            the next one.

    Shape:
        tokens (B, length + 1), optionally known (B,) -> inputs and targets (B, length), and documents (B, length) if
        there is a border, all int64; other fields, such as characters and spelling (B,), are unchanged
    """

    def __init__(self, border: int | None = None) -> None:
        super().__init__()
        self.border = border

    def forward(self, rows: Batch) -> Batch:
        """Prepare any number of windows."""
        tokens = rows["tokens"].long()
        if "known" in rows:
            steps = torch.arange(tokens.shape[1], device=tokens.device)
            tokens = torch.where(steps <= rows["known"][:, None], tokens, UNKNOWN)
        others = {name: value for name, value in rows.items() if name not in ("tokens", "known")}
        batch = {"inputs": tokens[:, :-1].clamp(min=0), "targets": tokens[:, 1:].contiguous(), **others}
        if self.border is None:
            return batch
        return {**batch, "documents": (tokens[:, :-1] == self.border).cumsum(1)}


def measures(part: Encoded, length: int) -> dict[str, Tensor]:
    """Return the sums of `Encoded.sizes` and `Encoded.spelling` over the targets of each window, int32 (N,).

    The names of the sums are ``characters`` and ``spelling``. The result is empty if the content is not UTF-8.
    """
    if part.sizes is None:
        return {}
    fields = {"characters": part.sizes, "spelling": part.spelling}
    return {name: _sums(each[1:], length) for name, each in fields.items()}


def _sums(values: Tensor, length: int) -> Tensor:
    """Return the sums of windows, int32 (N,), without copies of the values."""
    whole = len(values) // length
    sums = values[: whole * length].unflatten(0, (whole, length)).sum(1, dtype=torch.int32)
    return torch.cat([sums, values[whole * length :].sum(0, True, dtype=torch.int32)]) if len(values) % length else sums


def held_out_windows(tokens: Tensor, length: int) -> dict[str, Tensor]:
    """Return windows of ``length + 1`` tokens that predict each token once, except the first token.

    If the storage of `tokens` extends to the end of the last window, the windows are a view of the storage, and the
    field ``known`` has the number of valid targets of each window, int32 (N,). Otherwise, the last window is padded
    with the token -1.
    """
    missing = -(len(tokens) - 1) % length
    size, room = len(tokens) + missing, tokens.untyped_storage().nbytes() // tokens.element_size()
    if room < tokens.storage_offset() + size:
        whole = F.pad(tokens.to(torch.int32), (0, missing), value=UNKNOWN)
        return {"tokens": whole.unfold(0, length + 1, length)}
    windows = tokens.as_strided((size,), (1,)).unfold(0, length + 1, length)
    known = torch.full((len(windows),), length, dtype=torch.int32)
    known[-1] -= missing
    return {"tokens": windows, "known": known}
