"""The calculator's page in a real browser: answers, mistakes, links, screens, keyboard, print."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from labkit.base.units import scaled
from labkit.limits import datasheet
from labkit.limits.answer_told import batch_told, memory_told, number, price_told
from labkit.limits.calculator import shapes
from labkit.limits.question import Question, answer
from labkit.report.pages.calculator import page, page_data
from tests.chromium import open_browser
from tests.report.calculator_questions import here
from tests.report.test_browser import FAINT, SIZES, opened
from tests.report.test_layout import BEYOND

pytestmark = pytest.mark.browser

MEASURED = "measured-2026-11-20T10:00:00+00:00"
MACHINES = {MEASURED: here(), **datasheet.machines()}
HOSTILE = "<img src=x onerror=window.hacked=1>"
SHAPE = {"model": "own", "layers": "3", "hidden_size": "64", "heads": "4", "kv_heads": "2"}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """The system's Chromium."""
    with open_browser() as found:
        yield found


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page, opened with one request for an H100."""
    found = tmp_path_factory.mktemp("calculator") / "calculator.html"
    data = page_data(here(), "h100-sxm", "llama-3.1-8b", Question())
    found.write_text(page(data), encoding="utf-8")
    return found


@dataclass
class Asked:
    """A page with a question in its address."""

    path: Path
    question: dict[str, str]

    def as_uri(self) -> str:
        return f"{self.path.as_uri()}#{urlencode(self.question)}"


def asked(path: Path, **question: str) -> Any:
    return Asked(path, question)


def text(page: Any, place: str) -> str:
    return str(page.locator(place).inner_text()).replace("\u00a0", " ")


def wrong(page: Any) -> dict[str, str]:
    """What is told beside the fields that cannot be used, by the field."""
    line = "document.getElementById(one.id + '-error').innerText"
    script = f"all => all.map((one) => [one.id, {line}])"
    return dict(page.locator("[aria-invalid]").evaluate_all(script))


QUESTIONS = [
    ("h100-sxm", "llama-3.1-8b", Question(price=2.49)),
    ("a100-sxm", "llama-3.1-8b", Question(batch=65_536, context=700, prompt_tokens=600)),
    ("a100-sxm", "llama-3.1-70b", Question()),
    ("a100-sxm", "smollm2-1.7b", Question(batch=64, price=1000.4)),
    ("epyc-9654", "smollm2-135m", Question(context=128, prompt_tokens=100, price=0.8)),
    ("m4-max", "qwen3-0.6b", Question("int8", "float16", batch=3, price=0.05)),
    ("mi300x", "qwen3-30b-a3b", Question("int4", "int8", batch=32, price=3.0)),
    ("tpu-v5e", "gemma-3-1b", Question("int4", "int4", 16, 32_768, 32_768, 1.2)),
    (MEASURED, "llama-3.2-1b", Question("float32", "float32", price=0.0123)),
]


@pytest.mark.parametrize(("machine", "name", "question"), QUESTIONS)
def test_the_page_says_what_the_terminal_says(
    browser: Any, path: Path, machine: str, name: str, question: Question
) -> None:
    given = {key: str(value) for key, value in vars(question).items() if value is not None}
    hardware = MACHINES[machine]
    found = answer(shapes()[name], hardware, question)
    with opened(browser, asked(path, machine=machine, model=name, **given)) as seen:
        page = seen.page
        assert text(page, "#memory") == memory_told(found, hardware, question)
        assert page.locator("#phases").is_visible() == found.fits
        if not found.fits:
            assert f"{name} does not fit {hardware.name}: it needs" in text(page, "#lead")
            return
        step, batch = found.decode.cost, found.critical_batch
        assert text(page, "#turn") == batch_told(hardware, step, batch, question.context)
        if question.price:
            assert text(page, "#cost") == price_told(found, question.price)
        for place, of in (("#prefill", found.prefill), ("#decode", found.decode)):
            cells = page.locator(f"{place} td span").all_inner_texts()
            assert cells[:2] == [scaled(of.cost.read_bytes, "B"), scaled(of.cost.flops, "FLOP")]
            assert cells[3:] == [f"{number(of.rate)} tok/s", of.limit.bound]
            assert cells[3] in text(page, "#lead")
        assert seen.complaints == []


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("batch", "0", "“0” is not allowed: give a whole number from 1 to 65,536."),
        ("batch", "", "Nothing is given: give a whole number from 1 to 65,536."),
        ("batch", "many", "“many” is not one: give a whole number"),
        ("batch", "-1", "“-1” is not one"),
        ("batch", "1.5", "“1.5” is not one"),
        ("batch", "1e3", "“1e3” is not one"),
        ("batch", "1,00", "“1,00” is not one"),
        ("batch", "NaN", "“NaN” is not one"),
        ("batch", "9" * 400, "…” is not allowed"),
        ("context", "131073", "131,073 are too many: the model has a context of 131,072."),
        ("prompt_tokens", "2049", "2,049 are too many: the context of 2,048 holds the prompt."),
        ("price", "2,50", "“2,50” is not one: give a number, as in 2.50,"),
        ("price", "0", "“0” is not allowed: give a number, as in 2.50, from 0.0001"),
        ("price", "Infinity", "“Infinity” is not one"),
    ],
)
def test_what_cannot_be_is_told_beside_its_field(
    browser: Any, path: Path, field: str, value: str, words: str
) -> None:
    with opened(browser, path) as seen:
        page = seen.page
        before, given = text(page, "#lead"), page.locator(f"#{field}")
        kept = given.input_value()
        given.fill(value)
        assert list(wrong(page)) == [field]
        assert words in wrong(page)[field]
        assert "\n" not in wrong(page)[field]
        assert not page.locator("#answer").is_visible()
        assert text(page, "#lead").startswith("No answer: see beside ")
        assert given.input_value() == value, "what was typed stays as it is"
        given.fill(kept)
        assert wrong(page) == {}
        assert text(page, "#lead") == before
        assert page.locator("#answer").is_visible()


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"kv_heads": "3"}, "kv_heads", "3 do not divide 4 heads: give a divisor."),
        ({"head_dim": "7"}, "head_dim", "7 is odd: give an even number, for RoPE turns pairs."),
        ({"layers": "0"}, "layers", "“0” is not allowed"),
        ({"experts": "4", "experts_used": "5"}, "experts_used", "5 cannot be used: a layer has 4."),
        ({"max_positions": "100"}, "context", "2,048 are too many: the model has a context of 100"),
        ({"tied_head": "maybe"}, "tied_head", "“maybe” is not on this page: choose one."),
    ],
)
def test_a_shape_that_cannot_be_is_told(
    browser: Any, path: Path, changes: dict[str, str], field: str, words: str
) -> None:
    with opened(browser, asked(path, **SHAPE | changes)) as seen:
        assert list(wrong(seen.page)) == [field]
        assert words in wrong(seen.page)[field]
        assert not seen.page.locator("#answer").is_visible()
        assert seen.complaints == []


def test_own_numbers_make_a_shape(browser: Any, path: Path) -> None:
    with opened(browser, path) as seen:
        page = seen.page
        known = text(page, "#about-model")
        assert not page.get_by_label("hidden size").is_visible()
        page.get_by_label("model", exact=True).select_option("own")
        assert text(page, "#about-model") == known, "the fields start as llama-3.1-8b"
        assert page.get_by_label("experts that a token uses").is_disabled()
        page.get_by_label("experts of a layer").fill("64")
        assert text(page, "#about-model") != known
        assert "This shape on NVIDIA H100" in text(page, "#lead")
        assert seen.complaints == []


def test_a_question_can_be_sent_on(browser: Any, path: Path) -> None:
    with opened(browser, path) as seen:
        page = seen.page
        page.get_by_label("machine", exact=True).select_option("l4")
        page.get_by_label("model", exact=True).select_option("own")
        page.get_by_label("batch").fill("12")
        page.get_by_label("layers", exact=True).fill("20")
        link, told = page.evaluate("location.href"), text(page, "#calculator")
        sent = page.get_by_role("link", name="Link to this question")
        assert sent.evaluate("a => a.href") == link
        assert seen.complaints == []
        page.goto("about:blank")
        page.goto(link)
        assert text(page, "#calculator") == told
        assert page.get_by_label("layers", exact=True).input_value() == "20"
        page.evaluate("location.hash = '#batch=5'")
        page.wait_for_function("document.getElementById('batch').value === '5'")
        assert page.get_by_label("machine", exact=True).input_value() == "h100-sxm"


def test_a_link_that_this_page_does_not_understand_says_so(browser: Any, path: Path) -> None:
    odd = {"machine": HOSTILE, "model": "gpt", HOSTILE: "1"}
    with opened(browser, asked(path, **odd)) as seen:
        page = seen.page
        assert set(wrong(page)) == {"machine", "model"}
        assert "“gpt” is not on this page: choose one." in wrong(page)["model"]
        assert "“<img src=x onerror=wind…” is not on this page" in wrong(page)["machine"]
        assert "asks for what this page does not know: “<img" in text(page, "#note")
        assert page.evaluate("window.hacked") is None
        page.get_by_label("machine", exact=True).select_option("l4")
        page.get_by_label("model", exact=True).select_option("qwen3-32b")
        assert wrong(page) == {}
        assert seen.complaints == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_the_page_asks_for_nothing_fits_and_is_legible(
    browser: Any, path: Path, size: str, scheme: str
) -> None:
    wide = {"batch": "9" * 60, "price": "x" * 60}
    for question in ({}, {"price": "2.5"}, {"batch": "100000"}, SHAPE, SHAPE | wide):
        where = asked(path, **question)
        with opened(browser, where, size, color_scheme=scheme) as seen:
            page = seen.page
            page.locator("summary").click()
            assert page.evaluate(BEYOND) == []
            assert page.evaluate("document.documentElement.scrollWidth") <= SIZES[size][0]
            count, faint = page.evaluate(FAINT)
            assert count > 30
            assert faint == []
            assert [url.partition("#")[0] for url in seen.requests] == [path.as_uri()]
            assert seen.complaints == []


@pytest.mark.parametrize("size", SIZES)
def test_the_first_screen_has_the_answer_and_the_first_fields(
    browser: Any, path: Path, size: str
) -> None:
    with opened(browser, path, size) as seen:
        for place in ("h1", "#lead", "#machine", "#model", "#dtype"):
            box = seen.page.locator(place).bounding_box()
            assert box is not None
            assert box["y"] + box["height"] <= SIZES[size][1]


def test_it_works_without_a_mouse(browser: Any, path: Path) -> None:
    with opened(browser, path) as seen:
        page = seen.page
        order = []
        for _ in range(9):
            page.keyboard.press("Tab")
            order.append(page.evaluate("document.activeElement.id"))
        fields = ["machine", "model", "dtype", "kv_dtype", "batch", "context", "prompt_tokens"]
        assert order == [*fields, "price", "link"]
        page.get_by_label("batch").focus()
        page.keyboard.press("Control+A")
        page.keyboard.type("32")
        assert "a sequence" in text(page, "#lead")
        page.get_by_label("machine", exact=True).focus()
        page.keyboard.press("ArrowDown")
        assert "NVIDIA H200" in text(page, "#lead")
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid"


def test_it_prints_question_and_answer(browser: Any, path: Path) -> None:
    with opened(browser, asked(path, price="2.5")) as seen:
        page = seen.page
        page.emulate_media(media="print")
        assert not page.locator("#link").is_visible()
        for place in ("#lead", "#machine", "#batch", "#phases", "#cost"):
            assert page.locator(place).is_visible()
        assert page.evaluate(BEYOND) == []


def test_without_scripts_a_sentence_leads_to_the_terminal(browser: Any, path: Path) -> None:
    with opened(browser, path, java_script_enabled=False) as seen:
        page = seen.page
        assert page.get_by_text("labkit calculator", exact=True).is_visible()
        assert not page.locator("#calculator").is_visible()
        assert page.locator("summary").is_visible()
