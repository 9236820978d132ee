"""Where a fused pass spends its time: shares of one step, and a decoder left as it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from labkit.model.rows import Part, Rows
from labkit.optimize.fused import FusedDecoder, available, load_fused
from labkit.studies import fused_stages
from labkit.studies.fused_stages import (
    PRODUCTS,
    REST,
    STEP,
    filled,
    passes,
    repeated,
    rows_name,
    shares,
)
from labkit.timing.compare import Comparison, again, compare
from labkit.timing.trace import Trace
from tests.tiny import save_tiny_model

IDS = list(range(100, 130))
# Milliseconds of a step that leaves stages out.
TAKEN = {
    STEP: 10.0, "without products": 3.0, "without the head": 8.0, "without attention": 9.0,
    "without norms and quantization": 9.5, "without any stage": 0.4,
}  # fmt: skip


@pytest.fixture(scope="module")
def fused(tmp_path_factory: pytest.TempPathFactory) -> FusedDecoder:
    if reason := available():
        pytest.skip(reason)
    folder: Path = save_tiny_model(tmp_path_factory.mktemp("model"))
    return load_fused(folder, "q8_0")


def rounds_of(noise: dict[str, tuple[float, ...]] | None = None, **changed: float) -> Comparison:
    """Five rounds of passes with known times; noise: factors of the rounds."""
    taken = TAKEN | {name.replace("_", " "): value for name, value in changed.items()}
    taken[again(STEP)] = taken[STEP]
    factors = noise or {}
    traces = {
        name: [Trace(0.0, (1.0, 1.0 + time * factor)) for factor in factors.get(name, (1.0,) * 5)]
        for name, time in taken.items()
    }
    return Comparison(STEP, traces, {})


def test_a_share_is_what_a_step_without_the_stage_saves() -> None:
    found = shares(rounds_of())
    assert {name: share.value for name, share in found.items()} == pytest.approx(
        {"layer products": 0.5, "head": 0.2, "attention": 0.1, "norms and quantization": 0.05,
         "barriers and the call": 0.04, REST: 0.11}
    )  # fmt: skip
    assert sum(share.value for share in found.values()) == pytest.approx(1)
    assert all(share.measurable for share in found.values())
    assert set(PRODUCTS) < set(found)


def test_the_machine_may_be_slower_in_some_rounds() -> None:
    slow = dict.fromkeys([*TAKEN, again(STEP)], (1.0, 3.0, 1.0, 2.0, 1.0))
    share = shares(rounds_of(slow))["head"]
    assert (share.low, share.value, share.high) == pytest.approx((0.2, 0.2, 0.2))


def test_a_stage_inside_the_noise_is_not_measurable() -> None:
    noise = {"without attention": (0.9, 1.1, 1.05, 0.95, 1.2)}
    share = shares(rounds_of(noise))["attention"]
    assert share.low < 0 < share.high
    assert not share.measurable


def test_time_that_two_stages_save_alike_is_not_told_as_a_negative_rest() -> None:
    rest = shares(rounds_of(without_the_head=5.0, without_attention=6.0))[REST]
    assert rest.high < 0
    assert not rest.measurable


def test_passes_of_all_kinds_run_and_leave_the_decoder_as_it_was(fused: FusedDecoder) -> None:
    rows = Rows.prefill(IDS)
    before = fused(rows, fused.new_cache(1, len(IDS)))
    found = compare(passes(fused, IDS, [1, 3], repeats=2), STEP, 5)
    assert set(found.variants) == {*TAKEN, rows_name(3)}
    assert {len(trace.times) for traces in found.traces.values() for trace in traces} == {3}
    assert sum(share.value for share in shares(found).values()) == pytest.approx(1)
    assert fused(rows, fused.new_cache(1, len(IDS))).equal(before)


def test_each_pass_follows_the_same_context(fused: FusedDecoder, monkeypatch) -> None:
    seen = []

    def watched(parts: list[Part], cache) -> list[list[int]]:
        seen.append((cache.length(0), [list(part.tokens) for part in parts], fused.skip))
        cache.extend(0, len(parts[0].tokens))
        return [[0]]

    monkeypatch.setattr(fused, "greedy", watched)
    for run in passes(fused, IDS, [2], repeats=1).values():
        run(1)
    steps = [(28, [[128]], skip) for skip in (0, *seen_skips())]
    assert seen == [entry for entry in (*steps, (28, [[128, 129]], 0)) for _ in range(2)]


def seen_skips() -> list[int]:
    """The stages that each variant of the step leaves out, as a sum."""
    skip = fused_stages.SKIP
    return [sum(skip[stage] for stage in stages) for stages in fused_stages._LEFT_OUT.values()]


def test_a_pass_that_fails_leaves_no_stage_out_afterwards(fused: FusedDecoder) -> None:
    cache = filled(fused, IDS[:4], 8)
    with pytest.raises(IndexError):
        repeated(fused, cache, Part(0, 4, [10**6]), 2, skip=1)(1)
    assert fused.skip == 0
    assert cache.length(0) == 4
