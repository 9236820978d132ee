"""What counts and leaves out the operations of a token."""

from __future__ import annotations

import torch

from labkit.studies.operations import count_operations, matrices_only, operation_seconds
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


def test_an_operation_takes_some_time() -> None:
    assert operation_seconds(tiny_decoder(), count=3) > 0
