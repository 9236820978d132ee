"""What `labkit.bench.many` found, as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from labkit.bench.answers import table_rows
from labkit.bench.points import DECODE, OUTPUT, Many
from labkit.report.told.words import text_table
from labkit.timing.compare import again
from labkit.timing.statistics import Ratio

Row = dict[str, object]

_IN_FLIGHT = 16  # the number of streams at which the first engine meets the others' best


def text(found: Many) -> str:
    """The tables, and below them what engines said of themselves and which failed."""
    return "\n\n".join(part for part in _parts(found) if part)


def _parts(found: Many) -> Iterator[str]:
    asked, first = found.asked, found.engines[0]
    yield (
        f"Output tokens/s of all streams together: prompts of {asked.prompt_tokens} tokens, asked "
        f"at the same moment, and answers of {asked.new_tokens}\n"
        + text_table(rates(found, OUTPUT))
    )
    title = "Tokens/s while all streams answer: no prompt is in it"
    yield f"{title}\n{text_table(rates(found, DECODE))}"
    if len(asked.streams) > 1:
        title = f"The same, over the tokens/s of {_streams(min(asked.streams))}"
        yield f"{title}\n{_gains(found)}"
    title = f"Output tokens/s of {first}, over those of each engine"
    yield f"{title}\n{text_table(beside(found))}"
    if len(found.engines) > 1:
        yield f"Each engine where its output tokens/s are the most\n{text_table(best(found))}"
    if found.answers:
        yield f"Distinct answers to one prompt\n{text_table(table_rows(found.answers))}"
    yield "\n".join(_below(found))


def _streams(count: int) -> str:
    return f"{count} stream{'s' * (count > 1)}"


def _rate(rate: Ratio | None) -> str:
    return "–" if rate is None else f"{rate.value:,.0f} [{rate.low:,.0f}, {rate.high:,.0f}]"


def _ratio(ratio: Ratio | None) -> str:
    return "–" if ratio is None else str(ratio)


def rates(found: Many, metric: str) -> list[Row]:
    """Tokens a second, a row a number of streams."""
    return [
        {"streams": streams}
        | {name: _rate(found.rate(name, streams, metric)) for name in found.engines}
        for streams in found.asked.streams
    ]


def _gains(found: Many) -> str:
    """S(B) / S(1), where 1 is the least number of streams."""
    least = min(found.asked.streams)
    return text_table(
        [
            {"streams": streams}
            | {n: _ratio(found.over((n, streams), (n, least), DECODE)) for n in found.engines}
            for streams in found.asked.streams
            if streams != least
        ]
    )


def beside(found: Many) -> list[Row]:
    """The first engine over the others at the same number of streams, its control first."""
    first, *others = found.engines
    verdicts = found.verdicts()

    def cell(name: str, streams: int) -> str:
        unsure = verdicts.get((name, streams)) == "inconclusive"
        return _ratio(found.over((first, streams), (name, streams))) + " inconclusive" * unsure

    return [
        {"streams": streams, again(first): _ratio(found.control(streams))}
        | {name: cell(name, streams) for name in others}
        for streams in found.asked.streams
    ]


def best(found: Many) -> list[Row]:
    """Chosen in the same rounds, so an engine's best is rather too good than too bad."""
    first, streams = found.engines[0], found.asked.streams
    at = _IN_FLIGHT if _IN_FLIGHT in streams else max(streams)
    rows: list[Row] = []
    for name in found.engines:
        most = found.best(name)
        rate, over = None, None
        if most is not None:
            rate, over = found.rate(name, most), found.over((first, at), (name, most))
        rows.append(
            {
                "engine": name,
                "streams": most or "–",
                "output tokens/s": _rate(rate),
                f"{first} at {at} over it": _ratio(over),
            }
        )
    return rows


def _below(found: Many) -> Iterator[str]:
    """What is to be known beside the tables."""
    for name, one in found.loaded.items():
        yield f"{name}: {one.weights}; {one.version}{f'. {one.note}' if one.note else ''}"
    for name, why in found.failed.items():
        yield f"{name}: FAILED: {why}"
    for streams in found.asked.streams:
        if not found.trusted(streams):
            yield f"The A/A control failed at {_streams(streams)}: do not trust this row."
