"""What notebook 07 measures: the cost of rows, passes of several requests, and whole workloads."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

from labkit.bench.asked import Asked
from labkit.bench.client import locate
from labkit.bench.points import Many
from labkit.engine.batching import BatchEngine
from labkit.engine.drive import SLO, Served
from labkit.engine.generate import generate
from labkit.engine.pace import PACE_ROWS, Load, Pace
from labkit.engine.row_costs import RowCosts
from labkit.engine.scheduler import Budget, plan_pass, plan_static
from labkit.limits.batching import BatchLimit, batch_limits
from labkit.limits.cost import Cost
from labkit.optimize.fused import FusedDecoder
from labkit.studies.batching_dry import Foreseen, foreseen
from labkit.studies.batching_frontier import Point, point
from labkit.studies.batching_others import others
from labkit.studies.batching_runs import (
    Seen,
    Serving,
    batch_name,
    decode_passes,
    engine_for,
    passes_of,
    served,
    users_of,
)
from labkit.studies.batching_stall import (
    AFTER,
    CALM,
    FIXED,
    PACED,
    WHOLE,
    Stall,
    Ways,
    of_round,
)
from labkit.studies.batching_workloads import MANY, ONE, Tail, Workloads
from labkit.studies.lab import Lab
from labkit.studies.speculative_target import costs_of, fastest
from labkit.timing.compare import Bare, Comparison, Variant, compare
from labkit.timing.held import compare_held
from labkit.timing.trace import Trace, record

A_TOKEN = "seconds_a_token"  # the time in a trace that output throughput derives from
GENERATE, ENGINE_ONE = "generate, one request", "engine, one request"
STATIC, IN_FLIGHT = "static batching", "in-flight batching"
POLICIES = {STATIC: plan_static, IN_FLIGHT: plan_pass}
_DISTINCT = 8  # prompts whose distinct answers are counted, of each engine
_ANSWER = 512  # tokens that requests beside a long prompt may give, at most
_SLOTS, _STALLS = 50_000, 5_000_000  # numbers of prompts that no round of a workload has


@dataclass
class Measurements:
    """The experiment; the fields are the notebook's parameters."""

    model: str = ""
    device: str = "auto"
    dtype: str = "float32"
    prompt_tokens: int = 128
    new_tokens: int = 128
    slots: int = 16  # requests in flight, at most
    requests: int = 48  # of each workload
    batches: list[int] = field(default_factory=lambda: [2, 4, 8, 16, 32, 64])
    rounds: int = 6
    check_answers: int = 24  # whose bits are compared
    median: int = 32  # tokens of answers with a heavy tail; the longest has up to 8 times as many
    long_prompt: int = 4096  # tokens; it comes to half as many requests as there are slots
    loads: list[float] = field(default_factory=lambda: [0.5, 0.8, 1.1])  # of what is served at once
    slo_ttft: float = 0.5  # seconds to the first token that a user accepts
    slo_tpot: float = 0.02  # and seconds for each token after that
    peers: bool = True  # other engines, where `make peers` has installed them

    def __post_init__(self) -> None:
        self.lab = Lab.open(
            "07_batching", "batching", self.model, self.device, self.dtype,
            prompt_tokens=self.prompt_tokens, new_tokens=self.new_tokens, rounds=self.rounds,
            parameters=vars(self),
        )  # fmt: skip
        self.target = fastest(self.lab.loaded, self.model)
        self.slo = SLO(self.slo_ttft, self.slo_tpot)
        lengths = self.prompt_tokens, self.new_tokens
        self.work = Workloads(
            self.lab.prompt, *lengths, self.slots, self.requests, Tail(self.median)
        )

    @cached_property
    def others(self) -> Many | None:
        """Ours and the other engines, with one prompt and with as many as there are slots; None
        where none is asked for or installed."""
        if not self.peers:
            return None
        streams = (1, self.slots)
        asked = Asked(self.prompt_tokens, self.new_tokens, streams, self.rounds, _DISTINCT)
        return others(self.lab, locate(self.model or None), asked)

    @property
    def beside(self) -> int:
        """Requests that a long prompt comes to."""
        return self.slots // 2

    @property
    def kv_bytes(self) -> float:
        """Bytes of a token in the cache: the fused decoder's holds float16."""
        fused = isinstance(self.target.decoder, FusedDecoder)
        return self.lab.config.kv_bytes_per_token(2 if fused else self.lab.decoder.dtype.itemsize)

    @cached_property
    def limits(self) -> dict[int, BatchLimit]:
        """The roofline of each batch in the middle of an answer; of one request first."""
        decoder, batches = self.target.decoder, [1, *sorted({*self.batches} - {1})]
        several = decoder.all_logits_bytes if isinstance(decoder, FusedDecoder) else None
        found = batch_limits(
            self.lab.config, self.lab.hardware, batches, self.lab.middle,
            dtype=self.target.products or self.lab.dtype, weight_bytes=self.target.weight_bytes,
            several_weight_bytes=several, kv_bytes_per_token=self.kv_bytes,
        )  # fmt: skip
        return {one.batch: one for one in found}

    def cost(self, batch: int) -> Cost:
        """Of a decode pass of so many requests."""
        return self.limits[batch].cost

    @cached_property
    def costs(self) -> RowCosts:
        """The cost of rows, measured before anything is compared, and on another text."""
        room = self.lab.config.max_positions // 2
        rows = {*(count for count in PACE_ROWS if count <= room), *self.batches, self.slots}
        loaded, target = self.lab.loaded, self.target.decoder
        return costs_of(loaded, target, sorted(rows), self.lab.middle, self.rounds)

    def taking(self, rows: int, positions: int) -> float:
        """Forecast seconds of a pass of so many rows of requests that hold so many positions.

        The cost of rows was measured after one text, so what requests hold beyond its length is
        added, at the pace at which this machine reads memory.
        """
        costs = self.costs
        beyond = (positions - costs.context) * self.kv_bytes
        read = beyond / self.lab.hardware.bandwidth(self.cost(1).weight_bytes + max(beyond, 0))
        return Pace(costs).seconds(Load(rows, rows * costs.context)) + read

    def relative(self, requests: int) -> float:
        """Forecast time of a decode pass of so many requests, in passes of one request."""
        context = self.costs.context
        return self.taking(requests, requests * context) / self.costs.seconds

    @cached_property
    def forecasts(self) -> dict[str, Foreseen]:
        """By variant: the passes that its workload will take, and their time by the cost of
        rows."""
        see = partial(foreseen, self.lab.config, slots=self.slots, taking=self.taking)
        tailed = self.work.tailed(0)
        found = {name: see(tailed, policy=policy) for name, policy in POLICIES.items()}
        return found | {
            ENGINE_ONE: see(self.work.one(0), policy=plan_pass),
            self.many_name: see(self.work.many(0), policy=plan_pass),
        }

    @cached_property
    def sweep(self) -> Comparison:
        """Decode passes of one request and of several."""
        lab, batches = self.lab, list(self.limits)
        prompts = [lab.prompt(_SLOTS + n, lab.middle + 1) for n in range(batches[-1])]
        runs = decode_passes(self.target.decoder, prompts, batches)
        tokens = {(batch_name(batch), A_TOKEN): float(batch) for batch in batches}
        costs = {(batch_name(batch), A_TOKEN): self.cost(batch) for batch in batches}
        found = compare_held(
            runs, batch_name(1), self.rounds, costs, lab.hardware, lab.products, tokens,
            label="batches",
        )  # fmt: skip
        return self._kept(found, "batches")

    def _kept(self, found: Comparison, label: str, **beside: Any) -> Comparison:
        """Write all samples into the run; beside: what the traces of whole turns do not tell."""
        self.lab.keep_samples(label.replace(" ", "_"), found.to_dict() | beside)
        return self.lab.noted(found, label)

    @property
    def many_name(self) -> str:
        """The variant with requests always in flight."""
        return f"engine, {self.slots} in flight"

    @cached_property
    def serving(self) -> Serving:
        """The engine whose own time is measured."""
        return Serving(self.target.decoder, self.slots, self.prompt_tokens + self.new_tokens)

    @cached_property
    def engine(self) -> Comparison:
        """The engine with one request and with many, beside `generate`, and beside its passes."""
        serving, work = self.serving, self.work
        runs: dict[str, Variant] = {
            GENERATE: self._generate,
            ENGINE_ONE: lambda number: serving.serve(work.one(number)),
            self.many_name: lambda number: serving.serve(work.many(number)),
            _alone(ENGINE_ONE): lambda _: serving.again(ONE),
            _alone(self.many_name): lambda _: serving.again(MANY),
        }
        tokens = {ENGINE_ONE: self.new_tokens, self.many_name: self.requests * self.new_tokens}
        bare = {(name, A_TOKEN): Bare(_alone(name), 1 / count) for name, count in tokens.items()}
        found = compare(runs, GENERATE, self.rounds, bare, "engine")
        passes = {name: passes_of(one) for name, one in serving.found.items()}
        return self._kept(found, "engine", passes=passes)

    def _generate(self, number: int) -> Trace:
        (one,) = self.work.one(number).requests
        stream = partial(generate, self.target.decoder, one.prompt, one.new_tokens)
        return record(stream, len(one.prompt), self.lab.device)

    @cached_property
    def _engines(self) -> dict[str, BatchEngine]:
        positions = self.slots * (self.prompt_tokens + max(self.work.lengths) + 16)
        make = partial(engine_for, self.target.decoder, self.slots, positions)
        return {name: make(policy) for name, policy in POLICIES.items()}

    @cached_property
    def policies(self) -> tuple[Comparison, dict[str, list[Served]]]:
        """Static and in-flight batching of the same requests; how each round served them."""
        seen = {name: Seen[Served]() for name in POLICIES}

        def run(name: str, number: int) -> Trace:
            found = served(self._engines[name], self.work.tailed(number))
            return seen[name].note(number, found).trace

        runs: dict[str, Variant] = {name: partial(run, name) for name in POLICIES}
        found = compare(runs, STATIC, self.rounds, label="policies")
        rounds = {name: of.first(found.rounds) for name, of in seen.items()}
        users = {name: [users_of(one) for one in of] for name, of in rounds.items()}
        passes = {name: passes_of(of[-1]) for name, of in rounds.items()}
        return self._kept(found, "policies", users=users, passes=passes), rounds

    @cached_property
    def stalls(self) -> tuple[Comparison, dict[str, list[Stall]]]:
        """A long prompt that comes to running requests, read in several ways."""
        answer = min(_ANSWER, self.lab.config.max_positions - self.prompt_tokens)
        positions = self.long_prompt + AFTER + self.beside * (self.prompt_tokens + answer + 16)
        make = partial(engine_for, self.target.decoder, self.beside + 1, positions, plan_pass)
        most = self.long_prompt + self.beside
        engines = {
            WHOLE: make(budget=Budget(rows=most, answering=most)),
            FIXED: make(budget=Budget()),
            PACED: make(budget=Pace(self.costs)),
            CALM: make(),
        }

        def texts(number: int) -> tuple[list[list[int]], list[int]]:
            first = _STALLS + 1000 * number
            prompts = [self.lab.prompt(first + n) for n in range(self.beside)]
            return prompts, self.lab.prompt(first + self.beside, self.long_prompt)

        ways = Ways(engines, texts, answer)
        found = compare(ways.variants, WHOLE, self.rounds, label="long prompt")
        turns = {name: of.turns(found.rounds) for name, of in ways.seen.items()}
        told = {name: [one.to_dict() for both in of for one in both] for name, of in turns.items()}
        rounds = {name: list(map(of_round, of)) for name, of in turns.items()}
        return self._kept(found, "long prompt", stalls=told), rounds

    @property
    def full_rate(self) -> float:
        """Requests a second that in-flight batching serves where all are there at the start."""
        found, _ = self.policies
        return self.requests / (found.mean(IN_FLIGHT, A_TOKEN) * sum(self.work.lengths))

    @cached_property
    def frontier(self) -> list[Point]:
        """Both policies at several rates of arrivals, all interleaved."""
        full = self.full_rate
        cells = [(name, load) for load in self.loads for name in POLICIES]
        seen = {cell: Seen[Served]() for cell in cells}

        def run(policy: str, load: float, number: int) -> Trace:
            found = served(self._engines[policy], self.work.arriving(load * full, number))
            return seen[policy, load].note(number, found).trace

        runs: dict[str, Variant] = {
            f"{policy} at a load of {load}": partial(run, policy, load) for policy, load in cells
        }
        found = compare(runs, next(iter(runs)), self.rounds, label="arrivals")
        rounds = {cell: of.first(found.rounds) for cell, of in seen.items()}
        users = {f"{name} at {load}": [users_of(one) for one in of]
                 for (name, load), of in rounds.items()}  # fmt: skip
        self._kept(found, "arrivals", users=users)
        return [point(*cell, of, self.slo) for cell, of in rounds.items()]


def _alone(name: str) -> str:
    """The name of an engine's passes without the engine."""
    return f"passes alone of {name}"
