"""Forecasts and replays, against runs."""

from __future__ import annotations

import pytest

from labkit.engine.generate import generate
from labkit.optimize.speculative import (
    Accounting,
    Adaptive,
    ModelDraft,
    PromptLookup,
    RowCosts,
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


def account_of(outcomes):
    account = Accounting()
    for (sent, accepted), count in outcomes.items():
        for _ in range(count):
            account.note(sent, accepted, accepted + 1, 0.0)
    return account


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
        speedup = known.speedup(foresight.Moment(COSTS))
        assert speedup == pytest.approx(real.tokens / cost)


def test_what_is_expected_of_a_comparison_is_the_median_of_its_rounds_at_their_costs():
    cases = [foresight.Foreseen(account_of({(1, accepted): 1})) for accepted in (0, 1)]
    moments = [foresight.Moment(RowCosts(1.0, (1.0, r))) for r in (2.0, 1.0, 2.0, 4.0)]
    # Rounds 1, 2, 3 ask cases 1, 0, 1: means of 2/2 and 2/1, of 1/1 and 1/2, of 2/2 and 2/4.
    assert foresight.expected(cases, moments) == pytest.approx(0.75)


def test_a_prediction_counts_what_the_head_is_asked():
    found = foresight.Foreseen(account_of({(1, 1): 2}), asked=(2, 3, 10))
    head = study.KeptHead(None, None, {}, [], HeadCost(first=0.1, further=0.05, read=0.01))
    expected = 4 / (2 * COSTS.r(2) + 0.45)
    assert found.speedup(foresight.Moment(COSTS, head)) == pytest.approx(expected)
    assert found.speedup(foresight.Moment(COSTS)) == pytest.approx(2 / COSTS.r(2))


class Bytes:
    chat_template = None

    def encode(self, text):
        return list(text.encode())
