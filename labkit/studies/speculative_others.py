"""Other engines with their own speculation and without, on one task of notebook 05; and ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from labkit.base.units import seconds
from labkit.bench.client import Source
from labkit.bench.run import running
from labkit.bench.variants import VARIANTS
from labkit.engine.generate import generate
from labkit.model.config import ModelConfig
from labkit.model.forward import Forward
from labkit.model.reference import reference_generate
from labkit.report.told.words import effect
from labkit.studies.speculative_tasks import Case, Setting, speculated
from labkit.timing.compare import Comparison, Variant
from labkit.timing.statistics import paired_ratio
from labkit.timing.trace import Trace, record, record_pushed

# How transformers speculates: it copies from the prompt, or drafts with its own first layers.
TRANSFORMERS: dict[str, Callable[[ModelConfig], dict[str, Any]]] = {
    "transformers": lambda config: {},
    "transformers, prompt lookup": lambda config: {"prompt_lookup_num_tokens": 10},
    "transformers, own layers as assistant": lambda config: {
        "assistant_early_exit": max(1, config.layers // 3)
    },
}
_OURS, _OURS_PLAIN = "ours, automatic", "ours, without drafts"
_LLAMA, _LLAMA_PLAIN = "llama.cpp:lookup", "llama.cpp"
# Of an engine with speculation, the same engine without.
_WITHOUT = {
    **dict.fromkeys(list(TRANSFORMERS)[1:], "transformers"),
    _OURS: _OURS_PLAIN,
    _LLAMA: _LLAMA_PLAIN,
}


def against_transformers(
    target: Forward, reference: Any, case: Case, setting: Setting
) -> dict[str, Variant]:
    """Variants for `compare`: transformers' `generate` in three ways, and our decoder plainly and
    with a setting."""

    def theirs(how: Mapping[str, Any], number: int) -> Trace:
        def run(push: Callable[[int], None]) -> None:
            reference_generate(reference, case.prompt, len(case.answer), push, **how)

        return record_pushed(run, len(case.prompt), str(reference.device))

    def ours(number: int) -> Trace:
        return record(partial(speculated, target, case, setting), len(case.prompt))

    def plain(number: int) -> Trace:
        return record(partial(generate, target, case.prompt, len(case.answer)), len(case.prompt))

    runs: dict[str, Variant] = {
        name: partial(theirs, how(target.config)) for name, how in TRANSFORMERS.items()
    }
    return runs | {_OURS_PLAIN: plain, _OURS: ours}


def lookups(where: Source) -> list[str]:
    """Names of other engines, without and with their own speculation, that can run this model on
    this machine."""
    names = (_LLAMA_PLAIN, _LLAMA)
    return [name for name in names if where.gguf and VARIANTS[name].missing() is None]


@contextmanager
def other_engines(
    where: Source, case: Case, threads: int, with_peers: bool
) -> Iterator[tuple[dict[str, Variant], dict[str, str]]]:
    """The variants of `lookups` on a case, each in a process that lives as long as the block.

    Yields them for `compare`, and the reason for each that did not start. Without peers, none.
    """
    tokens, room = len(case.answer), len(case.prompt) + 64
    names = lookups(where) if with_peers else []
    with running(names, where, room, case.prompt, threads) as (asks, _, failed):
        yield {name: _variant(ask, case, tokens) for name, ask in asks.items()}, failed


def _variant(ask: Callable[..., Trace], case: Case, tokens: int) -> Variant:
    return lambda number: ask(case.prompt, tokens)


def rows_of_others(found: Comparison) -> list[dict[str, object]]:
    """A row an engine: the whole answer's time, and its speedup over the baseline and over the same
    engine without speculation."""
    rows: list[dict[str, object]] = []
    for name in found.variants:
        ratio = found.speedup(name, "e2e_latency")
        beside = name != found.baseline
        rows.append(
            {
                "engine and method": name,
                "end to end": seconds(found.mean(name, "e2e_latency")),
                f"against {found.baseline}": str(ratio) if beside else "–",
                "could have seen": effect(ratio.smallest_effect) if beside else "–",
                "against itself without drafts": _over_plain(found, name),
            }
        )
    return rows


def _over_plain(found: Comparison, name: str) -> str:
    """The speedup of an engine's speculation over the same engine without it; a dash for others."""
    plain = _WITHOUT.get(name)
    if plain is None or plain not in found.traces:
        return "–"
    taken = (found.values(one, "e2e_latency") for one in (plain, name))
    return str(paired_ratio(*taken))
