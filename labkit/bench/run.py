"""`labkit bench`: our variants and other engines, interleaved on the same prompts.

Each runs in a process of its own that stays up. The table gives speedups with their intervals, and
the fraction of each variant's own limit. The memory bandwidth is probed before and after each run.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from labkit.base.device import cores_allowed
from labkit.base.paths import atomic_write
from labkit.bench import client
from labkit.bench.client import Loaded, Source, Worker
from labkit.bench.variants import BARE, Variant, find
from labkit.engine.sequence import check_lengths
from labkit.errors import LabkitError, ParameterError
from labkit.limits.probe import BandwidthProbe
from labkit.model.config import ModelConfig, read_config
from labkit.model.load import tokenizer_of
from labkit.report.told.words import text_table
from labkit.timing.compare import Comparison, again, compare
from labkit.timing.environment import environment
from labkit.timing.statistics import FEWEST_ROUNDS, interval
from labkit.timing.trace import Trace
from labkit.workload.prompts import prompt_ids

Started = dict[str, tuple[Worker, Loaded]]


def _start(
    variants: Sequence[Variant], source: Source, threads: int, context: int, prompt: Sequence[int],
    stack: ExitStack,
) -> tuple[Started, dict[str, str]]:  # fmt: skip
    """Start and load every variant; those that cannot, with the reason."""
    started: Started = {}
    failed: dict[str, str] = {}
    for variant in tqdm(variants, desc="loading", leave=False):
        try:
            options = client.load_options(variant, source, threads, context, "cpu", "float32")
            worker = stack.enter_context(Worker.start(variant, threads))
            started[variant.name] = worker, worker.load(options, prompt)
        except LabkitError as error:
            failed[variant.name] = str(error)
    return started, failed


def step_bytes(config: ModelConfig, loaded: Loaded, context: int) -> float | None:
    """Bytes a decode step of a loaded variant must read; None where its weights are not known."""
    if loaded.weight_bytes is None:
        return None
    return loaded.weight_bytes + context * config.kv_bytes_per_token(loaded.kv_element_bytes)


def _rows(result: Comparison, nbytes: dict[str, float]) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for name in result.traces:
        variant = name.removesuffix(again(""))
        read = nbytes.get(variant)
        share = "–"
        if read:
            fractions = result.fractions(name, lambda rate, read=read: read / rate)  # type: ignore[misc]
            share = f"{interval(fractions).value:.0%}"
        tokens = result.traces[name][0].prompt_tokens
        prefill = f"{tokens / result.median(name, 'ttft'):.0f}"
        rows.append(
            {
                "variant": name,
                "decode tok/s": f"{1 / result.median(name):.1f}",
                "speedup": str(result.speedup(name)),
                "verdict": result.verdict(name),
                "reads MB": f"{read / 1e6:.0f}" if read else "–",
                "of its limit": share,
                "prefill tok/s": "–" if variant == BARE else prefill,
            }
        )
    return rows


def _unsteady(result: Comparison) -> list[str]:
    """A line for runs during which the bandwidth changed; see Comparison.fractions."""
    counts = {name: len(result.unsteady(name)) for name in result.traces}
    if not any(counts.values()):
        return []
    rounds = ", ".join(f"{count} of {result.rounds} for {name}" for name, count in counts.items())
    why = "these rounds are left out of the fraction of the limit where three others remain"
    return [f"The memory bandwidth changed during rounds: {rounds}; {why}."]


Ask = Callable[[Sequence[int], int], Trace]  # (prompt, new tokens) -> their trace


@contextmanager
def running(
    names: Sequence[str], source: Source, context: int, sample: Sequence[int], threads: int
) -> Iterator[tuple[dict[str, Ask], dict[str, Loaded], dict[str, str]]]:
    """Variants by name, each in a process that stays up inside the block.

    context: the most tokens of a request, its output included. sample: a prompt to try each with.
    Gives for each variant a function that runs it, what it answered when it had loaded, and the
    reasons of those that did not start.
    """

    def ask(worker: Worker, prompt: Sequence[int], new_tokens: int) -> Trace:
        found = worker.run(prompt, new_tokens)
        return Trace(found.due, tuple(found.times), len(prompt), tuple(found.tokens))

    with ExitStack() as stack:
        variants = find(names) if names else []
        started, failed = _start(variants, source, threads, context, sample, stack)
        asks: dict[str, Ask] = {name: partial(ask, w) for name, (w, _) in started.items()}
        yield asks, {name: loaded for name, (_, loaded) in started.items()}, failed


def measure(
    names: Sequence[str], source: Source, prompt_tokens: int, new_tokens: int, rounds: int,
    threads: int | None = None,
) -> tuple[Comparison, dict[str, float], dict[str, Loaded]]:  # fmt: skip
    """Compare variants by name, the first that starts being the baseline.

    Returns the comparison, the bytes that a decode step of each must read, and what each answered
    when it had loaded. A variant that does not start, crashes or hangs is in the comparison's
    `failed`.
    """
    config = read_config(source.directory)
    check_lengths(config, prompt_tokens, new_tokens)
    tokenizer = tokenizer_of(source.directory)
    context, middle = prompt_tokens + new_tokens + 16, prompt_tokens + new_tokens // 2
    count = threads or cores_allowed()

    def ids(number: int) -> list[int]:
        return prompt_ids(tokenizer, prompt_tokens, number)

    with running(names, source, context, ids(rounds + 1), count) as (asks, loaded, failed):
        if not asks:
            raise LabkitError("; ".join(f"{name}: {why}" for name, why in failed.items()))
        nbytes = {n: b for n, one in loaded.items() if (b := step_bytes(config, one, middle))}
        whole = max(nbytes.values(), default=2.0**27)
        probes = {n: BandwidthProbe(int(nbytes.get(n, whole)), count) for n in asks}
        runs = {
            name: (lambda number, ask=ask: ask(ids(number), new_tokens))
            for name, ask in asks.items()
        }
        result = compare(runs, next(iter(runs)), rounds, probes)
    result.failed = failed | result.failed
    return result, nbytes, loaded


def run(
    variants: str,
    prompt_tokens: int,
    new_tokens: int,
    rounds: int,
    model: str = "",
    json_path: Path | None = None,
    threads: int | None = None,
) -> str:
    """The table of a comparison as text; raises LabkitError for what cannot be compared."""
    names = [name.strip() for name in variants.split(",") if name.strip()]
    find(names)
    if rounds < FEWEST_ROUNDS:
        raise ParameterError(f"{rounds} rounds are too few; at least {FEWEST_ROUNDS} are needed.")
    source = client.locate(model or None)
    result, nbytes, loaded = measure(names, source, prompt_tokens, new_tokens, rounds, threads)
    if json_path:
        everything: dict[str, Any] = {
            "environment": environment(),
            "variants": {name: vars(one) for name, one in loaded.items()},
            "step_bytes": nbytes,
            "comparison": result.to_dict(),
        }
        atomic_write(json_path, json.dumps(everything) + "\n")
    lines = [text_table(_rows(result, nbytes))]
    lines += [f"{name}: {one.note}" for name, one in loaded.items() if one.note]
    lines += [f"{name}: FAILED: {why}" for name, why in result.failed.items()]
    lines += _unsteady(result)
    if not result.trusted():
        lines.append("The A/A control failed: do not trust this comparison.")
    return "\n".join(lines)
