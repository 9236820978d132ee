"""The engine: what it accepts, what it gives back, and who is hurt by whose mistakes."""

from __future__ import annotations

import threading

import pytest
import torch

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
from tests.engine.served_helpers import Ask, Judge, check, finish, prompt, with_prefixes
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
    admitted = [record.admitted for record in engine.records if record.admitted]
    assert admitted == [[0, 1, 2], [3, 4, 5], [6]]


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
    assert max(share.rows for record in engine.records for share in record.shares[1:]) > 1


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


def test_an_exception_in_one_request_fails_that_request_alone(judge: Judge) -> None:
    engine = BatchEngine(judge.decoder, 4, 40, prefix=with_prefixes)
    calls = []

    def third(logits: torch.Tensor) -> int:
        calls.append(1)
        if len(calls) == 3:
            raise ZeroDivisionError("the third token")
        return 5

    asks = [Ask(prompt(seed, 20), 9) for seed in range(3)]
    served = [judge.submit(engine, ask) for ask in asks]
    bad = engine.submit(ServedRequest(prompt(7, 20), 9, third))
    finish(engine)
    for one in served:
        judge.check(one)
        assert one.handle.finish == Finish.LENGTH
    assert (bad.finish, bad.tokens) == (Finish.FAILED, [5, 5])
    assert isinstance(bad.error, ZeroDivisionError)


class Poisoned:
    """A decoder whose pass fails where a slot's part begins with a certain token."""

    def __init__(self, inner: FusedDecoder, token: int) -> None:
        self.inner, self.config, self.token = inner, inner.config, token
        self.new_cache, self.new_paged_cache = inner.new_cache, inner.new_paged_cache

    def __call__(self, rows, cache):
        logits = self.inner(rows, cache)
        if self.token in rows.ids:
            raise MemoryError("a pass that failed after it had written")
        return logits


def test_a_pass_that_fails_is_run_again_for_each_request(judge: Judge) -> None:
    asks = [Ask(prompt(seed, 20), 6) for seed in (1, 2)]
    seen = {token for ask in asks for token in (*ask.prompt, *judge.alone(ask).tokens)}
    poison = min(set(range(97)) - seen)
    engine = BatchEngine(Poisoned(judge.decoder, poison), 4, 40)  # type: ignore[arg-type]
    served = [judge.submit(engine, ask) for ask in asks]
    bad = engine.submit(ServedRequest((3, poison, 4), 6))
    finish(engine)
    for one in served:
        judge.check(one)
        assert one.handle.finish == Finish.LENGTH
    assert isinstance(bad.error, MemoryError)


def test_a_client_that_stops_reading_stops_no_one(judge: Judge) -> None:
    engine = BatchEngine(judge.decoder, 2, 40)
    unread = engine.submit(ServedRequest(prompt(1, 20), 40))
    other = judge.submit(engine, Ask(prompt(2, 20), 40))
    finish(engine)
    judge.check(other)
    assert (unread.events.qsize(), len(unread.tokens)) == (40, 40)


def test_clients_in_other_threads(judge: Judge) -> None:
    """They submit, read and cancel while the engine runs."""
    engine, lost = BatchEngine(judge.decoder, 4, 40, prefix=with_prefixes), []
    for seed in range(8):
        judge.alone(Ask(prompt(seed, 20, 16), 12))

    def client(seed: int) -> None:
        try:
            served = judge.submit(engine, Ask(prompt(seed, 20, 16), 12))
            tokens = []
            while (event := served.handle.events.get(timeout=60)).finish is None:
                tokens += event.tokens
                if seed % 3 == 2:
                    served.handle.cancel()
            assert served.handle.tokens == tokens + event.tokens
            judge.check(served)
        except BaseException as error:
            lost.append(error)

    threads = [threading.Thread(target=client, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads) or not engine.idle:
        engine.step()
    for thread in threads:
        thread.join()
    check(engine)
    assert lost == []


def test_the_record_says_what_each_pass_was_made_of(judge: Judge) -> None:
    engine = BatchEngine(judge.decoder, 2, 40, budget=Budget(rows=16, answering=8))
    for seed, length in enumerate((20, 10, 5)):
        engine.submit(ServedRequest(prompt(seed, length), 3))
    finish(engine)
    records = list(engine.records)
    made = [[tuple(share) for share in record.shares] for record in records]
    assert made[:3] == [
        [(0, 16, True)], [(0, 4, True), (1, 10, True)], [(0, 1, False), (1, 1, False)],
    ]  # fmt: skip
    assert sum(record.rows for record in records) == 20 + 10 + 5 + 3 * 2
    assert [record.waiting for record in records[:2]] == [2, 1]
    for record in records:
        assert record.began <= record.started <= record.ended <= record.closed
        assert record.own == pytest.approx(record.closed - record.began - record.seconds)


def test_a_pace_bounds_the_rows_beside_requests_that_answer(judge: Judge) -> None:
    pace = Pace(filled(1e-3, {1: 1.0, 64: 64.0}), stretch=5.0)  # rows cost the same each
    engine = BatchEngine(judge.decoder, 3, 60, budget=pace)
    served = [judge.submit(engine, Ask(prompt(1, 10), 40))]
    for _ in range(2):
        engine.step()
    pace.learn = lambda load, seconds: None  # this machine's own times are none of the test's
    pace.seconds_a_read = 0.0
    served.append(judge.submit(engine, Ask(prompt(2, 100), 4)))
    finish(engine)
    for one in served:
        judge.check(one)
    chunks = [s.rows for r in engine.records for s in r.shares if s.number == 1 and s.reads]
    assert max(chunks) == 4  # five rows in all: five times one row
    assert sum(chunks) >= 99


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
