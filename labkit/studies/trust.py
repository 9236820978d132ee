"""How far a comparison can be trusted here: `python -m labkit.studies.trust`.

Runs comparisons whose true result is known. Where both variants are the same, few comparisons may
report a difference. Where one has a planted slowdown, most should find it. The counts show how
well the method works on this machine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import click

from labkit.model.load import load
from labkit.studies.pitfalls import slowed_decoding
from labkit.timing.compare import Variant, compare

SAME, SLOWED = "the same again", "slowed"


def verdicts(
    count: int, rounds: int, name: str, make: Callable[[float], Variant], share: float
) -> Counter[str]:
    """Verdicts of `count` comparisons of a variant with the plain one.

    make: from a share to a variant whose tokens take so much longer; share: the variant's.
    """
    found: Counter[str] = Counter()
    for number in range(count):
        label = f"{name} {number + 1}/{count}"
        result = compare({"plain": make(0), name: make(share)}, "plain", rounds, label=label)
        found[result.speedup(name).verdict] += 1
    return found


@click.command()
@click.option("--same", default=40, show_default=True, help="comparisons where nothing differs")
@click.option("--planted", default=20, show_default=True, help="comparisons with a slowdown")
@click.option("--slowdown", default=0.1, show_default=True)
@click.option("--rounds", default=12, show_default=True)
@click.option("--prompt-tokens", default=16, show_default=True)
@click.option("--new-tokens", default=6, show_default=True)
def main(
    same: int, planted: int, slowdown: float, rounds: int, prompt_tokens: int, new_tokens: int
) -> None:
    """Count the verdicts of comparisons whose true result is known, on the default model."""
    model = load()

    def make(share: float) -> Variant:
        return slowed_decoding(model, share, prompt_tokens, new_tokens)

    for count, name, share in ((same, SAME, 0.0), (planted, SLOWED, slowdown)):
        if count:
            found = verdicts(count, rounds, name, make, share)
            click.echo(
                f"{name} ({share:.0%}), {count} comparisons of {rounds} rounds: {dict(found)}"
            )


if __name__ == "__main__":
    main()
