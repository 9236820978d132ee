"""`labkit.fastest`: the tokens of plain decoding, whatever is drafted, cached or left."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from labkit.engine.generate import generate
from labkit.engine.row_costs import free_rows
from labkit.errors import LabkitError, ModelError, ParameterError
from labkit.fast.session import Fastest
from labkit.limits.hardware import Hardware, Reading
from labkit.limits.of_decoder import decoder_cost
from labkit.limits.roofline import least_seconds
from labkit.model.sampling import Sampler
from labkit.optimize.fused import FusedDecoder, load_fused
from tests.fast.told import Letters, Told, chosen, session
from tests.fused_helpers import tiny_gguf
from tests.speculative_stubs import COSTS
from tests.tiny import tiny_decoder

PROMPTS = [
    [(7 * n * n + 3 * n) % 97 for n in range(40)],
    [5, 9, 13, 5, 9, 13, 5, 9, 13, 5, 9, 13, 5, 9, 13, 5, 9, 13],
    [3],
    [(7 * n * n + 3 * n) % 97 for n in range(33)] + [1, 2, 3],
]


@pytest.fixture(scope="module")
def fused(tmp_path_factory: pytest.TempPathFactory) -> FusedDecoder:
    file = tiny_gguf(tmp_path_factory.mktemp("m") / "a.gguf", "llama", "Q4_1")
    return load_fused(file, threads=2)


def plainly(decoder: Any, prompt: list[int], count: int, **more: Any) -> list[int]:
    """Plain decoding: no drafts, a cache of its own."""
    stops = decoder.config.eos_ids
    return list(generate(decoder, prompt, count, stop_ids=stops, **more))


def whole(fast: Fastest, prompt: list[int], count: int, **more: Any) -> list[int]:
    answer = fast.stream(prompt, count, **more)
    answer.read()
    return list(answer.result.tokens)


@pytest.mark.parametrize("costs", [None, COSTS, free_rows()], ids=["none", "costly", "free"])
@pytest.mark.parametrize("kind", ["fused", "plain"])
def test_greedy_tokens_are_those_of_plain_decoding(
    kind: str, costs: Any, fused: FusedDecoder
) -> None:
    decoder = fused if kind == "fused" else tiny_decoder()
    fast = session(decoder, costs=costs)
    for _ in range(2):  # the second time with cached prefixes, and drafts of the first answers
        for prompt in PROMPTS:
            assert whole(fast, prompt, 60) == plainly(decoder, prompt, 60)


def test_drafts_and_cached_prefixes_were_in_it(fused: FusedDecoder) -> None:
    """Else the test above would show nothing."""
    fast = session(fused, costs=free_rows())
    first = fast.stream(PROMPTS[0], 60)
    first.read()
    second = fast.stream(PROMPTS[0], 60)
    second.read()
    assert second.result.accepted
    assert second.result.cached == 32
    assert sum(second.result.passes.values()) < 20


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_any_answers_left_anywhere_change_no_later_one(
    fused: FusedDecoder, data: st.DataObject
) -> None:
    fast = Fastest(chosen(fused), free_rows(), context=100)
    for _ in range(data.draw(st.integers(1, 6))):
        prompt, count = data.draw(st.sampled_from(PROMPTS)), data.draw(st.integers(1, 60))
        expected = plainly(fused, prompt, count)
        answer = fast.stream(prompt, count)
        list(islice(answer, data.draw(st.integers(0, count))))
        answer.close()
        came = list(answer.result.tokens)
        assert came == expected[: len(came)]
        fast._slot.cache.check()
        fast._slot.prefix.check()


def test_a_seed_gives_the_same_tokens_with_and_without_drafts(fused: FusedDecoder) -> None:
    given = {"temperature": 0.7, "top_p": 0.95, "seed": 5}
    expected = plainly(fused, PROMPTS[1], 40, sampler=Sampler(0.7, top_p=0.95, seed=5))
    for costs in (None, free_rows()):
        fast = session(fused, costs=costs)
        assert whole(fast, PROMPTS[1], 40, **given) == expected
        assert whole(fast, PROMPTS[1], 40, **given) == expected


def test_a_text_goes_into_the_template_where_there_is_one() -> None:
    class Chatting(Letters):
        chat_template = "there is one"

        def apply_chat_template(self, messages: Any, **_: Any) -> list[int]:
            return self.encode(f"<u>{messages[0]['content']}</u><a>")

    for tokenizer, chat, text in (
        (Chatting(), None, "<u>hello</u><a>"), (Chatting(), False, "hello"),
        (Letters(), None, "hello"), (Chatting(), True, "<u>hello</u><a>"),
    ):  # fmt: skip
        ids = Letters().encode(text)
        answer = session(Told(len(ids), [7, 8], 97), tokenizer).stream("hello", 2, chat=chat)
        assert answer.read() == Letters().decode([7, 8])
        assert answer.result.prompt_tokens == len(ids)


class Refusing(Letters):
    chat_template = "there is one"

    def apply_chat_template(self, messages: Any, **_: Any) -> list[int]:
        from jinja2 import TemplateError

        raise TemplateError("no users\nhere")


@pytest.mark.parametrize(
    ("prompt", "more", "words"),
    [
        ("", {}, "the prompt is empty"),
        ("\udcff", {}, "no UTF-8"),
        ([], {}, "at least 1"),
        ([97], {}, "0..96"),
        ([1], {"max_tokens": 0}, "at least 1"),
        ([1], {"max_tokens": 2.5}, "whole number"),
        ([1], {"max_tokens": 64}, "64 that there is room for"),
        ([1], {"max_tokens": 999}, "context is 256"),
        ([1], {"temperature": -1}, "temperature"),
        ([1], {"stop": "x"}, "list of texts"),
        ([1], {"chat": True}, "for a text"),
        ("a", {"chat": True}, "no chat template"),
    ],
)
def test_what_cannot_be_answered_is_refused_at_the_call(prompt: Any, more: Any, words: str) -> None:
    fast = session(tiny_decoder(), context=64)
    with pytest.raises(LabkitError, match=words):
        fast.stream(prompt, **{"max_tokens": 8} | more)
    assert whole(fast, [1, 2, 3], 8) == plainly(tiny_decoder(), [1, 2, 3], 8)


def test_a_template_that_refuses_is_told_in_one_line() -> None:
    with pytest.raises(ParameterError, match=r"refuses the prompt \('no users\\nhere'\)"):
        session(tiny_decoder(), Refusing()).stream("hello")


def test_a_decoder_without_a_paged_cache_is_refused() -> None:
    with pytest.raises(ParameterError, match="no paged cache"):
        session(object.__new__(type("Bare", (), {"config": tiny_decoder().config})))
    with pytest.raises(ParameterError, match="at least 2"):
        session(tiny_decoder(), context=1)


SLOW = Hardware(
    "slow", "cpu", 1, {1: Reading(1e6, 1e6, 0.0, 1e6)}, {"float32": Reading(1e12, 1e12, 0.0, 1e12)}
)


def test_the_limit_counts_each_pass_with_its_rows(fused: FusedDecoder) -> None:
    fast = Fastest(chosen(fused, products="int8"), free_rows(), hardware=SLOW)
    answer = fast.stream(PROMPTS[1], 40)
    answer.read()
    result = answer.result
    at = len(PROMPTS[1]) + 20
    expected = sum(
        count * least_seconds(decoder_cost(fused, at, rows, "float32", "int8"), SLOW, "float32")
        for rows, count in result.passes.items()
    )
    assert result.least == pytest.approx(expected)
    assert len(result.passes) > 1
    # This machine is far faster than SLOW: what was beaten is no limit.
    assert (result.limit, result.fraction_of_limit) == (None, None)
    assert "faster than the limit as measured" in result.line


def test_without_a_measurement_nothing_is_measured_and_no_limit_told(
    fused: FusedDecoder, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("labkit.limits.measure._measure", None)
    answer = session(fused).stream(PROMPTS[1], 20)
    answer.read()
    assert answer.result.least is None
    assert "limit not measured yet" in answer.result.line
    assert not (own_cache / "hardware").exists()


def test_the_representation_says_what_runs(fused: FusedDecoder) -> None:
    told = repr(session(fused))
    assert "tiny decoder, 1 threads" not in told
    assert "drafts on, prefix cache on" in told
    assert "drafts off" in repr(session(fused, costs=None))


def test_lengths_are_those_of_the_session(fused: FusedDecoder) -> None:
    fast = session(fused, context=10**9)
    assert fast.context == fused.config.max_positions
    with pytest.raises(ModelError):
        fast.stream([1] * 500, 13)
