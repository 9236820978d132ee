"""`labkit bench`: variants of one model, interleaved on the same prompts, as a table and JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from labkit.errors import ParameterError
from labkit.limits.cost import decode_cost
from labkit.limits.probe import BandwidthProbe
from labkit.model.generate import check_lengths, generate
from labkit.model.load import LoadedModel, load
from labkit.model.reference import load_reference, reference_generate
from labkit.paths import atomic_write
from labkit.report.words import text_table
from labkit.timing.compare import Comparison, Variant, compare
from labkit.timing.environment import environment
from labkit.timing.statistics import FEWEST_ROUNDS, interval
from labkit.timing.trace import record, record_pushed
from labkit.workload.prompts import prompt_ids

# a variant's name -> the dtype it runs in
VARIANTS = {"transformers": "float32", "plain": "float32", "plain-bf16": "bfloat16"}


def _variant(name: str, model: LoadedModel, prompt_tokens: int, new_tokens: int) -> Variant:
    def ids(number: int) -> list[int]:
        return prompt_ids(model.tokenizer, prompt_tokens, number)

    if name == "transformers":
        reference = load_reference(model)

        def push_into(number: int) -> Callable[[Callable[[int], None]], None]:
            return lambda push: reference_generate(reference, ids(number), new_tokens, push)

        return lambda number: record_pushed(push_into(number), prompt_tokens)
    return lambda number: record(
        lambda: generate(model.decoder, ids(number), new_tokens), prompt_tokens
    )


def _check(names: list[str], rounds: int) -> None:
    unknown = [name for name in names if name not in VARIANTS]
    if unknown or not names:
        given = ", ".join(unknown) or "none"
        raise ParameterError(f"unknown variants: {given}; allowed: {', '.join(VARIANTS)}.")
    if len(set(names)) < len(names):
        raise ParameterError(f"each variant may be named once: {', '.join(names)}.")
    if rounds < FEWEST_ROUNDS:
        raise ParameterError(f"{rounds} rounds are too few; at least {FEWEST_ROUNDS} are needed.")


def _rows(
    result: Comparison, names: list[str], nbytes: dict[str, float]
) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for name in [*names, result.control]:
        read = nbytes.get(name, nbytes[names[0]])
        share = interval(result.fractions(name, lambda rate, read=read: read / rate))  # type: ignore[misc]
        rows.append(
            {
                "variant": name,
                "decode tok/s": f"{1 / result.median(name):.1f}",
                "speedup": str(result.speedup(name)),
                "verdict": result.verdict(name),
                "of its limit": f"{share.value:.0%}",
                "TTFT ms": f"{result.median(name, 'ttft') * 1e3:.0f}",
            }
        )
    return rows


def run(
    variants: str,
    prompt_tokens: int,
    new_tokens: int,
    rounds: int,
    model: str = "",
    json_path: Path | None = None,
) -> str:
    """The table of a comparison; the first variant is the baseline. Raises ParameterError."""
    names = [name.strip() for name in variants.split(",") if name.strip()]
    _check(names, rounds)
    loaded = {dtype: load(model or None, "cpu", dtype) for dtype in {VARIANTS[n] for n in names}}
    config = next(iter(loaded.values())).config
    check_lengths(config, prompt_tokens, new_tokens)
    middle = prompt_tokens + new_tokens // 2
    nbytes = {n: decode_cost(config, middle, dtype=VARIANTS[n]).read_bytes for n in names}
    runs = {n: _variant(n, loaded[VARIANTS[n]], prompt_tokens, new_tokens) for n in names}
    result = compare(runs, names[0], rounds, BandwidthProbe(int(max(nbytes.values()))))
    if json_path:
        everything = {"environment": environment(), "comparison": result.to_dict()}
        atomic_write(json_path, json.dumps(everything) + "\n")
    note = "" if result.trusted() else "\nThe A/A control failed: do not trust this comparison."
    return text_table(_rows(result, names, nbytes)) + note
