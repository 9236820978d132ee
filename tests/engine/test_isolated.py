"""Who is hurt by whose mistakes: nobody but the request that makes them."""

from __future__ import annotations

import threading

import torch

from labkit.engine.batching import BatchEngine
from labkit.engine.served import Finish, ServedRequest
from labkit.optimize.fused import FusedDecoder
from tests.engine.served_helpers import Ask, Judge, check, finish, prompt, with_prefixes


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
