"""How far a comparison can be trusted here: `python -m labkit.timing.trust`.

Runs comparisons whose truth is known. Of those where nothing differs, few may claim a difference;
of those with a planted slowdown, most must find it. A benchmark of the method on this machine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import click

from labkit.model.generate import generate
from labkit.model.load import LoadedModel, load
from labkit.timing.compare import Variant, compare
from labkit.timing.pitfalls import slowed
from labkit.timing.trace import Trace, record
from labkit.workload.prompts import prompt_ids

SAME, SLOWED = "the same again", "slowed"


def variant(model: LoadedModel, share: float, prompt_tokens: int, new_tokens: int) -> Variant:
    """Decode a prompt of the round, each token made to take `share` longer."""

    def run(number: int) -> Trace:
        ids = prompt_ids(model.tokenizer, prompt_tokens, number)
        return record(lambda: slowed(generate(model.decoder, ids, new_tokens), share))

    return run


def verdicts(
    count: int, rounds: int, name: str, make: Callable[[float], Variant], share: float
) -> Counter[str]:
    """Verdicts of `count` comparisons of a variant that takes `share` longer with the plain one."""
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
    """Count the verdicts of comparisons whose truth is known, on the default model."""
    model = load()

    def make(share: float) -> Variant:
        return variant(model, share, prompt_tokens, new_tokens)

    for count, name, share in ((same, SAME, 0.0), (planted, SLOWED, slowdown)):
        if count:
            found = verdicts(count, rounds, name, make, share)
            click.echo(
                f"{name} ({share:.0%}), {count} comparisons of {rounds} rounds: {dict(found)}"
            )


if __name__ == "__main__":
    main()
