"""An engine with a response cache: what is answered from it, and what never is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from labkit.engine.batching import BatchEngine
from labkit.engine.prefix_key import PrefixKey
from labkit.engine.recall import Recall
from labkit.engine.responses import ResponseCache
from labkit.engine.served import Finish, Sampling, ServedRequest
from labkit.model.load import LoadedModel
from labkit.optimize.fused import FusedDecoder
from labkit.optimize.speculative import SuffixIndex
from tests.engine.served_helpers import finish, prompt
from tests.tiny import tiny_decoder

SEEDED = Sampling(0.9, 20, 0.9, seed=4)


@pytest.fixture
def recall(tmp_path: Path) -> Recall:
    return Recall(ResponseCache(tmp_path / "answers.sqlite"), "0" * 64)


def served(engine: BatchEngine, sampling: Sampling = SEEDED, **more: Any) -> Any:
    handle = engine.submit(ServedRequest(prompt(1, 20), 8, sampling, **more))
    finish(engine)
    return handle


@pytest.mark.parametrize("sampling", [SEEDED, Sampling()], ids=["seeded", "greedy"])
def test_an_identical_request_is_not_computed(
    tiny_fused: FusedDecoder, recall: Recall, sampling: Sampling
) -> None:
    first = served(BatchEngine(tiny_fused, 2, 20, recall=recall), sampling)
    engine = BatchEngine(tiny_fused, 2, 20, recall=recall)
    again = served(engine, sampling)
    assert (first.recalled, again.recalled) == (False, True)
    assert again.tokens == first.tokens
    assert again.finish == first.finish == Finish.LENGTH
    assert len(engine.records) == 0
    (event,) = [again.events.get(block=False)]
    assert (event.tokens, event.finish) == (first.tokens, Finish.LENGTH)


def test_what_may_have_another_answer_is_computed(tiny_fused: FusedDecoder, recall: Recall) -> None:
    engine = BatchEngine(tiny_fused, 2, 20, recall=recall)
    first = served(engine)
    others: list[dict[str, Any]] = [
        {"sampling": Sampling(0.9, 20, 0.9, seed=5)}, {"sampling": Sampling(0.9, 20, 0.9)},
        {"sampling": Sampling(0.9, 20, 0.9)}, {"stop_ids": first.tokens[:1]}, {"reuse": False},
        {"draft": SuffixIndex()}, {"sampling": lambda logits: 5},
        {"prefix_key": PrefixKey("tiny", "0", salt="x")},
    ]  # fmt: skip
    assert [served(engine, **other).recalled for other in others] == [False] * len(others)
    assert served(engine).recalled


def test_an_answer_that_did_not_end_is_not_kept(tiny_fused: FusedDecoder, recall: Recall) -> None:
    engine = BatchEngine(tiny_fused, 2, 20, recall=recall)
    handle = engine.submit(ServedRequest(prompt(1, 20), 8, SEEDED))
    for _ in range(4):
        engine.step()
    handle.cancel()
    finish(engine)
    assert (handle.finish, recall.cache.count()) == (Finish.CANCELLED, 0)
    assert not served(engine).recalled


def test_text_and_stops_are_those_of_the_first_time(
    real_model: LoadedModel, recall: Recall
) -> None:
    tokenizer = real_model.tokenizer
    decoder = tiny_decoder(vocab_size=len(tokenizer))
    engine = BatchEngine(decoder, 2, 20, recall=recall, tokenizer=tokenizer)
    whole = served(engine, text=True).text()
    stop = whole[len(whole) // 2 :][:2]
    pair = [served(engine, stop_strings=[stop]) for _ in range(2)]
    assert [one.recalled for one in pair] == [False, True]
    assert [one.finish for one in pair] == [Finish.STOP_STRING] * 2
    assert pair[0].text() == pair[1].text() == whole[: whole.index(stop)]
    assert pair[0].tokens == pair[1].tokens
