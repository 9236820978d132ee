"""What follows from the measurements of notebook 07: answers, gains, forecasts, memory."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from labkit.engine.drive import Served
from labkit.engine.one_hash import questions
from labkit.limits.batching import expected_longest, finite_gain
from labkit.optimize.fused import FusedDecoder
from labkit.quality.lossless import tie_margin
from labkit.report.told.compared import Least
from labkit.studies.batching_answers import Mixed, asked_of, mixed
from labkit.studies.batching_measured import (
    A_TOKEN,
    ENGINE_ONE,
    IN_FLIGHT,
    POLICIES,
    STATIC,
    Measurements,
)
from labkit.studies.batching_memory import Memory, memory
from labkit.studies.batching_runs import batch_name
from labkit.studies.batching_workloads import MANY, ONE, TAILED
from labkit.studies.predictions import Prediction
from labkit.timing.statistics import Ratio, interval

CHECK_TOKENS = 8  # of an answer whose bits are compared
_LONGEST = 48  # tokens of its prompt, at most


@dataclass
class Derived(Measurements):
    """The numbers that the page tells, beside those that it reads from a comparison itself."""

    @cached_property
    def asked(self) -> list[tuple[int, ...]]:
        """Prompts whose answers are compared bit for bit."""
        longest = min(_LONGEST, self.lab.config.max_positions - 2 * CHECK_TOKENS)
        return questions(self.lab.loaded.tokenizer, self.check_answers, longest)

    @cached_property
    def mixed(self) -> Mixed:
        """Answers from a schedule in which everything happens, against those alone."""
        exact = isinstance(self.target.decoder, FusedDecoder)
        tie = 0.0 if exact else tie_margin(self.lab.decoder.dtype)
        return mixed(self.target.decoder, asked_of(self.asked, CHECK_TOKENS), self.slots, tie)

    @cached_property
    def expected_gains(self) -> dict[int, float]:
        """The forecast of S(B)/S(1), by the number of requests in a pass."""
        return {batch: batch / self.relative(batch) for batch in self.limits}

    @cached_property
    def allowed(self) -> tuple[float, float]:
        """How many times as fast as static batching in-flight batching can be with these answers:
        by equal passes, and by what passes cost."""
        lengths, slots = self.work.lengths, self.slots
        return finite_gain(lengths, slots), finite_gain(lengths, slots, self.relative)

    @property
    def foreseen_gain(self) -> float:
        """The forecast of in-flight over static batching, prompts included."""
        return self.forecasts[STATIC].seconds / self.forecasts[IN_FLIGHT].seconds

    @cached_property
    def gains(self) -> dict[int, Ratio]:
        """S(B)/S(1) as measured, with its interval."""
        return {b: self.sweep.speedup(batch_name(b), A_TOKEN) for b in self.limits if b > 1}

    def taken(self, batch: int) -> float:
        """Measured seconds of a decode pass of so many requests."""
        return batch * self.sweep.mean(batch_name(batch), A_TOKEN)

    def fraction(self, batch: int) -> float | None:
        """Limit over measured time of such a pass; None where the limit was beaten."""
        return Least(self.limits[batch].limit.seconds).fraction(self.taken(batch))

    @property
    def gains_at_limit(self) -> dict[int, float]:
        """S(B)/S(1) at the limit, for each pass of which neither limit was beaten."""
        if self.fraction(1) is None:
            return {}
        return {b: one.gain for b, one in self.limits.items() if self.fraction(b) is not None}

    @property
    def in_policies(self) -> dict[str, list[Served]]:
        """How each round of static and of in-flight batching served the same requests."""
        return self.policies[1]

    @property
    def answering(self) -> dict[str, float]:
        """By policy, of all slots, those that gave a token in a pass: the mean over the passes of
        the last round."""
        tokens = sum(self.work.lengths)
        return {
            name: tokens / (len(of[-1].passes) * self.slots)
            for name, of in self.in_policies.items()
        }

    @property
    def full_share(self) -> float:
        """The same of static batches that are full, by the lengths of the answers: E[length] over
        E[longest of a batch]."""
        lengths = self.work.lengths
        longest = expected_longest(lengths, min(self.slots, self.requests))
        return sum(lengths) / len(lengths) / longest

    @property
    def by_engine(self) -> dict[str, Served]:
        """How the engine served one request, and many, in the last round."""
        assert self.engine.rounds  # it has run
        return {ENGINE_ONE: self.serving.found[ONE], self.many_name: self.serving.found[MANY]}

    @cached_property
    def memories(self) -> dict[str, Memory]:
        """What requests held in the last round of each workload."""
        equal, tailed = self.by_engine[self.many_name], self.in_policies[IN_FLIGHT][-1]
        longest = self.prompt_tokens + self.new_tokens
        most = self.prompt_tokens + max(self.work.lengths)
        return {
            MANY: memory(equal.passes, self.slots, longest),
            TAILED: memory(tailed.passes, self.slots, most),
        }

    @cached_property
    def predicted_gains(self) -> list[Prediction]:
        """The forecast speedups, beside what was measured."""
        found = [
            Prediction(f"S({batch})/S(1)", self.expected_gains[batch], ratio)
            for batch, ratio in self.gains.items()
        ]
        gain = self.policies[0].speedup(IN_FLIGHT, A_TOKEN)
        return [*found, Prediction("in-flight over static batching", self.foreseen_gain, gain)]

    @cached_property
    def predicted_times(self) -> list[Prediction]:
        """The foreseen time of each workload, beside what was measured."""
        found = []
        for name, one in self.forecasts.items():
            compared = self.policies[0] if name in POLICIES else self.engine
            measured = interval(compared.values(name, "e2e_latency"))
            found.append(Prediction(name, one.seconds, measured))
        return found
