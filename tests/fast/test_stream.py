"""Streams: whole characters, stops, figures, and a slot that survives whatever breaks off."""

from __future__ import annotations

import time
from typing import Any

import pytest

from labkit.engine.row_costs import free_rows
from labkit.engine.served import Finish
from labkit.errors import ModelError
from labkit.fast.session import Fastest
from labkit.fast.stream import Stream
from labkit.model.load import LoadedModel
from tests.fast.told import Letters, Told, session

TEXT = "naïve 推理 – 極限 🚀👩‍💻, 速度 and 速度 and 速度 and 速度."
PROMPT = list(range(1, 20))


@pytest.fixture
def told(real_model: LoadedModel) -> Any:
    """(a session that answers with TEXT, the tokens of TEXT)."""
    tokens = real_model.tokenizer.encode(TEXT, add_special_tokens=False)
    decoder = Told(len(PROMPT), tokens, len(real_model.tokenizer))
    return session(decoder, real_model.tokenizer, free_rows()), tokens


def test_pieces_are_whole_characters_and_make_the_text(told: Any) -> None:
    fast, tokens = told
    answer = fast.stream(PROMPT, len(tokens))
    pieces = list(answer)
    assert len(tokens) > len(pieces)  # some characters take several tokens
    assert "".join(pieces) == TEXT == answer.result.text
    assert not any("\ufffd" in piece for piece in pieces)
    assert answer.result.tokens == tuple(tokens)
    assert answer.result.finish == Finish.LENGTH


def test_an_answer_cut_anywhere_shows_no_half_character(told: Any) -> None:
    fast, tokens = told
    for count in range(1, len(tokens) + 1):
        answer = fast.stream(PROMPT, count)
        text = answer.read()
        assert TEXT.startswith(text)
        assert "\ufffd" not in text
        assert len(answer.result.tokens) == count


def test_accepted_tokens_are_marked_and_counted(told: Any) -> None:
    fast, tokens = told
    answer = fast.stream(PROMPT, len(tokens))
    pieces = list(answer)
    result = answer.result
    assert result.accepted is not None
    assert 0 < result.accepted <= (result.proposed or 0)
    marked = "".join(piece for piece in pieces if piece.drafted)
    assert "速度" in marked
    assert not pieces[0].drafted
    assert sum(result.passes.values()) + result.accepted == len(tokens) - 1
    again = fast.stream(PROMPT, len(tokens))  # what was answered once is drafted whole
    assert again.read() == TEXT
    assert sum(again.result.passes.values()) < sum(result.passes.values())


def test_without_drafts_nothing_is_marked(real_model: LoadedModel) -> None:
    tokens = real_model.tokenizer.encode(TEXT, add_special_tokens=False)
    decoder = Told(len(PROMPT), tokens, len(real_model.tokenizer))
    answer = session(decoder, real_model.tokenizer, None).stream(PROMPT, len(tokens))
    pieces = list(answer)
    assert "".join(pieces) == TEXT
    assert not any(piece.drafted for piece in pieces)
    assert (answer.result.proposed, answer.result.accepted) == (None, None)
    assert answer.result.passes == {1: len(tokens) - 1}


ANSWER = [5, 6, 7, 8, 5, 6, 7, 8, 5, 6, 9, 3]


def letters(tokens: list[int]) -> str:
    return Letters().decode(tokens)


def of_answer(eos: tuple[int, ...] = (), **more: Any) -> Fastest:
    return session(Told(len(PROMPT), ANSWER, 97, eos), **more)


def test_a_stop_id_ends_the_answer_and_is_one_of_its_tokens() -> None:
    answer = of_answer(eos=(9,)).stream(PROMPT, 50)
    answer.read()
    assert answer.result.tokens == tuple(ANSWER[:11])
    assert answer.result.finish == Finish.STOP_ID


@pytest.mark.parametrize("costs", [None, free_rows()])
def test_a_stop_string_ends_the_answer_and_is_not_shown(costs: Any) -> None:
    fast = of_answer(costs=costs)
    stop = letters([5, 6, 9])
    answer = fast.stream(PROMPT, 12, stop=[stop])
    assert answer.read() == letters(ANSWER[:8])
    assert answer.result.finish == Finish.STOP_STRING
    assert answer.result.tokens == tuple(ANSWER[:11])
    assert fast.stream(PROMPT, 12).read() == letters(ANSWER)
    # held back, because it may have been the beginning of a stop string
    cut = fast.stream(PROMPT, 10, stop=[stop])
    assert cut.read() == letters(ANSWER[:10])
    assert cut.result.finish == Finish.LENGTH


def check(fast: Fastest) -> None:
    """Nothing is left in the slot, and its caches are whole."""
    slot = fast._slot
    assert slot.cache.length(0) == 0
    slot.cache.check()
    slot.prefix.check()


@pytest.mark.parametrize("costs", [None, free_rows()])
@pytest.mark.parametrize("count", range(9))
def test_an_answer_may_be_left_at_any_piece(costs: Any, count: int) -> None:
    fast = of_answer(costs=costs)
    answer = fast.stream(PROMPT, 12)
    read = [next(answer) for _ in range(count)]
    answer.close()
    result = answer.result
    assert "".join(read) == result.text == letters(ANSWER[:count])
    assert result.finish == ""
    assert list(answer) == []  # closed
    check(fast)
    assert fast.stream(PROMPT, 12).read() == letters(ANSWER)
    check(fast)


def test_a_new_stream_ends_the_one_before() -> None:
    fast = of_answer()
    first = fast.stream(PROMPT, 12)
    assert next(first) == letters(ANSWER[:1])
    second = fast.stream(PROMPT, 12)
    assert list(first) == []
    assert second.read() == letters(ANSWER)
    check(fast)


def test_the_prefix_cache_has_the_prompt_the_second_time() -> None:
    fast = of_answer()
    first, second = fast.stream(PROMPT, 12), None
    first.read()
    assert first.result.cached == 0
    second = fast.stream(PROMPT, 12)
    assert second.read() == letters(ANSWER)
    assert second.result.cached == 16  # whole blocks


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ModelError("no numbers")])
@pytest.mark.parametrize("costs", [None, free_rows()])
@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_pass_that_is_broken_off_leaves_figures_and_a_sound_slot(
    error: BaseException, costs: Any, at: int
) -> None:
    decoder = Told(len(PROMPT), ANSWER, 97)
    fast = session(decoder, costs=costs)
    decoder.breaks = at, error
    answer = fast.stream(PROMPT, 12)
    with pytest.raises(type(error)):
        answer.read()
    result = answer.result
    assert len(result.tokens) >= at - 1
    assert result.text == letters(ANSWER[: len(result.tokens)])
    assert result.line  # whatever came
    check(fast)
    again = fast.stream(PROMPT, 12)
    assert again.read() == letters(ANSWER)
    assert again.result.cached == 0  # the cache was made anew
    check(fast)


def test_a_call_that_is_broken_off_before_its_first_pass_leaves_a_sound_slot(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken_off(*_: Any) -> None:
        raise KeyboardInterrupt

    fast = of_answer()
    with monkeypatch.context() as patch:
        patch.setattr(fast._slot.prefix, "match", broken_off)
        with pytest.raises(KeyboardInterrupt):
            fast.stream(PROMPT, 12).read()
    assert fast.stream(PROMPT, 12).read() == letters(ANSWER)
    check(fast)


def test_the_time_of_the_reader_is_left_out() -> None:
    answer = of_answer(costs=None).stream(PROMPT, 12)
    began = time.perf_counter()
    for _ in answer:
        time.sleep(0.02)
    whole = time.perf_counter() - began
    trace = answer.result.trace
    assert trace is not None
    assert len(trace.times) == 12
    assert trace.e2e_latency < whole - 12 * 0.02 + 0.001


def test_figures_can_be_read_on_the_way() -> None:
    answer: Stream = of_answer(costs=None).stream(PROMPT, 12)
    assert answer.result.line == "0 tokens"
    next(answer)
    assert answer.result.line.startswith("1 token")
    next(answer)
    assert answer.result.line.startswith("2 tokens, ")
