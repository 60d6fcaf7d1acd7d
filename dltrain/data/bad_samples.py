"""Policy for unreadable examples: stop the run, or skip and count them."""

from collections.abc import Iterable

from dltrain.data.checks import at_least, one_of
from dltrain.errors import ConfigError, format_error

POLICIES = ("stop", "skip")
MAX_BAD_SAMPLES = 100


class BadSamples:
    """Policy for unreadable examples, and the messages of the examples that a run has skipped.

    Args:
        policy: ``stop`` or ``skip``. None stops without a hint, for data without the key data.on_bad_sample.
        limit: Maximum number of examples to skip in all splits together, at least 1.
    """

    def __init__(self, policy: str | None = None, limit: int = MAX_BAD_SAMPLES) -> None:
        self.policy = policy if policy is None else one_of("data.on_bad_sample", policy, POLICIES)
        self.limit = at_least("data.max_bad_samples", limit, 1)
        self.found: list[str] = []

    def add(self, message: str) -> None:
        """Record an example as skipped, or stop. The same message counts once.

        Args:
            message: The example and what is wrong with it.

        Raises:
            ConfigError: The policy is to stop, or ``limit`` is exceeded.
        """
        if self.policy != "skip":
            end = "" if message.endswith((".", "?")) else "."
            hint = f"{end} data.on_bad_sample=skip skips such examples" if self.policy else ""
            raise ConfigError(f"{message}{hint}")
        if message in self.found:
            return
        if len(self.found) >= self.limit:
            expected = f"at most {self.limit:,} unreadable example{'s' * (self.limit != 1)}"
            raise ConfigError(format_error("data.max_bad_samples", expected, "one more", f"The last one: {message}"))
        self.found.append(message)

    def restore(self, found: Iterable[str]) -> None:
        """Restore the messages of the examples that earlier sessions of the run skipped."""
        self.found = list(found)
