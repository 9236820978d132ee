"""The answer of a run: its ladder, and the sentence that claims only what the run showed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from labkit.base.paths import project_root
from labkit.report.told import answer
from labkit.report.told.finding import Finding, load_findings
from tests.browser_helpers import finding, several

OURS, THEIRS = {"name": "labkit"}, {"name": "llama.cpp"}
NONE = {"limit": None, "limit_low": None, "limit_note": "none", "fraction_of_limit": None}
JUDGED = {"top1_agreement": 0.97, "perplexity_ratio": 1.0025}


def plain(text: str) -> str:
    return text.replace("\u00a0", " ")


def rung(variant: str, value: float, **more: Any) -> Finding:
    """A variant of notebook 15 against transformers at 20 tokens/s."""
    baseline = {"name": "transformers"}
    told = {
        "notebook": "15_the_limit", "technique": "fused", "variant": variant, "value": value,
        "baseline": "transformers", "speedup": value / 20, "speedup_low": value / 21,
        "speedup_high": value / 19, "engine": OURS | {"baseline": baseline}, "quality": JUDGED,
        "limit": 2 * value, "limit_low": 1.5 * value,
    }  # fmt: skip
    return finding(**told | more)


def draft(kind: str, value: float, verdict: str = "inconclusive") -> Finding:
    return finding(
        notebook="05_speculative", technique="speculative", variant=f"{kind}, automatic",
        baseline="plain decoding", value=value, verdict=verdict, workload={"kind": kind},
        speedup=1.5, speedup_low=1.2, speedup_high=1.9, **NONE,
    )  # fmt: skip


def test_the_sentence_tells_speed_limit_drafts_and_cost() -> None:
    kinds = [draft("chat", 231.0), draft("translation", 502.0, "faster"), draft("sums", 300.0)]
    told = plain(answer.sentence([rung("fused", 330.0), *kinds]))
    assert told == (
        "20 → 330 tokens/s for one answer: fused instead of transformers. Its limit on this "
        "machine is about 660. With drafts: 231 to 502, by kind of task (surely faster on 1 of 3 "
        "kinds). Cost: the likeliest token changes at 3 % of positions, perplexity +0.25 %."
    )


def test_what_a_run_did_not_show_is_left_out() -> None:
    assert answer.sentence([]) == ""
    assert answer.sentence([finding(phase="prefill", metric="prefill_rate")]) == ""
    alone = plain(answer.sentence([draft("chat", 300.0, "slower")]))
    assert alone == "With drafts: 300 (surely faster on none of 1 kind, surely slower on 1)."
    bare = plain(answer.sentence([rung("fused", 330.0, quality={}, **NONE)]))
    assert bare == "20 → 330 tokens/s for one answer: fused instead of transformers."


@pytest.mark.parametrize(
    ("verdict", "said"), [("inconclusive", "no sure difference"), ("slower", "slower")]
)
def test_no_gain_is_claimed_that_was_not_sure(verdict: str, said: str) -> None:
    told = answer.sentence([rung("fused", 330.0, verdict=verdict)])
    assert told.startswith(
        f"fused gives 330 tokens/s for one answer, transformers 20: {said}. Its limit"
    )


@pytest.mark.parametrize(
    ("quality", "said"),
    [
        ({"lossless": True}, "Cost: none, the answers stay the same."),
        ({"perplexity_ratio": 0.9987}, "Cost: perplexity −0.13 %."),
        ({"top1_agreement": 0.67}, "Cost: the likeliest token changes at 33 % of positions."),
        ({"top1_agreement": "<b>", "perplexity_ratio": None}, None),
    ],
)
def test_the_cost_in_answers(quality: dict[str, Any], said: str | None) -> None:
    told = plain(answer.sentence([rung("fused", 330.0, quality=quality)]))
    assert told.endswith(said) if said else "Cost" not in told


def test_answers_that_change_much_do_not_lead() -> None:
    """The fastest of ours leads among those whose answers are known to be close."""
    coarse = rung("coarse", 400.0, quality={"perplexity_ratio": 1.19})
    unknown = rung("unknown", 500.0, quality={})
    found = answer.best([coarse, unknown, rung("fused", 330.0)])
    assert found is not None
    assert found.variant == "fused"
    assert answer.best([coarse, unknown]) is unknown


def test_a_faster_engine_of_others_is_told() -> None:
    theirs = rung("llama.cpp", 340.0, engine=THEIRS)
    assert "llama.cpp is faster: 340." in answer.sentence([rung("fused", 330.0), theirs])
    slow = rung("llama.cpp", 40.0, engine=THEIRS)
    assert "llama.cpp" not in answer.sentence([rung("fused", 330.0), slow])


def test_the_ladder_is_of_one_baseline_and_workload_with_the_most_engines() -> None:
    ladder = [rung("fused", 330.0), rung("llama.cpp", 119.0, engine=THEIRS)]
    other = [rung("fused", 900.0, baseline="llama.cpp"), rung("x", 950.0, workload={"a": 1})]
    planted = rung("slowed", 999.0, technique="timing")
    control = rung("transformers (again)", 998.0)
    found = answer.ladder([*other, planted, control, draft("chat", 990.0), *ladder])
    assert found == ladder
    names = [(one.name, one.whose, one.low) for one in answer.rungs(found)]
    assert names == [
        ("fused", "ours", pytest.approx(330 / 21 * 20)),
        ("llama.cpp", "another engine", pytest.approx(119 / 21 * 20)),
        ("transformers", "another engine", None),
    ]
    assert answer.rungs([finding()])[-1].whose == "engine not stated"


def test_planted_changes_and_baselines_against_themselves_are_controls() -> None:
    assert answer.is_control(finding(technique="timing"))
    assert answer.is_control(finding(variant="no cache (again)"))
    assert not any(map(answer.is_control, several()))


@pytest.mark.parametrize("value", [1e-300, 1e300])
def test_what_is_no_rate_is_on_no_ladder(value: float) -> None:
    extreme = {"value": value, "limit": value, "limit_low": value, "fraction_of_limit": 1.0}
    assert answer.ladder([finding(**extreme)]) == []
    assert answer.sentence([finding(**extreme)]) == ""


def test_the_example_has_every_clause() -> None:
    """What is told of the committed run, from its own findings."""
    path = Path(project_root() / "outputs" / "example" / "findings.json")
    findings = load_findings(path)
    told = plain(answer.sentence(findings))
    best = answer.best(answer.ladder(findings))
    assert best is not None
    assert f"{best.baseline_value:.0f} → {best.value:.0f} tokens/s for one answer" in told
    assert [told.count(word) for word in ("limit", "With drafts", "Cost")] == [1, 1, 1]
