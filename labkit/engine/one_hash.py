"""One hash: the SHA-256 over every logit of many answers, however they are computed.

`python -m labkit.engine.one_hash` computes the same answers alone, in batches of 2 to 64, at every
chunk size, with prefixes from memory and from disk, preempted at every token, beside neighbours
that are cancelled, with drafts, and with 1 and 2 threads. Each way gets a line: its hash, and
"equal" or where it ends. The hash is over the hashes of all answers, each of which is over the
float32 logits of its tokens in order.
"""

from __future__ import annotations

import hashlib
import pkgutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import click
import numpy as np

from labkit.engine.one_hash_ways import Answers, Questions, ways
from labkit.errors import LabkitError, ParameterError
from labkit.model.load import locate_described, tokenizer_of
from labkit.workload.prompts import prompt_ids

BATCHES = (2, 4, 8, 16, 32, 64)
_FUSED = "labkit.optimize.fused:load_fused"  # by name: it lies on a higher floor


@dataclass(frozen=True)
class Line:
    """What one way gave. ends: where it differs from the answers alone, "" where it does not."""

    way: str
    digest: str
    seconds: float
    ends: str = ""
    fact: str = ""

    def __str__(self) -> str:
        verdict = f"differs: {self.ends}" if self.ends else "equal"
        fact = f" ({self.fact})" if self.fact else ""
        return f"{self.way:36} {self.digest[:16]} {self.seconds:7.1f} s  {verdict}{fact}"


def digest_of(answers: Answers) -> str:
    """The SHA-256 over the hashes of all answers."""
    return hashlib.sha256(b"".join(answer.marks[-1] for answer in answers)).hexdigest()


def first_difference(known: Answers, found: Answers) -> str:
    """Where answers differ first; "" where they are the same bits."""
    differ = [n for n, (one, other) in enumerate(zip(known, found, strict=True)) if one != other]
    if not differ:
        return ""
    one, other = known[differ[0]], found[differ[0]]
    pairs = zip(one.marks, other.marks, strict=False)
    token = next((n for n, (a, b) in enumerate(pairs) if a != b), len(other.marks))
    return (
        f"{len(differ)} of {len(known)} answers, the first of them answer {differ[0]} from token "
        f"{token} on"
    )


def one_hash(
    decoders: Sequence[tuple[str, Any]],
    prompts: Sequence[tuple[int, ...]],
    new_tokens: int,
    batches: Sequence[int] = BATCHES,
    only: Sequence[str] = (),
) -> Iterator[Line]:
    """A line for each way, the answers alone first; all by each of the decoders in turn.

    decoders: (what is told of it, decoder) of one model, "1 thread" say. only: names of ways.
    Raises ParameterError for a name that is none.
    """
    known: Answers = []
    for told, decoder in decoders:
        asked = Questions(decoder, prompts, new_tokens)
        began = time.perf_counter()
        alone = asked.alone()
        known = known or alone
        spent = time.perf_counter() - began
        ends = first_difference(known, alone)
        yield Line(f"alone, {told}", digest_of(alone), spent, ends)
        for name, run in _chosen(ways(known, batches), only).items():
            began = time.perf_counter()
            found = run(asked)
            spent = time.perf_counter() - began
            ends, fact = first_difference(known, found), asked.facts.get(name, "")
            yield Line(f"{name}, {told}", digest_of(found), spent, ends, fact)


def _chosen(found: dict[str, Callable], only: Sequence[str]) -> dict[str, Callable]:  # type: ignore[type-arg]
    if unknown := set(only) - set(found):
        raise ParameterError(f"unknown ways: {sorted(unknown)}; allowed are {', '.join(found)}.")
    return {name: run for name, run in found.items() if name in only or not only}


def questions(tokenizer: Any, count: int, longest: int) -> list[tuple[int, ...]]:
    """Prompts of 1 to `longest` tokens; every second one begins with the same text."""
    common = prompt_ids(tokenizer, longest // 2 + 1, number=count)
    found = []
    for number in range(count):
        length = int(np.random.default_rng([number, longest]).integers(1, longest + 1))
        own = prompt_ids(tokenizer, length, number)
        found.append(tuple([*common, *own][:length] if number % 2 else own))
    return found


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--answers", default=1000, show_default=True, type=click.IntRange(1))
@click.option("--prompt-tokens", default=96, show_default=True, type=click.IntRange(1))
@click.option("--new-tokens", default=16, show_default=True, type=click.IntRange(1))
@click.option("--model", default="", help="directory, GGUF file or hub id; default: the built-in")
@click.option("--weights", default="as-is", show_default=True, help="their format")
@click.option("--threads", default="1,2", show_default=True, help="numbers, with commas")
@click.option("--batches", default="2,4,8,16,32,64", show_default=True, help="with commas")
@click.option("--ways", "names", default="", help="names of ways, with semicolons; default: all")
@click.option("--decoder", default=_FUSED, show_default=True, help="module:function that loads it")
def main(**options: Any) -> None:
    """Compute the same answers in every way, and tell whether each logit has the same bits.

    The exit code is 1 where a way differs.
    """
    try:
        lines = list(_told(**options))
    except LabkitError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)
    differ = [line.way for line in lines if line.ends]
    said = f"not one hash: {len(differ)} of {len(lines)} ways differ" if differ else "one hash"
    click.echo(f"{said}: {lines[0].digest}")
    sys.exit(bool(differ))


def _told(
    answers: int,
    prompt_tokens: int,
    new_tokens: int,
    model: str,
    weights: str,
    threads: str,
    batches: str,
    names: str,
    decoder: str,
) -> Iterator[Line]:
    load, sizes, counts = pkgutil.resolve_name(decoder), _numbers(batches), _numbers(threads)
    prompts = questions(tokenizer_of(locate_described(model)[1]), answers, prompt_tokens)
    decoders = [
        (f"{n} thread{'s' * (n > 1)}", load(model or None, weights=weights, threads=n))
        for n in counts
    ]
    only = [name.strip() for name in names.split(";") if name.strip()]
    for line in one_hash(decoders, prompts, new_tokens, sizes, only):
        click.echo(str(line))
        yield line


def _numbers(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise ParameterError(f"{text!r}: allowed are numbers from 1 on, with commas between them.")
    return [int(part) for part in parts]


if __name__ == "__main__":
    main()
