"""`labkit bench`: our variants and other engines, interleaved on the same prompts.

Each runs in a process of its own that stays up. Beside them, this process reads the bytes that they
read and does the products that they do, and nothing else: these bare variants take their turns like
any other, while the other processes wait. The table gives speedups, shares of the bare read and
fractions of each variant's own limit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from functools import cache, partial
from typing import Any, NamedTuple

from tqdm.auto import tqdm

from labkit.bench import client
from labkit.bench.client import Loaded, Source, Worker
from labkit.bench.costs import costs_of, products
from labkit.bench.variants import VARIANTS, Variant, find, named
from labkit.engine.sequence import check_lengths
from labkit.errors import LabkitError, ParameterError
from labkit.limits.cost import Cost
from labkit.limits.hardware import Hardware
from labkit.limits.measure import check_threads, fastest_products, measure_hardware
from labkit.limits.roofline import limit
from labkit.limits.told import measured_when, told_disturbed
from labkit.model.config import ModelConfig, read_config
from labkit.model.load import tokenizer_of
from labkit.report.told.compared import told_value
from labkit.report.told.words import effect, text_table
from labkit.timing.compare import Comparison, again
from labkit.timing.compare import Variant as Timed
from labkit.timing.environment import environment
from labkit.timing.held import compare_held
from labkit.timing.statistics import FEWEST_ROUNDS, Ratio
from labkit.timing.trace import Trace
from labkit.workload.prompts import prompt_ids

Started = dict[str, tuple[Worker, Loaded]]
Ask = Callable[[Sequence[int], int], Trace]  # (prompt, new tokens) -> their trace
Costs = dict[tuple[str, str], Cost]
_MOST_ROUNDS = 1_000_000


class Measured(NamedTuple):
    """Variants interleaved, the cost of each one's passes, and what each said when it had loaded.

    costs: by (variant, time in a trace), as `costs_of` gives them.
    """

    comparison: Comparison
    costs: Costs
    loaded: dict[str, Loaded]


def start(
    variants: Sequence[Variant], source: Source, threads: int, context: int, prompt: Sequence[int],
    stack: ExitStack, streams: int = 1,
) -> tuple[Started, dict[str, str]]:  # fmt: skip
    """Start and load every variant for requests of `context` tokens, so many at the same time;
    those that cannot, with the reason."""
    started: Started = {}
    failed: dict[str, str] = {}
    for variant in tqdm(variants, desc="loading", leave=False):
        try:
            options = client.load_options(
                variant, source, threads, context, "cpu", "float32", streams
            )
            worker = stack.enter_context(Worker.start(variant, threads))
            started[variant.name] = worker, worker.load(options, prompt)
        except LabkitError as error:
            failed[variant.name] = str(error)
    return started, failed


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
        started, failed = start(variants, source, threads, context, sample, stack)
        asks: dict[str, Ask] = {name: partial(ask, w) for name, (w, _) in started.items()}
        yield asks, {name: loaded for name, (_, loaded) in started.items()}, failed


def checked_config(source: Source, prompt_tokens: int, new_tokens: int) -> ModelConfig:
    """The model's shape; ModelError or ParameterError for lengths that cannot be timed with it."""
    config = read_config(source.described)
    check_lengths(config, prompt_tokens, new_tokens)
    if new_tokens < 2:
        raise ParameterError(f"{new_tokens} new tokens: decoding is timed from 2 tokens on.")
    return config


def measure(
    names: Sequence[str], source: Source, prompt_tokens: int, new_tokens: int, rounds: int,
    hardware: Hardware,
) -> Measured:  # fmt: skip
    """Compare variants by name, the first that starts being the baseline.

    hardware: this CPU as measured, with the threads to use. A variant that does not start, crashes
    or hangs is in the comparison's `failed`. Raises what `checked_config` does, and ImpossibleRate
    where a variant was faster than any such machine can be.
    """
    checked_config(source, prompt_tokens, new_tokens)
    tokenizer = tokenizer_of(source.described)
    ids = partial(prompt_ids, tokenizer, prompt_tokens)
    return measure_prompts(names, source, ids, new_tokens, rounds, hardware)


def measure_prompts(
    names: Sequence[str], source: Source, ids: Callable[[int], Sequence[int]], new_tokens: int,
    rounds: int, hardware: Hardware,
) -> Measured:  # fmt: skip
    """As `measure`. ids: the prompt of a round by its number; all have equally many tokens."""
    prompt_tokens = len(ids(0))
    config = checked_config(source, prompt_tokens, new_tokens)
    context = prompt_tokens + new_tokens + 16

    with running(names, source, context, ids(rounds + 1), hardware.threads) as found:
        asks, loaded, failed = found
        if not asks:
            raise LabkitError("; ".join(f"{name}: {why}" for name, why in failed.items()))
        costs = _costs(config, loaded, source, prompt_tokens, new_tokens)
        runs: dict[str, Timed] = {
            name: (lambda number, ask=ask: ask(ids(number), new_tokens))  # type: ignore[misc]
            for name, ask in asks.items()
        }
        result = held_comparison(runs, costs, rounds, hardware)
    result.failed = failed | result.failed
    return Measured(result, costs, loaded)


def _costs(
    config: ModelConfig, loaded: Mapping[str, Loaded], source: Source, *lengths: int
) -> Costs:
    file_format = client.gguf_format(source.gguf) if source.gguf else None
    return {
        (name, time): cost
        for name, one in loaded.items()
        for time, cost in costs_of(
            config, one, products(VARIANTS[name], file_format).dtype, *lengths
        ).items()
    }


def held_comparison(
    runs: Mapping[str, Timed], costs: Costs, rounds: int, hardware: Hardware
) -> Comparison:
    """Compare variants on the CPU, the first being the baseline, each held against its cost."""
    work = cache(lambda dtype: fastest_products(dtype, hardware.device, hardware.threads))
    return compare_held(runs, next(iter(runs)), rounds, costs, hardware, work)


def _row(found: Measured, name: str, verdict: str, hardware: Hardware) -> dict[str, object]:
    result, variant = found.comparison, name.removesuffix(again(""))
    cost, share, ratio = (
        found.costs.get((variant, "tpot")),
        result.share(name),
        result.speedup(name),
    )
    taken = result.mean(name)
    fraction = limit(cost, hardware).seconds / taken if cost else None
    return {
        "variant": name,
        "decode tok/s": told_value(result, name, "tpot", lambda one: f"{1 / one:.1f}"),
        "speedup": str(ratio),
        "verdict": verdict,
        "could have seen": "–" if name == result.baseline else effect(ratio.smallest_effect),
        "reads MB": f"{cost.read_bytes / 1e6:.0f}" if cost else "–",
        "of the bare read": _interval(share) if share else "–",
        "of its limit": f"{fraction:.0%}" if fraction and fraction <= 1 else "–",
        "prefill tok/s": f"{result.traces[name][0].prompt_tokens / result.mean(name, 'ttft'):.0f}",
    }


def _interval(share: Ratio) -> str:
    return f"{share.value:.0%} [{100 * share.low:.0f}, {100 * share.high:.0f}]"


def _bare_row(result: Comparison, name: str) -> dict[str, object]:
    """Reading alone, as if each repetition gave a token."""
    return {
        "variant": name,
        "decode tok/s": f"{1 / result.mean(name):.1f}",
        "speedup": str(result.speedup(name)),
    }


def table_rows(found: Measured, hardware: Hardware) -> list[dict[str, object]]:
    """A row a variant, one for the control, and one for each bare read."""
    result = found.comparison
    verdicts = result.verdicts()
    names = [*result.variants, result.control]
    rows = [_row(found, name, verdicts.get(name, "–"), hardware) for name in names]
    reads = dict.fromkeys(bare.name for (_, time), bare in result.bare.items() if time == "tpot")
    return rows + [_bare_row(result, name) for name in reads if name in result.traces]


def _limits_of(hardware: Hardware) -> list[str]:
    """What measurement of the machine the limits are told by, and whether it was disturbed."""
    when = measured_when(hardware, "--remeasure measures again")
    told = told_disturbed(hardware)
    return [f"The limit is that of the machine {when}.", *([told] if told else [])]


class Outcome(NamedTuple):
    """A finished comparison: `text` for a terminal, `samples` for other programs."""

    measured: Measured
    hardware: Hardware

    @property
    def text(self) -> str:
        """The table; below it what variants said, and which failed."""
        table = text_table(table_rows(self.measured, self.hardware))
        return "\n".join([table, *self.remarks])

    @property
    def remarks(self) -> list[str]:
        """Lines that belong below the table."""
        found, comparison = self.measured, self.measured.comparison
        lines = _limits_of(self.hardware)
        lines += [f"{name}: {one.note}" for name, one in found.loaded.items() if one.note]
        lines += [f"{name}: FAILED: {why}" for name, why in comparison.failed.items()]
        if not comparison.trusted():
            lines.append("The A/A control failed: do not trust this comparison.")
        return lines

    @property
    def samples(self) -> dict[str, Any]:
        """Everything that was measured, and on what."""
        costs = [
            {"variant": name, "metric": time, **asdict(cost)}
            for (name, time), cost in self.measured.costs.items()
        ]
        return {
            "environment": environment(),
            "hardware": self.hardware.describe(),
            "variants": {name: vars(one) for name, one in self.measured.loaded.items()},
            "costs": costs,
            "comparison": self.measured.comparison.to_dict(),
        }


def run(
    variants: str,
    prompt_tokens: int,
    new_tokens: int,
    rounds: int,
    model: str = "",
    threads: int | None = None,
    remeasure: bool = False,
) -> Outcome:
    """Compare variants, named with commas; raises LabkitError for what cannot be compared.

    remeasure: the machine, instead of taking its limits from a kept measurement.
    """
    names = named(variants)
    if not FEWEST_ROUNDS <= rounds <= _MOST_ROUNDS:
        raise ParameterError(
            f"{rounds} rounds are too few or too many; allowed are {FEWEST_ROUNDS} to "
            f"{_MOST_ROUNDS:,}."
        )
    check_threads(threads)
    source = client.locate(model or None)
    checked_config(source, prompt_tokens, new_tokens)
    hardware = measure_hardware("cpu", threads, remeasure)
    return Outcome(measure(names, source, prompt_tokens, new_tokens, rounds, hardware), hardware)
