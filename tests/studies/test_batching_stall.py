"""The gaps of running requests while a long prompt is read beside them, and while none is."""

from __future__ import annotations

import pytest

from labkit.engine.pace import Pace
from labkit.engine.row_costs import filled
from labkit.engine.scheduler import Budget, plan_pass
from labkit.errors import ModelError
from labkit.studies.batching_runs import engine_for
from labkit.studies.batching_stall import AFTER, NOBODY, calm, stall
from tests.studies.test_batching import prompt
from tests.tiny import tiny_decoder


@pytest.mark.parametrize(
    ("budget", "least"),
    [
        (Budget(rows=200, answering=200), 1),
        (Budget(rows=200, answering=20), 4),
        (Pace(filled(1e-4, {1: 1.0, 64: 64.0})), 4),
    ],
)
def test_a_long_prompt_is_read_beside_running_requests(budget, least: int) -> None:
    engine = engine_for(tiny_decoder(), 3, 400, plan_pass, budget=budget)
    for _ in range(2):  # the engine is idle again
        found = stall(engine, [prompt(n, 5) for n in range(2)], prompt(9, 70), 120)
        assert engine.idle
        assert found.passes == 1 if least == 1 else found.passes >= least
        assert found.usual > 0
        assert found.stretch == pytest.approx(found.gap / found.usual)
        assert found.trace.e2e_latency == pytest.approx(found.gap)
        assert found.ttft > 0
        beside = [one for one in found.records if one.start >= found.due]
        assert len(beside) >= found.passes + AFTER - 1
        assert all(len(one.rows) == 3 for one in beside[: found.passes])


def test_as_many_passes_without_a_long_prompt() -> None:
    engine = engine_for(tiny_decoder(), 3, 400, plan_pass)
    found = calm(engine, [prompt(n, 5) for n in range(2)], 20, 120)
    assert engine.idle
    assert (found.passes, found.long) == (20, NOBODY)
    after = [one for one in found.records if one.start >= found.due]
    assert sum(len(one.rows) == 2 for one in after) == 20
    assert found.due <= found.longest[1] <= found.due + found.ttft
    few = calm(engine, [prompt(n, 5) for n in range(2)], 1000, 60)  # no more than there are tokens
    assert few.passes < 60


def test_a_long_prompt_beside_nobody_is_an_error() -> None:
    engine = engine_for(tiny_decoder(), 2, 200, plan_pass)
    with pytest.raises(ModelError, match="no request was running beside the long prompt"):
        stall(engine, [prompt(0, 5)], prompt(9, 30), 4)
