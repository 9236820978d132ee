"""Numbers for people."""

import pytest

from labkit.base.units import seconds, shown


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (1534.2, "1,534 s"),
        (-1534.2, "-1,534 s"),
        (999.6, "1,000 s"),
        (999.4, "999 s"),
        (60.0, "60 s"),
        (0.0123, "12.3 ms"),
        (4.5e-6, "4.5 µs"),
        (1e-9, "1 ns"),
    ],
)
def test_a_duration_has_a_unit_and_no_exponent(value: float, told: str) -> None:
    assert seconds(value) == told


@pytest.mark.parametrize(
    "value",
    [
        "x" * 10**6,
        ["y"] * 10**6,
        10**4000,
        16**9999,
        {"a": {"b": {"c": [1] * 99}}},
        "a\nb\x1b",
        None,
    ],
    ids=range(7),
)
def test_what_was_given_is_shown_in_one_short_line(value: object) -> None:
    told = shown(value)
    assert 0 < len(told) <= 80
    assert told.isprintable()


def test_what_is_short_is_shown_whole() -> None:
    assert shown([1, 0.5, "a"]) == "[1, 0.5, 'a']"
    recursive: list[object] = []
    recursive.append(recursive)
    assert "..." in shown(recursive)
