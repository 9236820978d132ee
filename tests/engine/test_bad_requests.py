"""Requests that are as bad as they can be are refused, or hurt nobody else."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from labkit.engine.batching import BatchEngine
from labkit.engine.prefix_key import PrefixKey
from labkit.engine.recall import Recall
from labkit.engine.responses import ResponseCache, ResponseKey, StoredAnswer
from labkit.engine.served import Finish, Sampling, ServedRequest
from labkit.engine.text import ByteText
from labkit.errors import ModelError, ParameterError
from labkit.optimize.fused import FusedDecoder
from tests.engine.served_helpers import Ask, Judge, finish, prompt, with_prefixes

HALF = "\ud800"  # of a surrogate pair: JSON may hold it, UTF-8 may not


@pytest.fixture
def recall(tmp_path: Path) -> Recall:
    return Recall(ResponseCache(tmp_path / "answers.sqlite"), "0" * 64)


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"max_new_tokens": 4.5}, ModelError, "whole numbers"),
        ({"max_new_tokens": math.nan}, ModelError, "whole numbers"),
        ({"prompt": [1.0] * 20}, ModelError, r"must lie in 0\.\.96"),
        ({"prompt": "a text of twenty signs"}, ModelError, r"must lie in 0\.\.96"),
        ({"prompt": [1, 2**70]}, ModelError, r"must lie in 0\.\.96"),
        ({"stop_ids": (n for n in (1, 2))}, ParameterError, "stop_ids .* allowed is a list"),
        ({"stop_ids": "12"}, ParameterError, "stop_ids '12': allowed is a list"),
        ({"stop_ids": [1.5]}, ParameterError, "stop_ids .* allowed are token ids"),
        ({"stop_ids": [2**70]}, ParameterError, "stop_ids .* allowed are token ids"),
        ({"stop_strings": iter(["a"])}, ParameterError, "stop_strings .* allowed is a list"),
        ({"stop_strings": "ab"}, ParameterError, "stop_strings 'ab': allowed is a list"),
        ({"stop_strings": [5]}, ParameterError, "stop strings .5.: allowed is a list of texts"),
        ({"drafted": -1}, ParameterError, "a draft cannot have -1 tokens"),
        ({"sampling": Sampling(0.5, seed=2**64)}, ParameterError, "a whole seed from"),
        ({"sampling": Sampling(0.5, top_p=0.0)}, ParameterError, "0 < top_p <= 1"),
        ({"sampling": Sampling(math.nan)}, ParameterError, "temperature nan"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_is_no_request_is_refused_at_once(
    tiny_fused: FusedDecoder, recall: Recall, wrong: dict[str, Any], error: type, message: str
) -> None:
    engine = BatchEngine(
        tiny_fused, 2, 20, prefix=with_prefixes, recall=recall, tokenizer=Words(97)
    )
    given: dict[str, Any] = {"prompt": prompt(1, 20), "max_new_tokens": 4}
    with pytest.raises(error, match=message) as caught:
        engine.submit(ServedRequest(**(given | wrong)))
    assert len(str(caught.value).splitlines()) == 1
    assert engine.idle


def test_a_key_is_made_of_texts() -> None:
    with pytest.raises(ParameterError, match="salt 5 of a prefix key: allowed is a text"):
        PrefixKey("tiny", "0", salt=5)  # type: ignore[arg-type]


def test_half_a_character_in_a_name_stops_nobody(judge: Judge, recall: Recall) -> None:
    engine = BatchEngine(judge.decoder, 2, 30, prefix=with_prefixes, recall=recall)
    ask = Ask(prompt(1, 40), 4, watched=False)
    keys = [PrefixKey("tiny", "0", salt=salt) for salt in (HALF, "\udfff", HALF)]
    found = []
    for key in keys:
        handle = engine.submit(ServedRequest(ask.prompt, 4, prefix_key=key))
        finish(engine)
        assert handle.tokens == judge.alone(ask).tokens
        found.append(handle.recalled)
    assert found == [False, False, True]


def test_a_prompt_that_its_client_changes_later_keeps_its_own_answer(
    judge: Judge, recall: Recall
) -> None:
    """A chat goes on in the list that was asked: its answer is not kept under the longer chat."""
    engine = BatchEngine(judge.decoder, 2, 20, recall=recall)
    chat, stops = list(prompt(1, 20)), [96]
    engine.submit(ServedRequest(chat, 4, Sampling(), stops))
    engine.step()
    chat.append(7)
    stops.append(95)
    finish(engine)
    for asked in (chat, chat[:-1]):
        for stop in ((96,), (95, 96)):
            handle = engine.submit(ServedRequest(asked, 4, stop_ids=stop))
            finish(engine)
            alone = judge.alone(Ask(tuple(asked), 4)).tokens
            assert handle.tokens == alone
            assert handle.recalled == (asked != chat and stop == (96,))


def test_a_client_that_empties_its_list_of_tokens_changes_no_answer(
    judge: Judge, recall: Recall
) -> None:
    engine, ask = BatchEngine(judge.decoder, 2, 20, recall=recall), Ask(prompt(1, 20), 6)
    handle = engine.submit(ServedRequest(ask.prompt, 6))
    while not engine.idle:
        engine.step()
        handle.tokens.clear()
    again = engine.submit(ServedRequest(ask.prompt, 6))
    finish(engine)
    assert again.recalled
    assert again.tokens == handle.tokens == judge.alone(ask).tokens


def test_keys_that_differ_in_anything_share_no_answer(judge: Judge, recall: Recall) -> None:
    engine = BatchEngine(judge.decoder, 2, 20, recall=recall)
    keys = [None, *(PrefixKey(*of) for of in ("mw", "nw", "mv", "mwa", "mw", ("m", "w", "", "a")))]
    seen = []
    for key in keys:
        handle = engine.submit(ServedRequest(prompt(1, 20), 4, prefix_key=key))
        finish(engine)
        seen.append(handle.recalled)
    assert seen == [False] * 5 + [True, False]


class Words:
    """A tokenizer that is not of bytes. bad: a token that it cannot decode."""

    def __init__(self, bad: int) -> None:
        self.bad = bad

    def decode(self, tokens: list[int], skip_special_tokens: bool = True) -> str:
        if self.bad in tokens:
            raise IndexError(f"token {self.bad} is unknown")
        return "".join(f" {token}" for token in tokens)


def test_text_that_cannot_be_made_fails_its_request_alone(judge: Judge, recall: Recall) -> None:
    ask, other = Ask(prompt(1, 20), 6, watched=False), Ask(prompt(2, 20), 12)
    tokens = judge.alone(ask).tokens
    engine = BatchEngine(judge.decoder, 2, 40, recall=recall, tokenizer=Words(tokens[3]))
    engine.submit(ServedRequest(ask.prompt, 6))  # its answer is kept
    finish(engine)
    for text in ({"text": True}, {"stop_strings": ["none"]}):
        beside = judge.submit(engine, other)
        odd = engine.submit(ServedRequest(ask.prompt, 6, **text))  # type: ignore[arg-type]
        finish(engine)
        judge.check(beside)
        assert (odd.finish, type(odd.error)) == (Finish.FAILED, IndexError)
        assert odd.tokens == ([] if odd.recalled else tokens[: tokens.index(tokens[3])])


def test_a_token_that_the_tokenizer_does_not_know_has_no_text() -> None:
    """A model may have more tokens than its tokenizer: their number is rounded up."""
    text = ByteText([b"a", b"\xc3"])
    assert [text.feed(token) for token in (0, 7, 1)] + [text.end()] == ["a", "", "", "\ufffd"]


def test_an_answer_without_tokens_is_none(judge: Judge, recall: Recall) -> None:
    ask = Ask(prompt(1, 20), 6)
    recall.cache.put(ResponseKey("0" * 64, ask.prompt, 6), StoredAnswer((), "stop"))
    engine = BatchEngine(judge.decoder, 2, 20, recall=recall)
    handle = engine.submit(ServedRequest(ask.prompt, 6))
    finish(engine)
    assert handle.tokens == judge.alone(ask).tokens


def test_records_of_fewer_than_no_passes_are_refused(tiny_fused: FusedDecoder) -> None:
    with pytest.raises(ParameterError, match="records of -1 passes"):
        BatchEngine(tiny_fused, 1, 4, records=-1)
    engine = BatchEngine(tiny_fused, 1, 4, records=0)
    engine.submit(ServedRequest((1, 2), 2))
    finish(engine)
    assert engine.records == []
