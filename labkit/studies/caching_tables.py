"""The tables of notebook 06."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from labkit.base.units import scaled, seconds
from labkit.limits.calculator import shapes
from labkit.limits.cost import prefill_cost
from labkit.limits.datasheet import machine
from labkit.limits.prefix import break_even
from labkit.limits.roofline import fits, limit
from labkit.report.told.compared import told_value
from labkit.report.told.words import effect, percent
from labkit.studies.caching_first import CACHED, RECOMPUTED, WAYS, FirstTokens
from labkit.studies.caching_loads import OFF, ON, RECALLED, TIME, Load
from labkit.studies.caching_near import KINDS, Cell
from labkit.studies.caching_parts import Turn, mean_of
from labkit.studies.lab import told_fraction, told_share
from labkit.studies.predictions import limit_told
from labkit.timing.compare import Comparison
from labkit.timing.statistics import Ratio

Row = dict[str, object]
_PROMPT = 1024  # tokens at which other machines are judged
_MACHINES = ("raspberry-pi-5", "epyc-9654", "m4-max", "rtx-4090", "h100-sxm")
_MODELS = ("smollm2-135m", "qwen3-0.6b", "llama-3.1-8b", "qwen3-32b")


def told_seconds(found: Ratio) -> str:
    """A cell: 12 ms [11 ms, 13 ms]."""
    return f"{seconds(found.value)} [{seconds(found.low)}, {seconds(found.high)}]"


def expected_first(first: FirstTokens) -> list[Row]:
    """A row for each prefix: the limit of the first token in each way, and the predicted time."""
    rows: list[Row] = []
    for length in first.prefixes:
        row: Row = {"shared tokens": length}
        for way in WAYS:
            least = limit_told(first.limit(way, length))
            row[way] = f"{seconds(first.expected_seconds(way, length))} ({least})"
        rows.append(row)
    return rows


def expected_loads(loads: Iterable[Load]) -> list[Row]:
    """A row for each load: what an earlier one of other texts leads to expect."""
    return [
        {
            "load": one.name,
            "requests": len(one.workloads[0].requests),
            "prompt tokens": one.earlier[OFF].asked,
            "hit rate": percent(one.earlier[ON].hit_rate),
            "share of prefill": percent(one.prefill_share),
            "predicted gain": f"{one.expected:.2f}x",
        }
        for one in loads
    ]


def first_tokens(first: FirstTokens) -> list[Row]:
    """A row for each prefix and way: its time against recomputing and against its limit."""
    rows: list[Row] = []
    for length, found in first.comparisons.items():
        for way in (*found.variants, found.control):
            rows.append({"shared tokens": length} | _first_row(first, found, length, way))
    return rows


def _first_row(first: FirstTokens, found: Comparison, length: int, way: str) -> Row:
    ratio, share = found.speedup(way, "ttft"), found.share(way, "ttft")
    least = first.least(RECOMPUTED if way == found.control else way, length)
    held = least.standing(found.mean(way, "ttft"))
    alone = way == RECOMPUTED
    return {
        "prefix": way,
        "first token": told_value(found, way, "ttft"),
        "times as soon": "–" if alone else str(ratio),
        "could have seen": "–" if alone else effect(ratio.smallest_effect),
        "of the bare work": "–" if share is None else told_share(share),
        "limit": limit_told(held),
        "of its limit": told_fraction(least.fraction(found.mean(way, "ttft"))),
        "at their limits": "–" if alone or held is None else _times(first, found, way, length),
    }


def _times(first: FirstTokens, found: Comparison, way: str, length: int) -> str:
    """The gain at both limits; a dash where computing beat its own."""
    computing = first.least(RECOMPUTED, length).standing(found.mean(RECOMPUTED, "ttft"))
    return f"{first.gain(way, length):.3g}x" if way in CACHED and computing else "–"


def whole_loads(loads: Iterable[Load]) -> list[Row]:
    """A row for each load and cache: what was hit, and what that saved."""
    rows: list[Row] = []
    for one in loads:
        found = one.comparison
        for way in found.variants:
            ratio = found.speedup(way, TIME)
            hit, saved = _hit(one, way)
            rows.append(
                {
                    "load": one.name,
                    "engine": way,
                    "hit": hit,
                    "prefill saved": saved,
                    "output throughput": f"{1 / found.mean(way, TIME):,.0f} tok/s",
                    "speedup": "–" if way == OFF else str(ratio),
                    "could have seen": "–" if way == OFF else effect(ratio.smallest_effect),
                }
            )
    return rows


def _hit(one: Load, way: str) -> tuple[str, str]:
    """Cells: what the cache had, and the share of the time of prefill that it saved."""
    if way == ON:
        return f"{percent(one.hit_rate)} of prompt tokens", percent(one.prefill_saved)
    if way == RECALLED:
        told = f"{percent(one.recalled)} of requests ({percent(one.recallable)} are repeated)"
        return told, "–"
    return "–", "–"


def controls(loads: Iterable[Load]) -> list[Row]:
    """A row for each load: no cache against itself."""
    return [
        {
            "load": one.name,
            "no cache, again": str(one.comparison.speedup(one.comparison.control, TIME)),
        }
        for one in loads
    ]


def near(cells: Mapping[tuple[str, float], Cell]) -> list[Row]:
    """A row for each way to compare and threshold: which questions were answered from the cache,
    and how many of these answers are wrong."""
    return [
        {
            "compared by": way,
            "threshold": f"{threshold:g}",
            **{kind: f"{cell.answered[kind]} of {cell.asked[kind]}" for kind in KINDS},
            "wrong answers": f"{cell.wrong} of {cell.hits}",
            "wrong-answer rate": told_rate(cell.wrong_rate),
        }
        for (way, threshold), cell in cells.items()
    ]


def told_rate(found: tuple[float, float, float] | None) -> str:
    """A cell: 12% [5, 24]; a dash where the cache answered nothing."""
    if found is None:
        return "–"
    value, low, high = found
    return f"{value:.0%} [{100 * low:.0f}, {100 * high:.0f}]"


def where_time_goes(turns: Sequence[Turn], found: Comparison, length: int) -> list[Row]:
    """A row for each way after the longest prefix: its passes, and the engine's own part."""
    rows: list[Row] = []
    for way in found.variants:
        passes, own = mean_of(turns, length, way)
        rows.append(
            {
                "prefix": way,
                "first token": seconds(found.mean(way, "ttft")),
                "passes": seconds(passes),
                "the engine itself": seconds(own),
            }
        )
    return rows


def elsewhere() -> list[Row]:
    """A row for each machine: the rate above which a disk is worth reading, by model."""
    rows: list[Row] = []
    for there in map(machine, _MACHINES):
        row: Row = {"machine": there.name}
        for name in _MODELS:
            config = shapes()[name]
            if not fits(config, there, "bfloat16"):
                row[name] = "does not fit"
                continue
            least = limit(prefill_cost(config, _PROMPT, dtype="bfloat16"), there)
            rate = break_even(config.kv_bytes_per_token(2), least.rate(_PROMPT))
            row[name] = scaled(rate, "B/s")
        rows.append(row)
    return rows
