"""Notebook 05: numbers, rows and sentences from counts."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from labkit.engine.accounting import Accounting
from labkit.engine.row_costs import RowCosts, filled, free_rows
from labkit.limits.cost import Cost
from labkit.limits.datasheet import machine
from labkit.optimize.speculative.head.cost import HeadCost
from labkit.quality.lossless import SameAnswer
from labkit.studies import speculative_sentences as told
from labkit.studies import speculative_tables as tables
from labkit.studies.speculative_forecast import Held
from labkit.studies.speculative_machines import free_up_to, left_out, printed, rows_of, unknown
from labkit.studies.speculative_target import KeptHead
from labkit.timing.statistics import Ratio, interval
from tests.studies.test_speculative_prompts import rounds


def account(*passes: tuple[int, int]) -> Accounting:
    """Passes of (tokens sent, tokens accepted), a second of verifying each."""
    found = Accounting()
    for sent, accepted in passes:
        found.note(sent, accepted, accepted + 1, 1.0)
    return found


def ratio(low: float, value: float, high: float) -> Ratio:
    return Ratio((low, value, high), value, low, high)


def costs(low: float, value: float, high: float, rows: int = 2) -> RowCosts:
    """r(rows) as measured, with its interval."""
    return filled(1.0, {1: 1.0, rows: value}, 384, {rows: ratio(low, value, high)})


# Numbers and rows


def test_acceptance_and_tokens_a_pass_are_of_all_requests_together() -> None:
    each = [account((2, 2), (2, 0)), account((4, 1))]
    assert tables.acceptance(each) == pytest.approx(3 / 8)
    assert tables.tokens_a_pass(each) == pytest.approx((3 + 1 + 2) / 3)
    assert tables.accepted_and_given(each) == "0.38 · 2.00"
    assert tables.acceptance([account((0, 0))]) == 0


def test_a_token_takes_a_share_of_a_pass_or_its_rows() -> None:
    one = account((2, 2), (2, 0))  # four tokens from two passes of three rows
    assert tables.work_a_token(one, reads=True) == 0.5
    assert tables.work_a_token(one, reads=False) == 1.5


def test_a_row_says_in_shares_where_the_time_of_a_setting_goes() -> None:
    one = account((1, 1), (1, 0))  # 3 tokens in 2 s, half of the second pass lost
    one.drafting = 0.5
    (row,) = tables.where_time_goes({"a setting": [one]})
    assert row["tokens a pass"] == pytest.approx(1.5)
    assert (row["passes"], row["drafting"]) == ("80.0%", "20.0%")
    assert row["of these, rejected rows"] == "20.0%"


def test_cells_of_forecasts_and_shares() -> None:
    assert tables.forecast([2.0, 2.0]) == "2.00x [2.00, 2.00]"
    assert tables.forecast([2.0]) == "2.00x (one prompt)"
    assert tables.beside(ratio(1.0, 2.0, 3.0), 2.5) == "2.00x [1.00, 3.00] (2.50)"
    assert tables.beside(ratio(1.0, 2.0, 3.0), None).endswith("(–)")
    assert tables.share(None) == "–"
    assert tables.share(ratio(0.5, 0.6, 0.7)) == "60% [50, 70]"


def test_a_table_has_a_row_for_all_kinds_and_a_dash_without_a_forecast() -> None:
    timed = {"edit_code": rounds([2.0, 8.0] * 3, 2), "chat": rounds([4.0] * 5, 1)}
    every = [Held("edit_code", "a draft", 3.0, timed["edit_code"].speedup("a draft"), 4.0)]
    code, chat, both = tables.against_forecasts(timed, every, ["a draft"], "a draft")
    assert code["kind of task"] == "edit code"
    assert str(code["a draft"]).startswith("4.00x")
    assert str(code["a draft"]).endswith("(3.00)")
    assert chat["a draft"] == "4.00x [4.00, 4.00] (–)"
    assert chat["a draft could have seen"] == "1\u00a0%"
    control = "without drafts (again)"
    assert chat[control] == both[control] == "1.00x [1.00, 1.00]"
    assert both["kind of task"] == "all kinds"
    assert str(both["a draft"]).startswith("4.00x")


# The cost of rows


def test_a_draft_pays_from_the_acceptance_that_repays_its_rows() -> None:
    # One token drafted: 1 + a tokens for r(2) passes.
    assert told.pays(1, costs(1.05, 1.1, 1.2)) == "from an acceptance rate of 0.10 [0.05, 0.20] on"
    assert told.pays(1, RowCosts(1.0, (1.0, 1.1))) == "from an acceptance rate of 0.10 on"


def test_no_acceptance_of_zero_is_told() -> None:
    cheap = RowCosts(1.0, (1.0, 1.004))
    assert told.pays(1, cheap) == "at any acceptance rate: 2 rows take as long as one, within 1%"
    unsure = told.pays(1, costs(0.98, 1.05, 1.2))
    assert unsure == "from a rate below 0.20 on: 2 rows did not measurably take longer than one"
    for text in (unsure, told.pays(1, cheap), told.pays(4, free_rows())):
        assert "0.00" not in text
    assert told.least_acceptance(1, cheap) == told.least_acceptance(4, free_rows()) == "any"


@pytest.mark.parametrize(
    ("low", "value", "high", "words"),
    [
        (0.99, 1.0, 1.005, "at any acceptance rate"),
        (0.49, 1.0, 1.3, "from a rate below 0.30 on"),  # not: rows cost nothing
        (0.49, 1.0, 2.03, "cannot be told"),
        (1.6, 2.0, 2.5, "from an acceptance rate of 1.00 [0.60, 1.00] on"),
        (2.1, 2.2, 2.3, "at no acceptance rate"),
    ],
)
def test_what_the_interval_leaves_open_is_not_told(low, value, high, words) -> None:
    assert words in told.pays(1, costs(low, value, high))


def test_a_draft_never_pays_where_its_rows_take_as_long_as_its_tokens() -> None:
    dear = RowCosts(1.0, (1.0, 2.0))
    assert told.pays(1, dear).startswith("at no acceptance rate: 2 rows")
    assert told.least_acceptance(1, dear) == "none"
    # The upper end of an interval may lie there: an acceptance is at most 1.
    assert told.pays(1, costs(1.5, 1.9, 2.2)).endswith("of 0.90 [0.50, 1.00] on")
    assert told.least_acceptance(1, costs(0.9, 1.9, 2.2)) == "not known"


def test_the_cost_of_rows_is_told_with_its_interval_and_how_it_was_measured() -> None:
    text = told.told_rows(costs(1.25, 1.29, 1.33), 2, "2 threads", 41.0)
    for part in ("**1.29 [1.25, 1.33]**", "r(2)", "after 384 tokens", "2 threads", "3 rounds",
                 "41 s", "calibration"):  # fmt: skip
        assert part in text


def test_what_the_limit_does_not_explain_is_said_only_where_it_was_measured() -> None:
    limit = RowCosts(1.0, (1.0, 1.5))
    above = told.told_limit(costs(1.6, 1.7, 1.8), limit, 2, "int8")
    assert "r(2) is 1.50" in above
    assert "int8 products" in above
    assert "do not explain" in above
    below = told.told_limit(costs(1.1, 1.2, 1.3), limit, 2, "int8")
    assert "cost less than that" in below
    between = told.told_limit(costs(1.4, 1.5, 1.6), limit, 2, "int8")
    assert "explain" not in between
    assert "cost less" not in between


# Answers and heads


def test_ties_are_told_only_where_there_are_any() -> None:
    equal, tie = SameAnswer(10, 10), SameAnswer(10, 4, margin=1e-5)
    assert "tie" not in told.told_same([equal, equal], 1)
    assert "**1 of 2**" in told.told_same([equal, tie], 2)
    assert "; 1 first differ at a tie" in told.told_same([equal, tie], 2)
    assert "1 with each of 2 settings" in told.told_same([equal, tie], 2)
    assert "20 tokens compared" in told.told_same([equal, equal], 1)


def test_a_head_is_told_with_its_recipe_and_cost() -> None:
    recipe = {"minutes": 41.7, "tokens": 1234567, "agreement": 0.551}
    head = KeptHead(None, None, recipe, [], HeadCost(0.412, 0.2, 0.0))  # type: ignore[arg-type]
    text = told.told_head(head)
    for part in ("42 minutes", "1,234,567", "55%", "0.41 passes", "0.20"):
        assert part in text
    without = told.told_head(None)
    assert "head.train" in without
    assert "nothing below uses one" in without


# Forecasts


def held(forecast: float, measured: Ratio, replayed: float = 1.0) -> Held:
    return Held("edit_code", "automatic", forecast, measured, replayed)


def test_a_forecast_is_right_inside_the_interval_or_near_the_value() -> None:
    wide, narrow = ratio(1.0, 2.0, 4.0), ratio(1.98, 2.0, 2.02)
    assert held(3.9, wide).inside
    assert not held(3.9, wide).near
    assert held(2.29, narrow).near
    assert not held(2.29, narrow).inside
    assert not held(2.31, narrow).near
    assert not held(1.69, narrow).near
    assert held(5.0, wide, replayed=1.8).consistent


def test_forecasts_that_are_wrong_are_listed() -> None:
    narrow = ratio(1.98, 2.0, 2.02)
    every = [held(2.0, narrow, 2.0), held(2.2, narrow, 2.0), held(3.0, narrow, 5.0)]
    text = told.told_held(every)
    said = text.replace("\u00a0", " ")
    assert "1 of 3 lie inside the measured interval, and 1 more within 15 %" in said
    assert "(1.00x): 0 of 3 lie inside the measured interval, and 0 more" in said
    assert "The table lists the other 1." in text
    assert tables.missed(every) == [
        {
            "kind of task": "edit code",
            "setting": "automatic",
            "forecast": "3.00x",
            "measured": "2.00x [1.98, 2.02]",
        }
    ]
    assert "no forecast" in text
    assert "2 of 3 speedups" in text
    assert "The table" not in told.told_held(every[:2])
    assert tables.missed(every[:2]) == []


def test_a_length_is_said_to_matter_only_where_the_change_is_sure() -> None:
    along = {16: ratio(1.0, 1.1, 1.2), 64: ratio(1.5, 1.6, 1.7), 256: ratio(1.9, 2.0, 2.1)}
    assert "grows by 1.80x" in told.told_along(along, ratio(1.5, 1.8, 2.0))
    assert "falls, to 0.80x" in told.told_along(along, ratio(0.7, 0.8, 0.9))
    assert "do not show" in told.told_along(along, ratio(0.9, 1.8, 3.0))


# Other machines


def reads(nbytes: float, flops: float) -> Cost:
    return Cost(nbytes, 0.0, 0.0, 0.0, flops, 0.0, "int8")


def test_a_machine_whose_cache_holds_the_weights_has_no_limit() -> None:
    epyc, card = machine("epyc-9654"), machine("rtx-4090")
    assert "cache" in unknown(reads(1e8, 1.0), epyc)
    assert unknown(reads(1e8, 1.0), card) == ""
    assert unknown(reads(1e9, 1.0), epyc) == ""
    assert "do not fit" in unknown(reads(5e10, 1.0), card)


def test_rows_are_free_up_to_where_int8_products_take_longer_than_reading() -> None:
    """A Raspberry Pi 5 does 614.4e9 int8 operations while it reads 17.1e9 bytes."""
    a_row = 614.4e9 / 17.1e9 * 1e8 / 7.5
    found = printed(lambda rows: reads(1e8, rows * a_row), 16, "")
    (pi,) = (of for name, of in found.items() if "Raspberry" in name)
    assert isinstance(pi, RowCosts)
    assert pi.r(7) == 1.0
    assert pi.r(15) == pytest.approx(2.0)
    assert free_up_to(pi) == "7"
    assert free_up_to(free_rows(16)) == "16 or more"


def test_a_machine_is_told_by_the_mean_of_the_drafts_sent_here() -> None:
    each: Sequence[Accounting] = [account((1, 1)), account((1, 0))]
    machines = {"here": RowCosts(1.0, (1.0, 1.25)), "a": "too small", "b": "too small"}
    (row,) = rows_of(machines, 1, each)
    assert row["r(2)"] == "1.25"
    assert row["drafts of 1 pay from"] == "0.25"
    assert row["drafts sent here"] == f"{(2 * 1) ** 0.5 / 1.25:.2f}x"
    assert left_out(machines) == "Not told for a and b: too small."
    assert left_out({"here": machines["here"]}) == ""


def test_what_intervals_are_over_is_said() -> None:
    several, one = rounds([1.0, 2.0] * 3, 2), rounds([1.0] * 5, 1)
    assert "over the 2 prompts of a kind." in told.told_over([several])
    assert "one prompt, it is over rounds" in told.told_over([several, one])
    assert "nothing of other prompts" in told.told_over([one])


def test_the_mean_is_told_of_all_kinds_and_of_those_that_repeat_the_prompt() -> None:
    timed = {"chat": rounds([1.0, 1.0] * 3, 2), "edit_code": rounds([2.0, 2.0] * 3, 2)}
    text = told.told_gains(timed, "a draft")
    assert "1.00x to 2.00x" in text
    assert str(interval([1.0, 1.0, 2.0, 2.0])) in text
    assert "2.00x [2.00, 2.00]** over those of the kinds whose answers repeat" in text
    assert "repeat" not in told.told_gains({"chat": timed["chat"]}, "a draft")


def test_the_mean_speedups_of_a_page_tell_what_each_is_from() -> None:
    measured = rounds([1.2, 1.21, 1.19] * 2, 1).speedup("a draft")
    said = told.told_computed(1.4, 1.55, measured)
    assert "The forecast, 1.55x, is from the acceptance on the calibration texts" in said
    assert "1.40x for this machine as measured, is computed from the drafts that were" in said
    assert f"Measured is {measured}: the timed rounds themselves" in said
    assert "forecast" not in told.told_computed(1.4, None, measured)
