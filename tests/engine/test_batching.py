"""The engine: what it accepts, what it gives back, and what it records."""

from __future__ import annotations

import pytest

from labkit.engine.batching import BatchEngine
from labkit.engine.generate import generate
from labkit.engine.pace import Pace
from labkit.engine.row_costs import filled
from labkit.engine.scheduler import Budget, plan_static
from labkit.engine.served import Finish, Refused, Sampling, ServedRequest
from labkit.errors import ModelError, ParameterError
from labkit.model.decoder import Decoder
from labkit.model.load import LoadedModel
from labkit.optimize.fused import FusedDecoder
from labkit.optimize.speculative import SuffixIndex
from tests.engine.served_helpers import Ask, Judge, finish, prompt, with_prefixes
from tests.speculative_stubs import Broken
from tests.tiny import tiny_decoder


def test_tokens_come_as_they_are_made(judge: Judge) -> None:
    engine = BatchEngine(judge.decoder, 2, 20)
    ask = Ask(prompt(1, 20), 5)
    handle = engine.submit(ServedRequest(ask.prompt, ask.count))
    for count in range(1, 6):
        (event,) = engine.step()
        assert event.tokens == judge.alone(ask).tokens[count - 1 : count]
        assert event == handle.events.get(block=False)
        assert event.finish == (Finish.LENGTH if count == 5 else None)
    assert engine.idle
    assert engine.step() == []
    assert handle.tokens == judge.alone(ask).tokens


def test_a_stop_id_ends_an_answer(judge: Judge) -> None:
    stop = judge.alone(Ask(prompt(1, 20), 9)).tokens[4]
    engine, ask = BatchEngine(judge.decoder, 2, 20), Ask(prompt(1, 20), 9, stop=stop)
    one = judge.submit(engine, ask)
    finish(engine)
    judge.check(one)
    assert (one.handle.finish, one.handle.tokens[-1]) == (Finish.STOP_ID, stop)


@pytest.mark.parametrize("policy", ["in flight", "static"])
def test_greedy_requests_ask_for_no_logits(judge: Judge, policy: str, monkeypatch) -> None:
    more = {"policy": plan_static} if policy == "static" else {}
    engine = BatchEngine(judge.decoder, 3, 30, **more)
    asks = [Ask(prompt(seed, 20 + seed), 9, watched=False) for seed in range(5)]
    expected = [judge.alone(ask) for ask in asks]
    monkeypatch.setattr(FusedDecoder, "__call__", None)
    served = [judge.submit(engine, ask) for ask in asks]
    finish(engine)
    assert [one.handle.tokens for one in served] == [one.tokens for one in expected]


def test_static_batches_start_together_and_give_the_same_bits(judge: Judge) -> None:
    engine = BatchEngine(judge.decoder, 3, 60, policy=plan_static, budget=Budget(rows=25))
    served = [judge.submit(engine, Ask(prompt(n, 20 + n), 3 + 2 * n, n)) for n in range(7)]
    finish(engine)
    for one in served:
        judge.check(one)
    seen: set[int] = set()
    begun = []
    for record in engine.records:
        if new := {one.request for one in record.rows} - seen:
            begun.append(new)
            seen |= new
    assert begun == [{0, 1}, {2}, {3, 4}, {5}, {6}]  # 25 rows of prompts in a pass


def test_the_plain_decoder_serves_too() -> None:
    decoder = tiny_decoder()
    engine = BatchEngine(decoder, 3, 20, prefix=with_prefixes, budget=Budget(rows=7))
    prompts = [prompt(seed, 30, 20) for seed in (1, 2, 1, 3)]
    handles = [engine.submit(ServedRequest(one, 8)) for one in prompts]
    finish(engine)
    assert [one.tokens for one in handles] == [list(generate(decoder, p, 8)) for p in prompts]


def test_drafts_are_an_option_of_a_request(judge: Judge) -> None:
    engine = BatchEngine(judge.decoder, 3, 30)
    asks = [Ask(prompt(n, 20), 30, draft=kind) for n, kind in enumerate(("chain", "", "tree"))]
    served = [judge.submit(engine, ask) for ask in asks]
    suffix = engine.submit(ServedRequest(prompt(0, 20), 30, draft=SuffixIndex()))
    broken = engine.submit(ServedRequest(prompt(1, 20), 30, draft=Broken(3)))
    with pytest.warns(RuntimeWarning, match="broken was dropped"):
        finish(engine)
    for one in served:
        judge.check(one)
    assert suffix.tokens == served[0].handle.tokens
    assert broken.tokens == served[1].handle.tokens
    assert max(one.decode for record in engine.records for one in record.rows) > 1


def test_sampling_has_a_seed_of_its_own(judge: Judge) -> None:
    engine = BatchEngine(judge.decoder, 3, 30)
    settings = [Sampling(0.9, 20, 0.9, seed=4), Sampling(0.9, 20, 0.9, seed=5), Sampling()]
    handles = [engine.submit(ServedRequest(prompt(1, 20), 12, each)) for each in settings * 2]
    finish(engine)
    for one, again, sampling in zip(handles[:3], handles[3:], settings, strict=True):
        alone = generate(judge.decoder, prompt(1, 20), 12, sampler=sampling.sampler())
        assert one.tokens == again.tokens == list(alone)
    unseeded = [engine.submit(ServedRequest(prompt(1, 20), 40, Sampling(2.0))) for _ in range(2)]
    finish(engine)
    assert unseeded[0].tokens != unseeded[1].tokens
    assert [Sampling(1.0).repeatable, settings[0].repeatable, Sampling().repeatable] == [0, 1, 1]


def test_what_can_never_fit_is_refused_at_once(judge: Judge) -> None:
    engine = BatchEngine(judge.decoder, 2, 4)
    with pytest.raises(Refused, match="65 blocks|5 blocks of 16 positions; the engine has 4"):
        engine.submit(ServedRequest(prompt(1, 60), 6))
    engine.submit(ServedRequest(prompt(1, 60), 5))  # its last token is never stored
    with pytest.raises(ModelError, match="the model's context is 512"):
        engine.submit(ServedRequest(prompt(1, 500), 20))
    with pytest.raises(ModelError, match="must be at least 1"):
        engine.submit(ServedRequest((), 20))
    with pytest.raises(ModelError, match=r"must lie in 0\.\.96"):
        engine.submit(ServedRequest((1, 97), 20))
    with pytest.raises(ParameterError, match="an engine that has a tokenizer"):
        engine.submit(ServedRequest((1, 2), 2, text=True))
    with pytest.raises(ParameterError, match="temperature -1"):
        engine.submit(ServedRequest((1, 2), 2, Sampling(-1)))
    assert len(engine.waiting) == 1
    finish(engine)


def test_a_decoder_without_a_paged_cache_is_refused() -> None:
    class Bare:
        config = None

    with pytest.raises(ParameterError, match="Bare has no paged cache"):
        BatchEngine(Bare(), 1, 1)  # type: ignore[arg-type]


def test_the_record_says_what_each_pass_was_made_of(judge: Judge) -> None:
    engine = BatchEngine(judge.decoder, 2, 40, budget=Budget(rows=16, answering=8))
    for seed, length in enumerate((20, 10, 5)):
        engine.submit(ServedRequest(prompt(seed, length), 3))
    finish(engine)
    records = engine.records
    assert [record.rows for record in records[:3]] == [
        ((0, 16, 0, 0),), ((0, 4, 0, 1), (1, 10, 0, 1)), ((0, 0, 1, 1), (1, 0, 1, 1)),
    ]  # fmt: skip
    assert sum(record.prefill for record in records) == 20 + 10 + 5
    assert sum(record.decode for record in records) == 3 * 2
    assert [record.queue for record in records[:2]] == [2, 1]
    assert [(record.blocks_held, record.blocks) for record in records[:2]] == [(1, 40), (3, 40)]
    assert all(record.own >= 0 for record in records)


def test_the_record_tells_who_lost_a_slot(judge: Judge) -> None:
    engine = BatchEngine(judge.decoder, 3, 40)
    first, second, third = (engine.submit(ServedRequest(prompt(n, 20), 9)) for n in range(3))
    engine.step()
    engine.preempt(second.number)
    third.cancel()
    engine.step()
    assert (engine.records[1].preempted, engine.records[1].cancelled) == ((1,), (2,))
    assert engine.records[1].rows == ((0, 0, 1, 1), (1, 21, 0, 1))  # it reads all of it again
    finish(engine)
    assert first.finish == second.finish == Finish.LENGTH


def test_a_pace_bounds_the_rows_beside_requests_that_answer(judge: Judge) -> None:
    pace = Pace(filled(1e-3, {1: 1.0, 64: 64.0}), stretch=5.0)  # rows cost the same each
    pace.learn = lambda *_: None  # this machine's own times are none of the test's
    engine = BatchEngine(judge.decoder, 3, 60, budget=pace)
    served = [judge.submit(engine, Ask(prompt(1, 10), 40))]
    for _ in range(2):
        engine.step()
    served.append(judge.submit(engine, Ask(prompt(2, 100), 4)))
    finish(engine)
    for one in served:
        judge.check(one)
    chunks = [one.prefill for r in engine.records for one in r.rows if one.request == 1]
    assert max(chunks) == 4  # five rows in all: five times one row
    assert sum(chunks) == 100


def test_text_and_stop_strings(real_model: LoadedModel) -> None:
    """The real tokenizer over a random plain decoder: the text is odd, and must be complete."""
    tokenizer = real_model.tokenizer
    decoder: Decoder = tiny_decoder(vocab_size=len(tokenizer))
    engine = BatchEngine(decoder, 3, 30, tokenizer=tokenizer)
    tokens = list(generate(decoder, (1, 2, 3), 24))
    whole = tokenizer.decode(tokens, skip_special_tokens=True)
    plain = engine.submit(ServedRequest((1, 2, 3), 24, text=True))
    at = len(whole) // 2
    stop = whole[at : at + 3]
    stopped = engine.submit(ServedRequest((1, 2, 3), 24, stop_strings=[stop]))
    never = engine.submit(ServedRequest((1, 2, 3), 24, stop_strings=[whole[-1] + "no such text"]))
    finish(engine)
    assert plain.text() == whole
    assert stopped.text() == whole[: whole.index(stop)]
    assert (stopped.finish, never.finish) == (Finish.STOP_STRING, Finish.LENGTH)
    assert len(stopped.tokens) < 24
    assert stopped.tokens == tokens[: len(stopped.tokens)]
    assert never.text() == whole


class Ended(SuffixIndex):
    """A draft that keeps the text it is shown at the end."""

    def end(self, context) -> None:
        self.ended = list(context)


@pytest.mark.parametrize("stop", [False, True])
def test_a_draft_is_shown_the_whole_answer_at_the_end(judge: Judge, stop: bool) -> None:
    engine, draft = BatchEngine(judge.decoder, 1, 30), Ended()
    tokens = judge.alone(Ask(prompt(1, 20), 30)).tokens
    stops = (tokens[9],) if stop else ()
    handle = engine.submit(ServedRequest(prompt(1, 20), 30, stop_ids=stops, draft=draft))
    finish(engine)
    assert draft.ended == [*prompt(1, 20), *handle.tokens]
