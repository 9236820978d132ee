"""Notebook 06: sentences claim what the numbers show, and no more."""

from __future__ import annotations

import pytest

from labkit.engine.disk_blocks import BreakEven
from labkit.limits.hardware import Reading
from labkit.quality.lossless import SameAnswer
from labkit.studies import caching_sentences as told
from labkit.studies.caching_near import KINDS, OTHER, REWORDED, Cell
from labkit.studies.caching_proof import Proved
from labkit.studies.caching_tables import told_rate
from labkit.timing.statistics import Ratio


def ratio(low: float, value: float, high: float) -> Ratio:
    return Ratio((low, value, high), value, low, high)


SAME, TIE = SameAnswer(8, 8), SameAnswer(8, 3, 1e-4)


def test_equal_bits_are_claimed_only_where_every_answer_has_them() -> None:
    assert "is the one that they have alone" in told.of_proof(Proved("cold", 2, [SAME, SAME]))
    some = told.of_proof(Proved("hit on disk", 1, [SAME, TIE], "90% were hits"))
    assert "1 of 2 answers have the same bits" in some
    assert "**hit on disk** (90% were hits)" in some
    assert "first difference at token 3" in some
    assert "All tokens are equal" in told.of_proof(Proved("cold", 0, [SAME, SAME]))


@pytest.mark.parametrize(
    ("longer", "own", "words"),
    [
        ((0.995, 1.001, 1.008), (1.0, 1.0005, 1.001), "Both ends of the interval are at most"),
        ((1.012, 1.02, 1.03), (1.01, 1.02, 1.03), "By the rounds it is more than 1\u00a0%"),
        ((0.97, 1.0, 1.03), (1.0, 1.0005, 1.001), "by the engine's own clock it is"),
        ((0.97, 1.0, 1.03), (1.0, 1.01, 1.02), "nor does the engine's own clock"),
        ((0.97, 1.0, 1.03), (1.03, 1.04, 1.05), "by the engine's own clock it is more"),
    ],
)
def test_the_cost_without_hits_is_judged_by_its_interval(
    longer: tuple[float, float, float], own: tuple[float, float, float], words: str
) -> None:
    said = told.of_zero("prefix cache on", ratio(*longer), ratio(*own), 0, 40)
    assert words in said
    assert "0 tokens were hits" in said
    assert f"[{100 * (longer[0] - 1):+.1f}, {100 * (longer[2] - 1):+.1f}]" in said


def test_a_crossing_is_told_only_where_it_was_measured() -> None:
    assert "not measurably sooner" in told.of_crossing("on disk", None, [64, 512])
    assert "after every prefix" in told.of_crossing("in memory", 64, [64, 512])
    assert "from 512 shared tokens on" in told.of_crossing("on disk", 512, [64, 512])


def test_it_is_said_whether_storage_was_read() -> None:
    assert "does not tell" in told.of_storage(None, None)
    assert "did not come from storage either" in told.of_storage(0.0, 0.1)
    good = told.of_storage(0.0, 1.0)
    assert "the page cache had the rest" in good
    assert "all of their bytes then came from storage" in good
    assert "either" not in good


def test_what_is_expected_names_a_prefix_or_says_that_there_is_none() -> None:
    assert "slower than computing after each" in told.of_expected(None, None, 20.0)
    assert "After none of them" in told.of_expected(64, None, 20.0)
    both = told.of_expected(64, 1024, 20.0)
    assert "faster than computing from 64 tokens on" in both
    assert "20 times as fast from 1,024 tokens on" in both


def test_the_break_even_tells_both_rates() -> None:
    disk = Reading(6e8, 5e8, 0.1, 4e8)
    said = told.of_break_even(BreakEven(23_040, 1000, 5e8), disk, 23_040 * 3e3, 8)
    assert "23 kB of keys and values" in said
    assert "400 MB/s to 600 MB/s" in said
    assert "69.1 MB/s, 3.00x of the break-even" in said
    none = told.of_break_even(BreakEven(23_040, 1000, 5e8), disk, None, 8)
    assert "took no longer than those in memory." in none


def test_answers_that_came_too_early_for_the_response_cache_are_explained() -> None:
    assert "still being computed" in told.of_recalled(0.2, 0.6, 4)
    assert "still being computed" not in told.of_recalled(0.6, 0.6, 1)


def test_answers_that_differ_are_named_with_their_load() -> None:
    assert "Every answer" in told.of_same_loads({"chats": 1.0})
    assert "chats 50\u00a0%" in told.of_same_loads({"chats": 0.5, "replay": 1.0})


def test_a_control_that_differs_is_named() -> None:
    assert "No control shows a difference" in told.of_trust([])
    assert "for chats, replay: no verdict" in told.of_trust(["chats", "replay"])


def test_a_seeded_answer_that_must_not_be_reused_is_told() -> None:
    given = ratio(0.1, 0.11, 0.12), ratio(1e-4, 1e-4, 1e-4), ratio(900, 1000, 1100)
    good = told.of_identical(*given, (5, 5), (3, 3), False)
    assert "computed again, as it must be" in good
    assert "5 of 5 greedy answers" in good
    assert "3 of 3 that were sampled" in good
    assert "which must not be" in told.of_identical(*given, (5, 5), (3, 3), True)


def cell(answered: int, wrong: int) -> Cell:
    return Cell(dict.fromkeys(KINDS, 8), dict.fromkeys(KINDS, answered), wrong)


def test_the_rate_of_wrong_answers_has_an_exact_interval() -> None:
    none = cell(8, 0).wrong_rate
    assert none is not None
    assert none[0] == 0
    assert none[2] == pytest.approx(1 - 0.025 ** (1 / 24))
    assert cell(0, 0).wrong_rate is None
    assert told_rate(None) == "–"
    assert told_rate((0.5, 0.25, 0.75)) == "50% [25, 75]"


def test_what_thresholds_are_worth_follows_from_the_similarities() -> None:
    near = {"streams": {REWORDED: [0.9, 0.91], OTHER: [0.99, 0.98]}}
    bad = told.of_near({("streams", 0.9): cell(8, 12)}, near)
    assert "is nearer than the same question in other words" in bad
    assert "No threshold is shown to be wrong at most" in bad
    far = {"streams": {REWORDED: [0.9], OTHER: [0.2]}}
    many = Cell(dict.fromkeys(KINDS, 1000), dict.fromkeys(KINDS, 1000), 0)
    good = told.of_near({("streams", 0.9): many}, far)
    assert "is further than" in good
    assert "streams from 0.9" in good
    assert "No question came near" in told.of_near({("streams", 0.9): cell(0, 0)}, far)


def test_parts_of_reading_are_told_with_their_intervals() -> None:
    parts = {"reading the files": ratio(0.001, 0.002, 0.003)}
    said = told.of_parts(512, parts, 0.004, -0.001, None)
    assert "reading the files 2 ms [1 ms, 3 ms]" in said
    assert "4 ms longer than one in memory (these parts are 50\u00a0% of it, the" in said
    assert ", and its pass 1 ms shorter." in said
    assert "no more than these parts" in told.of_parts(512, parts, 0.001, 0.0, None)
    assert "One *on disk* took 1 ms shorter" in told.of_parts(512, parts, 0.004, 0.0, -0.001)


def test_a_limit_that_was_beaten_is_not_told_as_reached() -> None:
    assert "reached 80\u00a0% of its limit" in told.of_memory(512, 0.8, 0.03, 0.001)
    beaten = told.of_memory(512, None, 0.03, 0.001)
    assert "was sooner than the limit by the best rate" in beaten
    assert "reached" not in beaten


def test_a_saving_says_what_hits_can_save_at_most() -> None:
    said = told.of_saving("chats", 0.6, 0.5, ratio(1.3, 1.4, 1.5))
    assert "60\u00a0% of its prompt tokens" in said
    assert "So hits save 30\u00a0% of the time if all prompt tokens cost the same" in said
    assert "29\u00a0% less time" in said
    assert "lies above 1" in said
    assert "more time" in told.of_saving("chats", 0.6, 0.5, ratio(0.8, 0.9, 1.1))


def test_what_writes_evicted_blocks_is_told_as_a_share_of_the_request() -> None:
    said = told.of_writing_behind(ratio(1.008, 1.0123, 1.02))
    assert "busy for 1.23% [0.80, 2.00] of the request's time" in said
