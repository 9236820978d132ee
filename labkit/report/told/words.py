"""Findings in words, for the pages and the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

from labkit.base.units import scaled, seconds
from labkit.report.told.finding import Finding

_SAME_BYTES = 0.02  # files of the same weights differ by as much in what they store beside them


def times(ratio: float) -> str:
    """2.345 -> 2.35x, 23.45 -> 23.4x, 234.5 -> 234x."""
    digits = 2 if ratio < 10 else 1 if ratio < 100 else 0
    return f"{ratio:,.{digits}f}x"


def interval(finding: Finding) -> str:
    """The speedup and its 95 % interval: 2.35x [2.20, 2.51], 170x [152, 191]."""
    low, high = (times(end)[:-1] for end in (finding.speedup_low, finding.speedup_high))
    return f"{times(finding.speedup)} [{low}, {high}]"


def percent(fraction: float) -> str:
    """0.614 -> 61 %, 0.0012 -> 0.12 %, 0.996 -> 99.6 %."""
    text = f"{100 * fraction:.0f}" if 0.1 <= fraction < 0.99 else f"{100 * fraction:.3g}"
    return f"{text}\u00a0%"


def effect(change: float) -> str:
    """The size of a change: 0.049 -> 4.9 %, 0.97 -> 97 %, 10.2 -> a factor of 11."""
    return percent(change) if change < 1 else f"a factor of {1 + change:,.2g}"


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


# What a quality may hold: its key, the beginning of the keys of its interval, the form of its
# number, and the words around it.
_QUALITIES = (
    ("top1_agreement", "top1", "{:.1%}", "{} same top token"),
    ("kl_mean", "kl_mean", "{:.2g}", "KL\u00a0{}"),
    ("perplexity_ratio", "perplexity", "{:.3f}", "perplexity x{}"),
)


def answers(quality: Mapping[str, Any]) -> str:
    """How much a variant's answers differ from the baseline's, from `quality` of its finding.

    What is no number where one belongs is left out: a file may hold anything.
    """
    if quality.get("lossless"):
        return _same(quality.get("tokens_compared"))
    parts = [
        around.format(form.format(quality[key]) + _within(quality, name, form))
        for key, name, form, around in _QUALITIES
        if is_number(quality.get(key))
    ]
    if not parts and quality.get("lossless") is False:
        parts.append("other answers")
    if parts and is_number(positions := quality.get("positions")):
        parts.append(f"{positions:,}\u00a0positions")
    return ", ".join(parts) or "not stated"


def _same(tokens: object) -> str:
    """One equal token is not yet an answer."""
    if not is_number(tokens):
        return "same answer"
    return "same first token" if tokens == 1 else f"same answer ({tokens:,}\u00a0tokens)"


def is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float)


def _within(quality: Mapping[str, Any], name: str, form: str) -> str:
    """The interval of a quality, in the form of its number; empty where none is known."""
    low, high = quality.get(f"{name}_low"), quality.get(f"{name}_high")
    if not (is_number(low) and is_number(high)):
        return ""
    return f" [{form.format(low)}, {form.format(high)}]"


def share(finding: Finding) -> str:
    """The share of the bare read with its interval, 82 % [79, 85]; empty where there is none."""
    if finding.of_bare_read is None:
        return ""
    return f"{percent(finding.of_bare_read)} {share_interval(finding)}"


def share_interval(finding: Finding) -> str:
    """The interval of the share of the bare read in percent, [79, 85]; empty without one."""
    low, high = finding.of_bare_read_low, finding.of_bare_read_high
    if low is None or high is None:
        return ""
    return f"[{percent(low)[:-2]}, {percent(high)[:-2]}]"


def held_against(finding: Finding) -> str:
    """What the share is of: the bare read of 538 MB, the int8 products alone."""
    return f"the {finding.bare_note or 'bare read'}"


def band(finding: Finding) -> str:
    """The limit, and what the slowest sustained rate of the run gives; empty without a limit."""
    if finding.limit is None:
        return ""
    best = amount(finding.limit, finding.unit)
    if finding.limit_low is None:
        return best
    return f"{best}; {amount(finding.limit_low, finding.unit)} by the slowest rate"


# What the columns of a table of findings mean.
COLUMNS = (
    "*Of the bare read*: the time to read the same bytes (or to do the same products) and nothing "
    "else, over the variant's time, paired in the same rounds; it leads, because both met the same "
    "minutes of the machine. *Of its limit*: the time by the best sustained rate of the whole run "
    "over the variant's time; the limit by the slowest sustained rate stands beside it. "
    "*Could have seen*: the least true change that these rounds would show four times in five, for "
    "one comparison alone; a verdict asks for more, as said below."
)


def how_to_read(findings: Sequence[Finding]) -> str:
    """What the columns of a notebook's table of findings mean, and why limits are missing."""
    tested = sum(finding.p_value is not None for finding in findings)
    told = (
        f"{COLUMNS} Verdicts are corrected for the {tested} comparisons of this page together "
        "(Holm), and need a control that shows no difference and is narrower than the effect; each "
        "interval is 95 % by itself."
    )
    missing = dict.fromkeys(f.limit_note for f in findings if f.limit is None and f.limit_note)
    return told + _beyond_limit(findings) + "".join(f" No limit: {note}." for note in missing)


def _beyond_limit(findings: Sequence[Finding]) -> str:
    """Which bare work was surely faster than the rate of the limit, and what that means."""
    beyond = {
        held_against(f): f"{times(value)} [{low:.2f}, {high:.2f}]"
        for f in findings
        if (value := f.bare_over_limit) is not None
        and (low := f.bare_over_limit_low) is not None
        and (high := f.bare_over_limit_high) is not None
        and low > 1
    }
    if not beyond:
        return ""
    rates = ", ".join(
        f"{name} ran at {ratio} the rate of the limit" for name, ratio in beyond.items()
    )
    return (
        f" Faster than the limit: {rates}. So the machine was faster in these rounds than when the "
        "limit was measured. For the variants compared with it, the fraction of the limit is "
        "larger than the share by that factor."
    )


def reached(finding: Finding) -> str:
    """How close a finding came: to the bare read, with the interval, then to the run's limit."""
    parts = []
    if finding.of_bare_read is not None:
        parts.append(f"{share(finding)} of {held_against(finding)}")
    if finding.fraction_of_limit is not None:
        parts.append(f"{percent(finding.fraction_of_limit)} of its limit ({band(finding)})")
    return " and ".join(parts)


def sentence(finding: Finding) -> str:
    """One finding as a sentence: how close it came, then how fast it was beside its baseline."""
    close, where = reached(finding), f"in {phase(finding.phase)}".replace("in end", "end")
    as_ = "short" if finding.metric == "itl" else "fast"  # a gap between tokens is not fast
    faster = f"{interval(finding)} as {as_} as {finding.baseline}"
    told = f"reaches {close} {where}; it is {faster}" if close else f"is {faster} {where}"
    return f"{finding.variant} {told}."


def headline(findings: Sequence[Finding]) -> str:
    """The sentences at the top of a run: the number of findings, the one that came closest to the
    bare read, the largest sure gain, and ours against the fastest engine of the same bytes."""
    if not findings:
        return "No findings yet."
    notebooks = len({finding.notebook for finding in findings})
    said = [f"{_count(len(findings), 'finding')} from {_count(notebooks, 'notebook')}."]
    if best := closest(findings):
        said.append(
            f"Closest to its bare work in {phase(best.phase)}: {best.variant}, {share(best)} of "
            f"{held_against(best)}."
        )
    # A gap between tokens of some requests is no speed of the whole.
    sure = [f for f in findings if f.verdict == "faster" and f.metric != "itl"]
    if sure:
        most = max(sure, key=lambda f: f.speedup_low)
        said.append(
            f"The largest sure gain: {most.variant} is {interval(most)} as fast as "
            f"{most.baseline}, in {phase(most.phase)}{_both_bytes(most)}."
        )
    else:
        said.append("Nothing was surely faster than its baseline.")
    if rival := fastest_rival(findings):
        unsure = "" if rival.verdict in ("faster", "slower") else f" ({rival.verdict})"
        said.append(
            f"On the same bytes, {scaled(rival.bytes_read or 0.0, 'B')} a token, {rival.variant} "
            f"is {interval(rival)} as fast as {rival.baseline}{unsure}."
        )
    return " ".join(said)


def _both_bytes(finding: Finding) -> str:
    """What a token reads of the variant's bytes and of the baseline's, where both are known."""
    if finding.bytes_read is None or finding.baseline_bytes is None:
        return ""
    own, other = scaled(finding.bytes_read, "B"), scaled(finding.baseline_bytes, "B")
    return f"; {finding.variant} reads {own} a token, {finding.baseline} {other}"


def same_bytes(one: float, other: float) -> bool:
    """Whether two steps read the same weights in the same form, by their bytes."""
    return abs(one / other - 1) < _SAME_BYTES


def fastest_rival(findings: Sequence[Finding]) -> Finding | None:
    """Of the findings against another engine whose decode step reads as many bytes, the one whose
    baseline is the fastest."""
    same = [
        finding
        for finding in findings
        if finding.phase == "decode"
        and finding.unit == "tok/s"
        and finding.bytes_read
        and finding.baseline_bytes
        and same_bytes(finding.bytes_read, finding.baseline_bytes)
        and engine_name(finding.engine.get("baseline")) not in ("", engine_name(finding.engine))
    ]
    return max(same, key=lambda finding: finding.baseline_value, default=None)


def engine_name(record: object) -> str:
    """The name in the record of an engine; a file may hold anything."""
    return str(record.get("name", "")) if isinstance(record, Mapping) else ""


def closest(findings: Sequence[Finding]) -> Finding | None:
    """The finding with the highest share of its bare work, by the lower end of its interval; of
    those in decode, where there are any."""
    told = [finding for finding in findings if finding.of_bare_read_low is not None]
    decode = [finding for finding in told if finding.phase == "decode"]
    return max(decode or told, key=lambda f: f.of_bare_read_low or 0.0, default=None)


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def printable(text: str) -> str:
    """Text without what could move a terminal's cursor or change its colours."""
    return "".join(c if c.isprintable() or c == "\u00a0" else "\ufffd" for c in text)


def text_table(rows: Sequence[Mapping[str, object]]) -> str:
    """Rows of the same keys as text in aligned columns, for a terminal."""
    if not rows:
        return "nothing to show"
    columns = list(rows[0])
    cells = [columns, *([str(row.get(column, "")) for column in columns] for row in rows)]
    lines = [[printable(cell) for cell in line] for line in cells]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
