"""Names of months and weekdays in the languages of CSV files."""

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import NamedTuple

LANGUAGES = "en de fr es it pt nl pl sv da nb fi cs sk sl hr hu ro tr et lv lt ca id is sr_Latn bg ru uk el"
NICKNAMES = {("de", "mrz"): 3, ("de", "janner"): 1, ("en", "sept"): 9}  # that the Unicode locale data lack


class Language(NamedTuple):
    """Numbers of the names of a language, without capitals, accents and dots, and the lists that they stand in."""

    months: dict[str, int]
    weekdays: dict[str, int]
    month_lists: Sequence[Sequence[str]]
    weekday_lists: Sequence[Sequence[str]]


def fold(word: str) -> str:
    """Return a word without capitals, accents and dots."""
    letters = unicodedata.normalize("NFKD", word.casefold())
    return "".join(letter for letter in letters if letter.isalpha() and not unicodedata.combining(letter))


@cache
def load_language(code: str) -> Language:
    """Return the names of a language from Babel; months count from 1, weekdays from Monday as 0."""
    from babel import Locale

    locale = Locale.parse(code)
    forms = [(context, width) for context in ("format", "stand-alone") for width in ("wide", "abbreviated", "short")]
    months = [[locale.months[c][w][n] for n in range(1, 13)] for c, w in forms if w in locale.months[c]]
    days = [[locale.days[c][w][n] for n in range(7)] for c, w in forms if w in locale.days[c]]
    numbers = {fold(name): number for names in reversed(months) for number, name in enumerate(names, start=1)}
    numbers |= {name: number for (language, name), number in NICKNAMES.items() if language == code}
    weekdays = {fold(name): number for names in reversed(days) for number, name in enumerate(names)}
    return Language(numbers, weekdays, months, days)


def read_names(words: Iterable[str], names: Mapping[str, int]) -> tuple[dict[str, int], int] | None:
    """Return the number of each word, and how many words are no full name but the unique start of one."""
    numbers, starts = {}, 0
    for word in words:
        key = fold(word)
        if key not in names:
            found = {number for name, number in names.items() if len(key) >= 3 and name.startswith(key)}
            if len(found) != 1:
                return None
            starts += 1
        numbers[word] = names[key] if key in names else found.pop()
    return numbers, starts


def find_languages(
    months: Iterable[str], weekdays: Iterable[str]
) -> list[tuple[Language, dict[str, int], dict[str, int]]]:
    """Return the languages that know all words best, each with the numbers of the months and weekdays."""
    found: list[tuple[int, Language, dict[str, int], dict[str, int]]] = []
    for code in LANGUAGES.split():
        language = load_language(code)
        numbers, days = read_names(months, language.months), read_names(weekdays, language.weekdays)
        if numbers and days:
            found.append((numbers[1] + days[1], language, numbers[0], days[0]))
            if code == "en" and found[0][0] == 0:
                break
    least = min((starts for starts, *_ in found), default=0)
    return [(language, numbers, days) for starts, language, numbers, days in found if starts == least]


def spell(numbers: Mapping[str, int], lists: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """Return all names of months or weekdays, spelled as a column spells some of them.

    Args:
        numbers: Number of each word of the column; months count from 1, weekdays from 0.
        lists: Lists of all names.
    """
    if not numbers:
        return ()
    first = 1 if len(lists[0]) == 12 else 0
    shorts = [*lists, *([name[:3] for name in names] for names in lists)]
    spelled = [_in_style(names, numbers, dot) for names in shorts for dot in (None, "", ".")]
    best = max(spelled, key=lambda names: sum(names[number - first] == word for word, number in numbers.items()))
    seen = {number - first: word for word, number in numbers.items()}
    return tuple(seen.get(index, name) for index, name in enumerate(best))


def _in_style(names: Sequence[str], words: Iterable[str], dot: str | None) -> list[str]:
    """Return names with the capitals of the words, and with or without a dot; None leaves the dots as they are."""
    names = list(names) if dot is None else [name.rstrip(".") + dot for name in names]
    if all(word.isupper() for word in words):
        return [name.upper() for name in names]
    return [name.capitalize() if next(iter(words))[0].isupper() else name.lower() for name in names]
