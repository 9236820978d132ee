"""The page's arithmetic and labkit.limits: 10,000 random questions, asked in Chromium at once."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from labkit.base.paths import json_text
from labkit.limits.cost import ELEMENT_BYTES
from labkit.limits.hardware import Hardware
from labkit.limits.question import Answer, Phase, Question, answer
from labkit.report.pages.calculator import machine_data, page, page_data, shape_data
from tests.chromium import open_browser
from tests.report.calculator_questions import here, questions

pytestmark = pytest.mark.browser

COUNT = 10_000
WITHIN = 1e-3
ASK = """(given) => given.asked.map(([machine, shape, asked]) => {
  const found = limits.answer(given.shapes[shape], given.machines[machine], asked, given.elements);
  for (const of of ["prefill", "decode"])
    found[of].million = limits.million(asked.price, found[of]);
  return found;
})"""


def phase(of: Phase, hardware: Hardware, price: float) -> dict[str, Any]:
    return {
        "tokens": of.tokens, "read": of.cost.read_bytes, "flops": of.cost.flops,
        "seconds": of.limit.seconds, "bound": of.limit.bound, "rate": of.rate,
        "cached": hardware.in_cache(of.cost.read_bytes), "million": of.million(price),
    }  # fmt: skip


def expected(found: Answer, hardware: Hardware, asked: Question) -> dict[str, Any]:
    """An answer of labkit.limits, flat, by the names that the page has for it."""
    price = asked.price or 0.0
    flat: dict[str, Any] = {
        "weights": found.weights, "kv": found.kv, "critical_batch": found.critical_batch,
        "largest_batch": found.largest_batch, "fits": found.fits,
    }  # fmt: skip
    for name, of in (("prefill", found.prefill), ("decode", found.decode)):
        flat |= {f"{name}.{key}": value for key, value in phase(of, hardware, price).items()}
    return flat


def flattened(found: dict[str, Any]) -> dict[str, Any]:
    flat = {name: value for name, value in found.items() if name not in ("prefill", "decode")}
    for name in ("prefill", "decode"):
        flat |= {f"{name}.{key}": value for key, value in found[name].items()}
    return flat


def same(left: Any, right: Any) -> bool:
    if isinstance(left, bool | str) or isinstance(right, bool | str):
        return bool(left == right)
    return math.isclose(left, right, rel_tol=WITHIN)  # infinite only with infinite, NaN with none


def asked_of_the_page(folder: Path, given: dict[str, Any]) -> list[dict[str, Any]]:
    (folder / "page.html").write_text(page(page_data(here(), None, "llama-3.1-8b", Question())))
    with open_browser() as browser:
        opened = browser.new_context(offline=True).new_page()
        opened.goto((folder / "page.html").as_uri())
        found: list[dict[str, Any]] = opened.evaluate(ASK, given)
    return found


def test_ten_thousand_random_questions_have_equal_answers(tmp_path: Path) -> None:
    machines, configs, asked = questions(COUNT, seed=21)
    given = {
        "machines": {name: machine_data(one) for name, one in machines.items()},
        "shapes": {name: shape_data(one) for name, one in configs.items()},
        "elements": ELEMENT_BYTES,
        "asked": [(machine, name, vars(one)) for machine, name, one in asked],
    }
    assert "null" not in json_text(given["machines"]), "what is infinite would not arrive"
    answers = asked_of_the_page(tmp_path, given)
    assert len(answers) == len(asked) == COUNT
    seen: Counter[str] = Counter()
    for (machine, name, one), told in zip(asked, answers, strict=True):
        hardware, flat = machines[machine], flattened(told)
        exact = expected(answer(configs[name], hardware, one), hardware, one)
        assert flat.keys() == exact.keys()
        apart = {key: (flat[key], exact[key]) for key in exact if not same(flat[key], exact[key])}
        assert apart == {}, (machine, name, one)
        seen += Counter(_kinds(exact))
    # Every kind of answer is among them, and not by one or two questions.
    assert set(seen) == KINDS
    assert min(seen.values()) >= COUNT // 500, seen


KINDS = {
    "fits", "too large", "cached", "read from memory", "bound by memory", "bound by computing",
    "turns", "never turns", "no limit",
}  # fmt: skip


def _kinds(exact: dict[str, Any]) -> list[str]:
    never = math.isinf(exact["critical_batch"])
    found = [
        "fits" if exact["fits"] else "too large",
        "cached" if exact["decode.cached"] else "read from memory",
        "never turns" if never else "turns",
        "bound by memory" if exact["decode.bound"] == "memory" else "bound by computing",
    ]
    return found + (["no limit"] if not exact["decode.seconds"] else [])
