"""Findings in words: what the pages and the terminal say of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from labkit.report.finding import Finding
from labkit.units import seconds


def times(ratio: float) -> str:
    """2.345 -> 2.35x; large ratios with fewer digits."""
    return f"{ratio:.2f}x" if ratio < 10 else f"{ratio:,.0f}x"


def amount(value: float, unit: str) -> str:
    """A value with its unit, to three digits."""
    if unit == "s":
        return seconds(value)
    text = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{text} {unit}"


def phase(name: str) -> str:
    """end_to_end -> end to end."""
    return name.replace("_", " ")


def answers(quality: Mapping[str, Any]) -> str:
    """What it cost in answers."""
    if quality.get("lossless"):
        count = quality.get("tokens_compared")
        return f"same answer ({count:,} tokens)" if count else "same answer"
    parts = []
    if "top1_agreement" in quality:
        parts.append(f"{quality['top1_agreement']:.1%} same top token")
    if "kl_mean" in quality:
        parts.append(f"KL {quality['kl_mean']:.2g}")
    if "perplexity_ratio" in quality:
        parts.append(f"perplexity x{quality['perplexity_ratio']:.3f}")
    if not parts and quality.get("lossless") is False:
        parts.append("other answers")
    return ", ".join(parts) or "not stated"


def sentence(finding: Finding) -> str:
    """One finding as a sentence."""
    limit = ""
    if finding.fraction_of_limit is not None:
        limit = f", at {finding.fraction_of_limit:.0%} of its limit"
    return (
        f"{finding.variant} is {times(finding.speedup)} as fast as {finding.baseline} "
        f"[{finding.speedup_low:.2f}, {finding.speedup_high:.2f}] in {phase(finding.phase)}{limit}."
    )


def headline(findings: Sequence[Finding]) -> str:
    """The one sentence a run is about: its largest sure gain."""
    sure = [finding for finding in findings if finding.verdict == "faster"]
    if not findings:
        return "No findings yet."
    if not sure:
        return "Nothing was surely faster than its baseline."
    return sentence(max(sure, key=lambda finding: finding.speedup_low))


def text_table(rows: Sequence[Mapping[str, object]]) -> str:
    """Rows of the same keys for a terminal, columns aligned."""
    if not rows:
        return "nothing to show"
    columns = list(rows[0])
    lines = [columns, *([str(row.get(column, "")) for column in columns] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
