"""The study of notebook 07: what do many requests at once give, and is each answer the same?

It compares answers bit for bit, tells what the machine and the lengths of answers allow, and then
times passes of several requests, the engine, static and in-flight batching, a long prompt beside
running requests, and requests that come by themselves. From a script:

    from labkit.studies import batching
    for finding in batching.run(slots=8, requests=16):
        print(finding.variant, finding.speedup)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from labkit.bench.answers import table_rows
from labkit.bench.many_told import rates
from labkit.bench.points import DECODE, OUTPUT
from labkit.limits.batching import expected_longest
from labkit.optimize.fused import FusedDecoder
from labkit.report.told.finding import Finding
from labkit.report.told.plots import say, table
from labkit.studies import batching_figures as figures
from labkit.studies import batching_others as beside
from labkit.studies import batching_sentences as told
from labkit.studies import batching_tables as tables
from labkit.studies.batching_answers import hashed
from labkit.studies.batching_derived import CHECK_TOKENS, Derived
from labkit.studies.batching_findings import all_findings
from labkit.studies.batching_machines import left_out, rows_of_machines
from labkit.studies.batching_measured import A_TOKEN, ENGINE_ONE, IN_FLIGHT, POLICIES, STATIC
from labkit.studies.batching_runs import batch_name
from labkit.studies.batching_stall import PACED, WHOLE
from labkit.studies.predictions import DASH, no_change, score
from labkit.studies.the_limit_tables import engines

_HASHED = (2, 8, 16)  # requests in a pass, for the one hash


@dataclass
class Study(Derived):
    """What the notebook shows, one method a section. The inherited properties measure."""

    def same_answer(self) -> None:
        """Show that each answer is the one alone; AssertionError where one is not."""
        if self.target.reason:
            say(f"Everything below runs on the plain decoder: {self.target.reason.rstrip('.')}.")
        say(told.of_answers(self.mixed, self.slots))
        assert all(one.lossless for one in self.mixed.same), "a schedule changed an answer"
        if not isinstance(self.target.decoder, FusedDecoder):
            say(told.NO_HASH)
            return
        lines = hashed(self.target.decoder, self.asked, CHECK_TOKENS, _HASHED)
        table(tables.of_hash(lines), caption="The same answers, computed in several ways")
        say(told.of_hash(lines, self.check_answers, CHECK_TOKENS))
        assert not any(line.ends for line in lines), "a way to compute answers changed their bits"

    def predict(self) -> None:
        """Show what the machine and the lengths allow, and forecasts of passes."""
        table(
            tables.of_limits(self.limits, self.expected_gains),
            caption=f"Decode passes, each request after {self.lab.middle} tokens. Forecast: by the "
            f"cost of rows, measured before on another text ({self.rounds} rounds), and by the "
            "keys and values that each request reads for itself",
        )
        say(told.of_roofline(self.limits))
        lengths, slots = self.work.lengths, min(self.slots, self.requests)
        say(told.of_tail(self.work.tail, lengths, slots, expected_longest(lengths, slots)))
        say(told.of_gains(*self.allowed, self.foreseen_gain))
        table(
            tables.of_forecasts(self.forecasts),
            caption="The passes that the scheduler will make of each workload, and their time by "
            "the cost of rows and of what requests hold",
        )

    def measure(self) -> None:
        """Time everything, one comparison after another."""
        found = (self.sweep, self.engine, self.policies[0], self.stalls[0])
        rounds = sorted({one.rounds for one in found})
        assert len(self.frontier) == len(self.loads) * len(POLICIES)
        rates = "one rate" if len(self.loads) == 1 else f"{len(self.loads)} rates"
        say(
            f"{' or '.join(map(str, rounds))} rounds of each comparison. Requests come by "
            f"themselves at {rates}, to {' and to '.join(POLICIES)}."
        )

    def against_limit(self) -> None:
        """Show S(B)/S(1) beside that of the limit: the table and the figure that lead."""
        at_limit = self.gains_at_limit
        table(
            [
                tables.of_batch(
                    one, self.taken(batch), self.gains.get(batch), at_limit.get(batch),
                    self.sweep.share(batch_name(batch), A_TOKEN), self.fraction(batch),
                )
                for batch, one in self.limits.items()
            ],
            caption=f"Decode passes, each request after {self.lab.middle} tokens, "
            f"{self.sweep.rounds} rounds. At the limit: by the roofline of this run's hardware; "
            f"{DASH}",
        )  # fmt: skip
        last = max(self.gains)
        figures.scaling(
            self.gains, self.expected_gains, self.limits, at_limit,
            told.of_last_gain(last, self.gains[last], at_limit.get(last)),
            "Left: tokens a second of B requests over those of one. Right: what a pass reads.",
        )  # fmt: skip
        say(told.of_scaling(self.gains, at_limit))

    def against_static(self) -> None:
        """Show in-flight beside static batching, and who was computed when."""
        found, rounds = self.policies[0], self.in_policies
        gain = found.speedup(IN_FLIGHT, A_TOKEN)
        gains = {STATIC: "–", IN_FLIGHT: str(gain)}
        table(
            [
                tables.of_policy(name, of, 1 / found.mean(name, A_TOKEN), gains[name])
                for name, of in rounds.items()
            ],
            caption=f"{self.requests} requests of {self.prompt_tokens} tokens with heavy-tailed "
            f"answers, {self.slots} slots, {found.rounds} rounds",
        )
        say(told.of_policies(gain, *self.allowed))
        last = self.requests % self.slots or self.slots
        say(told.of_slots(self.answering, self.full_share, last, self.slots))
        for name, of in rounds.items():
            figures.timeline(of[-1].passes, name)

    def engine_time(self) -> None:
        """Show what the engine itself takes."""
        found, many = self.engine, self.many_name
        table(
            [tables.of_own_time(name, one) for name, one in self.by_engine.items()],
            caption="Where an engine's time goes, the last round. Neither: outside of its steps, "
            "as handing out requests and noting when tokens came",
        )
        share = found.share(many, A_TOKEN)
        assert share is not None
        rate, gain = 1 / found.mean(many, A_TOKEN), found.speedup(many, A_TOKEN)
        one = found.speedup(ENGINE_ONE, A_TOKEN)
        say(told.of_engine(one, share, self.slots, rate, gain))
        say(told.of_own_time(self.by_engine[many].passes))

    def beside_others(self) -> None:
        """Show other engines beside ours, each with several prompts at once."""
        found = self.others
        if found is None:
            say(beside.NONE)
            return
        asked = found.asked
        prompts = f"prompts of {asked.prompt_tokens} tokens, answers of {asked.new_tokens}"
        table(rates(found, OUTPUT), caption=f"Output tokens/s: {prompts}, {asked.rounds} rounds")
        table(rates(found, DECODE), caption="Tokens/s while all of them answer, prompts left out")
        table(engines(found.loaded, found.engines), caption="What ran, and how it was built")
        say(beside.of_others(found))
        if found.answers:
            table(table_rows(found.answers), caption="Distinct answers to one prompt")
            say(beside.of_distinct(found))
        for name, why in found.failed.items():
            say(f"{name} failed: {why}")

    def beside_long_prompt(self) -> None:
        """Show how long others wait while a long prompt is read."""
        found, rounds = self.stalls
        table(
            [tables.of_stall(name, of) for name, of in rounds.items()],
            caption=f"A prompt of {self.long_prompt:,} tokens comes to {self.beside} running "
            f"requests, {found.rounds} rounds",
        )
        say(told.of_stall(rounds, self.long_prompt, self.beside))
        for name in (WHOLE, PACED):
            figures.timeline_of_stall(rounds[name][-1], name)

    def arrivals(self) -> None:
        """Show latency against throughput, and the goodput."""
        points = self.frontier
        table(
            [tables.of_point(one) for one in points],
            caption=f"Poisson arrivals; SLOs: first token within {1e3 * self.slo_ttft:g} ms, then "
            f"{1e3 * self.slo_tpot:g} ms a token",
        )
        ends = " ".join(
            f"{one.policy} at {one.load:.0%}: {tables.of_seconds(one.ttft)}." for one in points
        )
        figures.frontier(
            points, self.slo_ttft,
            f"Time to first token and goodput at several rates of arrivals. {ends}",
            "Left: latency against throughput. Right: requests that met the SLOs.",
        )  # fmt: skip
        say(told.of_frontier(points, self.full_rate, self.requests, self.rounds))

    def memory(self) -> None:
        """Show the memory held against the memory that holds tokens."""
        rows = [tables.of_memory(name, one, self.kv_bytes) for name, one in self.memories.items()]
        table([row for pair in rows for row in pair], caption="Means over the time of a round")
        say(told.of_memory(self.memories))

    def why(self) -> None:
        """Tell how the forecasts did, and where the time of a pass goes."""
        gains, spent = self.predicted_gains, self.predicted_times
        cells = [{"forecast": one.name} | one.speedup_cells() for one in gains]
        table(cells, caption="Forecast speedups, held against what was measured after them")
        say(f"{score('speedups', gains)} {no_change([one.measured for one in gains])}")
        made = {name: of[-1] for name, of in self.in_policies.items()} | self.by_engine
        table(
            [tables.of_workload(one, self.forecasts[one.name], made[one.name]) for one in spent],
            caption="Foreseen workloads, held against the measured ones",
        )
        say(score("times", spent))
        last = max(self.gains)
        share = self.gains[last].value / self.limits[last].gain
        say(told.of_fractions(last, self.fraction(1), self.fraction(last), share))
        say(told.of_rest(last, self.taken(last), self.limits[last].limit))

    def findings(self) -> list[Finding]:
        """Save what was found, and show it."""
        return self.lab.save(all_findings(self, self.mixed))

    def elsewhere(self) -> None:
        """Show the limit of batching on other machines and with a larger model."""
        table(
            rows_of_machines(self.lab.config, self.lab.middle),
            caption="Limits by the rates that vendors print, weights and cache in bfloat16. "
            "Critical batch: from there on, computing takes longer than reading the weights",
        )
        say(left_out(self.lab.config, self.lab.middle))


def run(**parameters: Any) -> list[Finding]:
    """The whole study, section after section; parameters: fields of Study."""
    study = Study(**parameters)
    study.same_answer()
    study.predict()
    study.measure()
    study.against_limit()
    study.against_static()
    study.engine_time()
    study.beside_others()
    study.beside_long_prompt()
    study.arrivals()
    study.memory()
    study.why()
    findings = study.findings()
    study.elsewhere()
    return findings
