"""Names of months and weekdays in several languages."""

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import NamedTuple

LANGUAGES = "en de fr es it pt nl pl sv da nb fi cs sk sl hr hu ro tr et lv lt ca id is sr_Latn bg ru uk el"
EXTRA_MONTHS = {("de", "mrz"): 3, ("de", "janner"): 1, ("en", "sept"): 9}  # missing in the locales de and en


class Language(NamedTuple):
    """Names of the months and weekdays of a language."""

    months: dict[str, int]  # name as `fold` returns it -> number, from 1
    weekdays: dict[str, int]  # name as `fold` returns it -> number, from 0 for Monday
    month_lists: Sequence[Sequence[str]]  # the twelve names in each form: full, abbreviated, ...
    weekday_lists: Sequence[Sequence[str]]  # the seven names in each form


def fold(word: str) -> str:
    """Return the letters of a word in lowercase, without accents."""
    letters = unicodedata.normalize("NFKD", word.casefold())
    return "".join(letter for letter in letters if letter.isalpha() and not unicodedata.combining(letter))


@cache
def load_language(code: str) -> Language:
    """Return the names of months and weekdays in a language, from Babel."""
    from babel import Locale

    locale = Locale.parse(code)
    forms = [(context, width) for context in ("format", "stand-alone") for width in ("wide", "abbreviated", "short")]
    months = [[locale.months[c][w][n] for n in range(1, 13)] for c, w in forms if w in locale.months[c]]
    days = [[locale.days[c][w][n] for n in range(7)] for c, w in forms if w in locale.days[c]]
    numbers = {fold(name): number for names in reversed(months) for number, name in enumerate(names, start=1)}
    numbers |= {name: number for (language, name), number in EXTRA_MONTHS.items() if language == code}
    weekdays = {fold(name): number for names in reversed(days) for number, name in enumerate(names)}
    return Language(numbers, weekdays, months, days)


def lookup_numbers(words: Iterable[str], names: Mapping[str, int]) -> tuple[dict[str, int], int] | None:
    """Return the number of each word and how many words are abbreviations: unique prefixes of 3 letters or more.

    Return None if a word is neither a name nor such an abbreviation.
    """
    numbers, abbreviated = {}, 0
    for word in words:
        key = fold(word)
        if key not in names:
            found = {number for name, number in names.items() if len(key) >= 3 and name.startswith(key)}
            if len(found) != 1:
                return None
            abbreviated += 1
        numbers[word] = names[key] if key in names else found.pop()
    return numbers, abbreviated


def find_languages(
    months: Iterable[str], weekdays: Iterable[str]
) -> list[tuple[Language, dict[str, int], dict[str, int]]]:
    """Return the languages in which every word is a name or an abbreviation, with the number of each word.

    If English matches without abbreviations, return only English; otherwise, the languages with the fewest
    abbreviations.
    """
    found: list[tuple[int, Language, dict[str, int], dict[str, int]]] = []
    for code in LANGUAGES.split():
        language = load_language(code)
        numbers, days = lookup_numbers(months, language.months), lookup_numbers(weekdays, language.weekdays)
        if numbers and days:
            found.append((numbers[1] + days[1], language, numbers[0], days[0]))
            if code == "en" and found[0][0] == 0:
                break
    fewest = min((count for count, *_ in found), default=0)
    return [(language, numbers, days) for count, language, numbers, days in found if count == fewest]


def spell(numbers: Mapping[str, int], lists: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """Return all names of months or weekdays in the style of a column: abbreviation, capitalization, final dot.

    Args:
        numbers: Word of the column -> its number; months count from 1, weekdays from 0.
        lists: All names in each form, in order.
    """
    if not numbers:
        return ()
    first = 1 if len(lists[0]) == 12 else 0
    forms = [*lists, *([name[:3] for name in names] for names in lists)]
    candidates = [_in_style(names, numbers, dot) for names in forms for dot in (None, "", ".")]
    best = max(candidates, key=lambda names: sum(names[number - first] == word for word, number in numbers.items()))
    seen = {number - first: word for word, number in numbers.items()}
    return tuple(seen.get(index, name) for index, name in enumerate(best))


def _in_style(names: Sequence[str], words: Iterable[str], dot: str | None) -> list[str]:
    """Return names with the words' capitalization, ending in `dot`; None leaves the ends of the names unchanged."""
    names = list(names) if dot is None else [name.rstrip(".") + dot for name in names]
    if all(word.isupper() for word in words):
        return [name.upper() for name in names]
    return [name.capitalize() if next(iter(words))[0].isupper() else name.lower() for name in names]
