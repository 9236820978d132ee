"""Findings in words, for the pages and the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from labkit.base.units import seconds
from labkit.report.told.finding import Finding


def times(ratio: float) -> str:
    """2.345 -> 2.35x, 23.45 -> 23.4x, 234.5 -> 234x."""
    digits = 2 if ratio < 10 else 1 if ratio < 100 else 0
    return f"{ratio:,.{digits}f}x"


def interval(finding: Finding) -> str:
    """The speedup and its 95 % interval: 2.35x [2.20, 2.51]."""
    return f"{times(finding.speedup)} [{finding.speedup_low:.2f}, {finding.speedup_high:.2f}]"


def percent(fraction: float) -> str:
    """0.614 -> 61 %, 0.0012 -> 0.12 %, 0.996 -> 99.6 %."""
    text = f"{100 * fraction:.0f}" if 0.1 <= fraction < 0.99 else f"{100 * fraction:.3g}"
    return f"{text}\u00a0%"


def amount(value: float, unit: str) -> str:
    """A value with three digits and its unit; a line never breaks between them."""
    digits = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    text = seconds(value) if unit == "s" else f"{digits} {unit}".strip()
    return text.replace(" ", "\u00a0")


def took(duration: float | None) -> str:
    """How long a notebook ran: 7 s, 2 min 05 s."""
    if duration is None:
        return "–"
    minutes, rest = divmod(round(duration), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def phase(name: str) -> str:
    """end_to_end -> end to end."""
    return name.replace("_", " ")


def metric(name: str) -> str:
    """ttft -> TTFT, decode_rate -> decode rate."""
    short = {"ttft", "itl", "tpot", "mbu", "mfu", "e2e"}
    return " ".join(word.upper() if word in short else word for word in name.split("_"))


def answers(quality: Mapping[str, Any]) -> str:
    """How much a variant's answers differ from the baseline's, from `quality` of its finding."""
    if quality.get("lossless"):
        count = quality.get("tokens_compared")
        return f"same answer ({count:,}\u00a0tokens)" if count else "same answer"
    parts = []
    if "top1_agreement" in quality:
        parts.append(f"{quality['top1_agreement']:.1%} same top token")
    if "kl_mean" in quality:
        parts.append(f"KL\u00a0{quality['kl_mean']:.2g}")
    if "perplexity_ratio" in quality:
        parts.append(f"perplexity\u00a0x{quality['perplexity_ratio']:.3f}")
    if not parts and quality.get("lossless") is False:
        parts.append("other answers")
    return ", ".join(parts) or "not stated"


def sentence(finding: Finding) -> str:
    """One finding as a sentence."""
    limit = ""
    if finding.fraction_of_limit is not None:
        limit = f", at {percent(finding.fraction_of_limit)} of its limit"
    low, high = finding.speedup_low, finding.speedup_high
    return (
        f"{finding.variant} is {times(finding.speedup)} as fast as {finding.baseline} "
        f"[{low:.2f}, {high:.2f}] in {phase(finding.phase)}{limit}."
    )


def headline(findings: Sequence[Finding]) -> str:
    """The sentences at the top of a run: the number of findings, and the largest sure gain."""
    if not findings:
        return "No findings yet."
    notebooks = len({finding.notebook for finding in findings})
    count = f"{_count(len(findings), 'finding')} from {_count(notebooks, 'notebook')}."
    sure = [finding for finding in findings if finding.verdict == "faster"]
    if not sure:
        return f"{count} Nothing was surely faster than its baseline."
    return f"{count} The largest sure gain: {sentence(max(sure, key=lambda f: f.speedup_low))}"


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def text_table(rows: Sequence[Mapping[str, object]]) -> str:
    """Rows of the same keys as text in aligned columns, for a terminal."""
    if not rows:
        return "nothing to show"
    columns = list(rows[0])
    lines = [columns, *([str(row.get(column, "")) for column in columns] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
