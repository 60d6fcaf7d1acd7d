"""Normalize the cells of a date column for pandas: strip UTC offsets and weekdays, translate months."""

import re
from dataclasses import dataclass, field, replace

from dltrain.datasets.date_form import ENGLISH, DateForm
from dltrain.datasets.date_names import find_languages, spell

SAMPLE = 2000
ORDINAL = re.compile(r"(?<=\d)(?:st|nd|rd|th|er|º|ª|°)(?![^\W\d_])", re.IGNORECASE)
WORD = re.compile(r"[^\W\d_]{2,}\.?")
WEEKDAY = re.compile(r"([^\W\d_]{2,}(?:-[^\W\d_]+)?\.?)[.,]?\s+(?=.*[^\W\d_]{3}|\d{1,4}[-/.]\d{1,2}[-/.]\d)")
NO_MONTHS = {"am", "pm", "de", "del", "of", "kw"}
NOON = re.compile(r"(?<=\d)(\s?)([ap])(\.?)(\s?)(m)(\.?)$", re.IGNORECASE)
ZONES = {"Z": 0, "UTC": 0, "GMT": 0, "WET": 0, "WEST": 1, "BST": 1, "CET": 1, "CEST": 2, "EET": 2, "EEST": 3}
ZONES |= {"EST": -5, "EDT": -4, "CST": -6, "CDT": -5, "MST": -7, "MDT": -6, "PST": -8, "PDT": -7}
ZONE = rf"(?:z|{'|'.join(ZONES)}|[+-]\d\d(?::?\d\d)?)"
OFFSET = re.compile(rf"((?::\d\d|T\d\d)\d*(?:[.,]\d+)?(?:\s?[AaPp]\.?[Mm]\.?)?)(\s?{ZONE})(?= \d{{4}}$|$)")


@dataclass
class DateCells:
    """Cells prepared for pandas, and the format of the parts that were removed or translated."""

    texts: list[str]
    offsets: list[str] = field(default_factory=list)
    lead: str = ""
    ordinal: bool = False
    form: DateForm = field(default_factory=DateForm)
    other_months: list[str] | None = None  # the cells translated from another possible language, if different


def prepare_cells(texts: list[str]) -> DateCells:
    """Return the cells without UTC offsets, weekdays and ordinal suffixes, with English months and AM or PM."""
    cells, sample = DateCells(texts), sample_texts(texts)
    if any(OFFSET.search(text) for text in sample):
        texts, cells.offsets = _split_offsets(texts)
    if noon := next((match for text in sample_texts(texts) if (match := NOON.search(text))), None):
        first, second = "AP" if noon[2].isupper() else "ap"
        cells.form = replace(cells.form, noon=(first + "".join(noon.groups()[2:]), second + "".join(noon.groups()[2:])))
        texts = [NOON.sub(lambda match: f"{match[1]}{match[2]}m".upper(), text) for text in texts]
    if any(ORDINAL.search(text) for text in sample):
        cells.ordinal = any(re.search(r"\dth|\dst|\dnd|\drd", text, re.IGNORECASE) for text in sample)
        texts = [ORDINAL.sub("", text) for text in texts]
    cells.texts = texts
    if any(WORD.search(text) for text in sample_texts(texts)):
        _translate(cells)
    return cells


def _split_offsets(texts: list[str]) -> tuple[list[str], list[str]]:
    """Return the texts without their UTC offsets, and the offsets."""
    length = len(match[2]) if (match := OFFSET.search(texts[0])) and match.end(2) == len(texts[0]) else 0
    ends = [text[-length:] for text in texts] if length > 1 else []
    if ends and all(re.fullmatch(rf"\s?{ZONE}", end) for end in set(ends)):  # fast path: offsets of equal length
        return [text[:-length] for text in texts], ends
    found = [OFFSET.search(text) for text in texts]
    bare = [
        text[: match.start(2)] + text[match.end(2) :] if match else text
        for text, match in zip(texts, found, strict=True)
    ]
    return bare, [match[2] if match else "" for match in found]


def sample_texts(texts: list[str]) -> list[str]:
    """Return fewer than 2 * `SAMPLE` evenly spaced texts."""
    return texts[:: max(1, len(texts) // SAMPLE)]


def _translate(cells: DateCells) -> None:
    """Translate names of months to English and remove weekdays.

    Nothing changes if no language has all names, or if there are 60 or more different names.
    """
    days: dict[str, None] = {}
    comma = ""
    pieces: list[tuple[str, str, str]] = []
    for full in cells.texts:
        text = full
        if lead := WEEKDAY.match(full):
            days[lead[1]] = None
            comma = lead[0].removeprefix(lead[1])
            text = full[lead.end() :]
        words = [match for match in WORD.finditer(text) if match[0].casefold().rstrip(".") not in NO_MONTHS]
        word = words[0] if words and re.search(r"\d", text) else None
        pieces.append((text[: word.start()], word[0], text[word.end() :]) if word else (text, "", ""))
    months = dict.fromkeys(word for _, word, _ in pieces if word)
    languages = find_languages(months, days) if len(months) + len(days) < 60 else []
    if not languages:
        return
    cells.lead = "%A" + comma if days else ""
    versions = [
        [before + (ENGLISH[numbers[word] - 1] if word else "") + after for before, word, after in pieces]
        for _, numbers, _ in languages
    ]
    cells.texts = versions[0]
    cells.other_months = next((texts for texts in versions if texts != versions[0]), None)
    language, numbers, weekdays = languages[0]
    cells.form = replace(
        cells.form, months=spell(numbers, language.month_lists), weekdays=spell(weekdays, language.weekday_lists)
    )
