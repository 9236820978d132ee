"""Numbers for people."""

import pytest

from labkit.base.units import seconds


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
