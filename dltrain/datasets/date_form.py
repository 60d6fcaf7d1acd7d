"""Date patterns: find the patterns that a text matches, and write times in the format of a column."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

ENGLISH = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
ENGLISH_MONTH = re.compile(rf"(?<![^\W\d_])(?:{'|'.join(ENGLISH)})(?![^\W\d_])")
UNITS = {10: "s", 13: "ms", 16: "us", 19: "ns"}  # number of digits of a Unix time (2001 to 2286) -> unit
# Directive -> regular expression of its text.
PARTS = {"Y": r"\d{4}", "y": r"\d\d", "b": "[A-Z][a-z]{2}", "p": "[AP]M", "q": "[1-4]", "G": r"\d{4}", "u": "[1-7]"}
PARTS |= {
    "M": r"\d\d",
    "S": r"\d\d",
    "f": r"\d+",
    "s": r"\d+",
    **dict.fromkeys("mdHI", r"\d{1,2}"),
    "V": r"(?:0?[1-9]|[1-5]\d)",
}
# Text that may stand between the directives of a pattern.
LITERALS = re.compile(r"(?:[-/.,:'’_\sTWQMtwqmh年月日년월일]|KW|del?|d['’]|of|[гр]\.?)*")

# Regular expression of a time of day -> its pattern; the first match counts.
CLOCKS = (
    (r"(?<!\d)\d{1,2}:\d\d:\d\d([.,])\d{1,9}", r"%H:%M:%S\1%f"),
    (r"(?<!\d)\d{1,2}:\d\d:\d\d", "%H:%M:%S"),
    (r"(?<!\d)\d{1,2}:\d\d(?!\d)", "%H:%M"),
    (r"(?<=[\sT])\d{1,2}([.h])\d\d\1\d\d$", r"%H\1%M\1%S"),
    (r"(?<=[\sT])\d{1,2}([.h])\d\d$", r"%H\1%M"),
    (r"(?<=\d{8}[ T])\d{6}$", "%H%M%S"),
    (r"(?<=\d{8}[ T])\d{4}$", "%H%M"),
    (r"(?<=\dT)\d\d$|(?<=[-/]\d\d )\d\d$", "%H"),
    (r"(?<=\s)\d{1,2}(?=\s?[AP]M$)", "%H"),
)
# Regular expression of a date -> its possible patterns; the other dates of the column decide between them.
DATES = (
    (r"\d{4}(\s?[-/._]\s?|\s)\d{1,2}\1\d{1,2}", (r"%Y\1%m\1%d",)),
    (r"\d{1,2}(\s?[-/.]\s?|\s)\d{1,2}\1\d{4}", (r"%d\1%m\1%Y", r"%m\1%d\1%Y")),
    (r"\d{1,2}(\s?[-/.]\s?)\d{1,2}\1\d\d", (r"%d\1%m\1%y", r"%m\1%d\1%y", r"%y\1%m\1%d")),
    (r"\d{4}([年년]\s?)\d{1,2}([月월]\s?)\d{1,2}([日일])", (r"%Y\1%m\2%d\3",)),
    (r"\d{4}([年년]\s?)\d{1,2}([月월])", (r"%Y\1%m\2",)),
    (r"\d{8}", ("%Y%m%d",)),
    (r"\d{4}([-/]|[- ]?[Mm])\d{1,2}", (r"%Y\1%m",)),
    (r"\d{4}:\d\d", ("%Y:%m",)),
    (r"\d{1,2}([-/])\d{4}", (r"%m\1%Y",)),
    (r"\d{4}([-/ ]?(?:[Ww]|KW)\s?)\d{1,2}(-)[1-7]", (r"%G\1%V\2%u",)),
    (r"\d{4}W\d\d[1-7]", ("%GW%V%u",)),
    (r"\d{4}([-/ ]?(?:[Ww]|KW)\s?)\d{1,2}", (r"%G\1%V",)),
    (r"((?:[Ww]|KW)\s?)\d{1,2}([-/ ])\d{4}", (r"\1%V\2%G",)),
    (r"\d{4}([-/: ]?[QqT])[1-4]", (r"%Y\1%q",)),
    (r"([QqT]\s?)[1-4]([-/ ]?)\d{4}", (r"\1%q\2%Y",)),
    (r"(Q\s?)[1-4]([-/ ]['’]?|['’])\d\d", (r"\1%q\2%y",)),
    (r"[1-4]([Qq][-/ ]?)\d{4}", (r"%q\1%Y",)),
    (r"[1-4]([Qq][-/ ]?['’]?)\d\d", (r"%q\1%y",)),
    (r"\d{1,2}(\D{0,5}?)%b(\D{0,14}?)\d{4}", (r"%d\1%b\2%Y",)),
    (r"\d{1,2}(\D{0,5}?)%b(\D{0,5}?)\d\d", (r"%d\1%b\2%y", r"%y\1%b\2%d")),
    (r"%b(\D{1,5}?)\d{1,2}(\D{1,14}?)\d{4}", (r"%b\1%d\2%Y",)),
    (r"%b(\D{1,5}?)\d{1,2}(\D{1,5}?)\d\d", (r"%b\1%d\2%y",)),
    (r"\d{4}(\D{1,3})%b(\D{1,3})\d{1,2}", (r"%Y\1%b\2%d",)),
    (r"%b(\D{0,5})\d{4}", (r"%b\1%Y",)),
    (r"\d{4}(\D{0,3})%b", (r"%Y\1%b",)),
    (r"%b(\s?[-/'’]\s?|\s['’]?)\d\d", (r"%b\1%y",)),
)
NUMBERS = (  # may also be counts, so they are dates only if the column has a name such as date (`named_time`)
    (r"\d{14}", ("%Y%m%d%H%M%S",)),
    (r"\d{12}", ("%Y%m%d%H%M",)),
    (r"\d{10}", ("%Y%m%d%H", "%s")),
    (r"\d{13}|\d{16}|\d{19}", ("%s",)),
    (r"\d{6}", ("%Y%m",)),
    (r"\d{4}", ("%Y",)),
    (r"\d{4}\.\d\d", ("%Y.%m",)),
    (r"\d\d\.\d{4}", ("%m.%Y",)),
)


@dataclass(frozen=True)
class DateForm:
    """Format of the dates of a column.

    Args:
        pattern: Directives of `strptime`, and these: ``%-d``, ``%-m``, ``%-H``, ``%-I`` and ``%-V`` for numbers without
            a leading zero, ``%q`` for the quarter, ``%o`` for the day with an English suffix, ``%b`` and ``%A`` for
            names in `months` and `weekdays`, ``%s`` for Unix time.
        months: Names of the months; empty for numbers or English abbreviations.
        weekdays: Names of the weekdays from Monday on; empty without weekdays.
        noon: Words that mark the hours before and after noon.
        offset: Offset from UTC of the last date.
        digits: Number of digits of the fraction of a second, or of the Unix time.
        readings: The first date with two plausible readings, followed by both readings in ISO 8601; else empty.
    """

    pattern: str = ""
    months: tuple[str, ...] = ()
    weekdays: tuple[str, ...] = ()
    noon: tuple[str, str] = ("AM", "PM")
    offset: str = ""
    digits: int = 0
    readings: tuple[str, ...] = ()

    @property
    def ambiguous(self) -> bool:
        """Whether the dates have another plausible reading."""
        return bool(self.readings)

    @property
    def day_first(self) -> bool | None:
        """Whether the day precedes the month.

        None if the pattern begins with the year, or if `day_precedes` returns None.
        """
        return None if re.search("^%[Yy]", self.pattern) else day_precedes(self.pattern)


def day_precedes(pattern: str) -> bool | None:
    """Return whether the day precedes the month in a pattern; None if one of them is missing or not a number."""
    order = re.findall("%-?([dmo])", pattern)
    return order[0] != "m" if len(order) == 2 else None


def find_patterns(text: str, named_time: bool) -> list[str]:
    """Return the possible patterns of a date without offset or weekday, or an empty list for other text.

    Args:
        text: A date or other text, with months as numbers or English abbreviations.
        named_time: Whether the column has a name such as date or year. If so, numbers such as 2021, 202105 and Unix
            times are dates; otherwise, they are not, because they may be counts.
    """
    if "%" in text:
        return []
    text = ENGLISH_MONTH.sub("%b", text)
    for clock, pattern in CLOCKS:
        text, count = re.subn(clock, pattern, text, count=1)
        if count:
            break
    if re.search(r"%H.*[AP]M", text):
        text = re.sub("[AP]M", "%p", text.replace("%H", "%I"))
    for date, patterns in (*DATES, *(NUMBERS if named_time else ())):
        if match := re.fullmatch(rf"(?:{date})(?P<rest>(?:[T,:_\s]+%[HI]\D*)?|\.|\s?[гр]\.?)", text):
            found = [match.expand(pattern) + match["rest"] for pattern in patterns]
            return [pattern for pattern in found if LITERALS.fullmatch(re.sub(r"%\w", "", pattern))]
    return []


def pattern_regex(pattern: str) -> re.Pattern[str]:
    """Return the regular expression of the dates of a pattern, with a group for each directive."""
    pieces = re.split(r"%(\w)", re.sub(r"\s+", " ", pattern))
    return re.compile(
        "".join(
            f"(?P<{piece}>{PARTS[piece]})" if index % 2 else re.escape(piece).replace(r"\ ", r"\s+")
            for index, piece in enumerate(pieces)
        )
    )


def write_dates(times: Iterable[datetime], form: DateForm) -> list[str]:
    """Return local times as texts in the format of a column."""
    return [_write_date(time, form) for time in times]


def _write_date(time: datetime, form: DateForm) -> str:
    def write(part: re.Match[str]) -> str:
        text = WRITERS[part[2]](time, form)
        return text.lstrip("0") or "0" if part[1] else text

    return re.sub(r"%(-?)(\w)", write, form.pattern)


def _ordinal(day: int) -> str:
    return f"{day}{'th' if 10 < day < 14 else {1: 'st', 2: 'nd', 3: 'rd'}.get(day % 10, 'th')}"


WRITERS: dict[str, Callable[[datetime, DateForm], str]] = {
    "Y": lambda time, form: f"{time.year:04}",
    "y": lambda time, form: f"{time.year % 100:02}",
    "m": lambda time, form: f"{time.month:02}",
    "d": lambda time, form: f"{time.day:02}",
    "o": lambda time, form: _ordinal(time.day),
    "b": lambda time, form: (form.months or ENGLISH)[time.month - 1],
    "A": lambda time, form: form.weekdays[time.weekday()],
    "q": lambda time, form: str((time.month + 2) // 3),
    "G": lambda time, form: f"{time.isocalendar().year:04}",
    "V": lambda time, form: f"{time.isocalendar().week:02}",
    "u": lambda time, form: str(time.isoweekday()),
    "H": lambda time, form: f"{time.hour:02}",
    "I": lambda time, form: f"{(time.hour + 11) % 12 + 1:02}",
    "M": lambda time, form: f"{time.minute:02}",
    "S": lambda time, form: f"{time.second:02}",
    "f": lambda time, form: f"{time.microsecond:06}000"[: form.digits],
    "p": lambda time, form: form.noon[time.hour >= 12],
    "z": lambda time, form: form.offset,
    # Integers, because floats cannot represent nanoseconds. The unit is 1 us for 16 digits, and 10 times smaller
    # for each further digit.
    "s": lambda time, form: str(
        (time - datetime(1970, 1, 1)) // timedelta(microseconds=1) * 10**13 // 10 ** (29 - form.digits)
    ),
}
