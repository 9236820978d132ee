"""Forecasts and replays, against runs."""

from __future__ import annotations

from collections import Counter

import pytest

from labkit.engine.generate import generate
from labkit.optimize.speculative import (
    Accounting,
    Adaptive,
    ModelDraft,
    PromptLookup,
    SuffixIndex,
    keep_layers,
    speculate,
)
from labkit.optimize.speculative.head.cost import HeadCost
from labkit.studies import speculative_forecast as foresight
from labkit.studies import speculative_tasks as study
from labkit.studies.speculative_replay import replay
from labkit.workload.tasks import Task
from tests.speculative_stubs import COSTS, Scripted
from tests.studies.test_speculative_prompts import rounds
from tests.tiny import tiny_decoder

PROMPT = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 1, 4, 1]


def test_a_replay_is_the_run():
    decoder = tiny_decoder()
    answer = list(generate(decoder, PROMPT, 60))
    makers = (
        PromptLookup,
        SuffixIndex,
        lambda: ModelDraft(keep_layers(decoder, [0])),
        lambda: Scripted([*PROMPT, *answer], 0.2, 97),
    )
    for make in makers:
        real, control = Accounting(), Adaptive(COSTS)
        list(speculate(decoder, make(), PROMPT, 60, control=control, accounting=real))
        known = replay(decoder.config, make(), PROMPT, answer, control=Adaptive(COSTS))
        assert known.outcomes == real.outcomes
        assert known.drafted == real.drafted


def test_a_study_foresees_what_then_happens():
    decoder = tiny_decoder(vocab_size=300, max_positions=400)
    tokenizer = Bytes()
    asked = [Task("a", "chat", "banana " * 9), Task("b", "chat", "x" * 390), Task("c", "chat", "?")]
    cases = study.answered(decoder, tokenizer, asked, 24)
    assert [case.task.name for case in cases] == ["a", "c"]  # b does not fit
    assert not study.answered(decoder, tokenizer, asked, 24, stop_ids=range(300))  # too short
    of = study.settings(COSTS, 3)
    runs = study.variants(decoder, cases, of)
    assert list(runs) == [study.PLAIN, "prompt lookup, 3", "suffix index, 3", study.AUTOMATIC]
    for number, case in ((2, cases[0]), (3, cases[1])):
        traces = {name: run(number) for name, run in runs.items()}
        assert {trace.tokens for trace in traces.values()} == {tuple(case.answer)}
    for setting in of.values():
        real = Accounting()
        list(study.speculated(decoder, cases[0], setting, real))
        known = foresight.foreseen(decoder.config, cases[0], setting)
        assert known.account.outcomes == real.outcomes
        cost = sum(count * COSTS.r(sent + 1) for (sent, _), count in real.outcomes.items())
        assert known.speedup(COSTS) == pytest.approx(real.tokens / cost)


def test_streams_are_left_out_where_no_draft_reads_them():
    decoder = tiny_decoder(vocab_size=300, max_positions=400)
    (case,) = study.answered(decoder, Bytes(), [Task("a", "chat", "x" * 9)], 24, streams=False)
    assert case.streams is None


def test_a_prediction_counts_what_the_head_is_asked():
    account = Accounting(outcomes=Counter({(1, 1): 2}))
    found = foresight.Foreseen(account, asked=(2, 3, 10))
    head = HeadCost(first=0.1, further=0.05, read=0.01)
    expected = 4 / (2 * COSTS.r(2) + 0.45)
    assert found.speedup(COSTS, head) == pytest.approx(expected)
    assert found.speedup(COSTS) == pytest.approx(2 / COSTS.r(2))
    assert found.speedup(COSTS, draft_cost=0.2) == pytest.approx(2 / (COSTS.r(2) + 0.2))


def test_forecasts_are_held_by_kind_and_over_the_prompts_of_all_kinds():
    name = "a draft"
    timed = {"chat": rounds([2.0, 8.0] * 3, 2), "edit_code": rounds([1.0] * 5, 1)}
    told = {"chat": {name: [2.0, 4.5]}, "edit_code": {name: [8.0]}, "completion": {name: [9.0]}}
    again = {"chat": {name: [2.0, 8.0]}, "edit_code": {name: [1.0]}}
    chat, code, every = foresight.hold(timed, told, again)
    assert (chat.kind, chat.setting) == ("chat", name)
    assert (chat.forecast, chat.replayed) == pytest.approx((3.0, 4.0))
    assert chat.measured == timed["chat"].speedup(name)
    assert chat.consistent
    assert code.forecast == pytest.approx(8.0)
    # Two prompts of chat, one of code.
    assert every.kind == foresight.EVERY
    assert every.forecast == pytest.approx((3.0 * 3.0 * 8.0) ** (1 / 3))
    assert every.replayed == pytest.approx(16 ** (1 / 3))
    assert every.measured.rounds == pytest.approx((2.0, 8.0, 1.0))
    assert foresight.hold(timed, {}, again) == []


class Bytes:
    chat_template = None

    def encode(self, text):
        return list(text.encode())
