"""How far a comparison can be trusted here: `python -m labkit.studies.trust`.

Runs comparisons whose true result is known. Where both variants are the same, few comparisons may
report a difference. Where one has a planted slowdown, most should find it. The counts show how
well the method works on this machine; the exit code is 1 where they are not as they should be.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping

import click

from labkit.base.command import clear_errors
from labkit.errors import ParameterError
from labkit.model.load import load
from labkit.studies.pitfalls import slowed_decoding
from labkit.timing.compare import Comparison, Variant, compare
from labkit.timing.statistics import FEWEST_ROUNDS, MOST_ROUNDS, narrow_enough, rounds_needed

SAME, SLOWED = "the same again", "slowed"
AUTO = "auto"  # rounds: as many as a pilot says
MOST_FALSE, LEAST_SEEN = 0.05, 0.9  # of the comparisons: 2 of 40, 18 of 20


def outcome(comparison: Comparison, name: str) -> str:
    """The verdict of a variant; where it is inconclusive, the rule that made it so."""
    verdict = comparison.verdicts()[name]
    if verdict != "inconclusive":
        return verdict
    if not comparison.trusted():
        return "inconclusive: the control differs"
    control, value = comparison.speedup(comparison.control), comparison.speedup(name).value
    if not narrow_enough(value, (control.low, control.high)):
        return "inconclusive: the control is too wide"
    return "inconclusive: not shown"


def outcomes(
    count: int, rounds: int, name: str, make: Callable[[float], Variant], share: float
) -> Counter[str]:
    """The outcomes of `count` comparisons of a variant with the plain one.

    make: from a share to a variant whose tokens take so much longer; share: the variant's.
    """
    found: Counter[str] = Counter()
    for number in range(count):
        label = f"{name} {number + 1}/{count}"
        result = compare({"plain": make(0), name: make(share)}, "plain", rounds, label=label)
        found[outcome(result, name)] += 1
    return found


def needed(given: str, slowdown: float, pilot: int, make: Callable[[float], Variant]) -> int:
    """The number of rounds as it was given; for "auto" what a control of `pilot` rounds asks for.

    It is what notebook 01 recommends for a change of `slowdown`. Raises ParameterError for anything
    else than "auto" or a number that is large enough.
    """
    if given != AUTO:
        if not given.isdecimal() or int(given) < FEWEST_ROUNDS:
            raise ParameterError(
                f"rounds {given!r}: allowed are {AUTO} and numbers from {FEWEST_ROUNDS} on."
            )
        return int(given)
    result = compare({"plain": make(0)}, "plain", pilot, label="pilot")
    control = result.speedup(result.control)
    rounds = rounds_needed(control.rounds, slowdown)
    more = " or more" if rounds == MOST_ROUNDS else ""
    click.echo(
        f"pilot: a control of {pilot} rounds is {control}; a change of {slowdown:.0%} needs "
        f"{rounds}{more} rounds"
    )
    return rounds


def told(name: str, share: float, rounds: int, found: Mapping[str, int], good: bool) -> str:
    """One line about comparisons of one kind."""
    each = ", ".join(f"{outcome} {count}" for outcome, count in sorted(found.items()))
    verdict = "as it should be" if good else "NOT as it should be"
    count = sum(found.values())
    return f"{name} ({share:.0%}), {count} comparisons of {rounds} rounds: {each}; {verdict}"


@click.command()
@click.option("--same", default=40, show_default=True, help="comparisons where nothing differs")
@click.option("--planted", default=20, show_default=True, help="comparisons with a slowdown")
@click.option("--slowdown", default=0.05, show_default=True)
@click.option("--rounds", default=AUTO, show_default=True, help="with a slowdown: a number or auto")
@click.option("--same-rounds", default=12, show_default=True, help="where nothing differs")
@click.option(
    "--pilot", default=40, show_default=True, help="rounds of the control that auto needs"
)
@click.option("--prompt-tokens", default=16, show_default=True)
@click.option("--new-tokens", default=6, show_default=True)
@clear_errors
def main(
    same: int, planted: int, slowdown: float, rounds: str, same_rounds: int, pilot: int,
    prompt_tokens: int, new_tokens: int,
) -> int:  # fmt: skip
    """Count the verdicts of comparisons whose true result is known, on the default model."""
    if not 0 < slowdown < math.inf or min(same, planted) < 0:
        raise ParameterError(
            f"slowdown {slowdown:g}, {same} and {planted} comparisons: allowed are a slowdown "
            "above 0 and no fewer than 0 comparisons."
        )
    model = load()

    def make(share: float) -> Variant:
        return slowed_decoding(model, share, prompt_tokens, new_tokens)

    good = True
    if same:
        found = outcomes(same, same_rounds, SAME, make, 0.0)
        false = found["faster"] + found["slower"]
        good = false <= MOST_FALSE * same
        click.echo(told(SAME, 0.0, same_rounds, found, good))
    if planted:
        count = needed(rounds, slowdown, pilot, make)
        found = outcomes(planted, count, SLOWED, make, slowdown)
        seen = found["slower"] >= LEAST_SEEN * planted
        good = good and seen
        click.echo(told(SLOWED, slowdown, count, found, seen))
    return int(not good)


if __name__ == "__main__":
    main()
