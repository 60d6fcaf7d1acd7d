"""Music as a sequence of events: a note begins, a note ends, time passes."""

from collections.abc import Iterable

from dltrain.data.tokens import Tokens
from dltrain.datasets.midi_files import MAX_STEPS, Note
from dltrain.datasets.note_frames import HIGHEST, LOWEST, NOTES
from dltrain.errors import ConfigError, format_error

MAX_WAIT = 32  # maximum steps of one wait event; longer pauses are several events
START = 0  # token before each piece
ON, OFF, WAIT = 1, 1 + NOTES, 1 + 2 * NOTES  # first tokens of note starts, note ends and waits
SIZE = WAIT + MAX_WAIT
PITCHES = range(LOWEST, HIGHEST + 1)
NAMES = (
    "start",
    *(f"on{pitch}" for pitch in PITCHES),
    *(f"off{pitch}" for pitch in PITCHES),
    *(f"wait{steps}" for steps in range(1, MAX_WAIT + 1)),
)
NUMBERS = {name: number for number, name in enumerate(NAMES)}


def to_events(notes: Iterable[Note]) -> list[int]:
    """Convert notes to tokens, without `START`; in each step, ends precede starts, and both are sorted by pitch.

    Source: Oore et al. 2018, "This time with feeling", section 3.2, without velocities.
    """
    notes = list(notes)
    changes = [(note.start, ON, note.pitch) for note in notes] + [(note.end, OFF, note.pitch) for note in notes]
    events, now = list[int](), 0
    for step, kind, pitch in sorted(changes, key=lambda change: (change[0], -change[1], change[2])):
        whole, rest = divmod(step - now, MAX_WAIT)
        events += [WAIT + MAX_WAIT - 1] * whole + [WAIT + rest - 1] * bool(rest)
        events.append(kind + pitch - LOWEST)
        now = step
    return events


def from_events(events: Iterable[int]) -> list[Note]:
    """Convert tokens to notes; a note without an end lasts to the next note of its pitch, or to the last event.

    `START` ends all notes. The end of a note that has not begun is ignored. If a note without an end begins in the
    last step, all notes without an end are extended by one step.
    """
    notes, begun, now = list[Note](), dict[int, int](), 0

    def end(pitch: int) -> None:
        start = begun.pop(pitch, now)
        if now > start:
            notes.append(Note(pitch, start, now))

    for event in events:
        if event >= WAIT:
            now = min(now + event - WAIT + 1, MAX_STEPS)
            continue
        for pitch in list(begun) if event == START else [LOWEST + (event - ON) % NOTES]:
            end(pitch)
        if ON <= event < OFF:
            begun[LOWEST + event - ON] = now
    now += 1 if any(start == now for start in begun.values()) else 0
    for pitch in list(begun):
        end(pitch)
    return sorted(notes, key=lambda note: (note.start, note.pitch))


def encode(text: str) -> list[int]:
    """Return the tokens of events separated by spaces: ``on60 on64 wait4 off60 off64``.

    Raises:
        ConfigError: A word is not an event.
    """
    words = text.split()
    for word in words:
        if word not in NUMBERS:
            expected = f"events such as on60 wait4 off60, with pitches {LOWEST} to {HIGHEST} and waits 1 to {MAX_WAIT}"
            raise ConfigError(format_error("text", expected, word))
    return [NUMBERS[word] for word in words]


def decode(tokens: list[int]) -> str:
    """Return the text of tokens; each wait ends a line."""
    return "".join(NAMES[token] + ("\n" if token >= WAIT else " ") for token in tokens)


def event_tokens() -> Tokens:
    """Return the vocabulary of events."""
    return Tokens(SIZE, begin=START, unit="event", encode=encode, decode=decode)
