"""Verdicts of comparisons whose true result is known."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from labkit.studies import trust
from labkit.timing.compare import Variant
from labkit.timing.trace import Trace
from tests.studies.test_pitfalls import Words
from tests.tiny import tiny_decoder


def stub(share: float) -> Variant:
    """Traces without a clock: rounds of unequal speed, and each token `share` slower."""
    return lambda number: Trace(0.0, (1.0, 1.0 + (1 + share) * (1 + 0.1 * number)))


@pytest.mark.parametrize(
    ("share", "verdict"), [(0.0, "inconclusive"), (0.1, "slower"), (-0.1, "faster")]
)
def test_a_planted_difference_is_found_and_no_difference_is_not(share: float, verdict: str) -> None:
    assert trust.verdicts(3, 5, "other", stub, share) == {verdict: 3}


def test_the_command_tells_both_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    model = SimpleNamespace(decoder=tiny_decoder(), tokenizer=Words())
    monkeypatch.setattr(trust, "load", lambda: model)
    few = "--same 1 --planted 2 --rounds 5 --prompt-tokens 4 --new-tokens 3"
    done = CliRunner().invoke(trust.main, few.split())
    assert done.exit_code == 0, done.output
    assert "the same again (0%), 1 comparisons of 5 rounds:" in done.output
    assert "slowed (10%), 2 comparisons of 5 rounds:" in done.output


def test_a_count_of_none_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trust, "load", lambda: None)
    done = CliRunner().invoke(trust.main, ["--same", "0", "--planted", "0"])
    assert (done.exit_code, done.output) == (0, "")
