"""Every task with every setting, against plain decoding, token by token.

`python -m labkit.optimize.speculative.prove`. The fused decoder gives a row the same bits in any
company, so speculation must give its tokens without exception; a single one that differs ends
this with exit code 1.
"""

from __future__ import annotations

import sys

import click
from tqdm.auto import tqdm

from labkit.model.load import load
from labkit.optimize.speculative import study
from labkit.workload.tasks import human_eval, tasks


@click.command()
@click.option("--model", default="", help="directory, GGUF file or hub id; default: the built-in")
@click.option("--new-tokens", default=256, show_default=True, help="of each answer, at most")
@click.option("--outside", default=16, show_default=True, help="tasks of HumanEval beside our own")
def main(model: str, new_tokens: int, outside: int) -> None:
    """Compare every task's greedy answer with and without speculation, token by token."""
    loaded = load(model or None)
    name, target, why = study.fastest(loaded, model)
    if why:
        click.echo(f"With the plain decoder: {why}", err=True)
    costs = study.costs_of(loaded, target)
    settings = study.settings(costs, head=study.kept_head(loaded, target, costs))
    asked = [*tasks(), *human_eval(outside)]
    cases = study.answered(
        target, loaded.tokenizer, asked, new_tokens, loaded.config.eos_ids, least=1
    )
    wrong, compared = [], 0
    for case in tqdm(cases, desc="with speculation", unit="task"):
        for setting, of in settings.items():
            found = list(study.speculated(target, case, of))
            compared += len(case.answer)
            if found != case.answer:
                wrong.append(f"{case.task.name}, {setting}")
    print(
        f"{name}: {len(cases)} of {len(asked)} tasks fit, {len(settings)} settings, "
        f"{compared:,} tokens; answers that differ: {len(wrong)} {'; '.join(wrong)}"
    )
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
