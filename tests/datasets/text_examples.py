"""Texts and functions that several test files share."""

from dltrain.data.loader import Batches

SENTENCES = "The  quick brown\tfox don't jump, over_it 12.5 “é”\n\n日本語 x\u00a0y 🐋\n" * 40
UNSEEN = "zyzzyva Zoë\n" * 8


def write(path, text):
    path.write_text(text, encoding="utf-8", newline="")
    return str(path)


def batch_of(source):
    return next(iter(Batches(source, len(source))))
