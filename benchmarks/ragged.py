"""Bare training loop for texts of different lengths: a bidirectional LSTM classifier on packed sequences."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import rnn
from torch.utils.data import DataLoader

WORDS, SPECIAL, CLASSES = 1_000, 2, 2  # special tokens: padding and unknown
SHORTEST, LONGEST = 10, 100  # words per text
LOG_EVERY = 50


class TextClassifier(nn.Module):
    """Embedding, LSTM on packed sequences, and a fully connected layer on the final states of both directions."""

    def __init__(self, hidden_size: int = 64) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS + SPECIAL, hidden_size)
        self.lstm = nn.LSTM(hidden_size, hidden_size, 2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * hidden_size, CLASSES)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed = rnn.pack_padded_sequence(self.embedding(x), lengths, batch_first=True, enforce_sorted=False)
        _, (last, _) = self.lstm(packed)
        return self.head(torch.cat([last[-2], last[-1]], dim=1))


def write_texts(path: Path) -> None:
    generator = np.random.default_rng(0)
    lines = ["text,label"]
    for number in range(6_400):
        words = generator.integers(0, WORDS, generator.integers(SHORTEST, LONGEST + 1))
        lines.append(f"{' '.join(f'w{word}' for word in words)},{'ab'[number % 2]}")
    path.write_text("\n".join(lines) + "\n")


def collate(examples: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    """Return padded texts (B, T), their lengths and their classes."""
    texts, targets = zip(*examples, strict=True)
    lengths = torch.tensor([len(text) for text in texts])
    return rnn.pad_sequence(list(texts), batch_first=True), lengths, torch.stack(targets)


def classify_texts(task: Any) -> None:
    """Train with Adam and print the loss every `LOG_EVERY` steps."""
    saved = torch.load(task.folder / f"{task.name}.pt", weights_only=True)
    texts = [row[:length] for row, length in zip(saved["inputs"], saved["lengths"].tolist(), strict=True)]
    examples: Any = list(zip(texts, saved["targets"], strict=True))
    loader = DataLoader(examples, batch_size=task.workload.batch_size, shuffle=True, collate_fn=collate)
    model = task.model()
    optimizer = torch.optim.Adam(model.parameters(), lr=task.workload.lr)
    model.train()
    step = 0
    while step < task.steps:
        for inputs, lengths, targets in loader:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(inputs, lengths), targets)
            loss.backward()
            optimizer.step()
            step += 1
            task.stamp()
            if step % LOG_EVERY == 0:
                print(f"step {step} loss {loss.item():.4f}")
            if step == task.steps:
                return
