"""Findings in words: how close first, then how much faster; nothing that a terminal would obey."""

from __future__ import annotations

from typing import Any

import pytest

from labkit.report.told import words
from labkit.timing.statistics import Ratio
from tests.browser_helpers import finding, several


def plain(text: str) -> str:
    return text.replace("\u00a0", " ")


@pytest.mark.parametrize(
    ("fraction", "said"), [(0.614, "61 %"), (1.0, "100 %"), (0.996, "99.6 %"), (0.0012, "0.12 %")]
)
def test_percent_never_rounds_to_nothing_or_to_all(fraction: float, said: str) -> None:
    assert plain(words.percent(fraction)) == said


def test_words_of_amounts_and_durations() -> None:
    assert words.amount(0.0172, "s") == "17.2\u00a0ms"
    assert words.amount(1234.5, "tok/s") == "1,234\u00a0tok/s"
    assert [words.times(ratio) for ratio in (1.0, 12.34, 3456.0)] == ["1.00x", "12.3x", "3,456x"]
    assert [words.took(t) for t in (None, 7.4, 125.0)] == ["–", "7 s", "2 min 05 s"]


@pytest.mark.parametrize(
    ("quality", "said"),
    [
        ({"lossless": True}, "same answer"),
        ({"lossless": True, "tokens_compared": 1024}, "same answer (1,024 tokens)"),
        ({"lossless": True, "tokens_compared": 1}, "same first token"),
        ({"lossless": False}, "other answers"),
        ({"top1_agreement": 0.931, "kl_mean": 0.0123}, "93.1% same top token, KL 0.012"),
        ({"perplexity_ratio": 1.0123}, "perplexity x1.012"),
        (
            {"kl_mean": 0.012, "kl_mean_low": 0.011, "kl_mean_high": 0.013, "positions": 20480},
            "KL 0.012 [0.011, 0.013], 20,480 positions",
        ),
        (
            {"top1_agreement": 0.93, "top1_low": 0.92, "top1_high": 0.94},
            "93.0% [92.0%, 94.0%] same top token",
        ),
        ({}, "not stated"),
        ({"kl_mean": "<b>", "positions": 3}, "not stated"),
        ({"lossless": True, "tokens_compared": "<b>"}, "same answer"),
    ],
)
def test_words_of_what_it_cost_in_answers(quality: dict[str, Any], said: str) -> None:
    assert plain(words.answers(quality)) == said


def test_a_sentence_says_how_close_and_then_how_much_faster() -> None:
    assert plain(words.sentence(finding())) == (
        "static cache reaches 86 % [82, 90] of the bare read of 538 MB and 62 % of its limit "
        "(50 tok/s; 38.2 tok/s by the slowest rate) in decode; it is 3.10x [2.90, 3.30] as fast "
        "as no cache."
    )
    products, none = several()[2:]
    assert "reaches 40 % [35, 45] of the int8 products alone (avx512vnni) and 25 % of its limit (" \
        "100 ms) in prefill" in plain(words.sentence(products))  # fmt: skip
    assert words.sentence(none).endswith("is 0.80x [0.70, 0.90] as fast as no cache end to end.")
    unlimited = {"limit": None, "limit_low": None, "fraction_of_limit": None, "limit_note": "none"}
    gap = words.sentence(finding(metric="itl", unit="s", value=0.1, **unlimited))
    assert gap.endswith("it is 3.10x [2.90, 3.30] as short as no cache.")


def test_large_ratios_have_three_digits_with_their_interval() -> None:
    large = finding(speedup=170.2, speedup_low=151.87, speedup_high=190.62)
    assert words.interval(large) == "170x [152, 191]" == str(Ratio((1.0,), 170.2, 151.87, 190.62))
    assert str(Ratio((1.0,), 19.63, 9.96, 22.12)) == "19.6x [9.96, 22.1]"


def test_the_headline_is_the_closest_and_the_largest_sure_gain() -> None:
    close = finding(
        variant="close", of_bare_read=0.9, of_bare_read_low=0.88, verdict="inconclusive"
    )
    lucky = finding(
        variant="lucky", speedup=9.0, speedup_high=20.0, verdict="inconclusive",
        of_bare_read=1.1, of_bare_read_low=0.2, of_bare_read_high=2.0,
    )  # fmt: skip
    said = plain(words.headline([lucky, close, finding(notebook="01_timing")]))
    assert said == (
        "3 findings from 2 notebooks. Closest to its bare work in decode: close, 90 % [88, 90] of "
        "the bare read of 538 MB. The largest sure gain: static cache is "
        "3.10x [2.90, 3.30] as fast as no cache, in decode."
    )
    assert "Nothing was surely faster" in words.headline([lucky])
    gap = finding(variant="gap", metric="itl", unit="s", limit=None, fraction_of_limit=None,
                  limit_note="none", speedup=50.0,
                  speedup_low=40.0, speedup_high=60.0)  # fmt: skip
    assert "gain: static cache" in plain(words.headline([gap, finding()]))
    assert "Closest" not in words.headline(several()[3:])
    assert words.headline([]) == "No findings yet."


def test_steps_read_the_same_weights_where_their_bytes_hardly_differ() -> None:
    assert words.same_bytes(1.01e8, 1e8)
    assert not words.same_bytes(0.9e8, 1e8)


def test_the_headline_names_both_bytes_and_the_fastest_rival_on_the_same_bytes() -> None:
    ours, theirs = ({"name": "labkit"}, {"name": "llama.cpp"})
    rival: dict[str, Any] = {
        "variant": "fused", "baseline": "llama.cpp", "bytes_read": 1e8, "baseline_bytes": 1.001e8,
        "engine": ours | {"baseline": theirs}, "speedup": 2.0, "speedup_low": 1.9,
        "speedup_high": 2.1, "verdict": "inconclusive",
    }  # fmt: skip
    slow = rival | {"baseline": "slow.cpp", "baseline_value": 1.0}
    own = rival | {"baseline": "mine", "engine": ours | {"baseline": ours}, "baseline_value": 99.0}
    most = finding(baseline_bytes=1.07e9)
    said = plain(words.headline([most, *(finding(**one) for one in (slow, rival, own))]))
    assert "in decode; static cache reads 538 MB a token, no cache 1.07 GB." in said
    assert said.endswith(
        "On the same bytes, 100 MB a token, fused is 2.00x [1.90, 2.10] as fast as llama.cpp "
        "(inconclusive)."
    )
    other = finding(**rival | {"baseline_bytes": 5e8})
    assert "same bytes" not in words.headline([other])
    assert "same bytes" not in words.headline([finding(**rival | {"engine": {"baseline": 3}})])


def test_a_bare_read_that_beat_the_limit_is_told_with_its_interval() -> None:
    beyond = {"bare_over_limit": 1.05, "bare_over_limit_low": 1.02, "bare_over_limit_high": 1.08}
    said = words.how_to_read([finding(**beyond), finding(**beyond, variant="other")])
    assert (
        said.count("the bare read of 538 MB ran at 1.05x [1.02, 1.08] the rate of the limit") == 1
    )
    assert "Faster than the limit" not in words.how_to_read(
        [finding(**beyond | {"bare_over_limit_low": 0.99})]
    )


def test_how_to_read_counts_the_tests_and_gives_each_reason_once() -> None:
    none = several()[3]
    said = words.how_to_read([finding(), finding(p_value=None), none, none])
    assert "the 3 comparisons of this page" in said
    assert said.count("No limit: none is defined for it.") == 1


def test_a_table_in_a_terminal_obeys_no_name() -> None:
    rows = [{"name": "a\x1b[31mb\nc\rd", "x\t": "1\u00a0%"}, {"name": "日本", "x\t": 2}]
    lines = words.text_table(rows).splitlines()
    assert len(lines) == 3
    assert lines[1] == "a\ufffd[31mb\ufffdc\ufffdd  1\u00a0%"
    assert lines[0].endswith("x\ufffd")
    assert words.text_table([]) == "nothing to show"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (0.049, "4.9\u00a0%"),
        (0.97, "97\u00a0%"),
        (1.3, "a factor of 2.3"),
        (10.2, "a factor of 11"),
    ],
)
def test_a_large_effect_is_a_factor(change: float, said: str) -> None:
    assert words.effect(change) == said
