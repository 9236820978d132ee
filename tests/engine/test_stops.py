"""Stop strings: nothing of one is shown, nothing else is lost, wherever the text is cut."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labkit.engine.stops import Stops
from labkit.errors import ParameterError


def shown(stops: Stops, pieces: list[str]) -> str:
    text = "".join(stops.feed(piece) for piece in pieces)
    return text + stops.end()


def plain(text: str, strings: list[str]) -> str:
    """The twin: a character at a time, the first complete stop string, the longest of several."""
    for end in range(1, len(text) + 1):
        found = [stop for stop in strings if text[:end].endswith(stop)]
        if found:
            return text[: end - max(map(len, found))]
    return text


def cut(text: str, cuts: list[int]) -> list[str]:
    at = sorted({0, len(text), *(min(one, len(text)) for one in cuts)})
    return [text[a:b] for a, b in pairwise(at)]


@given(
    st.text("abc", max_size=30),
    st.lists(st.text("abc", min_size=1, max_size=4), max_size=3),
    st.lists(st.integers(0, 30), max_size=12),
)
def test_what_is_shown_does_not_depend_on_the_cuts(text, strings, cuts) -> None:
    stops = Stops(strings)
    assert shown(stops, cut(text, cuts)) == plain(text, strings)
    assert stops.stopped == (plain(text, strings) != text)


def test_a_part_is_held_back_and_no_tail_is_lost() -> None:
    stops = Stops(["END", "\n\n"])
    assert [stops.feed(piece) for piece in ("one E", "N", "X two\n", "E")] == [
        "one ", "", "ENX two", "\n",
    ]  # fmt: skip
    assert stops.end() == "E"
    assert not stops.stopped


def test_after_a_stop_nothing_is_shown() -> None:
    stops = Stops(["END"])
    assert [stops.feed(piece) for piece in ("a E", "ND b", "c")] == ["a ", "", ""]
    assert (stops.end(), stops.stopped) == ("", True)


def test_of_strings_that_end_together_the_longest_counts() -> None:
    assert shown(Stops(["b", "ab"]), ["xab"]) == "x"
    assert shown(Stops(["abcd", "bc"]), ["xa", "bcd"]) == "xa"


def test_without_stop_strings_text_passes_at_once() -> None:
    stops = Stops([])
    assert stops.feed("anything") == "anything"


@pytest.mark.parametrize("wrong", [[""], ["a", ""], "abc"])
def test_impossible_stop_strings_are_refused(wrong) -> None:
    with pytest.raises(ParameterError, match="none empty"):
        Stops(wrong)
