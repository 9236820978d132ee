"""Traces that were recorded elsewhere: when requests came and how long they were.

Two forms are read. Mooncake (2407.00079): JSON lines with `timestamp` (ms), `input_length`,
`output_length` and `hash_ids`; prompts with the same id at the same place have the same 512 tokens
there and all before it. BurstGPT (2401.17644): CSV with the columns Timestamp (s), Model, Request
tokens, Response tokens, Total tokens and Log Type. Neither holds texts; replay.py draws tokens.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labkit.errors import LabkitError

BLOCK = 512  # tokens of one hash id in Mooncake's traces
_MOST_TOKENS = 2**24  # of a prompt or an answer; no model reads as many
_MOONCAKE = ("timestamp", "input_length", "output_length", "hash_ids")
_BURSTGPT = (
    "Timestamp", "Model", "Request tokens", "Response tokens", "Total tokens", "Log Type",
)  # fmt: skip


class TraceError(LabkitError):
    """A trace file that cannot be read, or a line of it that is damaged."""


@dataclass(frozen=True)
class TracedRequest:
    """One line of a trace. due: seconds after the first. hash_ids: one for each BLOCK tokens of the
    prompt, the last one for what is left; empty where the trace has none."""

    due: float
    prompt_tokens: int
    new_tokens: int
    hash_ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class RecordedTrace:
    """The requests of a trace file, by the time they came. failed: lines without an answer."""

    name: str
    requests: tuple[TracedRequest, ...]
    failed: int = 0


def read_mooncake(path: Path) -> RecordedTrace:
    """A trace in Mooncake's form. Raises TraceError; a damaged line is named by its number."""
    lines = enumerate(_text(path).splitlines(), 1)
    read = (_line(path, number, _mooncake, line) for number, line in lines if line.strip())
    return _recorded(path, read)


def read_burstgpt(path: Path) -> RecordedTrace:
    """A trace in BurstGPT's form; a request that failed there (0 response tokens) is left out.

    Raises TraceError; a damaged line is named by its number.
    """
    table = csv.reader(io.StringIO(_text(path), newline=""))
    lines = _whole(path, table)
    header = tuple(next(lines, ()))
    if header != _BURSTGPT:
        raise TraceError(
            f"{path.name}: the first line must be {','.join(_BURSTGPT)}; it is "
            f"{','.join(header)[:200]!r}."
        )
    rows = ((table.line_num, row) for row in lines if row)
    return _recorded(path, (_line(path, number, _burstgpt, row) for number, row in rows))


def _whole(path: Path, table: Any) -> Iterator[list[str]]:
    """The rows of a table; TraceError where it is none, for a quote that does not end, say."""
    try:
        yield from table
    except csv.Error as error:
        raise TraceError(f"{path.name}, line {table.line_num}: {error}.") from error


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise TraceError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise TraceError(f"{path.name} is no text in UTF-8: a byte at {error.start}.") from error


def _line(
    path: Path, number: int, read: Callable[[Any], TracedRequest], line: Any
) -> TracedRequest:
    try:
        return read(line)
    except (ValueError, RecursionError) as error:
        raise TraceError(f"{path.name}, line {number}: {error}") from error


def _recorded(path: Path, read: Iterator[TracedRequest]) -> RecordedTrace:
    """Requests in order, the first due at 0; times that go back are no trace."""
    every = list(read)
    kept = [one for one in every if one.new_tokens]
    if not kept:
        raise TraceError(f"{path.name} has no request with an answer.")
    times = [one.due for one in kept]
    if (before := next((k for k in range(1, len(times)) if times[k] < times[k - 1]), 0)) > 0:
        raise TraceError(
            f"{path.name}: request {before + 1} comes at {times[before]:g} s, before the one above "
            "it. Sort the lines by their time."
        )
    shifted = (
        TracedRequest(one.due - times[0], one.prompt_tokens, one.new_tokens, one.hash_ids)
        for one in kept
    )
    return RecordedTrace(path.stem, tuple(shifted), len(every) - len(kept))


def _mooncake(line: str) -> TracedRequest:
    found = json.loads(line)
    if not isinstance(found, dict) or set(found) != set(_MOONCAKE):
        keys = ", ".join(sorted(found)) if isinstance(found, dict) else type(found).__name__
        raise ValueError(f"it must have the keys {', '.join(_MOONCAKE)}; it has {keys[:200]}.")
    prompt = _tokens(found, "input_length")
    ids = found["hash_ids"]
    if not isinstance(ids, list) or any(type(one) is not int or one < 0 for one in ids):
        raise ValueError("hash_ids must be a list of whole numbers from 0 on.")
    if len(ids) != math.ceil(prompt / BLOCK):
        raise ValueError(
            f"{prompt} tokens have {math.ceil(prompt / BLOCK)} blocks of {BLOCK}, and hash_ids "
            f"names {len(ids)}."
        )
    due = _seconds(found["timestamp"]) / 1e3
    return TracedRequest(due, prompt, _tokens(found, "output_length", 0), tuple(ids))


def _burstgpt(row: list[str]) -> TracedRequest:
    if len(row) != len(_BURSTGPT):
        raise ValueError(f"it has {len(row)} values, and there are {len(_BURSTGPT)} columns.")
    named = dict(zip(_BURSTGPT, row, strict=True))
    prompt, new = _tokens(named, "Request tokens"), _tokens(named, "Response tokens", 0)
    if (total := _tokens(named, "Total tokens")) != prompt + new:
        raise ValueError(f"{prompt} and {new} tokens are not {total} in total.")
    return TracedRequest(_seconds(named["Timestamp"]), prompt, new)


def _tokens(found: Mapping[str, Any], key: str, least: int = 1) -> int:
    """A number of tokens, as a whole number or as its text."""
    value = found[key]
    whole = int(value) if isinstance(value, str) and value.isascii() and value.isdigit() else value
    if type(whole) is not int or not least <= whole <= _MOST_TOKENS:
        raise ValueError(
            f"{key} must be a whole number from {least} to {_MOST_TOKENS}: {value!r:.60}."
        )
    return whole


def _seconds(value: Any) -> float:
    """A time from 0 on, as a number or as its text."""
    try:
        time = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, OverflowError):
        time = math.nan
    if not 0 <= time < math.inf:
        raise ValueError(f"a time must be a number from 0 on: {value!r:.60}.")
    return time
