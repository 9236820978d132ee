"""`labkit.compare`: engines beside each other on one prompt, as a table and a picture."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from labkit.bench import client
from labkit.bench.run import Outcome, checked_config, measure_prompts, table_rows
from labkit.bench.variants import VARIANTS, find
from labkit.errors import ParameterError
from labkit.limits.measure import check_threads, kept_hardware, measure_hardware
from labkit.limits.roofline import limit
from labkit.model.load import tokenizer_of
from labkit.report.told import plots
from labkit.report.told.words import text_table
from labkit.timing.statistics import FEWEST_ROUNDS, interval
from labkit.workload.prompts import prompt_ids, text_ids

_PROMPT_TOKENS = 128  # of a prompt of ours, where none is given
_OURS, _PEER, _LIMIT = "ours", "another engine", "its limit"


class Point(NamedTuple):
    """A variant's decode rate with its 95 % interval, and its limit, all in tokens/s; limit: None
    where there is none. peer: whether it is another engine."""

    name: str
    rate: float
    low: float
    high: float
    limit: float | None
    peer: bool

    @property
    def words(self) -> str:
        """All of it as text."""
        most = "" if self.limit is None else f", limit {self.limit:.0f}"
        return f"{self.name} {self.rate:.0f} tok/s [{self.low:.0f}, {self.high:.0f}]{most}"


@dataclass(frozen=True)
class Beside:
    """A finished comparison. A notebook shows it as a table and a picture, a terminal as text.

    outcome: everything that was measured.
    """

    outcome: Outcome

    @property
    def rows(self) -> list[dict[str, object]]:
        """The table: as `labkit bench` has it, with how much of the baseline's answer each gave."""
        rows = table_rows(self.outcome.measured, self.outcome.hardware)
        return [row | {"same tokens": self._same(str(row["variant"]))} for row in rows]

    def _same(self, name: str) -> str:
        """How many first tokens of an answer are those of the baseline, in the first round."""
        found = self.outcome.measured.comparison
        tokens = found.traces[name][0].tokens if name in found.traces else ()
        if name == found.baseline or not tokens:
            return "–"
        first = found.traces[found.baseline][0].tokens
        pairs = zip(first, tokens, strict=True)
        same = next((at for at, (one, other) in enumerate(pairs) if one != other), len(first))
        return f"all {same}" if same == len(first) else f"the first {same} of {len(first)}"

    @property
    def points(self) -> list[Point]:
        """What the picture shows, the baseline first."""
        return list(self._points())

    def _points(self) -> Iterator[Point]:
        found, hardware = self.outcome.measured, self.outcome.hardware
        for name in found.comparison.variants:
            taken = interval(found.comparison.values(name))
            cost = found.costs.get((name, "tpot"))
            least = limit(cost, hardware).seconds if cost else None
            most = 1 / least if least and least <= taken.value else None
            peer = name in VARIANTS and VARIANTS[name].peer is not None
            yield Point(name, 1 / taken.value, 1 / taken.high, 1 / taken.low, most, peer)

    @property
    def alt(self) -> str:
        """The picture in words."""
        return "Decode rates. " + "; ".join(point.words for point in self.points) + "."

    def figure(self) -> Any:
        """The picture, as a figure of matplotlib: `.savefig(path)` keeps it."""
        points = self.points
        figure, axes = plots.new_figure(7.2, 1.2 + 0.4 * len(points))
        for at, point in enumerate(points):
            axes.errorbar(
                point.rate, at, xerr=[[point.rate - point.low], [point.high - point.rate]],
                fmt="s" if point.peer else "o", color="C1" if point.peer else "C0",
                markerfacecolor="none" if point.peer else "C0", capsize=3,
                label=_PEER if point.peer else _OURS,
            )  # fmt: skip
            if point.limit is not None:
                axes.plot(point.limit, at, "|", color="C4", markersize=16, label=_LIMIT)
        axes.set_yticks(range(len(points)), [point.name for point in points])
        axes.set(xlabel="decode, tokens a second of one stream; 95 % intervals", xlim=(0, None))
        axes.set_ylim(len(points) - 0.5, -0.5)
        handles, labels = axes.get_legend_handles_labels()
        once = dict(zip(labels, handles, strict=True))
        axes.legend(once.values(), once.keys(), loc="lower left", bbox_to_anchor=(0, 1), ncols=3)
        return figure

    def show(self) -> None:
        """Show table, picture and remarks: in a notebook as such, in a script as text."""
        plots.table(self.rows, "Engines beside each other")
        plots.show(self.figure(), self.alt)
        for line in self.outcome.remarks:
            plots.say(line)

    def _repr_html_(self) -> str:
        remarks = "".join(f"<p>{html.escape(line)}</p>" for line in self.outcome.remarks)
        picture = plots.svg(self.figure(), self.alt)
        return f"{plots.table_html(self.rows)}<div>{picture}</div>{remarks}"

    def __str__(self) -> str:
        return "\n".join([text_table(self.rows), *self.outcome.remarks])

    __repr__ = __str__


def compare(
    variants: Sequence[str],
    prompt: str | None = None,
    *,
    max_tokens: int = 64,
    rounds: int = 8,
    model: str | Path | None = None,
    threads: int | None = None,
    chat: bool | None = None,
    tell: Callable[[str], object] = print,
) -> Beside:
    """Measure variants beside each other, interleaved, each against its own limit.

        labkit.compare(["fused", "llama.cpp"], prompt="Why is the sky blue?")

    variants: as `labkit bench` has them, the first being the baseline. prompt: the same in each
    round, in the model's chat template (chat: None: if it has one); every engine forgets it between
    its turns. None takes other parts of a text of ours. max_tokens: of each answer, which no token
    ends early. model: None for the built-in model. A machine that was not measured yet is measured,
    and `tell` says so. Raises LabkitError for what cannot be compared; a variant that does not
    start is named below the table.
    """
    if isinstance(variants, str):
        raise ParameterError(f"variants {variants!r}: a list of names is needed.")
    names = list(variants)
    find(names)
    if rounds < FEWEST_ROUNDS:
        raise ParameterError(f"{rounds} rounds are too few: at least {FEWEST_ROUNDS} are needed.")
    check_threads(threads)
    source = client.locate(None if model is None else str(model))
    ids = _prompts(source, prompt, chat)
    checked_config(source, len(ids(0)), max_tokens)
    if kept_hardware("cpu", threads) is None:
        tell("Measuring this machine once, for its limits, which takes less than a minute ...")
    hardware = measure_hardware("cpu", threads)
    measured = measure_prompts(names, source, ids, max_tokens, rounds, hardware)
    return Beside(Outcome(measured, hardware))


def _prompts(
    source: client.Source, prompt: str | None, chat: bool | None
) -> Callable[[int], Sequence[int]]:
    """The prompt of a round, by its number."""
    tokenizer = tokenizer_of(source.described)
    if prompt is None:
        return partial(prompt_ids, tokenizer, _PROMPT_TOKENS)
    ids = text_ids(tokenizer, prompt, chat)
    return lambda _: ids
