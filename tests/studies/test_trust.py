"""Verdicts of comparisons whose true result is known."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

from labkit.errors import ParameterError
from labkit.studies import trust
from labkit.timing.compare import Variant, compare
from labkit.timing.statistics import rounds_needed
from labkit.timing.trace import Trace
from tests.studies.test_pitfalls import Words
from tests.tiny import tiny_decoder

Noise = Callable[[np.random.Generator], float]  # the noise of one turn, as a logarithm


def stub(share: float) -> Variant:
    """Traces without a clock: rounds of unequal speed, and each token `share` slower."""
    return lambda number: Trace(0.0, (1.0, 1.0 + (1 + share) * (1 + 0.1 * number)))


def noisy(seed: int, spread: float, noise: Noise) -> Callable[[float], Variant]:
    """Traces without a clock whose turns are disturbed; no two turns alike."""
    rng = np.random.default_rng(seed)

    def make(share: float) -> Variant:
        def run(_: int) -> Trace:
            return Trace(0.0, (1.0, 1.0 + (1 + share) * np.exp(spread * noise(rng))))

        return run

    return make


def normal(rng: np.random.Generator) -> float:
    return float(rng.standard_normal())


def heavy(rng: np.random.Generator) -> float:
    """Student's t with three degrees of freedom, scaled to a standard deviation of 1."""
    return float(rng.standard_t(3) / np.sqrt(3))


@pytest.mark.parametrize(
    ("share", "verdict"),
    [(0.0, "inconclusive: not shown"), (0.1, "slower"), (-0.1, "faster")],
)
def test_a_planted_difference_is_found_and_no_difference_is_not(share: float, verdict: str) -> None:
    found = trust.outcomes(3, 5, "other", stub, share)
    assert sum(found.values()) == 3
    assert set(found) == {verdict} if share else not {"faster", "slower"} & set(found)


@pytest.mark.parametrize("noise", [normal, heavy])
@pytest.mark.parametrize("spread", [0.03, 0.06, 0.1])
def test_of_40_equal_pairs_at_most_2_get_a_verdict(spread: float, noise: Noise) -> None:
    for rounds in (5, 12):
        found = trust.outcomes(40, rounds, "same", noisy(7, spread, noise), 0.0)
        assert found["faster"] + found["slower"] <= 2, found


@pytest.mark.parametrize("noise", [normal, heavy])
def test_18_of_20_planted_changes_are_seen_with_the_rounds_that_a_pilot_asks_for(
    noise: Noise,
) -> None:
    make = noisy(11, 0.03, noise)
    rounds = trust.needed(trust.AUTO, 0.05, 40, make)
    assert 5 < rounds < 100
    found = trust.outcomes(20, rounds, "slowed", make, 0.05)
    assert found["slower"] >= 18, found


def test_the_rule_that_silenced_a_verdict_is_named() -> None:
    found = compare({"plain": stub(0.0), "other": stub(0.1)}, "plain", 5)
    assert trust.outcome(found, "other") == "slower"
    steady, late = (list(map(stub(share), range(1, 6))) for share in (0.0, 0.5))
    found.traces[found.control] = late
    assert trust.outcome(found, "other") == "inconclusive: the control differs"
    found.traces[found.control] = [late[0], *steady[1:4], stub(-0.4)(5)]
    assert trust.outcome(found, "other") == "inconclusive: the control is too wide"


def test_rounds_are_a_number_or_what_a_pilot_asks_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert trust.needed("7", 0.05, 5, stub) == 7
    make = noisy(1, 0.05, normal)
    rounds = trust.needed(trust.AUTO, 0.2, 20, make)
    control = compare({"plain": noisy(1, 0.05, normal)(0.0)}, "plain", 20)
    assert rounds == rounds_needed(control.speedup(control.control).rounds, 0.2)
    assert f"a change of 20% needs {rounds} rounds" in capsys.readouterr().out
    for wrong in ("4", "many", "-8"):
        with pytest.raises(ParameterError, match="allowed are auto and numbers from 5 on"):
            trust.needed(wrong, 0.05, 5, stub)


def test_the_command_tells_both_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trust, "load", lambda: None)
    monkeypatch.setattr(trust, "slowed_decoding", lambda model, share, *_: stub(share))
    few = ["--same", "2", "--planted", "2", "--rounds", "5", "--same-rounds", "6"]
    done = CliRunner().invoke(trust.main, few)
    assert done.exit_code == 0, done.output
    assert "the same again (0%), 2 comparisons of 6 rounds: inconclusive" in done.output
    assert "slowed (5%), 2 comparisons of 5 rounds: slower 2; as it should be" in done.output
    unseen = ["--same", "0", "--planted", "2", "--rounds", "5", "--slowdown", "0.005"]
    done = CliRunner().invoke(trust.main, unseen)
    assert done.exit_code == 1
    assert "NOT as it should be" in done.output


def test_the_command_runs_on_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    model = SimpleNamespace(decoder=tiny_decoder(), tokenizer=Words())
    monkeypatch.setattr(trust, "load", lambda: model)
    few = "--same 1 --planted 1 --same-rounds 5 --rounds auto --pilot 5 --slowdown 2"
    done = CliRunner().invoke(trust.main, [*few.split(), "--prompt-tokens", "4"])
    assert "pilot: a control of 5 rounds" in done.output
    assert "slowed (200%), 1 comparisons of" in done.output


def test_a_count_of_none_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trust, "load", lambda: None)
    done = CliRunner().invoke(trust.main, ["--same", "0", "--planted", "0"])
    assert (done.exit_code, done.output) == (0, "")
