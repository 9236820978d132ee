"""The picture of a timeline says in words and in a table what it shows."""

from __future__ import annotations

import pytest

from labkit.engine.records import PassRecord, RequestRows
from labkit.errors import ParameterError
from labkit.report.told import plots
from labkit.studies import timeline_figure
from tests.engine.test_timeline import RECORDS


def test_a_picture_has_its_words_and_its_table(capsys: pytest.CaptureFixture[str]) -> None:
    timeline_figure.draw(
        RECORDS, "Two requests share passes.", due={1: 0.0, 2: 0.5}, names={2: "long prompt"}
    )
    said = capsys.readouterr().out
    assert "[figure] Two requests share passes." in said
    assert "long prompt" in said
    assert "preempted" in said


def test_the_figure_labels_its_axes_and_states(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []
    monkeypatch.setattr(
        timeline_figure, "show", lambda figure, alt, caption: drawn.append(plots.svg(figure, alt))
    )
    with_blocks = [
        PassRecord(r.start, r.end, r.rows, 0, 3, 2, 5, r.preempted, r.cancelled) for r in RECORDS
    ]
    timeline_figure.draw(with_blocks, "states", due={2: 0.5})
    for word in ("request", "rows of a pass", "blocks", "time, ms", "waiting", "prefill", "decode",
                 "computed again", "draft verified", "held", "preempted", "cached"):  # fmt: skip
        assert f">{word}<" in drawn[0]


def test_nothing_and_too_much_are_refused() -> None:
    with pytest.raises(ParameterError, match="a timeline of 0 requests"):
        timeline_figure.draw([], "nothing")
    many = [PassRecord(0.0, 1.0, tuple(RequestRows(n, 1, 0, 1) for n in range(49)))]
    with pytest.raises(ParameterError, match="a timeline of 49 requests: allowed are 1 to 48"):
        timeline_figure.draw(many, "crowd")


def test_every_state_is_drawn_in_its_own_way() -> None:
    assert len(set(timeline_figure._DRAWN.values())) == len(timeline_figure._DRAWN)


def test_a_long_run_makes_no_heavy_page(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []
    monkeypatch.setattr(
        timeline_figure, "show", lambda figure, alt, caption: drawn.append(plots.svg(figure, alt))
    )
    records = [
        PassRecord(k, k + 0.9, tuple(RequestRows(n, 4 * (n == k % 16), n != k % 16, 0)
                                     for n in range(16)))
        for k in range(1000)
    ]  # fmt: skip
    timeline_figure.draw(records, "a long run")
    assert len(drawn[0]) < 400_000
