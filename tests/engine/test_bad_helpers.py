"""Helpers that fail: disk tiers, samplers, caches. They hurt nobody but the request they help."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from labkit.engine.batching import BatchEngine
from labkit.engine.prefix import PrefixCache
from labkit.engine.prefix_key import PrefixKey, sha256
from labkit.engine.recall import Recall
from labkit.engine.responses import ResponseCache
from labkit.engine.served import Finish, ServedRequest
from labkit.errors import LabkitError
from labkit.model.cache.paged import PagedCache
from tests.engine.served_helpers import Ask, Judge, finish, prompt, with_prefixes


class Failing:
    """A disk tier that cannot be read. error: that is raised."""

    def __init__(self, error: BaseException) -> None:
        self.error: BaseException | None = error

    def get(self, name: bytes, history: bytes) -> bytes | None:
        if self.error is not None:
            raise self.error
        return None

    def put_soon(self, name: bytes, history: bytes, content: bytes | bytearray) -> None:
        """Nothing is kept."""

    def buffer(self, nbytes: int) -> bytearray:
        return bytearray(nbytes)

    def flush(self) -> None:
        """Nothing waits."""

    put = put_soon


def unnamed(content: bytes) -> bytes:
    """A hash that raises for blocks with token 96 several times in a row."""
    if (96).to_bytes(8, "little") * 8 in content:
        raise ZeroDivisionError("no name today")
    return sha256(content)


@pytest.mark.parametrize("fault", ["disk", "digest"])
def test_blocks_that_cannot_be_looked_up_fail_their_request_alone(judge: Judge, fault: str) -> None:
    key = PrefixKey("tiny", "0")

    def prefixes(cache: PagedCache) -> PrefixCache:
        if fault == "disk":
            return PrefixCache(cache, key, Failing(ZeroDivisionError("no block today")))
        return PrefixCache(cache, key, digest=unnamed)

    engine = BatchEngine(judge.decoder, 2, 30, prefix=prefixes)
    good = [judge.submit(engine, Ask(prompt(seed, 15), 6)) for seed in (1, 2)]
    bad = [engine.submit(ServedRequest((96,) * 20, 6)) for _ in range(3)]
    more = [judge.submit(engine, Ask(prompt(seed, 15), 6)) for seed in (3, 4)]
    finish(engine)
    for one in (*good, *more):
        judge.check(one)
        assert one.handle.finish == Finish.LENGTH
    assert [type(one.error) for one in bad] == [ZeroDivisionError] * 3
    assert [one.finish for one in bad] == [Finish.FAILED] * 3


def test_an_interrupt_while_blocks_are_read_keeps_the_slot(judge: Judge) -> None:
    """The only slot was lost: the engine waited for it for ever."""
    tier, key = Failing(KeyboardInterrupt()), PrefixKey("tiny", "0")
    engine = BatchEngine(judge.decoder, 1, 30, prefix=lambda cache: PrefixCache(cache, key, tier))
    one = judge.submit(engine, Ask(prompt(1, 40), 6))
    with pytest.raises(KeyboardInterrupt):
        engine.step()
    tier.error = None
    finish(engine, steps=100)
    judge.check(one)
    assert one.handle.finish == Finish.LENGTH


def inside(engine: BatchEngine, act: Callable[[], Any], seen: list[Any]) -> Callable[[Any], int]:
    """A sampler that does something with the engine at its second token."""

    def sample(logits: Any) -> int:
        seen.append(None)
        if len(seen) == 2:
            act()
        return 5

    return sample


@pytest.mark.parametrize("act", ["step", "preempt", "another thread"])
def test_a_step_within_a_step_is_refused_and_hurts_nobody(judge: Judge, act: str) -> None:
    engine = BatchEngine(judge.decoder, 4, 60, prefix=with_prefixes)
    others = [judge.submit(engine, Ask(prompt(seed, 20), 6)) for seed in (1, 2)]
    told: list[BaseException] = []

    def step() -> None:
        try:
            engine.step()
        except LabkitError as error:
            told.append(error)

    def there() -> None:
        thread = threading.Thread(target=step)
        thread.start()
        thread.join()

    acts = {"step": engine.step, "preempt": lambda: engine.preempt(0), "another thread": there}
    one = engine.submit(ServedRequest(prompt(3, 20), 6, inside(engine, acts[act], [])))
    others += [judge.submit(engine, Ask(prompt(seed, 20), 6)) for seed in (4, 5)]
    finish(engine)
    for other in others:
        judge.check(other)
        assert other.handle.finish == Finish.LENGTH
        assert other.handle.preempted == 0
    if act == "another thread":
        assert one.tokens == [5] * 6
        assert "a step is under way" in str(told[0])
    else:
        assert one.finish == Finish.FAILED
        assert isinstance(one.error, LabkitError)


def test_a_sampler_may_submit_and_cancel(judge: Judge) -> None:
    engine = BatchEngine(judge.decoder, 2, 60, prefix=with_prefixes)
    added, gone = [], judge.submit(engine, Ask(prompt(1, 20), 30))

    def act() -> None:
        added.append(judge.submit(engine, Ask(prompt(2, 20), 6)))
        gone.handle.cancel()
        one.cancel()

    judge.alone(Ask(prompt(2, 20), 6))
    one = engine.submit(ServedRequest(prompt(3, 20), 6, inside(engine, act, [])))
    finish(engine)
    for other in (gone, *added):
        judge.check(other)
    assert [gone.handle.finish, one.finish] == [Finish.CANCELLED] * 2
    assert added[0].handle.finish == Finish.LENGTH


def test_a_response_cache_that_fails_stops_nobody(
    judge: Judge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = ResponseCache(tmp_path / "answers.sqlite")

    def put(*_: Any) -> bool:
        raise ZeroDivisionError("no answer is kept today")

    monkeypatch.setattr(cache, "put", put)
    engine = BatchEngine(judge.decoder, 2, 40, recall=Recall(cache, "0"))
    handles = [engine.submit(ServedRequest(prompt(seed, 20), 6)) for seed in (1, 2)]
    with pytest.warns(RuntimeWarning, match="was not kept: ZeroDivisionError"):
        finish(engine)
    for seed, handle in enumerate(handles, 1):
        assert handle.tokens == judge.alone(Ask(prompt(seed, 20), 6)).tokens


def test_only_a_running_request_can_lose_its_slot(judge: Judge) -> None:
    engine = BatchEngine(judge.decoder, 1, 30, prefix=with_prefixes)
    served = [judge.submit(engine, Ask(prompt(seed, 20), 6)) for seed in (1, 2)]
    engine.step()
    for number in (1, 7):  # it waits; nobody has this number
        with pytest.raises(LabkitError, match=f"request {number} has no slot to lose"):
            engine.preempt(number)
    finish(engine)
    for one in served:
        judge.check(one)
        assert one.handle.preempted == 0
