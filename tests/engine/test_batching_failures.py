"""What broke in the engines that people use, one test each. Numbers are their issues."""

from __future__ import annotations

import pytest

from labkit.engine.batching import BatchEngine
from labkit.engine.prefix_key import PrefixKey
from labkit.engine.scheduler import Budget
from labkit.engine.served import Finish, ServedRequest
from labkit.optimize.fused import FusedDecoder
from tests.engine.served_helpers import Ask, Judge, check, ended, finish, prompt, with_prefixes


def engine_of(decoder: FusedDecoder, slots: int = 4, blocks: int = 60, **more) -> BatchEngine:
    more.setdefault("prefix", with_prefixes)
    return BatchEngine(decoder, slots, blocks, **more)


def test_another_conversation_is_not_restored(judge: Judge) -> None:
    """llama.cpp 27148: a conversation got the cache of another that began alike."""
    engine = engine_of(judge.decoder)
    asks = [Ask(prompt(seed, 60, shared=40), 8) for seed in (1, 2, 1, 3, 2)]
    for ask in asks:
        one = judge.submit(engine, ask)
        finish(engine)
        judge.check(one)
    assert engine.prefix.counts.from_memory > 0


@pytest.mark.parametrize("after", range(1, 9))
def test_an_abort_within_a_prompt_leaves_no_freed_blocks_behind(judge: Judge, after: int) -> None:
    """sglang 38319: an abort in the middle of a chunked prefill left freed pages in the tree."""
    engine = engine_of(judge.decoder, budget=Budget(rows=9), blocks=8)
    first = judge.submit(engine, Ask(prompt(1, 70, 32), 4))
    for _ in range(after):
        engine.step()
    first.handle.cancel()
    engine.step()
    check(engine)
    again = [judge.submit(engine, Ask(prompt(seed, 70, 32), 4)) for seed in (2, 1)]
    finish(engine)
    for one in again:
        judge.check(one)


def test_equal_names_of_salt_and_adapter_share_nothing(judge: Judge) -> None:
    """vllm 44701: an adapter was taken for a salt of the same name."""
    engine, ask = engine_of(judge.decoder), Ask(prompt(1, 40), 2)
    keys = [
        PrefixKey("m", "w", adapter="x"), PrefixKey("m", "w", salt="x"), PrefixKey("m", "w"),
        PrefixKey("m", "wx"), PrefixKey("mw", ""),
    ]  # fmt: skip
    for key in keys:
        first = judge.submit(engine, ask, prefix_key=key)
        finish(engine)
        second = judge.submit(engine, ask, prefix_key=key)
        finish(engine)
        assert (first.handle.hits, second.handle.hits) == (0, 32)


@pytest.mark.parametrize("length", [16, 32, 33, 64])
def test_a_full_hit_leaves_a_row_to_ask(judge: Judge, length: int) -> None:
    """nano-vllm 144: a prompt whose blocks were all cached left no row for the query."""
    engine, ask = engine_of(judge.decoder), Ask(prompt(5, length), 6)
    for expected in (0, (length - 1) // 16 * 16):
        one = judge.submit(engine, ask)
        finish(engine)
        judge.check(one)
        assert one.handle.hits == expected


@pytest.mark.parametrize("draft", ["", "chain", "tree"])
@pytest.mark.parametrize("reuse", [True, False])
def test_preempted_at_every_token(judge: Judge, draft: str, reuse: bool) -> None:
    """nano-vllm PR 211: preempted, then hit again; and tokens that are doubled or lost."""
    engine = engine_of(judge.decoder, prefix=with_prefixes if reuse else None)
    asks = [Ask(prompt(1, 30), 20, drawn=3, draft=draft), Ask(prompt(2, 17), 20, draft=draft)]
    served = [judge.submit(engine, ask) for ask in asks]
    while not engine.idle:
        engine.step()
        for number in engine.running:
            engine.preempt(number)
        check(engine)
    for one in served:
        judge.check(one)
        assert one.handle.finish == Finish.LENGTH
    if not draft:
        assert served[0].handle.preempted == 19
        assert (served[0].handle.hits > 0) == reuse


@pytest.mark.parametrize("moment", ["queued", "reading", "answering", "preempted", "over"])
def test_an_abort_leaks_nothing_at_any_moment(judge: Judge, moment: str) -> None:
    engine = engine_of(judge.decoder, slots=1, budget=Budget(rows=10))
    steps = {"queued": 0, "reading": 2, "answering": 6, "preempted": 6, "over": 40}[moment]
    blocker = judge.submit(engine, Ask(prompt(2, 5), 4)) if moment == "queued" else None
    one = judge.submit(engine, Ask(prompt(1, 40), 12))
    for _ in range(steps):
        engine.step()
    if moment == "preempted":
        engine.preempt(one.handle.number)
    for _ in range(2):  # the second time it is over
        one.handle.cancel()
    finish(engine)
    judge.check(one)
    assert one.handle.finish == (Finish.LENGTH if moment == "over" else Finish.CANCELLED)
    assert blocker is None or blocker.handle.finish == Finish.LENGTH
    book = engine.cache.book
    assert book.free + book.cached == book.total


def test_a_second_batch_loses_no_results(judge: Judge) -> None:
    """transformers PR 45943."""
    engine = engine_of(judge.decoder)
    for batch in range(3):
        served = [judge.submit(engine, Ask(prompt(seed, 20), 5)) for seed in range(6)]
        finish(engine)
        assert ended(served), f"batch {batch}"
        for one in served:
            judge.check(one)


def test_answers_do_not_cross_at_sixteen_streams(judge: Judge) -> None:
    """mlx-lm 965."""
    engine = engine_of(judge.decoder, slots=16, blocks=100)
    served = [judge.submit(engine, Ask(prompt(n, 3 + n, 2), 12 + n)) for n in range(24)]
    finish(engine)
    for one in served:
        judge.check(one)
        assert [t for e in events(one.handle) for t in e.tokens] == one.handle.tokens


def events(handle):
    found = []
    while not handle.events.empty():
        found.append(handle.events.get())
    assert all(event.number == handle.number for event in found)
    return found


def test_one_huge_max_tokens_blocks_nobody(judge: Judge) -> None:
    """TensorRT-LLM 2866: memory for all of max_tokens was reserved up front."""
    engine = engine_of(judge.decoder, slots=4, blocks=20)
    stop = judge.alone(Ask(prompt(1, 10), 40)).tokens[30]
    huge = judge.submit(engine, Ask(prompt(1, 10), 300, stop=stop))
    small = [judge.submit(engine, Ask(prompt(seed, 20), 6)) for seed in (2, 3, 4)]
    engine.step()
    assert len(engine.running) == 4
    finish(engine)
    for one in (huge, *small):
        judge.check(one)
    assert huge.handle.finish == Finish.STOP_ID


def test_nobody_goes_in_and_out(judge: Judge) -> None:
    """vllm 25538: a request was resumed and preempted in turns, and read its prompt each time."""
    engine = engine_of(judge.decoder, slots=6, blocks=24, prefix=None)
    asks = [Ask(prompt(seed, 40), 120) for seed in range(6)]
    served = [judge.submit(engine, ask) for ask in asks]
    finish(engine)
    for one in served:
        judge.check(one)
    assert sum(one.handle.preempted for one in served) > 0
    assert max(one.handle.preempted for one in served) <= 3
    rows = sum(record.prefill + record.decode for record in engine.records)
    assert rows <= 2 * sum(len(ask.prompt) + ask.count for ask in asks)


def test_every_prompt_gets_a_reply(judge: Judge) -> None:
    """A prompt that was dropped without one: each ends with exactly one event that says so."""
    engine = engine_of(judge.decoder, slots=2, blocks=8)

    def broken(logits) -> int:
        raise RuntimeError("no token today")

    good = [engine.submit(ServedRequest(prompt(n, 20), 5)) for n in range(4)]
    bad = engine.submit(ServedRequest(prompt(9, 20), 5, broken))
    gone = engine.submit(ServedRequest(prompt(8, 20), 5))
    gone.cancel()
    finish(engine)
    finishes = [[e.finish for e in events(one)][-1] for one in (*good, bad, gone)]
    assert finishes == [Finish.LENGTH] * 4 + [Finish.FAILED, Finish.CANCELLED]
    assert all(one.finish == end for one, end in zip((*good, bad, gone), finishes, strict=True))
