"""The calculator's page as data and as HTML, without a browser."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from labkit.base.places import UnwritableError
from labkit.errors import ParameterError
from labkit.limits import datasheet
from labkit.limits.calculator import shapes
from labkit.limits.cost import ELEMENT_BYTES
from labkit.limits.question import Question
from labkit.report.pages import calculator
from labkit.report.pages.calculator import (
    OWN_ALLOWED,
    machine_data,
    page,
    page_data,
    shape_data,
    write_page,
)
from tests.report.calculator_questions import here
from tests.report.test_html import Tags

DATA = page_data(here(), None, "llama-3.1-8b", Question())


def written(target: Path, machine: str | None = None, **changes: Any) -> str:
    return write_page(target, "llama-3.1-8b", machine, "cpu", replace(Question(), **changes))


def data_in(text: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    loaded: dict[str, Any] = json.loads(found[1])
    return loaded


def test_every_machine_and_shape_is_on_the_page() -> None:
    assert list(DATA["machines"]) == ["measured-2026-11-20T10:00:00+00:00", *datasheet.machines()]
    assert list(DATA["shapes"]) == list(shapes())
    assert DATA["elements"] == ELEMENT_BYTES
    assert DATA["asked"] == {
        "machine": "measured-2026-11-20T10:00:00+00:00", "model": "llama-3.1-8b",
        **asdict(Question()),
    }  # fmt: skip


def test_a_machine_has_the_bandwidth_that_its_limits_use() -> None:
    told = machine_data(here())
    for size, rate in told["reads"]:
        assert rate == here().bandwidth(size)
    assert [rate for _, rate in told["reads"]] == [160e9, 90e9, 47e9, 47e9, 45e9]
    assert (told["measured"], told["capacity"]) == (True, 16_000_000_000)
    assert told["source"].startswith("measured 2026-11-20T10:00:00+00:00, in spells")
    l4 = DATA["machines"]["l4"]
    assert (l4["measured"], l4["reads"], l4["cache"]) == (False, [[1, 300e9]], 48_000_000)
    assert "NVIDIA Ada" in l4["cache_source"]
    assert len(DATA["machines"]["mi300x"]["reads"]) == 2


def test_a_shape_counts_its_windows_and_experts() -> None:
    gemma, mixed = shape_data(shapes()["gemma-3-1b"]), shape_data(shapes()["qwen3-30b-a3b"])
    assert sorted(gemma["windows"], key=str) == [[512, 22], [None, 4]]
    assert gemma["experts"] is None
    assert mixed["windows"] == [[None, 48]]
    assert mixed["experts"] == {"count": 128, "used": 8, "size": 768, "layers": 48}
    assert (gemma["tied_head"], gemma["post_norms"], mixed["tied_head"]) == (1, 1, 0)


def test_the_numbers_that_a_reader_may_type_start_as_a_known_shape() -> None:
    own = DATA["own"]
    assert set(own) == {*OWN_ALLOWED, "tied_head"}
    for name, (least, most) in OWN_ALLOWED.items():
        assert least <= own[name] <= most
    assert own["hidden_size"] == shapes()["llama-3.1-8b"].hidden_size


def test_the_page_asks_for_nothing_and_runs_one_script() -> None:
    text = page(DATA)
    tags = Tags(text)
    outside = {"src", "srcset", "data", "poster", "action", "ping", "background"}
    assert not [(tag, given) for tag, given in tags.found if outside & set(given)]
    hrefs = [str(given["href"]) for _, given in tags.found if "href" in given]
    assert [href for href in hrefs if not href.startswith(("data:,", "#"))] == []
    assert "@import" not in text
    assert "url(" not in text
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert len(scripts) == 1
    assert f"script-src 'sha256-{digest}'" in text
    assert not re.search(r"\b(fetch|XMLHttpRequest|eval|innerHTML|import)\b", scripts[0])
    assert len(text) < 100_000


def test_every_field_has_a_label_and_a_line_for_what_is_wrong() -> None:
    tags = Tags(page(DATA))
    ids = {given["id"] for _, given in tags.found if "id" in given}
    fields = [given for tag, given in tags.found if tag in ("input", "select")]
    assert len(fields) == 8 + 12
    assert [given["for"] for given in tags.named("label")] == [given["id"] for given in fields]
    for given in fields:
        described = str(given["aria-describedby"]).split()
        assert f"{given['id']}-error" in described
        assert set(described) <= ids


def test_without_a_script_a_sentence_says_what_else_there_is() -> None:
    text = page(DATA)
    assert re.search(r"<noscript>.*labkit calculator.*in a terminal.*</noscript>", text)
    assert '<div id="calculator" hidden>' in text


def test_names_of_a_machine_are_text() -> None:
    hostile = "</script><img src=x onerror=alert(1)>"
    given = page_data(replace(here(), name=hostile), None, "llama-3.1-8b", Question())
    text = page(given)
    assert "<img" not in text
    assert data_in(text) == json.loads(json.dumps(given))


def test_the_page_is_written_with_the_question_it_opens_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calculator, "kept_hardware", lambda device: here())
    told = written(tmp_path / "a.html", "l4", batch=7, price=0.7)
    text = (tmp_path / "a.html").read_text(encoding="utf-8")
    asked = data_in(text)["asked"]
    assert (asked["machine"], asked["batch"], asked["price"]) == ("l4", 7, 0.7)
    assert "this machine as measured, and 11 machines" in told
    written(tmp_path / "b.html")
    asked = data_in((tmp_path / "b.html").read_text(encoding="utf-8"))["asked"]
    assert asked["machine"].startswith("measured-")


def test_a_machine_that_is_not_measured_is_not_on_the_page(tmp_path: Path, own_cache: Path) -> None:
    told = written(tmp_path / "a.html")
    assert "`labkit limit` measures it" in told
    found = data_in((tmp_path / "a.html").read_text(encoding="utf-8"))
    assert list(found["machines"]) == list(datasheet.machines())
    assert found["asked"]["machine"] == "h100-sxm"


@pytest.mark.parametrize("name", ["page", "page.txt", ".html", "page.html/", "a.html.json"])
def test_no_other_file_is_overwritten(tmp_path: Path, name: str) -> None:
    if name.endswith("/"):
        (tmp_path / name).mkdir()
        with pytest.raises(UnwritableError, match="Is a directory"):
            written(tmp_path / name)
        return
    (tmp_path / name).write_text("mine")
    with pytest.raises(ParameterError, match=r"ends in \.html"):
        written(tmp_path / name)
    assert (tmp_path / name).read_text() == "mine"


@pytest.mark.parametrize(
    ("machine", "changes", "words"),
    [("abacus", {}, "machine 'abacus' is unknown"), ("l4", {"batch": 0}, "batch 0")],
)
def test_a_page_does_not_open_with_what_cannot_be_asked(
    tmp_path: Path, machine: str, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(ParameterError, match=words):
        written(tmp_path / "a.html", machine, **changes)
    assert list(tmp_path.iterdir()) == []
