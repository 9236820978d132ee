"""The states of the memory, told: one figure, one table, and sentences that the numbers decide."""

from __future__ import annotations

from labkit.base.memory import only_on_request
from labkit.base.units import scaled, seconds
from labkit.report.told.plots import new_figure, say, show, table
from labkit.report.told.words import effect
from labkit.studies.memory_states import ITSELF, OTHER, PAGES, PAUSE, States
from labkit.studies.pitfalls import middle
from labkit.timing.statistics import MARGIN, Ratio, geometric_mean

_BUT_CORES = (
    ". Time in which other processes had the reader's cores does not count; the last row tells how "
    "much that was"
)
_WHOLE = 0.95  # of its cores' time: starting and ending the threads takes some, too


def show_states(states: States, cache: int) -> None:
    """Show all of it. cache: bytes of the last-level cache, 0 where the system does not say."""
    table(
        rows(states),
        caption="Read rates over the settled rate of the same round, with 95 % intervals "
        f"({len(states.settled(states.sizes[0]))} rounds)" + _BUT_CORES * on_cpu(states),
    )
    _figure(states)
    for sentence in sentences(states, cache):
        say(sentence)


def on_cpu(states: States) -> bool:
    """Whether a CPU read: only there the share of the cores' time is known."""
    return states.cores(states.sizes[0]) is not None


def lower(ratio: Ratio) -> bool:
    """Whether the interval lies below 1, by more than counts as equal."""
    return ratio.high < 1 - MARGIN


def higher(ratio: Ratio) -> bool:
    """Whether the interval lies above 1, by more than counts as equal."""
    return ratio.low > 1 + MARGIN


def size_of(size: int) -> str:
    """A set by its bytes: 134 MB."""
    return scaled(float(size), "B")


def gigabytes(rate: float) -> str:
    """A read rate: 44.8 GB/s."""
    return scaled(rate, "B/s")


def rows(states: States) -> list[dict[str, object]]:
    """A row for each situation, a column for each set."""
    pause, other = seconds(states.pause), size_of(states.other)
    kinds = [
        ("settled rate, right after itself", _settled),
        (f"first look after a pause of {pause}", lambda s, n: str(s.first(n, PAUSE))),
        (f"first look after {other} were read", lambda s, n: str(s.first(n, OTHER))),
        ("last third of those looks", lambda s, n: str(s.later(n, OTHER))),
        ("all looks on 4 kB pages", _pages),
        ("share of its cores' time", _cores),
    ]
    return [
        {"situation": name, **{size_of(size): cell(states, size) for size in states.sizes}}
        for name, cell in kinds
    ]


def _settled(states: States, size: int) -> str:
    return gigabytes(geometric_mean(states.settled(size)))


def _pages(states: States, size: int) -> str:
    return str(states.whole(size, PAGES)) if (size, PAGES) in states.rounds else "–"


def _cores(states: States, size: int) -> str:
    found = states.cores(size)
    return "–" if found is None else f"{found.value:.0%} [{found.low:.0%}, {found.high:.0%}]"


def _figure(states: States) -> None:
    """Left: look after look, after each situation. Right: two sets that take turns."""
    figure, (left, right) = new_figure(7.6, 3.1, columns=2)
    held = _held(states)
    names = {
        ITSELF: "right after itself",
        PAUSE: f"after a pause of {seconds(states.pause)}",
        OTHER: f"after {size_of(states.other)} were read",
    }
    for name, label in names.items():
        rates = [rate / 1e9 for rate in states.by_look(held, name)]
        left.plot(range(1, len(rates) + 1), rates, "o-", markersize=3, label=label)
    left.set(xlabel="look", ylabel="read rate, GB/s", ylim=(0, None))
    left.set_title(f"{size_of(held)}, look after look")
    left.legend(fontsize=8)
    for k, size in enumerate(states.sizes[-2:]):
        points = [(m.start, m.look.rate / 1e9) for m in states.series if m.size == size]
        right.plot(*zip(*points, strict=True), ".", color=f"C{k + 3}", label=size_of(size))
    right.set(xlabel="seconds", ylim=(0, None), title="two sets, read by turns")
    right.legend(fontsize=8)
    first = {name: states.by_look(held, name)[0] for name in names}
    show(
        figure,
        f"Left: the first look at {size_of(held)} reads "
        + ", ".join(f"{gigabytes(rate)} {names[name]}" for name, rate in first.items())
        + ". Right: "
        + "; ".join(_over_time(states, size) for size in states.sizes[-2:])
        + ".",
        f"A look is {_reads(states, held)} of the set, without a pause before the next.",
    )


def _held(states: States) -> int:
    """The set that a last-level cache may hold: the second largest."""
    return states.sizes[-2:][0]


def _reads(states: States, size: int) -> str:
    count = states.at_once[size]
    return "one read" if count == 1 else f"{count:,} reads"


def _over_time(states: States, size: int) -> str:
    low, high = middle(states.over_time(size), 0.9)
    return (
        f"90 % of the looks at {size_of(size)} lie between {gigabytes(low)} and {gigabytes(high)}"
    )


def sentences(states: States, cache: int) -> list[str]:
    """What this run showed, one sentence or a few for each possible cause."""
    near, held, largest = states.sizes[0], _held(states), states.sizes[-1]
    told = [f"{_over_time(states, held)}; {_over_time(states, largest)}."]
    if held != largest:
        told.append(_sizes(states, held, largest, cache))
        told += [_cache(states, held), _after_pause(states, near, held)]
    told += [_of_largest(states, largest), _by_pages(states, largest), _by_cores(states, largest)]
    return [sentence for sentence in told if sentence]


def _sizes(states: States, held: int, largest: int, cache: int) -> str:
    ratio = states.against(held, largest)
    named = f" The system names a last-level cache of {size_of(cache)}." if cache else ""
    if not higher(ratio):
        return f"{size_of(held)} were not read faster than {size_of(largest)} ({ratio}).{named}"
    return f"Settled, {size_of(held)} were read {ratio} as fast as {size_of(largest)}.{named}"


def emptied(states: States, size: int) -> bool:
    """Whether a set is slow at first after another one was read, and is fast again later."""
    return lower(states.first(size, OTHER)) and higher(states.recovery(size, OTHER))


def _cache(states: States, held: int) -> str:
    first, set_, other = states.first(held, OTHER), size_of(held), size_of(states.other)
    if not emptied(states, held):
        return (
            f"**Another set.** After {other} of other memory were read, the first look at {set_} "
            f"had {first} of its settled rate, and the last third of the looks "
            f"{states.recovery(held, OTHER)} of the first. So this run does not show that a shared "
            "cache explains the states."
        )
    slow, fast = states.shares(held)
    count = len(states.rounds[held, OTHER][0])
    return (
        f"**Another set explains a part.** After {other} of other memory were read, the "
        f"first look at {set_} had {first} of its settled rate. Reading the set again made it "
        f"faster: the last third of {count} looks had {states.later(held, OTHER)}. So a part of "
        "the set had been kept in a cache, reading other memory took its place, and reading the "
        "set filled it again. While two sets "
        f"took turns, {slow:.0%} of the looks at {set_} came within 10 % of the rate right after "
        f"other memory was read, and {fast:.0%} within 10 % of the settled rate. "
        f"{_unexplained(*states.beyond(held))}"
    )


def _unexplained(between: float, above: float, below: float) -> str:
    """How many looks lie at neither of two states, by where they lie."""
    places = {"between the two": between, "above both": above, "below both": below}
    told = [f"{share:.0%} {where}" for where, share in places.items() if share]
    if not told:
        return "So these two states cover all of them."
    rest = sum(places.values())
    return (
        f"So these two states cover {1 - rest:.0%} of them. They do not explain the other "
        f"{rest:.0%}: {' and '.join(told)}."
    )


def _after_pause(states: States, near: int, held: int) -> str:
    first, core = states.first(held, PAUSE), states.first(near, PAUSE)
    start = (
        f"**A pause.** After {seconds(states.pause)} without work the first look at "
        f"{size_of(held)} had {first} of its settled rate"
    )
    if higher(first):
        return f"{start}: a burst after idleness."
    if not lower(first):
        return (
            f"{start}: neither a burst after idleness nor a loss was seen (a change of "
            f"{effect(first.smallest_effect)} would have been)."
        )
    told = f"{start}: no burst after idleness, but a loss."
    if near == held or lower(core):
        return (
            f"{told} {size_of(near)}, which the cores' own caches hold, had {core}: so the cores "
            "themselves were slower too."
        )
    again = " It read as after another set: what it had in the cache was gone." * emptied(
        states, held
    )
    return (
        f"{told} {size_of(near)}, which the cores' own caches hold, had {core}, so slower cores "
        f"do not explain it.{again}"
    )


def _of_largest(states: States, largest: int) -> str:
    lasting = states.lasting(largest)
    told = (
        f"**Lasting reads.** Over a spell of reading {size_of(largest)}, the last quarter had "
        f"{lasting} of the first quarter's rate"
    )
    if lower(lasting):
        return f"{told}: lasting reads use something up."
    if higher(lasting):
        return f"{told}: reading became faster."
    return f"{told}: no loss of more than {MARGIN:.0%} is shown."


# Of a system that gives huge pages only on request; torch does not ask for its tensors.
_ASKED = (
    " This system gives huge pages only to memory that asks for them. The bare reads and the fused "
    "decoder ask; torch does not. So decoders in torch may lose this much against their bare read."
)


def _by_pages(states: States, size: int) -> str:
    if (size, PAGES) not in states.rounds:
        return ""
    ratio = states.whole(size, PAGES)
    told = f"**Pages.** On 4 kB pages {size_of(size)} were read at {ratio} of the settled rate"
    if lower(ratio):
        return (
            f"{told} on huge pages. So what an engine is held against must lie on pages of the "
            f"same size, or the difference is told.{_ASKED if only_on_request() else ''}"
        )
    return f"{told} on huge pages: no loss was seen."


def _by_cores(states: States, size: int) -> str:
    found = states.cores(size)
    if found is None:
        return ""
    told = (
        f"**Other processes.** The reader of {size_of(size)} got {found.value:.0%} "
        f"[{found.low:.0%}, {found.high:.0%}] of its cores' time"
    )
    if found.high < _WHOLE:
        return f"{told}; other processes on this machine took the rest."
    return f"{told}: other processes explain no more than {1 - found.low:.0%}."
