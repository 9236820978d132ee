"""Compare every task's answer with drafts against the one without, token by token.

`python -m labkit.studies.speculative_proof`. The fused decoder gives a row the same bits whatever
other rows share its pass, so every token must be the same. One token that differs ends this with
exit code 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import click
from tqdm.auto import tqdm

from labkit.base.command import clear_errors
from labkit.model.forward import Forward
from labkit.model.load import load
from labkit.studies.speculative_target import costs_of, fastest, kept_head
from labkit.studies.speculative_tasks import Case, Setting, answered, settings, speculated
from labkit.workload.tasks import human_eval, tasks


def differing(
    target: Forward, cases: Sequence[Case], of: Mapping[str, Setting]
) -> Iterator[tuple[str, str]]:
    """(task, setting) of every answer that drafts changed."""
    for case in tqdm(cases, desc="with speculation", unit="task"):
        for name, setting in of.items():
            if list(speculated(target, case, setting)) != case.answer:
                yield case.task.name, name


@click.command()
@click.option("--model", default="", help="directory, GGUF file or hub id; default: the built-in")
@click.option("--new-tokens", default=256, show_default=True, help="of each answer, at most")
@click.option("--outside", default=16, show_default=True, help="tasks of HumanEval beside our own")
@clear_errors
def main(model: str, new_tokens: int, outside: int) -> int:
    """Compare every task's greedy answer with and without speculation, token by token."""
    loaded = load(model or None)
    chosen = fastest(loaded, model)
    target = chosen.decoder
    if chosen.reason:
        click.echo(f"With the plain decoder: {chosen.reason}", err=True)
    costs = costs_of(loaded, target)
    of = settings(costs, head=kept_head(loaded, target, costs))
    every = [*tasks(), *human_eval(outside)]
    stops = loaded.config.eos_ids
    cases = answered(target, loaded.tokenizer, every, new_tokens, stops, least=1)
    wrong = [f"{task}, {setting}" for task, setting in differing(target, cases, of)]
    compared = len(of) * sum(len(case.answer) for case in cases)
    print(
        f"{chosen.name}: {len(cases)} of {len(every)} tasks fit, {len(of)} settings, "
        f"{compared:,} tokens; answers that differ: {len(wrong)} {'; '.join(wrong)}"
    )
    return int(bool(wrong))


if __name__ == "__main__":
    main()
