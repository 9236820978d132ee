"""Several requests at once: `python -m labkit.bench.many`.

Every engine answers 1, 2, ... prompts that are asked at the same moment, each in a sequence of its
own. In each round all engines take their turns at each number of streams, with prompts of that
round; the first engine runs twice there, and its second turn is the A/A control. So every ratio of
the tables is paired, also those between numbers of streams. `--answers` counts how many distinct
answers an engine gives to one prompt, depending on what is asked beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import click
from tqdm.auto import tqdm

from labkit.base.command import clear_errors, show
from labkit.base.device import cores_allowed
from labkit.base.paths import json_text
from labkit.base.places import try_file, write_result
from labkit.bench import client
from labkit.bench.answers import Answers, AskMany, answers_of
from labkit.bench.asked import MOST, Asked
from labkit.bench.client import Loaded, Source, Worker
from labkit.bench.costs import products
from labkit.bench.many_told import text
from labkit.bench.points import DECODE, Many, point
from labkit.bench.run import checked_config, start
from labkit.bench.variants import VARIANTS, find, named
from labkit.bench.wave import Wave
from labkit.errors import LabkitError, ParameterError
from labkit.limits.ceiling import ceiling
from labkit.limits.cost import step_cost
from labkit.limits.measure import check_threads
from labkit.model.config import ModelConfig, read_config
from labkit.model.load import tokenizer_of
from labkit.timing.compare import Variant, again, compare
from labkit.timing.environment import environment
from labkit.timing.trace import Trace
from labkit.workload.prompts import prompt_ids

_ANSWERS = 10**6  # the number of the first prompt whose answers are counted
_DEFAULT = "fused,fused:engine,llama.cpp,llama.cpp:q4_0,ik_llama.cpp"


@contextmanager
def serving(
    names: Sequence[str], source: Source, asked: Asked, threads: int
) -> Iterator[tuple[dict[str, AskMany], dict[str, Loaded], dict[str, str]]]:
    """Variants by name, each in a process that stays up inside the block, with room for `asked`.

    Gives for each variant a function that asks it several prompts at once, what it answered when it
    had loaded, and the reasons of those that did not start.
    """
    tokens = min(asked.sample, read_config(source.described).max_positions - 2)
    sample = prompt_ids(tokenizer_of(source.described), tokens, _ANSWERS - 1)
    with ExitStack() as stack:
        started, failed = start(
            find(names), source, threads, asked.context, sample, stack, asked.most
        )
        asks: dict[str, AskMany] = {name: partial(_ask, w) for name, (w, _) in started.items()}
        yield asks, {name: loaded for name, (_, loaded) in started.items()}, failed


def _ask(worker: Worker, prompts: Sequence[Sequence[int]], new_tokens: int) -> Wave:
    found = worker.many(prompts, new_tokens)
    return Wave.of(
        [
            Trace(one.due, tuple(one.times), len(prompt), tuple(one.tokens))
            for prompt, one in zip(prompts, found, strict=True)
        ]
    )


def measure(names: Sequence[str], source: Source, asked: Asked, threads: int) -> Many:
    """Compare variants by name, the first that starts being the baseline.

    A variant that does not start, crashes or hangs is in `failed`. Raises ParameterError and
    ModelError for what cannot be asked, LabkitError where no variant starts or the baseline fails,
    and ImpossibleRate where one was faster than any such machine can be.
    """
    asked.check()
    config = checked_config(source, asked.prompt_tokens, asked.new_tokens)
    asked.check_memory(config, len(names))
    tokenizer = tokenizer_of(source.described)

    def prompt(number: int) -> list[int]:
        return prompt_ids(tokenizer, asked.prompt_tokens, number)

    with serving(names, source, asked, threads) as (asks, loaded, failed):
        if not asks:
            raise LabkitError("; ".join(f"{name}: {why}" for name, why in failed.items()))
        runs = _runs(asks, asked, prompt)
        baseline = point(next(iter(asks)), asked.streams[0])
        comparison = compare(runs, baseline, asked.rounds)
        answers, silent = _answers(asks, asked, prompt)
    comparison.failed = failed | comparison.failed | silent
    found = Many(asked, tuple(asks), comparison, loaded, answers)
    _check_possible(found, config, source)
    return found


def _runs(
    asks: Mapping[str, AskMany], asked: Asked, prompt: Callable[[int], list[int]]
) -> dict[str, Variant]:
    """Every point, and the second turn of the first engine at each number of streams. At the first
    number `compare` adds it, at the end: so this number stands there, and the two turns are near.
    """

    def run(ask: AskMany, streams: int, number: int) -> Wave:
        prompts = [prompt(number * MOST + one) for one in range(streams)]
        return ask(prompts, asked.new_tokens)

    found: dict[str, Variant] = {}
    for streams in (*asked.streams[1:], asked.streams[0]):
        turns: dict[str, Variant] = {
            point(name, streams): partial(run, ask, streams) for name, ask in asks.items()
        }
        first = next(iter(turns))
        found |= turns
        if streams != asked.streams[0]:
            found[again(first)] = turns[first]
    return found


def _answers(
    asks: Mapping[str, AskMany], asked: Asked, prompt: Callable[[int], list[int]]
) -> tuple[dict[str, Answers], dict[str, str]]:
    """The answers of every engine, and the messages of those that failed."""
    found: dict[str, Answers] = {}
    failed: dict[str, str] = {}
    for name, ask in tqdm(asks.items(), desc="answers", leave=False, disable=not asked.answers):
        try:
            if asked.answers:
                found[name] = answers_of(
                    ask, lambda n: prompt(_ANSWERS + n), asked.answers, asked.new_tokens,
                    asked.streams,
                )  # fmt: skip
        except LabkitError as error:
            failed[f"answers of {name}"] = str(error)
    return found, failed


def _check_possible(found: Many, config: ModelConfig, source: Source) -> None:
    """ImpossibleRate where passes of decoding rows were faster than the machine's ceiling."""
    middle = found.asked.prompt_tokens + found.asked.new_tokens // 2
    file_format = client.gguf_format(source.gguf) if source.gguf else None
    most = ceiling("cpu")
    for name, one in found.loaded.items():
        if one.weight_bytes is None:
            continue
        dtype = products(VARIANTS[name], file_format).dtype or "int8"
        kv = config.kv_bytes_per_token(one.kv_element_bytes)
        for streams in found.asked.streams:
            cost = step_cost(
                config, middle, streams,
                dtype=dtype, weight_bytes=one.weight_bytes, kv_bytes_per_token=kv,
            )  # fmt: skip
            if times := found.times(name, streams, DECODE):
                most.check_pass(cost, streams * min(times))


def samples(found: Many) -> dict[str, Any]:
    """Everything that was measured, and on what."""
    return {
        "environment": environment(),
        "asked": asdict(found.asked),
        "variants": {name: vars(one) for name, one in found.loaded.items()},
        "comparison": found.comparison.to_dict(),
        "answers": {name: one.to_dict() for name, one in found.answers.items()},
    }


def run(
    variants: str, streams: str, model: str = "", threads: int | None = None, **asked: int
) -> Many:
    """Compare variants at numbers of streams, both named with commas. asked: as for Asked."""
    names = named(variants)
    check_threads(threads)
    parts = [part.strip() for part in streams.split(",") if part.strip()]
    if not all(part.isdecimal() for part in parts):
        raise ParameterError(f"streams {streams!r}: give whole numbers with commas between them.")
    wanted = Asked(streams=tuple(map(int, parts)), **asked)
    return measure(names, client.locate(model or None), wanted, threads or cores_allowed())


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--variants", default=_DEFAULT, show_default=True, help="with commas")
@click.option("--streams", default="1,4,16", show_default=True, help="prompts at once, with commas")
@click.option("--prompt-tokens", default=128, show_default=True)
@click.option("--new-tokens", default=128, show_default=True)
@click.option("--rounds", default=5, show_default=True)
@click.option("--answers", default=0, show_default=True, help="prompts whose answers are counted")
@click.option("--model", default="", help="directory, hub id or GGUF file; default: the built-in")
@click.option("--threads", default=None, type=int, help="default: the cores allowed")
@click.option("--json", "json_path", default=None, type=click.Path(path_type=Path), help="samples")
@clear_errors
def main(json_path: Path | None, **options: Any) -> int:
    """Compare engines that answer several prompts at once, interleaved; the first is the baseline.

    `labkit bench --variants list` lists all. `make peers` installs the other engines.
    """
    if json_path:
        try_file(json_path, "the file of samples", "give another place to --json")
    found = run(**options)
    show(text(found))
    if json_path:
        write_result(
            json_path, json_text(samples(found)) + "\n", "the file of samples",
            "the tables above are all that is kept",
        )  # fmt: skip
    return int(bool(found.failed))


if __name__ == "__main__":
    main()
