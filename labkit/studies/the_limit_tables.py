"""The rows of notebook 15's tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from labkit.base.units import scaled, seconds
from labkit.bench.client import Loaded
from labkit.bench.costs import Products
from labkit.bench.run import Measured
from labkit.limits.cost import prefill_cost
from labkit.limits.datasheet import machines
from labkit.limits.hardware import Hardware
from labkit.report.told.compared import Least
from labkit.report.told.words import effect
from labkit.studies.fused_stages import STEP, Share, rows_name, summed
from labkit.studies.lab import Lab, told_fraction, told_share
from labkit.studies.the_limit_variants import engine, over
from labkit.timing.compare import Comparison
from labkit.timing.statistics import Ratio

Row = dict[str, object]


def of_values(values: Mapping[str, float], name: str, interval: str, form: str) -> str:
    """A judged value with its interval: 0.0030 [0.0027, 0.0033]."""
    low, high = values[f"{interval}_low"], values[f"{interval}_high"]
    return f"{values[name]:{form}} [{low:{form}}, {high:{form}}]"


# Columns of the table of answers: what is judged, the name of its interval, and how it is told.
_ANSWERS = {
    "mean KL, nats": ("kl_mean", "kl_mean", ".2g"),
    "KL, 99th percentile": ("kl_p99", "kl_p99", ".2g"),
    "same top token": ("top1_agreement", "top1", ".1%"),
    "perplexity ratio": ("perplexity_ratio", "perplexity", ".4f"),
    "right answers": ("task_score", "task_score", ".0%"),
}


def answers(judged: Mapping[str, Mapping[str, float]], names: Iterable[str]) -> list[Row]:
    """How far each variant's answers are from the exact ones, and how many are right."""
    rows: list[Row] = []
    for name in names:
        if name in judged:
            row: Row = {"variant": name}
            for column, (value, *told) in _ANSWERS.items():
                if value in judged[name]:
                    row[column] = of_values(judged[name], value, *told)
            rows.append(row)
    return rows


def expected_decode(lab: Lab, expected: Mapping[str, float]) -> list[Row]:
    """The limit of a token for each form of the weights."""
    hardware = lab.hardware
    return [
        {
            "weights": name,
            "bytes read a token": scaled(nbytes, "B"),
            "sustained read, best": scaled(hardware.bandwidth(nbytes), "B/s"),
            "slowest": scaled(hardware.slowest_bandwidth(nbytes), "B/s"),
            "limit": f"{hardware.bandwidth(nbytes) / nbytes:,.0f} tok/s",
            "at the slowest": f"{hardware.slowest_bandwidth(nbytes) / nbytes:,.0f} tok/s",
        }
        for name, nbytes in expected.items()
    ]


def expected_prefill(lab: Lab) -> list[Row]:
    """The limit of the prompt by the arithmetic of its products."""
    tokens = lab.workload.prompt_tokens
    rows: list[Row] = []
    for dtype, reading in lab.hardware.matrix.items():
        least = lab.least(prefill_cost(lab.config, tokens, dtype=dtype)).seconds
        rows.append(
            {
                "products in": dtype,
                "sustained rate, best": scaled(reading.best, "FLOP/s"),
                "slowest": scaled(reading.slowest, "FLOP/s"),
                "limit": f"{tokens / least:,.0f} tok/s",
            }
        )
    return rows


def engines(loaded: Mapping[str, Loaded], names: Iterable[str]) -> list[Row]:
    """What was run: versions, weights and builds; and what an engine's check found."""
    rows: list[Row] = []
    for name in names:
        one, told = loaded[name], engine(name, loaded[name])
        row: Row = {"variant": name, "engine": f"{told['name']} {told['version']}"}
        row["weights"] = one.weights
        rows.append(row | {"build": one.build or "–", "link": one.link or "–"})
    if any(loaded[str(row["variant"])].note for row in rows):
        for row in rows:
            row["note"] = loaded[str(row["variant"])].note or "–"
    return rows


def _told(lab: Lab, found: Measured, name: str, time: str, tokens: int) -> Row:
    """The columns that decode and prefill share: the value, the share, and the limit."""
    comparison, cost = found.comparison, found.costs.get((name, time))
    share = comparison.share(name, time)
    work = "the bare read" if time == "tpot" else "the bare work"
    row: Row = {
        "tok/s": tokens / comparison.mean(name, time),
        f"of {work}": "–" if share is None else told_share(share),
    }
    if cost is None:
        return row | {"limit, tok/s": "–", "of its limit": "–"}
    fraction = told_fraction(lab.fraction(comparison, name, cost, time))
    held = lab.least(cost).standing(comparison.mean(name, time))
    return row | {"limit, tok/s": _rate(held, tokens), "of its limit": fraction}


def _rate(least: Least | None, tokens: int) -> str:
    """A limit in tokens/s, by the best rate (by the slowest); a dash for none."""
    if least is None:
        return "–"
    slowest = f" ({tokens / least.slowest:,.0f})" if least.slowest else ""
    return f"{tokens / least.seconds:,.0f}{slowest}"


def decode(lab: Lab, found: Measured, names: Iterable[str]) -> list[Row]:
    """Decoding: each variant against the bare read of its bytes, and against its limit."""
    comparison, costs, loaded = found
    rows: list[Row] = []
    for name in names:
        cost = costs.get((name, "tpot"))
        rows.append(
            {
                "variant": name,
                "weights": "the model's" if loaded[name].same_weights else "rounded anew",
                "bytes read a token": scaled(cost.read_bytes, "B") if cost else "–",
            }
            | _told(lab, found, name, "tpot", 1)
            | _speedup(comparison, name, "tpot")
        )
    return rows


def prefill(
    lab: Lab, found: Measured, arithmetic: Mapping[str, Products], names: Iterable[str]
) -> list[Row]:
    """Reading the prompt: each variant against the bare products of its arithmetic."""
    comparison = found.comparison
    rows: list[Row] = []
    for name in names:
        first: Row = {"variant": name, "products in": arithmetic[name].dtype or "not known"}
        told = _told(lab, found, name, "ttft", lab.workload.prompt_tokens)
        rows.append(first | told | _speedup(comparison, name, "ttft"))
    return rows


def _speedup(comparison: Comparison, name: str, time: str) -> Row:
    header = f"against {comparison.baseline}"
    if name == comparison.baseline:
        return {header: "–", "could have seen": "–"}
    ratio = comparison.speedup(name, time)
    return {header: str(ratio), "could have seen": effect(ratio.smallest_effect)}


def beside(found: Measured, mine: str, others: Iterable[str]) -> list[Row]:
    """One variant over each of the others, those with the nearest bytes first."""
    comparison, costs, loaded = found
    own = costs[mine, "tpot"].read_bytes

    def apart(name: str) -> float:
        return abs(_times_the_bytes(found, name, own) - 1)

    rows: list[Row] = []
    for name in sorted((n for n in others if (n, "tpot") in costs), key=apart):
        ratio = over(comparison, mine, name)
        rows.append(
            {
                "against": name,
                "weights": loaded[name].weights,
                "its bytes over ours": f"{_times_the_bytes(found, name, own):.2f}",
                f"{mine} is": str(ratio),
                "could have seen": effect(ratio.smallest_effect),
            }
        )
    return rows


def _times_the_bytes(found: Measured, name: str, own: float) -> float:
    return found.costs[name, "tpot"].read_bytes / own


def stages(shares: Mapping[str, Share], step: float | None) -> list[Row]:
    """The share of a decode step that each stage takes; step: its seconds, where known."""
    rows: list[Row] = []
    for name, share in shares.items():
        row: Row = {"stage": name, "share of a step": "not measurable"}
        if share.measurable:
            low, high = 100 * share.low, 100 * share.high
            row["share of a step"] = f"{share.value:.0%} [{low:.0f}, {high:.0f}]"
        if step is not None:
            row["time"] = seconds(share.value * step) if share.measurable else "–"
        rows.append(row)
    return rows + _sum(shares, list(rows[0]) if rows else [])


def _sum(shares: Mapping[str, Share], columns: list[str]) -> list[Row]:
    """A row for the sum of the stages where it is more than the step, for then it is no sum of
    parts: each was left out by itself, and two that wait for each other both save the same time."""
    whole = summed(shares)
    if round(whole, 2) <= 1:
        return []
    told = {"stage": "sum of the stages: they overlap, for each was left out by itself"}
    row: Row = dict.fromkeys(columns, "–")
    return [row | told | {"share of a step": f"{whole:.0%}"}]


def more_rows(passes: Comparison, counts: Iterable[int]) -> list[Row]:
    """T(k) / T(1) of passes of more rows."""
    rows: list[Row] = [{"rows in a pass": 1, "T(k) / T(1)": "1", "could have seen": "–"}]
    for count in sorted(set(counts) - {1}):
        ratio = over(passes, STEP, rows_name(count))
        rows.append(
            {
                "rows in a pass": count,
                "T(k) / T(1)": f"{ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]",
                "could have seen": effect(ratio.smallest_effect),
            }
        )
    return rows


def elsewhere(expected: Mapping[str, float]) -> list[Row]:
    """The decode limit on machines of the datasheet table, in tokens/s."""

    def told(machine: Hardware, nbytes: float) -> str:
        if machine.in_cache(nbytes):
            return "fits its cache"
        return f"{machine.bandwidth(nbytes) / nbytes:,.0f}"

    return [
        dict(machine=machine.name, **{name: told(machine, n) for name, n in expected.items()})
        for machine in machines().values()
    ]


def told_time(ratio: Ratio) -> str:
    """Seconds with their interval: 3.04 ms [2.98 ms, 3.1 ms]."""
    return f"{seconds(ratio.value)} [{seconds(ratio.low)}, {seconds(ratio.high)}]"
