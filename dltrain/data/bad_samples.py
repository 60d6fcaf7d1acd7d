"""Examples that cannot be read: each is named, and either ends the run or is left out and counted."""

from collections.abc import Iterable

from dltrain.data.checks import at_least, one_of
from dltrain.errors import ConfigError, format_error

ANSWERS = ("stop", "skip")
MOST = 100


class BadSamples:
    """What a run does about examples that cannot be read, and those that it has left out.

    Args:
        answer: ``stop``, or ``skip`` to go on without them; None stops, and the data have no key that says otherwise.
        most: How many may be left out, in all parts of the data together, before the run stops anyway.
    """

    def __init__(self, answer: str | None = None, most: int = MOST) -> None:
        self.answer = answer if answer is None else one_of("data.on_bad_sample", answer, ANSWERS)
        self.most = at_least("data.max_bad_samples", most, 1)
        self.found: list[str] = []

    def add(self, mistake: str) -> None:
        """Leave an example out; the same one counts once.

        Args:
            mistake: Names it and says what is wrong, as `dltrain.errors.format_error` does.

        Raises:
            ConfigError: It stops the run, or there are too many.
        """
        if self.answer != "skip":
            hint = ". data.on_bad_sample=skip goes on without" if self.answer else ""
            raise ConfigError(f"{mistake}{hint}")
        if mistake in self.found:
            return
        if len(self.found) >= self.most:
            expected = f"at most {self.most:,} examples that cannot be read"
            raise ConfigError(format_error("data.max_bad_samples", expected, "one more", f"The last one: {mistake}"))
        self.found.append(mistake)

    def restore(self, found: Iterable[str]) -> None:
        """Go on counting where an earlier session stopped."""
        self.found = list(found)
