"""The study of notebook 05: when does speculative decoding pay on few cores?

It measures the cost of extra rows in a pass, and the acceptance of drafts on calibration texts.
From these it forecasts the speedup of each draft on each kind of task. Then it times other texts.
From a script:

    from labkit.studies import speculative
    for finding in speculative.run(new_tokens=64, tasks_a_kind=1):
        print(finding.variant, finding.speedup)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from labkit.base.units import scaled
from labkit.bench import client
from labkit.engine.row_costs import free_rows
from labkit.model.reference import load_reference
from labkit.optimize.speculative.predict import break_even, mixed_speedup
from labkit.optimize.speculative.suffix import SuffixIndex
from labkit.report.told.finding import Finding
from labkit.report.told.plots import say, table
from labkit.studies import speculative_figures as figures
from labkit.studies import speculative_sentences as told
from labkit.studies import speculative_tables as tables
from labkit.studies.lab import told_fraction
from labkit.studies.speculative_findings import kind_finding
from labkit.studies.speculative_forecast import Foreseen
from labkit.studies.speculative_machines import left_out, printed, rows_of, sent_speedup
from labkit.studies.speculative_measured import Measurements
from labkit.studies.speculative_others import (
    against_transformers,
    other_engines,
    rows_of_others,
)
from labkit.studies.speculative_prompts import change, together
from labkit.studies.speculative_tables import spaced
from labkit.studies.speculative_tasks import AUTOMATIC, PLAIN, Case, sampled
from labkit.timing.compare import Comparison
from labkit.timing.statistics import geometric_mean

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
        costs, limit, rows = self.costs, self.limit, self.length + 1
        lengths = range(1, costs.most)
        figures.row_costs(
            costs.measured,
            {k: limit.r(k) for k in costs.measured},
            [[break_even(n, of) for n in lengths] for of in (costs, limit)],
            f"A pass of {rows} rows takes {costs.r(rows):.2f} times as long as a pass of one row. "
            f"At the limit it would be {limit.r(rows):.2f} times.",
            "Left: r(k), with its 95 % interval. Right: the acceptance rate from which drafts pay.",
        )
        where = self.target.runs_on(self.lab.device)
        say(told.told_rows(costs, rows, where, self.calibration.spread))
        dtype = self.pass_cost(1).dtype
        say(told.told_limit(costs, limit, rows, dtype))
        say(
            f"Drafts of {self.length} tokens pay **{told.pays(self.length, costs)}**. At the limit "
            f"they would pay {told.pays(self.length, limit)}."
        )
        if not self.target.reason:
            say(told.ELSEWHERE)
        say(told.told_head(self.head))

    def same_answer(self) -> None:
        """Show that greedy answers stay the same, and compare sampled ones."""
        same = [one.same for each in self.checked.values() for one in each]
        say(told.told_same(same, len(self.checked)))
        target, some = self.target.decoder, self.cases[::4]
        equal = Counter(
            sampled(target, case) == sampled(target, case, SuffixIndex()) for case in some
        )
        say(
            f"Sampling at temperature 0.8, top-p 0.95, with the same seed: **{equal[True]} of "
            f"{equal.total()}** answers equal those without drafts in every token "
            f"({sum(len(case.answer) for case in some):,} tokens compared). A draft that copies "
            "uses no random numbers, so the target draws the same ones as without it. A "
            "draft that samples its tokens uses some. For such drafts the tests compare 100,000 "
            "draws with the target's distribution."
        )

    def predict(self) -> None:
        """Show the acceptance of each draft on the calibration texts, and the forecasts."""
        _, kept = self.own_layers
        layers = self.lab.config.layers
        table(
            [
                {"kind of task": spaced(kind)}
                | {name: _accepted_and_given(found) for name, found in of.items()}
                | {f"{kept} of {layers} layers": _accepted_and_given([self.skipped[kind]])}
                for kind, of in self.calibrated.items()
            ],
            caption=f"Acceptance rate · tokens a pass, on {len(self.calibration.cases)} "
            "calibration tasks",
        )
        table(
            [
                {"kind of task": spaced(kind)}
                | {name: tables.forecast(values) for name, values in of.items()}
                for kind, of in self.forecasts.items()
            ],
            caption=f"Forecast: speedup over decoding {PLAIN}, with its interval over the "
            "calibration prompts",
        )
        alone = [
            found.speedup(self.costs, draft_cost=self.skipped_cost)
            for found in self.skipped.values()
        ]
        say(told.told_skipped(alone, kept, layers, self.skipped_cost))

    def measure(self) -> None:
        """Time everything, one kind of task after another."""
        rounds = sorted({one.comparison.rounds for one in self.timed.values()})
        say(
            f"{len(self.timed)} kinds of task, {len(self.cases)} prompts, "
            f"{' or '.join(map(str, rounds))} rounds a kind. {told.told_over(self.timed.values())}"
        )

    def against_prediction(self) -> None:
        """Show the measured speedups beside the forecasts."""
        table(
            tables.against_forecasts(self.timed, self.held, self.settings, AUTOMATIC),
            caption=f"Measured speedup over decoding {PLAIN}, and (forecast)",
        )
        points = {
            name: [(one.forecast, one.measured) for one in self.held if one.setting == name]
            for name in self.settings
        }
        good = sum(one.holds for one in self.held)
        figures.forecast_and_measured(
            points,
            f"Forecast against measured speedup: {good} of {len(self.held)} forecasts lie inside "
            "the measured interval or within 15 %.",
            "A point is a kind of task, or all. Vertical lines are the measured 95 % intervals.",
        )
        say(told.told_held(self.held))
        if missed := tables.missed(self.held):
            table(missed, caption="Forecasts that did not hold")
        say(told.told_gains(self.timed, AUTOMATIC))

    def along_answer(self) -> None:
        """Show the speedup by the length of the answer."""
        lengths = [n for n in (16, 48, 128, 256) if n < self.new_tokens] + [self.new_tokens]
        cut = {n: {kind: one.until(n) for kind, one in self.timed.items()} for n in lengths}
        table(
            [
                {"kind of task": spaced(kind)}
                | {f"{n} tokens": str(cut[n][kind].speedup(AUTOMATIC)) for n in lengths}
                for kind in self.timed
            ],
            caption="Speedup of the automatic setting over the first tokens of the same answers; a "
            "shorter answer counts in full",
        )
        if len(lengths) > 1:
            along = {n: together(cut[n].values(), AUTOMATIC) for n in lengths}
            first, last = (cut[n].values() for n in (lengths[0], lengths[-1]))
            say(told.told_along(along, change(first, last, AUTOMATIC)))

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
            rows_of_others(found),
            caption=f"{case.task.name}: {len(case.prompt)} prompt tokens, {len(case.answer)} new "
            f"tokens. One prompt: intervals are over {found.rounds} rounds",
        )
        whole, ours = self.lab.loaded.describe()["weight_bytes"], self.pass_cost(1).weight_bytes
        say(
            f"transformers reads {self.lab.dtype} weights of {scaled(whole, 'B')}; our decoder "
            f"reads {scaled(ours, 'B')} a pass. So the difference between engines is not one of "
            "speculation alone. Each engine writes its own answer, so that drafts meet other texts."
        )

    def _time_others(self, case: Case) -> tuple[Comparison, dict[str, str]]:
        reference = load_reference(self.lab.loaded)
        target, setting = self.target.decoder, self.settings[AUTOMATIC]
        runs = against_transformers(target, reference, case, setting)
        where, rounds = client.locate(self.model or None), max(5, self.rounds - 1)
        threads = self.lab.hardware.threads
        with other_engines(where, case, threads, with_peers=self.peers) as (theirs, failed):
            found = self.lab.compare(
                runs | theirs, "transformers", rounds, {}, label="other engines"
            )
        return self.lab.noted(found, "other engines", apart=True), failed

    def drafted(self) -> None:
        """Show one answer of the automatic setting, with the drafted text marked."""
        case, account = max(
            zip(self.cases, self.accounts(AUTOMATIC), strict=True),
            key=lambda pair: (pair[0].task.kind == "edit_prose", len(pair[0].answer)),
        )
        decode, flags = self.lab.loaded.tokenizer.decode, account.drafted
        figures.drafted_text(figures.whole_characters(decode, case.answer, flags))
        say(f"{case.task.name}: {sum(flags)} of {len(flags)} tokens are accepted draft tokens.")

    @cached_property
    def made(self) -> list[Finding]:
        """The finding of the automatic setting on each kind of task."""
        return [kind_finding(self, kind) for kind in self.kinds]

    def why(self) -> None:
        """Show where the time goes, and the speedup of the same drafts if extra rows were free."""
        table(
            [
                {
                    "kind of task": spaced(kind),
                    f"{PLAIN}, of the bare read": tables.share(one.share(PLAIN)),
                    "automatic, of the bare read": tables.share(one.share(AUTOMATIC)),
                    "automatic, of its limit": told_fraction(found.fraction_of_limit),
                }
                for (kind, one), found in zip(self.timed.items(), self.made, strict=True)
            ],
            caption="Held against: reading the bytes of a pass of one row and nothing else, as "
            "many times as a setting made passes. The limit also counts the products of the "
            "extra rows",
        )
        table(
            tables.where_time_goes({name: self.accounts(name) for name in self.settings}),
            caption="Where the time of each setting goes, all tasks together, without the prompt's "
            "pass",
        )
        say(told.told_twice(self.costs, self.timed))
        free = free_rows(self.costs.most)
        ideal = [mixed_speedup(account, free) for account in self.accounts(AUTOMATIC)]
        measured = together(self.timed.values(), AUTOMATIC)
        say(
            "The papers assume that extra rows take no time. Under this assumption, the drafts "
            f"that the automatic setting sent here would give {geometric_mean(ideal):.2f}x on "
            f"average. Measured is {measured}."
        )

    def findings(self) -> list[Finding]:
        """Save what was found of the automatic setting on each kind of task, and show it."""
        return self.lab.save(self.made)

    def elsewhere(self) -> None:
        """Show what rows would cost at the limits of other machines."""
        here = {f"here, {self.target.name}, measured": self.costs, "here, limit": self.limit}
        there = printed(self.pass_cost, self.costs.most, self.target.attention)
        table(
            rows_of(here | there, self.length, self.accounts(AUTOMATIC)),
            caption="Limits with the rates that vendors print. Last column, computed: the mean "
            "speedup of the drafts that the automatic setting sent here, if rows cost that much",
        )
        accounts, measured = self.accounts(AUTOMATIC), together(self.timed.values(), AUTOMATIC)
        say(told.told_computed(sent_speedup(accounts, self.costs), self.forecast_of_all, measured))
        say(
            f"{left_out(there)} Nothing ran on these machines. A ratio of limits bounds nothing: a "
            "decoder's pass of one row may be further from its limit than its larger passes, and "
            "then drafts gain more than at the limit. Where rows cost nothing, only the acceptance "
            "rate counts. It depends on the text and on the model, so for another model it has to "
            "be measured again."
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
