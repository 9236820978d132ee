"""A small trace of our own making, in both forms: for tests and for a replay without a download.

    python -m labkit.workload.own_trace FOLDER --seed 0

It is drawn, not recorded. Chats begin in bursts, with one system prompt of a block; each turn's
prompt is the chat so far. Lengths are heavy-tailed. The two files tell the same requests.
"""

from __future__ import annotations

import csv
import io
import json
import math
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import click

from labkit.base.paths import atomic_write
from labkit.workload.arrivals import bursty
from labkit.workload.lengths import heavy_tailed
from labkit.workload.recorded import BLOCK, RecordedTrace, read_burstgpt, read_mooncake
from labkit.workload.streams import Use, stream

_CHATS, _RATE, _DISPERSION = 24, 0.5, 4.0
_TURNS = 1.6  # of a chat, beyond the first one, on average
_THINK = 20.0  # seconds between an answer and the next question, on average
MOONCAKE, BURSTGPT = "own_mooncake.jsonl", "own_burstgpt.csv"


class Line(NamedTuple):
    """A request: when it comes, in ms, its lengths, and the ids of the blocks of its prompt."""

    timestamp: int
    input_length: int
    output_length: int
    hash_ids: list[int]


def lines(seed: int = 0) -> list[Line]:
    """The requests of all chats, by the time they come."""
    thinking = stream(seed, Use.THINKING)
    turns = [1 + int(n) for n in stream(seed, Use.TEXT).poisson(_TURNS, _CHATS)]
    asked = iter(heavy_tailed(sum(turns), 300, 1.0, stream(seed, Use.PROMPT_LENGTHS), 8, 4000))
    answers = iter(heavy_tailed(sum(turns), 120, 0.9, stream(seed, Use.OUTPUT_LENGTHS), 1, 1000))
    found: list[Line] = []
    next_id = 1  # 0 is the block of the system prompt
    for arrival, count in zip(bursty(_RATE, _CHATS, _DISPERSION, seed), turns, strict=True):
        due, tokens, ids = arrival.due, BLOCK, [0]
        for _ in range(count):
            tokens += next(asked)
            new = math.ceil(tokens / BLOCK) - len(ids)
            ids, next_id = [*ids, *range(next_id, next_id + new)], next_id + new
            found.append(Line(round(1e3 * due), tokens, next(answers), ids))
            # The last block goes on with the answer, which makes it another one.
            tokens, ids = tokens + found[-1].output_length, ids[: tokens // BLOCK]
            due += float(thinking.exponential(_THINK))
    return sorted(found)


def as_mooncake(made: list[Line]) -> str:
    return "".join(json.dumps(one._asdict()) + "\n" for one in made)


def as_burstgpt(made: list[Line]) -> str:
    file = io.StringIO()
    rows = csv.writer(file, lineterminator="\n")
    rows.writerow(
        ("Timestamp", "Model", "Request tokens", "Response tokens", "Total tokens", "Log Type")
    )
    for one in made:
        lengths = (one.input_length, one.output_length, one.input_length + one.output_length)
        rows.writerow((one.timestamp / 1e3, "own", *lengths, "Conversation log"))
    return file.getvalue()


def own_trace() -> RecordedTrace:
    """The trace that comes with labkit, with hash ids."""
    return read_mooncake(Path(str(resources.files("labkit.workload") / "traces" / MOONCAKE)))


def own_trace_without_ids() -> RecordedTrace:
    """The same requests in BurstGPT's form, which tells of no shared prefixes."""
    return read_burstgpt(Path(str(resources.files("labkit.workload") / "traces" / BURSTGPT)))


@click.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0))
def main(folder: Path, seed: int) -> None:
    """Write the trace to FOLDER in both forms."""
    made = lines(seed)
    for name, text in ((MOONCAKE, as_mooncake(made)), (BURSTGPT, as_burstgpt(made))):
        atomic_write(folder / name, text)
        click.echo(f"{folder / name}: {len(made)} requests")


if __name__ == "__main__":
    main()
