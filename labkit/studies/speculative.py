"""The study of notebook 05: when does speculative decoding pay on few cores?

It measures the cost of extra rows in a pass. From that it predicts the speedup of each draft on
each kind of task. Then it times them. From a script:

    from labkit.studies import speculative
    for finding in speculative.run(new_tokens=64, tasks_a_kind=1):
        print(finding.variant, finding.speedup)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median
from typing import Any

from labkit.base.units import seconds
from labkit.bench import client
from labkit.engine.row_costs import free_rows
from labkit.model.reference import load_reference
from labkit.optimize.speculative.predict import break_even, mixed_speedup
from labkit.optimize.speculative.suffix import SuffixIndex
from labkit.report.told.finding import Finding
from labkit.report.told.plots import say, table
from labkit.studies import speculative_figures as figures
from labkit.studies import speculative_tables as tables
from labkit.studies.lab import LimitSeconds
from labkit.studies.speculative_forecast import Foreseen, Moment
from labkit.studies.speculative_measured import Measurements
from labkit.studies.speculative_others import against_transformers, other_engines
from labkit.studies.speculative_tables import pays, spaced
from labkit.studies.speculative_tasks import AUTOMATIC, Case, sampled
from labkit.timing.compare import Comparison, compare
from labkit.workload.tasks import GROUNDED

_NEAR = 0.15  # how far a measured speedup may lie from the predicted one to count as near
_OTHERS_TOKENS = 32  # of the answer that other engines are timed on


@dataclass
class Study(Measurements):
    """What the notebook shows, one method a section. The inherited properties measure."""

    def row_costs(self) -> None:
        """Show the cost of rows, the acceptance rate from which drafts pay, and the learned "
        "head."""
        if self.target.reason:
            reason = self.target.reason.rstrip(".")
            say(f"Everything below runs on the plain decoder: {reason}.")
        costs, length = self.costs, self.length
        lengths = range(1, costs.most)
        figures.row_costs(
            self.rows,
            {name: [of.r(k) for k in self.rows] for name, of in self.curves.items()},
            {name: [break_even(n, of) for n in lengths] for name, of in self.curves.items()},
            f"A pass of {length + 1} rows takes {costs.r(length + 1):.2f} times as long as a pass "
            f"of one row; drafts of {length} tokens pay {pays(length, costs)}.",
            "Left: r(k). Right: the acceptance rate from which drafts pay. A pass of one row of "
            f"the {self.target.name} takes {seconds(costs.seconds)}.",
        )
        _, limit, faster = self.curves.values()
        say(
            f"On this machine, drafts of {length} tokens pay **{pays(length, costs)}**. With rows "
            f"at the limit of this machine they would pay {pays(length, limit)}, and with ten "
            f"times the arithmetic {pays(length, faster)}."
        )
        say(tables.told_head(self.head))

    def same_answer(self) -> None:
        """Show that greedy answers stay the same, and compare sampled ones."""
        say(tables.told_same([one.same for each in self.checked.values() for one in each]))
        target = self.target.decoder
        equal = Counter(
            sampled(target, case) == sampled(target, case, SuffixIndex())
            for case in self.cases[::4]
        )
        say(
            f"Sampling at temperature 0.8, top-p 0.95, with the same seed: **{equal[True]} of "
            f"{equal.total()}** answers equal plain decoding's in every token. A draft that copies "
            "uses no random numbers, so the target draws the same ones as in plain decoding. A "
            "draft that samples its tokens uses some. For such drafts the tests compare 100,000 "
            "draws with the target's distribution."
        )

    def predict(self) -> None:
        """Show the acceptance rate of each draft, before anything is timed."""
        _, kept = self.own_layers
        layers = self.lab.config.layers
        table(
            [
                {"kind of task": spaced(kind)}
                | {name: _accepted_and_given(found) for name, found in of.items()}
                | {f"{kept} of {layers} layers": _accepted_and_given([self.skipped[kind]])}
                for kind, of in self.foreseen.items()
            ],
            caption="Acceptance rate · tokens a pass, on held-out tasks",
        )
        now, a_token = Moment(self.costs, self.head), kept / layers
        alone = sorted(found.speedup(now, a_token) for found in self.skipped.values())
        say(
            f"Self-speculation with {kept} of {layers} layers is predicted to give "
            f"a speedup of **{alone[0]:.2f}x to {alone[-1]:.2f}x**. Each token of its drafts costs "
            f"{a_token:.2f} passes, and must be verified as well. It is not timed below."
        )

    def measure(self) -> None:
        """Time everything, one kind of task after another."""
        rounds = sorted({one.comparison.rounds for one in self.timed.values()})
        say(f"{len(self.timed)} kinds of task, {' to '.join(map(str, rounds))} rounds each.")

    def against_prediction(self) -> None:
        """Show the measured speedups beside the predicted ones."""
        table(
            [
                {"kind of task": spaced(kind)}
                | {name: f"{one.comparison.speedup(name)} ({guess:.2f})"
                   for name, guess in one.predicted.items()}
                | {"automatic is": one.comparison.verdict(AUTOMATIC)}
                for kind, one in self.timed.items()
            ],
            caption=f"Measured speedup over plain decoding, and (predicted); {self.rounds} rounds",
        )  # fmt: skip
        points = {
            name: [(one.predicted[name], one.comparison.speedup(name).value)
                   for one in self.timed.values()]
            for name in self.settings
        }  # fmt: skip
        pairs = [pair for each in points.values() for pair in each]
        near = sum(abs(real / guess - 1) <= _NEAR for guess, real in pairs)
        told = f"{near} of {len(pairs)}"
        figures.predicted_and_measured(
            points, f"Predicted against measured speedup: {told} points lie within 15 %."
        )
        self._say_gains(f"**{told}** points lie within 15 % of the prediction.")

    def _say_gains(self, first: str) -> None:
        gains = {k: one.comparison.speedup(AUTOMATIC).value for k, one in self.timed.items()}
        every = gains.values()
        say(
            f"{first} The speedup of the automatic setting is {min(every):.2f}x to "
            f"{max(every):.2f}x, on average {fmean(every):.2f}x."
        )
        if grounded := [gain for kind, gain in gains.items() if kind in GROUNDED]:
            say(
                "On the kinds of task whose answers repeat words of the prompt, its median is "
                f"**{median(grounded):.2f}x**."
            )

    def along_answer(self) -> None:
        """Show the speedup by the length of the answer."""
        table(
            [
                {"kind of task": spaced(kind)} | {f"{n} tokens": str(r) for n, r in of.items()}
                for kind, of in self.along.items()
            ],
            caption="Speedup of the automatic setting over the first tokens of the same answers; a "
            "shorter answer counts in full",
        )
        lengths = list(next(iter(self.along.values())))
        spans = [self._span(n) for n in dict.fromkeys((lengths[0], lengths[-1]))]
        say(
            f"The speedup is {' and '.join(spans)} tokens. At the start of an answer, the setting "
            "does not know the acceptance rate for this task yet. It uses a usual rate for the "
            "first drafts. Rejected drafts take time, which a short answer may not recover."
        )

    def _span(self, tokens: int) -> str:
        values = [of[tokens].value for of in self.along.values()]
        return f"**{min(values):.2f}x to {max(values):.2f}x** over {tokens}"

    def other_engines(self) -> None:
        """Time transformers' and llama.cpp's own speculation on one task, beside ours."""
        if not self.compare_transformers:
            say("Left out: the parameter `compare_transformers` is off.")
            return
        case = next((c for c in self.cases if c.task.grounded), self.cases[0])
        case = case.beginning(_OTHERS_TOKENS)
        found, failed = self._time_others(case)
        for name, reason in (failed | found.failed).items():
            say(f"**{name}** could not be measured: {reason}")
        table(
            [
                {
                    "engine and method": name,
                    "end to end": seconds(found.median(name, "e2e_latency")),
                    "speedup": str(found.speedup(name, "e2e_latency")),
                }
                for name in found.traces
                if name != found.control
            ],
            caption=f"{case.task.name}: {len(case.prompt)} prompt tokens, {len(case.answer)} new "
            "tokens",
        )

    def _time_others(self, case: Case) -> tuple[Comparison, dict[str, str]]:
        reference = load_reference(self.lab.loaded)
        target, setting = self.target.decoder, self.settings[AUTOMATIC]
        runs = against_transformers(target, reference, case, setting)
        where, rounds = client.locate(self.model or None), max(5, self.rounds - 1)
        threads = self.lab.hardware.threads
        with other_engines(where, case, threads, with_peers=self.peers) as (theirs, failed):
            found = compare(runs | theirs, "transformers", rounds, label="other engines")
        return found, failed

    def drafted(self) -> None:
        """Show one answer of the automatic setting, with the drafted text marked."""
        case, account = max(
            zip(self.cases, self.accounts(AUTOMATIC), strict=True),
            key=lambda pair: (pair[0].task.kind == "edit_prose", len(pair[0].answer)),
        )
        decode, flags = self.lab.loaded.tokenizer.decode, account.drafted
        figures.drafted_text(figures.whole_characters(decode, case.answer, flags))
        say(f"{case.task.name}: {sum(flags)} of {len(flags)} tokens are accepted draft tokens.")

    def why(self) -> None:
        """Show where the time goes, and the speedup of the same drafts if extra rows were free."""
        table(
            tables.where_time_goes({name: self.accounts(name) for name in self.settings}),
            caption="Where the time goes, all tasks together",
        )
        free = free_rows(self.costs.most)
        ideal = [mixed_speedup(account, free) for account in self.accounts(AUTOMATIC)]
        say(
            "The papers assume that extra rows take no time. Under this assumption, the drafts "
            f"that the automatic setting sent here would give {fmean(ideal):.2f}x on average. Here "
            "rows take the time that the first figure shows, and the setting chooses its drafts "
            "by that cost."
        )

    def findings(self) -> list[Finding]:
        """Save what was found of the automatic setting on each kind of task, and show it."""
        return self.lab.save([self._finding(kind) for kind in self.kinds])

    def _finding(self, kind: str) -> Finding:
        cases = self.kinds[kind]
        checked = zip(self.cases, self.checked[AUTOMATIC], strict=True)
        same = all(one.same.lossless for case, one in checked if case.task.kind == kind)
        tokens = sum(len(case.answer) for case in cases)
        found = self.lab.finding(
            self.timed[kind].comparison, AUTOMATIC,
            limit_seconds=self._least(kind),
            quality={"lossless": same, "tokens_compared": tokens},
            workload={"kind": kind, "new_tokens": self.new_tokens, "tasks": len(cases)},
            model={"decoder": self.target.name},
        )  # fmt: skip
        return replace(found, variant=f"{spaced(kind)}, {AUTOMATIC}")

    def _least(self, kind: str) -> LimitSeconds:
        """The least seconds a token: a plain pass over the tokens that each pass gives."""
        accounts = [one.account for one in self.timed[kind].foreseen[AUTOMATIC]]
        nbytes = self.one_pass.read_bytes / tables.tokens_a_pass(accounts)
        return lambda bandwidth: nbytes / bandwidth

    def elsewhere(self) -> None:
        """Show what would change with more arithmetic."""
        table(
            tables.machines(self.curves, self.length, self.accounts(AUTOMATIC)),
            caption=f"Drafts of {self.length} tokens. Last column: the best task, with the drafts "
            "that were sent here",
        )
        say(
            "With more arithmetic, r(k) grows more slowly, and drafts pay from a lower acceptance "
            "rate. For a larger model, drafts that copy cost no more than here. The acceptance "
            "rate depends on the text and on the model: text that repeats itself is easier to "
            "guess."
        )


def _accepted_and_given(found: Sequence[Foreseen]) -> str:
    return tables.accepted_and_given([one.account for one in found])


def run(**parameters: Any) -> list[Finding]:
    """The whole study, section after section; parameters: fields of Study."""
    study = Study(**parameters)
    study.row_costs()
    study.same_answer()
    study.predict()
    study.measure()
    study.against_prediction()
    study.along_answer()
    study.other_engines()
    study.drafted()
    study.why()
    findings = study.findings()
    study.elsewhere()
    return findings
