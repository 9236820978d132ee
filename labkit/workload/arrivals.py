"""When requests come: constant, Poisson, bursty, along a ramp, or when others have ended.

Open-loop arrivals are times in seconds after the start, in order. Users who wait for their answers
are a closed loop: their next request comes some time after the last one has ended.

How uneven arrivals are is told by the index of dispersion of counts: the variance of the number of
requests in a long window over its mean. It is 0 for constant gaps and 1 for a Poisson process. For
independent gaps it tends to the squared coefficient of variation of the gaps (Cox and Lewis, 1966);
BurstGPT (2401.17644) models gaps by a gamma distribution, as is done here.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from labkit.errors import ParameterError
from labkit.workload.streams import Use, stream

_MOST_DISPERSION = 1e4


class Arrival(NamedTuple):
    """When a request comes: at `due` seconds, or so many seconds after the end of `follows`."""

    due: float
    follows: int | None = None


Arrivals = tuple[Arrival, ...]


def _check(count: int, **rates: float) -> None:
    """ParameterError for fewer than one request, or for a rate that is no positive number."""
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ParameterError(f"{count!r} requests: allowed are whole numbers from 1 on.")
    for name, rate in rates.items():
        if not 0 < rate < math.inf:
            raise ParameterError(f"{name} {rate}: allowed are numbers above 0.")


def _at(times: np.ndarray) -> Arrivals:
    return tuple(Arrival(float(time)) for time in times)


def at_once(count: int) -> Arrivals:
    """All requests at the start."""
    _check(count)
    return (Arrival(0.0),) * count


def constant(rate: float, count: int) -> Arrivals:
    """`rate` requests a second with equal gaps; the first after one gap."""
    _check(count, rate=rate)
    return tuple(Arrival((number + 1) / rate) for number in range(count))


def poisson(rate: float, count: int, seed: int = 0) -> Arrivals:
    """Independent requests, on average `rate` a second: gaps are exponential."""
    _check(count, rate=rate)
    return _at(np.cumsum(stream(seed, Use.ARRIVALS).exponential(1 / rate, count)))


def bursty(rate: float, count: int, dispersion: float = 4.0, seed: int = 0) -> Arrivals:
    """On average `rate` requests a second in bursts: gaps are gamma distributed.

    dispersion: the index of dispersion of counts in long windows; 1 is a Poisson process, below 1
    the arrivals are more even than that.
    """
    _check(count, rate=rate, dispersion=dispersion)
    if not 1 / _MOST_DISPERSION <= dispersion <= _MOST_DISPERSION:
        raise ParameterError(
            f"dispersion {dispersion}: allowed are {1 / _MOST_DISPERSION} to {_MOST_DISPERSION:g}."
        )
    gaps = stream(seed, Use.ARRIVALS).gamma(1 / dispersion, dispersion / rate, count)
    return _at(np.cumsum(gaps))


def ramp(first_rate: float, last_rate: float, seconds: float, seed: int = 0) -> Arrivals:
    """A Poisson process whose rate goes in a line from one value to the other.

    The times of a process of rate 1 are put where the expected number of requests reaches them
    (Cinlar, 1975). Raises ParameterError where no request came.
    """
    _check(1, first_rate=first_rate, last_rate=last_rate, seconds=seconds)
    whole = (first_rate + last_rate) / 2 * seconds
    random = stream(seed, Use.ARRIVALS)
    count = random.poisson(whole)
    if count == 0:
        raise ParameterError(
            f"no request came in {seconds} s of {first_rate} to {last_rate} requests a second: "
            "take a longer time or a higher rate."
        )
    # Given their number, they are as drawn independently and sorted.
    return _at(
        when_expected(np.sort(random.uniform(0, whole, count)), first_rate, last_rate, seconds)
    )


def when_expected(
    expected: np.ndarray, first_rate: float, last_rate: float, seconds: float
) -> np.ndarray:
    """The time at which a ramp's expected number of requests reaches each value.

    It solves expected = first t + (last - first) t^2 / (2 seconds), in the form that does not
    cancel where both rates are nearly equal.
    """
    slope = (last_rate - first_rate) / seconds
    return 2 * expected / (first_rate + np.sqrt(first_rate**2 + 2 * slope * expected))


def closed_loop(users: int, count: int, think_seconds: float = 0.0, seed: int = 0) -> Arrivals:
    """`users` who wait for each answer, think, and ask again, until `count` were asked.

    think_seconds: on average, exponential. The first request of each user comes at the start.
    Request n follows request n - users: each user's are a chain.
    """
    _check(count)
    _check(users)
    if not 0 <= think_seconds < math.inf:
        raise ParameterError(f"think_seconds {think_seconds}: allowed are seconds from 0 on.")
    thinking = stream(seed, Use.THINKING).exponential(1, count) * think_seconds
    return tuple(
        Arrival(0.0) if number < users else Arrival(float(thinking[number]), number - users)
        for number in range(count)
    )


def gaps(arrivals: Arrivals) -> list[float]:
    """Seconds before each request that is due at a time, from the one before or the start."""
    times = [one.due for one in arrivals if one.follows is None]
    return [after - before for before, after in zip([0.0, *times], times, strict=False)]


def dispersion_of_counts(arrivals: Arrivals, window: float) -> float:
    """The index of dispersion of counts in windows of so many seconds, the last part left out.

    Raises ParameterError where fewer than two windows are full, or no request came in them.
    """
    times = [one.due for one in arrivals if one.follows is None]
    windows = int(max(times, default=0.0) / window) if window > 0 else 0
    if windows < 2:
        raise ParameterError(f"windows of {window} s: at least two must fit into the arrivals.")
    counts = np.bincount((np.array(times) // window).astype(int))[:windows]
    if not counts.any():
        raise ParameterError(f"no request came in the {windows} full windows of {window} s.")
    return float(counts.var(ddof=1) / counts.mean())
