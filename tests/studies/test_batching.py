"""What notebook 07 times: passes, an engine and its passes alone, and which passes are foreseen."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from labkit.engine.batching import BatchEngine
from labkit.engine.drive import SLO, Served
from labkit.engine.generate import generate
from labkit.engine.records import PassRecord, RequestRows
from labkit.engine.scheduler import Budget, plan_pass, plan_static
from labkit.errors import ModelError, ParameterError
from labkit.model.cache.paged import BLOCK_SIZE
from labkit.model.cache.table import Cache
from labkit.model.decoder import Decoder
from labkit.model.rows import Part, Rows
from labkit.studies import batching_answers as answers
from labkit.studies.batching_dry import foreseen
from labkit.studies.batching_frontier import point
from labkit.studies.batching_memory import held, memory
from labkit.studies.batching_runs import (
    PASSES,
    Seen,
    Serving,
    Taped,
    decode_passes,
    engine_for,
    served,
)
from labkit.studies.batching_stall import Stall, of_round
from labkit.studies.batching_workloads import Tail, Workloads
from labkit.timing.trace import Trace
from labkit.workload.timed import TimedRequest, TimedWorkload
from tests.tiny import tiny_decoder


def prompt(number: int, tokens: int) -> list[int]:
    return [(7 * number + 3 * place) % 97 for place in range(tokens)]


WORK = Workloads(prompt, prompt_tokens=5, new_tokens=6, slots=3, count=7, tail=Tail(4))


class Watched(Taped):
    """A decoder that also notes what the cache held when each pass had ended, and its tokens."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__(decoder)
        self.held: list[tuple[int, int]] = []
        self.said: list[list[list[int]]] = []

    def greedy(self, parts: Sequence[Part], cache: Cache) -> list[list[int]]:
        self.said.append(super().greedy(parts, cache))
        self.held.append((cache.tokens_held, cache.positions_held))  # type: ignore[attr-defined]
        return self.said[-1]


# Passes of several requests


def test_a_turn_has_a_token_of_each_request_a_pass_and_leaves_the_cache_as_it_was() -> None:
    watched = Watched(tiny_decoder())
    runs = decode_passes(watched, [prompt(n, 9) for n in range(4)], [1, 4])
    assert list(runs) == ["1 request", "4 requests"]
    first = len(watched.tape)
    for name, batch in (("4 requests", 4), ("1 request", 1), ("4 requests", 4)):
        trace = runs[name](0)
        assert len(trace.times) == PASSES * batch
        assert len(set(trace.times)) == PASSES
        assert trace.due <= trace.times[0]
        passes = watched.tape[-PASSES - 1 :]
        assert {(len(parts), parts[0].start) for parts in passes} == {(batch, 8)}
    said = watched.said[first:]
    assert said[0] == said[-1]  # the same rows give the same tokens in every turn
    alone = [list(generate(watched.decoder, prompt(n, 9), 1)) for n in range(4)]
    assert said[0] == alone


# The engine, and its passes alone


def test_the_passes_of_an_engine_run_again_give_the_same_tokens() -> None:
    watched = Watched(tiny_decoder())
    serving = Serving(watched, WORK.slots, 11)
    trace = serving.serve(WORK.many(1))
    assert len(trace.times) == 7 * 6
    once, watched.said = watched.said, []
    parts, watched.tape = watched.tape, []
    again = serving.again(WORK.many(1).name)
    assert watched.said == once
    assert watched.tape == parts
    assert len(again.times) == 2
    assert again.tpot == pytest.approx(again.e2e_latency)
    assert serving.again(WORK.many(1).name).tpot  # the cache is empty again
    cache = serving.alone.cache
    assert [cache.length(slot) for slot in range(WORK.slots)] == [0] * WORK.slots


def test_requests_in_the_engine_are_answered_as_alone() -> None:
    decoder = tiny_decoder()
    serving = Serving(decoder, WORK.slots, 11)
    serving.serve(WORK.many(2))
    for number, request in enumerate(WORK.many(2).requests):
        found = serving.found[WORK.many(2).name].traces[number]
        assert list(found.tokens) == list(generate(decoder, request.prompt, request.new_tokens))


def test_a_workload_that_is_not_answered_is_an_error() -> None:
    engine = engine_for(tiny_decoder(), 2, 32, plan_pass)
    long = TimedWorkload("long", (TimedRequest(0.0, (1,) * 60, 60),))
    with pytest.raises(ModelError, match="long: 1 of 1 requests were not answered; request 0"):
        served(engine, long)


# Workloads


def test_rounds_have_the_same_lengths_and_other_prompts() -> None:
    for make in (WORK.many, WORK.tailed, lambda number: WORK.arriving(5.0, number)):
        one, other = make(1).requests, make(2).requests
        assert [r.new_tokens for r in one] == [r.new_tokens for r in other]
        assert not {r.prompt for r in one} & {r.prompt for r in other} - {()}
        assert {len(r.prompt) for r in (*one, *other)} == {5}
    assert min(WORK.lengths) >= 2  # each has a TPOT
    assert max(WORK.lengths) <= WORK.tail.most == 32
    (one,) = WORK.one(3).requests
    assert one.prompt == WORK.many(3).requests[0].prompt == WORK.tailed(3).requests[0].prompt


# Foreseen passes


@pytest.mark.parametrize("policy", [plan_pass, plan_static])
@pytest.mark.parametrize("name", ["tailed", "many", "one"])
def test_foreseen_passes_are_those_that_the_engine_makes(policy, name: str) -> None:
    decoder, workload = tiny_decoder(), getattr(WORK, name)(0)

    def taking(rows: int, positions: int) -> float:
        return 0.001 * rows + 0.01 * positions

    told = foreseen(decoder.config, workload, WORK.slots, policy, taking)
    engine = engine_for(decoder, WORK.slots, WORK.slots * 48, policy)
    made = served(engine, workload)
    assert [one.rows for one in told.passes] == [one.rows for one in made.passes]
    rows = sum(one.prefill + one.decode for one in made.passes)
    positions = BLOCK_SIZE * sum(one.blocks_held for one in made.passes)
    assert told.seconds == pytest.approx(0.001 * rows + 0.01 * positions)
    assert told.tokens == sum(one.new_tokens for one in workload.requests)
    assert told.rate == pytest.approx(told.tokens / told.seconds)


def test_requests_that_come_by_themselves_cannot_be_foreseen() -> None:
    with pytest.raises(ParameterError, match="requests that come later cannot be foreseen"):
        foreseen(tiny_decoder().config, WORK.arriving(1.0, 0), 3, plan_pass, max)


# Memory


@pytest.mark.parametrize("blocks", [12, 4])  # the fewer let requests lose their slot
def test_what_records_say_of_memory_is_what_the_cache_held(blocks: int) -> None:
    watched = Watched(tiny_decoder())
    engine = BatchEngine(watched, WORK.slots, blocks, budget=Budget(rows=8, answering=6))
    found = held(served(engine, WORK.tailed(0)).passes)
    assert [(one.tokens, one.positions) for one in found] == watched.held
    assert max(one.requests for one in found) <= WORK.slots


def test_shares_of_memory_are_means_over_time() -> None:
    records = [
        PassRecord(0.0, 1.0, (RequestRows(0, 8, 0, 1),), blocks_held=1),
        PassRecord(1.0, 4.0, (RequestRows(0, 0, 1, 1), RequestRows(1, 23, 0, 1)), blocks_held=3),
    ]
    found = memory(records, slots=2, longest=40)
    assert found.tokens == pytest.approx((1 * 8 + 3 * 32) / 4)
    assert found.paged == pytest.approx((1 * 16 + 3 * 48) / 4)
    assert (found.contiguous, found.most) == (80.0, 48)
    assert found.of_paged == pytest.approx(104 / 160)
    assert found.of_contiguous == pytest.approx(26 / 80)


# Latency against throughput


def answered(due: float, ttft: float, tpot: float, tokens: int = 3) -> Trace:
    times = tuple(due + ttft + tpot * n for n in range(tokens))
    return Trace(due, times, 5, tuple(range(tokens)))


def test_a_point_tells_the_rounds_of_one_rate() -> None:
    slo = SLO(ttft=0.5, tpot=0.1)
    one = Served({0: answered(0.0, 0.1, 0.05), 1: answered(1.0, 0.9, 0.05)})
    other = Served({0: answered(0.0, 0.1, 0.05), 1: answered(1.0, 0.4, 0.02)})
    found = point("in-flight batching", 0.8, [one, other], slo)
    assert found.rate == pytest.approx(1.0)
    assert found.met.value == pytest.approx((0.5 + 1.0) / 2)
    assert (found.met.low, found.met.high) == (0.0, 1.0)
    assert found.goodput.value == pytest.approx((1 / 2.0 + 2 / 1.44) / 2)
    assert found.goodput.low == 0.0
    assert found.ttft.value == pytest.approx((0.5 * 0.25) ** 0.5)
    assert found.throughput.rounds == pytest.approx([6 / 2.0, 6 / 1.44])
    assert found.tpot.rounds == pytest.approx([0.05, 0.035])


def test_of_each_round_the_first_turn_is_kept_and_no_first_call() -> None:
    seen: Seen[str] = Seen()
    for number, what in ((0, "first call"), (1, "a"), (1, "control"), (2, "b"), (3, "cut off")):
        assert seen.note(number, what) == what
    assert seen.first(2) == ["a", "b"]
    assert seen.turns(2) == [["a", "control"], ["b"]]


def test_both_turns_of_a_baseline_are_told_as_one() -> None:
    one = Stall(0.01, (1.0, 1.4), 0.4, 1, 1.0, (), 9)
    both = of_round([one, Stall(0.04, (5.0, 5.1), 0.9, 1, 5.0, (), 9)])
    assert (both.usual, both.gap, both.ttft) == pytest.approx((0.02, 0.2, 0.6))
    assert (both.longest[0], both.due, both.passes) == (1.0, 1.0, 1)
    assert of_round([one]).stretch == pytest.approx(one.stretch)


def test_the_rate_of_rounds_is_that_of_their_whole_time() -> None:
    slo = SLO(ttft=0.5, tpot=0.1)
    rounds = [Served({n: answered(n * gap, 0.1, 0.05) for n in range(2)}) for gap in (1.0, 3.0)]
    assert point("in-flight batching", 0.8, rounds, slo).rate == pytest.approx(0.5)


# Answers


def test_a_mixed_schedule_has_everything_and_changes_no_answer() -> None:
    decoder = tiny_decoder()
    asked = answers.asked_of([tuple(prompt(n, 1 + 5 * n)) for n in range(9)], 6)
    assert max(count for _, count in asked) > 6
    found = answers.mixed(decoder, asked, slots=4, tie=1e-3)
    assert all(one.lossless for one in found.same)
    assert [one.tokens for one in found.same] == [count for _, count in asked]
    assert found.both > 0
    assert found.preempted > 0


class Forgetful(Taped):
    """A decoder that answers wrongly where requests share a pass."""

    def greedy(self, parts: Sequence[Part], cache: Cache) -> list[list[int]]:
        found = super().greedy(parts, cache)
        return found if len(parts) == 1 else [[(n + 1) % 97 for n in one] for one in found]


def test_a_schedule_that_changes_an_answer_is_seen() -> None:
    asked = answers.asked_of([tuple(prompt(n, 20)) for n in range(6)], 6)
    found = answers.mixed(Forgetful(tiny_decoder()), asked, slots=3)
    assert not all(one.lossless for one in found.same)


def test_a_taped_decoder_is_the_decoder_otherwise() -> None:
    decoder = tiny_decoder()
    taped = Taped(decoder)
    rows = Rows.prefill(prompt(0, 6))
    same = taped(rows, taped.new_cache(1, 8)) == decoder(rows, decoder.new_cache(1, 8))
    assert bool(same.all())
