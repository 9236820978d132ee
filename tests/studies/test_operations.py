"""What counts and leaves out the operations of a token."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from labkit.studies import operations
from labkit.studies.operations import count_operations, matrices_only, operation_seconds
from labkit.timing.trace import Trace
from tests.tiny import tiny_decoder


def test_matrices_only_multiplies_every_matrix_once() -> None:
    decoder = tiny_decoder()
    linear = sum(isinstance(module, torch.nn.Linear) for module in decoder.modules())
    work = matrices_only(decoder)
    assert linear == 2 * 7 + 1
    assert count_operations(work) >= linear


def test_operations_are_counted_one_by_one() -> None:
    row = torch.zeros(3)
    assert count_operations(lambda: None) == 0
    assert count_operations(lambda: [torch.add(row, row) for _ in range(5)]) == 5


def test_an_operation_takes_a_share_of_its_repetition(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock is made up: a repetition of 50 operations takes 2 s and 8 s by turns."""
    asked: list[tuple[int, object]] = []

    def clock(work: Callable[[], object], device: object) -> Trace:
        asked.append((count_operations(work), device))
        return Trace(0.0, (2.0 if len(asked) % 2 else 8.0,))

    monkeypatch.setattr(operations, "clock", clock)
    monkeypatch.setattr(operations, "_TIMED", 2)
    decoder = tiny_decoder()
    assert operation_seconds(decoder, count=50) == pytest.approx(4 / 50)  # the geometric mean
    assert asked == [(50, decoder.device)] * 2


def test_an_operation_takes_some_time() -> None:
    assert operation_seconds(tiny_decoder(), count=3) > 0
