"""Stop strings: text that ends an answer, however the tokens cut it, and is not shown."""

from __future__ import annotations

from collections.abc import Sequence

from labkit.errors import ParameterError


class Stops:
    """Shows text as soon as it cannot be the beginning of a stop string.

    The answer ends where the first stop string is complete; of several that end there, the longest
    counts. What is shown does not depend on where the text is cut. stopped: one was found.
    """

    def __init__(self, strings: Sequence[str]) -> None:
        if isinstance(strings, str) or not all(isinstance(one, str) and one for one in strings):
            raise ParameterError(
                f"stop strings {strings!r}: allowed is a list of texts, none empty."
            )
        self._strings = tuple(strings)
        self._held = ""
        self.stopped = False

    def feed(self, text: str) -> str:
        """The next text of the answer; returns what may be shown now."""
        if self.stopped:
            return ""
        if not self._strings:
            return text
        held = self._held + text
        found = [(at + len(stop), at) for stop in self._strings if (at := held.find(stop)) >= 0]
        if found:
            self.stopped, self._held = True, ""
            return held[: min(found)[1]]
        show = len(held) - self._begun(held)
        self._held = held[show:]
        return held[:show]

    def end(self) -> str:
        """The answer is over: returns what was held back."""
        held, self._held = self._held, ""
        return held

    def _begun(self, text: str) -> int:
        """The length of the longest end of the text with which a stop string begins."""
        longest = min(len(text), max(map(len, self._strings)) - 1)
        for length in range(longest, 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._strings):
                return length
        return 0
