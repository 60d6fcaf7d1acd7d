"""Split a text into documents and sentences."""

import re
from itertools import pairwise

SENTENCES = ("punctuation", "lines")
BLANK = re.compile(r"\n[^\S\n]*\n")
CLOSING, OPENING = r"[\"'”’»)\]]*", r"[\"'“‘«(\[_]*"
TITLES = "".join(rf"(?<!\b{title})" for title in ("Mr", "Mrs", "Ms", "Dr", "St"))
# Punctuation marks, followed by whitespace and a letter or a digit (group 1); or Chinese or Japanese marks.
SENTENCE_END = re.compile(rf"{TITLES}[.!?…]+{CLOSING}(?=\s+{OPENING}([^\W_]))|[。！？]+[」』”]*")


def split_documents(text: str, sentences: str) -> list[list[str]]:
    """Return the sentences of each document; documents are separated by blank lines.

    Args:
        sentences: ``punctuation`` ends a sentence at a punctuation mark (and closing quotes or brackets) before
            whitespace and a digit or a letter that is not lowercase, except after a title such as Mr. Chinese and
            Japanese marks always end a sentence. ``lines`` treats each line as a sentence.
    """
    documents = BLANK.split(text.replace("\r\n", "\n"))
    split = split_sentences if sentences == "punctuation" else str.splitlines
    found = ([sentence.strip() for sentence in split(document) if sentence.strip()] for document in documents)
    return [document for document in found if document]


def split_sentences(text: str) -> list[str]:
    """Return the sentences of a text, including the whitespace around them."""
    found = (match for match in SENTENCE_END.finditer(text) if not (match[1] or "").islower())
    ends = [0, *(match.end() for match in found), len(text)]
    return [text[start:end] for start, end in pairwise(ends)]
