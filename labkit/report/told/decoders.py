"""The same decoder in several notebooks: the share of the bare read that it reached in each.

Notebooks time a decoder for their own question: after other prompts, for more or fewer tokens, with
other variants between its turns. So its share of the bare read differs between them. What this file
keeps of each notebook says how far the number of tokens explains that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from labkit.base.paths import read_json
from labkit.base.units import scaled, seconds
from labkit.report.told.busy import mean_share
from labkit.report.told.notebook import save_samples
from labkit.report.told.words import percent
from labkit.timing.compare import Comparison
from labkit.timing.statistics import Ratio, geometric_mean, interval

FILE = "decoders"  # in a notebook's folder of traces
FUSED = "fused decoder, weights as in the file, head screened"
FUSED_Q8 = "fused decoder, weights in Q8_0"
_MOST = 128  # tokens up to which the share of the first tokens is kept
_OWN, _SHARED = "a process of its own", "one process with all variants"
_CLEARLY = 1.05  # times as long as the last steps: what a page tells of the first one
_Interval = list[float]  # value, low, high


@dataclass(frozen=True)
class Timed:
    """One decoder as a notebook timed it.

    decoder: its name in every notebook; variant: in this one. alone: whether it had a process of
    its own. prompt_tokens, new_tokens: of an answer, the mean. others: turns of a round that are
    not its own. nbytes: that a step reads. seconds: a token. settling: the time of the first step
    over that of the last third of the steps. shares: of the bare read, by the number of first
    tokens that count (as text, for JSON); the last one is that of whole answers. prompt: the share
    of its bare work that the prompt's pass reached; None where it was held against none. lost: the
    share of the core time of its turns that other work had; None where not counted. Each ratio is a
    value with its 95 % interval.
    """

    notebook: str
    decoder: str
    variant: str
    alone: bool
    prompt_tokens: int
    new_tokens: int
    others: int
    nbytes: float
    seconds: float
    settling: _Interval
    shares: dict[str, _Interval]
    prompt: _Interval | None = None
    lost: float | None = None

    @property
    def share(self) -> _Interval:
        """The share of whole answers."""
        return list(self.shares.values())[-1]

    def first(self, tokens: int) -> _Interval:
        """The share over the first tokens of each answer; of whole ones where they are shorter."""
        return self.shares.get(str(tokens), self.share)


def plain(dtype: str) -> str:
    """The name of the plain decoder."""
    return f"plain decoder in {dtype}"


def keep(
    notebook: str, variants: Mapping[str, str], *comparisons: Comparison, alone: bool = False
) -> None:
    """Write into the run what its page tells of the decoders of a notebook.

    variants: by decoder, what the notebook calls it. comparisons: those in which it ran. A variant
    that was held against no bare read, or that dropped out, is left out.
    """
    found = [
        _timed(notebook, decoder, variant, comparisons, alone)
        for decoder, variant in variants.items()
        if _whole(variant, comparisons)
    ]
    save_samples(notebook, FILE, {"decoders": [asdict(one) for one in found]})


def _whole(variant: str, comparisons: Sequence[Comparison]) -> bool:
    return bool(comparisons) and all(
        variant in one.traces and one.bare_times(variant) is not None for one in comparisons
    )


def _timed(
    notebook: str, decoder: str, variant: str, comparisons: Sequence[Comparison], alone: bool
) -> Timed:
    traces = [trace for one in comparisons for trace in one.traces[variant]]
    lengths = [len(trace.times) for trace in traces]
    held = [one.bare[variant, "tpot"].nbytes or 0.0 for one in comparisons]
    counts = range(2, min(_MOST, max(lengths)) + 1)
    return Timed(
        notebook, decoder, variant, alone,
        prompt_tokens=round(sum(trace.prompt_tokens for trace in traces) / len(traces)),
        new_tokens=round(sum(lengths) / len(lengths)),
        others=len(comparisons[0].traces) - 1,
        nbytes=sum(held) / len(held),
        seconds=geometric_mean([t for one in comparisons for t in one.values(variant)]),
        settling=_ends(settling(comparisons, variant)),
        shares={str(n): _ends(share_of_first(comparisons, variant, n)) for n in counts},
        prompt=_of_prompt(comparisons, variant),
        lost=mean_share([one for each in comparisons for one in each.lost.get(variant, ())]),
    )  # fmt: skip


def _of_prompt(comparisons: Sequence[Comparison], variant: str) -> _Interval | None:
    found = [one.share(variant, "ttft") for one in comparisons]
    rounds = [of for share in found if share is not None for of in share.rounds]
    return None if None in found else _ends(interval(rounds))


def _ends(ratio: Ratio) -> _Interval:
    return [ratio.value, ratio.low, ratio.high]


def share_of_first(comparisons: Sequence[Comparison], variant: str, tokens: int) -> Ratio:
    """The share of the bare read over the first tokens of each answer, over all rounds."""
    found = []
    for one in comparisons:
        names = [name for name in (variant, one.control) if name in one.traces]
        cut = replace(one, traces={n: [t.until(tokens) for t in one.traces[n]] for n in names})
        pairs = zip(one.bare_times(variant) or (), cut.values(variant), strict=True)
        found += [alone / taken for alone, taken in pairs]
    return interval(found)


def settling(comparisons: Sequence[Comparison], variant: str) -> Ratio:
    """The time of the first step of each answer over the mean of the last third of its steps."""
    steps = [trace.itl for one in comparisons for trace in one.traces[variant]]
    return interval([of[0] * len(last) / sum(last) for of in steps if (last := of[-_third(of) :])])


def _third(steps: Sequence[float]) -> int:
    return max(1, len(steps) // 3)


def settling_sentence(comparison: Comparison, variant: str) -> str:
    """How the steps of an answer differ, where the first is surely and clearly slower than the
    last; else empty."""
    ratio = settling([comparison], variant)
    if ratio.low <= _CLEARLY:
        return ""
    steps = len(comparison.traces[variant][0].itl)
    return (
        f"The {steps} timed steps of an answer of `{variant}` are not equally fast: the first took "
        f"{ratio} as long as the mean step of the last third. Other variants had their turns "
        "before it; notebook 00 shows what other reads do to a set of such a size. If later steps "
        "stay this fast, a longer answer would reach a higher share."
    )


def kept(run: Path) -> list[Timed]:
    """What the notebooks of a run kept, in their order; a file that cannot be read is left out."""
    found = []
    for path in sorted((run / "traces").glob(f"*/{FILE}.json")):
        rows = read_json(path).get("decoders")
        found += [one for row in rows if (one := _read(row))] if isinstance(rows, list) else []
    return found


def _read(row: object) -> Timed | None:
    """A record from a file, which may hold anything."""
    if not isinstance(row, dict):
        return None
    try:
        one = Timed(**row)
        shares = [*one.shares.values(), one.settling, *([one.prompt] if one.prompt else [])]
        sound = all(len(each) == 3 and all(0 < x < 1e9 for x in each) for each in shares)
        numbers = (one.prompt_tokens, one.new_tokens, one.others, one.nbytes, one.seconds)
        sound = sound and all(0 <= number < 1e18 for number in numbers)
        sound = sound and (one.lost is None or 0 <= one.lost <= 1)
        counts = [count.isdecimal() for count in one.shares]
        names = [isinstance(name, str) for name in (one.notebook, one.decoder, one.variant)]
        return one if sound and counts and all((*counts, *names)) else None
    except (TypeError, AttributeError):
        return None


def groups(found: Iterable[Timed]) -> dict[str, list[Timed]]:
    """By decoder, those that more than one notebook timed."""
    every: dict[str, list[Timed]] = {}
    for one in found:
        every.setdefault(one.decoder, []).append(one)
    return {name: of for name, of in every.items() if len({one.notebook for one in of}) > 1}


def common(of: Sequence[Timed]) -> int:
    """The number of first tokens that every notebook of a group timed."""
    return min(max(map(int, one.shares)) for one in of)


def rows(of: Sequence[Timed], titles: Mapping[str, str]) -> list[dict[str, str]]:
    """A row a notebook, for the page of the run. titles: of notebooks."""
    count = common(of)
    return [
        {
            "notebook": titles.get(one.notebook, one.notebook),
            "there called": one.variant,
            "runs in": _OWN if one.alone else _SHARED,
            "other turns in a round": str(one.others),
            "lost to other work": _lost(one),
            "prompt + new tokens": f"{one.prompt_tokens} + {one.new_tokens}",
            "bytes a token": scaled(one.nbytes, "B"),
            "time a token": seconds(one.seconds),
            "first step over the last third": _ratio(one.settling),
            "of the bare read": _percent(one.share),
            f"over the first {count} tokens": _percent(one.first(count)),
            "prompt, of the bare products": _percent(one.prompt) if one.prompt else "–",
        }
        for one in of
    ]


def _lost(one: Timed) -> str:
    """Where a decoder has its own process, how long its threads waited is not counted."""
    if one.lost is None:
        return "not counted"
    return f"{percent(one.lost)}, waits not counted" if one.alone else percent(one.lost)


def _ratio(ends: _Interval) -> str:
    return "{:.2f}x [{:.2f}, {:.2f}]".format(*ends)


def _percent(ends: _Interval) -> str:
    return "{:.0f} % [{:.0f}, {:.0f}]".format(*(100 * end for end in ends))


def sentence(of: Sequence[Timed], titles: Mapping[str, str]) -> str:
    """Whether the shares of a decoder agree, and whether the number of tokens explains it."""
    whole, count = [one.share for one in of], common(of)
    if _overlap(whole):
        return "All intervals overlap: these notebooks show no difference."
    low, high = (titles.get(one.notebook, one.notebook) for one in _ends_of(of))
    told = (
        f"The share goes from {_percent(min(whole))} in “{low}” to {_percent(max(whole))} in "
        f"“{high}”, and not all intervals overlap. "
    )
    first = [one.first(count) for one in of]
    told += (
        f"Over the first {count} tokens of each answer it goes from {_percent(min(first))} to "
        f"{_percent(max(first))}"
    )
    if _overlap(first):
        return (
            f"{told}, and all intervals overlap: over equally many tokens, no difference is shown."
        )
    return (
        f"{told}, and still not all intervals overlap: the number of tokens alone does not explain "
        "the difference. The other columns show what else was not the same."
    )


def _ends_of(of: Sequence[Timed]) -> tuple[Timed, Timed]:
    """Those with the lowest and with the highest share."""
    return min(of, key=lambda one: one.share[0]), max(of, key=lambda one: one.share[0])


def _overlap(intervals: Sequence[_Interval]) -> bool:
    """Whether any two of them do."""
    return max(low for _, low, _ in intervals) <= min(high for *_, high in intervals)
