"""A comparison of notebook 15 with known times, for tests of what it tells."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from labkit.bench.client import Loaded
from labkit.bench.run import Measured
from labkit.limits.cost import Cost
from labkit.limits.hardware import Hardware, Reading
from labkit.studies.lab import Lab
from labkit.timing.compare import Bare, Comparison, again
from labkit.timing.trace import Trace
from labkit.workload.prompts import Workload
from tests.tiny import CONFIG

PROMPT, ROUNDS = 12, 5
# Reads 1e9 bytes/s, at its slowest half of that; multiplies 1e12 a second, in int8 4e12.
MACHINE = Hardware(
    "a machine", "cpu", 2,
    {1: Reading(1e9, 1e9, 0.0, 0.5e9)},
    {"float32": Reading(1e12, 1e12, 0.0, 1e12), "int8": Reading(4e12, 4e12, 0.0, 2e12)},
)  # fmt: skip
# Factors of the rounds whose geometric mean is 1.
NOISE = (0.8, 1.25, 1.0, 0.9, 1 / 0.9)


def lab(machine: Hardware = MACHINE) -> Lab:
    """A lab of a tiny shape, with nothing loaded."""
    loaded: Any = SimpleNamespace(config=CONFIG)
    return Lab("15_the_limit", "fused", loaded, machine, Workload(PROMPT, 4))


def trace(step: float, tokens: tuple[int, ...] = (5, 6, 7)) -> Trace:
    """An answer whose first token and each later one take `step` seconds."""
    return Trace(0.0, tuple(step * (n + 1) for n in range(len(tokens))), PROMPT, tokens)


def reading(nbytes: float, dtype: str = "float32") -> Cost:
    """A pass that reads so many bytes and hardly computes."""
    return Cost(nbytes, 0.0, 0.0, 0.0, 1.0, 0.0, dtype)


def loaded(weights: str = "float32", same: bool = True, **changed: Any) -> Loaded:
    """What an engine says of itself."""
    found: dict[str, Any] = {
        "prepare_s": 0.0, "load_s": 0.0, "first_call_s": 0.0, "weight_bytes": 1000,
        "kv_element_bytes": 2.0, "version": "1.2", "build": "ready-made wheel",
        "link": "https://example.org", "weights": weights, "same_weights": same,
    }  # fmt: skip
    return Loaded(**found | changed)


def ladder(
    steps: Mapping[str, float],
    nbytes: Mapping[str, float] | None = None,
    bare: Mapping[str, float] | None = None,
    engines: Mapping[str, Loaded] | None = None,
    noisy: str = "",
) -> Measured:
    """Five rounds of transformers (1 s a token) and of the variants named, all with equal tokens.

    nbytes: that a step of a variant reads. bare: the seconds in which its bytes are read and
    nothing else. engines: what they say. noisy: the variant whose rounds differ.
    """
    times = {"transformers": 1.0} | dict(steps)
    given = dict.fromkeys(times, (1.0,) * ROUNDS) | {noisy: NOISE}
    traces = {n: [trace(step * factor) for factor in given[n]] for n, step in times.items()}
    traces[again("transformers")] = [trace(1.0)] * ROUNDS
    held = {}
    for name, seconds in (bare or {}).items():
        held[name, "tpot"] = Bare(f"bare read of {name}", 1.0)
        traces[f"bare read of {name}"] = [trace(seconds)] * ROUNDS
    costs = {(name, "tpot"): reading(one) for name, one in (nbytes or {}).items()}
    said = {name: loaded() for name in times} | dict(engines or {})
    return Measured(Comparison("transformers", traces, {}, held), costs, said)
