"""What engines' arithmetic costs in answers: `python -m labkit.bench.quality VARIANT ...`.

Ours and the peers' alike, each in its own process as `labkit bench` runs it, against the exact
decoder on the same file's dequantized weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click
import torch

from labkit.base.command import clear_errors, show
from labkit.base.device import cores_allowed
from labkit.bench import client
from labkit.bench.client import Source, Worker
from labkit.bench.variants import find
from labkit.errors import LabkitError, ParameterError
from labkit.model.forward import Forward
from labkit.model.load import load
from labkit.quality.divergence import Divergence, divergence, share_of_kl
from labkit.quality.judge import chunked_logits
from labkit.quality.tasks import Score, score
from labkit.report.told.words import text_table
from labkit.workload.questions import Question, short
from labkit.workload.texts import pieces

Result = TypeVar("Result")


def _logits(forward: Forward, ids: Sequence[int]) -> torch.Tensor:
    with torch.inference_mode():
        return torch.cat(list(chunked_logits(forward, ids)))


def judge_variants(
    names: Sequence[str], source: Source, reference: Forward, texts: Sequence[Sequence[int]]
) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
    """How far each variant's distributions are from the reference's, with 95 % intervals.

    All are compared at the same positions, teacher-forced. Returns the numbers of
    `Divergence.judged` by variant, and the messages of those that failed.
    """
    found, failed = diverge_variants(names, source, reference, texts)
    return {name: divergence.judged() for name, divergence in found.items()}, failed


def diverge_variants(
    names: Sequence[str], source: Source, reference: Forward, texts: Sequence[Sequence[int]]
) -> tuple[dict[str, Divergence], dict[str, str]]:
    """Variants by name against the reference on texts of token ids, teacher-forced.

    Each runs in its own process, and reads a text as it reads a prompt. Returns the divergence of
    each, and the messages of those that failed.
    """

    def diverge(worker: Worker) -> Divergence:
        return divergence(
            texts,
            lambda ids: _logits(reference, ids),
            lambda ids: torch.from_numpy(worker.logits(ids)),
        )

    return _each(names, source, max(map(len, texts)) + 16, texts[0][:64], diverge)


def score_variants(
    names: Sequence[str], source: Source, tokenizer: Any, questions: Sequence[Question]
) -> tuple[dict[str, dict[str, Score]], dict[str, str]]:
    """The share of questions that each variant answers right: its scores by kind and of "all".

    Answers are greedy. Returns also the messages of those that failed.
    """
    longest = max((len(one.ids(tokenizer)) + one.new_tokens for one in questions), default=0)

    def ask(worker: Worker) -> dict[str, Score]:
        name = worker.variant.name
        return score(lambda ids, n: worker.run(ids, n).tokens, tokenizer, questions, name)

    return _each(names, source, longest + 16, questions[0].ids(tokenizer), ask)


def _each(
    names: Sequence[str], source: Source, context: int, prompt: Sequence[int],
    work: Callable[[Worker], Result],
) -> tuple[dict[str, Result], dict[str, str]]:  # fmt: skip
    """What `work` finds of each variant, one after another; the messages of those that failed."""
    found: dict[str, Result] = {}
    failed: dict[str, str] = {}
    threads = cores_allowed()
    for variant in find(names):
        try:
            options = client.load_options(variant, source, threads, context, "cpu", "float32")
            with Worker.start(variant, threads) as worker:
                worker.load(options, prompt)
                found[variant.name] = work(worker)
        except LabkitError as error:
            failed[variant.name] = str(error)
    return found, failed


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="VARIANT...")
@click.option("--model", default="", help="directory, hub id or GGUF file; default: the shipped")
@click.option("--tokens", default=2048, show_default=True, help="of held-out prose and code")
@click.option("--questions", default=0, show_default=True, help="of each kind to ask as well")
@clear_errors
def main(names: tuple[str, ...], model: str, tokens: int, questions: int) -> int:
    """Print how far each VARIANT's distributions are from the exact decoder's."""
    find(names)
    if questions < 0:
        raise ParameterError(f"{questions} questions: allowed are 0 and more.")
    loaded, source = load(model or None), client.locate(model or None)
    texts = pieces(loaded.tokenizer, "evaluation", tokens)
    found, failed = diverge_variants(names, source, loaded.decoder, texts)
    show(text_table([{"variant": name} | row(name, found) for name in found]))
    if questions:
        scores, silent = score_variants(names, source, loaded.tokenizer, short(questions))
        show(text_table([{"variant": name} | _scores(one) for name, one in scores.items()]))
        failed |= silent
    for name, message in failed.items():
        show(f"{name}: FAILED: {message}")
    return int(bool(failed))


def _scores(scores: dict[str, Score]) -> dict[str, str]:
    def said(one: Score) -> str:
        low, high = one.interval
        return f"{one.right} of {one.asked} [{low:.0%}, {high:.0%}]"

    return {f"{kind} right": said(one) for kind, one in scores.items()}


def row(name: str, found: dict[str, Divergence]) -> dict[str, str]:
    """One of several variants as a row of a table; its KL also against the first one's."""
    first, *others = found
    judged = found[name].judged()

    def said(value: str, interval: str, form: str) -> str:
        low, high = judged[f"{interval}_low"], judged[f"{interval}_high"]
        return f"{judged[value]:{form}} [{low:{form}}, {high:{form}}]"

    share, low, high = share_of_kl(found[name], found[first])
    against = {f"KL against {first}'s": f"{share:.2f}x [{low:.2f}, {high:.2f}]"} if others else {}
    return {
        "positions": str(judged["positions"]),
        "mean KL, nats": said("kl_mean", "kl_mean", ".4f"),
        "99th percentile": said("kl_p99", "kl_p99", ".3f"),
        "same top token": said("top1_agreement", "top1", ".1%"),
        "perplexity ratio": said("perplexity_ratio", "perplexity", ".4f"),
    } | against


if __name__ == "__main__":
    main()
