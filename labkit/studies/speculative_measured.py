"""What notebook 05 measures: row costs, answers with drafts, forecasts, and rounds of each kind."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from labkit.engine.accounting import Accounting
from labkit.engine.row_costs import RowCosts
from labkit.limits.cost import Cost
from labkit.optimize.speculative.costs import limit_costs
from labkit.quality.lossless import SameAnswer, same_answer
from labkit.studies.lab import Lab
from labkit.studies.speculative_forecast import (
    Foreseen,
    Moment,
    all_foreseen,
    expected,
    foreseen,
    moment,
)
from labkit.studies.speculative_tables import spaced
from labkit.studies.speculative_target import KeptHead, costs_of, fastest, kept_head
from labkit.studies.speculative_tasks import (
    AUTOMATIC,
    PLAIN,
    Case,
    Setting,
    answered,
    own_layers,
    settings,
    speculated,
    variants,
)
from labkit.timing.compare import Comparison, compare
from labkit.timing.statistics import Ratio
from labkit.workload.tasks import KINDS, OUTSIDE, human_eval, tasks

# Tokens of an answer over which self-speculation is replayed. More would take long: each of its
# draft tokens is a pass of the plain decoder.
_BEGINNING = 24


class Checked(NamedTuple):
    """An answer with drafts compared with plain decoding's, and the counts of its drafts."""

    same: SameAnswer
    account: Accounting


class Timed(NamedTuple):
    """The rounds of a kind of task. By setting: the replay on each case at the row costs measured
    just before, and the speedup predicted from it."""

    comparison: Comparison
    foreseen: dict[str, list[Foreseen]]
    predicted: dict[str, float]


@dataclass
class Measurements:
    """The experiment; the fields are the notebook's parameters."""

    model: str = ""
    device: str = "auto"
    dtype: str = "float32"
    new_tokens: int = 256
    tasks_a_kind: int = 3  # of those held out; at most 3
    length: int = 4  # tokens a draft, where the length is fixed
    rows: list[int] = field(default_factory=lambda: [1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16])
    context: int = 384  # at which the cost of rows is measured
    row_rounds: int = 25
    kept_layers: float = 0.6  # share of the layers that self-speculation keeps
    rounds: int = 6
    outside_tasks: int = 3  # of HumanEval
    compare_transformers: bool = True  # run transformers' own speculation on one task
    peers: bool = True  # and llama.cpp's, where `make peers` has installed it

    def __post_init__(self) -> None:
        self.lab = Lab.open(
            "05_speculative", "speculative", self.model, self.device, self.dtype,
            prompt_tokens=self.context, new_tokens=self.new_tokens, rounds=self.rounds,
        )  # fmt: skip
        self.target = fastest(self.lab.loaded, self.model)

    def _costs(self, rounds: int) -> RowCosts:
        loaded, target = self.lab.loaded, self.target.decoder
        return costs_of(loaded, target, self.rows, self.context, rounds)

    @cached_property
    def costs(self) -> RowCosts:
        """The cost of the target's rows, measured before anything else."""
        return self._costs(self.row_rounds)

    @cached_property
    def head(self) -> KeptHead | None:
        """The head that was trained for this model, if there is one."""
        return kept_head(self.lab.loaded, self.target.decoder, self.costs)

    @cached_property
    def curves(self) -> dict[str, RowCosts]:
        """r(k) as measured, at the limit of this machine, and with ten times its arithmetic."""
        lab, nbytes = self.lab, self.target.weight_bytes
        limit, faster = (
            limit_costs(lab.config, lab.hardware, self.rows, self.context, lab.dtype, n, nbytes)
            for n in (1, 10)
        )
        measured = f"{self.target.name}, measured"
        return {measured: self.costs, "limit here": limit, "ten times the arithmetic": faster}

    @cached_property
    def cases(self) -> list[Case]:
        """The tasks that the model can hold, with the answers of plain decoding."""
        every = [t for kind in KINDS for t in tasks((kind,), held_out=True)[: self.tasks_a_kind]]
        every += human_eval(self.outside_tasks)
        loaded, target = self.lab.loaded, self.target.decoder
        stops = loaded.config.eos_ids
        return answered(target, loaded.tokenizer, every, self.new_tokens, stops)

    @cached_property
    def kinds(self) -> dict[str, list[Case]]:
        """The cases of each kind that has any."""
        kinds = (*KINDS, *OUTSIDE)
        found = {kind: [case for case in self.cases if case.task.kind == kind] for kind in kinds}
        return {kind: cases for kind, cases in found.items() if cases}

    @cached_property
    def settings(self) -> dict[str, Setting]:
        """The settings that are compared, at the costs measured first."""
        return settings(self.costs, self.length, self.head)

    @cached_property
    def checked(self) -> dict[str, list[Checked]]:
        """By setting: each case with drafts; AssertionError where an answer changes."""
        return {name: [self._check(case, name) for case in self.cases] for name in self.settings}

    def _check(self, case: Case, name: str) -> Checked:
        account = Accounting(self.costs)
        found = list(speculated(self.target.decoder, case, self.settings[name], account))
        same = same_answer(self.lab.decoder, case.prompt, case.answer, found)
        assert same.lossless, (case.task.name, name, same)
        return Checked(same, account)

    def accounts(self, name: str) -> list[Accounting]:
        """The counts of a setting's drafts, case by case."""
        return [one.account for one in self.checked[name]]

    @cached_property
    def foreseen(self) -> dict[str, dict[str, list[Foreseen]]]:
        """By kind and setting: the replay on each case, at the costs measured first."""
        config = self.lab.config
        return {kind: all_foreseen(config, of, self.settings) for kind, of in self.kinds.items()}

    @cached_property
    def own_layers(self) -> tuple[Setting, int]:
        """Self-speculation, and the number of layers that it keeps."""
        text = self.cases[0].prompt[:96]
        return own_layers(self.lab.decoder, text, self.kept_layers, self.length)

    @cached_property
    def skipped(self) -> dict[str, Foreseen]:
        """By kind: the replay of self-speculation on the beginning of the first case's answer."""
        setting, _ = self.own_layers
        return {
            kind: foreseen(self.lab.config, cases[0].beginning(_BEGINNING), setting)
            for kind, cases in self.kinds.items()
        }

    @cached_property
    def one_pass(self) -> Cost:
        """The cost of a plain decode step in the middle of an average case."""
        context = sum(len(case.prompt) + len(case.answer) // 2 for case in self.cases)
        return self.target.step_cost(context // len(self.cases), self.lab.dtype)

    @cached_property
    def timed(self) -> dict[str, Timed]:
        """By kind: plain decoding twice a round and every setting once."""
        found = {kind: self._time(kind) for kind in self.kinds}
        samples = {kind: one.comparison.to_dict() for kind, one in found.items()}
        self.lab.keep_samples("tasks", samples)
        return found

    def _time(self, kind: str) -> Timed:
        lab, target, cases = self.lab, self.target.decoder, self.kinds[kind]
        costs = self._costs(max(5, self.row_rounds // 2))
        head = self.head and self.head.measured(target, costs)
        now = settings(costs, self.length, head)
        known = all_foreseen(lab.config, cases, now)
        moments: list[Moment] = []

        def between() -> None:
            moments.append(moment(lab.loaded, target, head, self.rows, self.context))

        runs, probe = variants(target, cases, now, str(lab.device)), lab.probe(self.one_pass)
        found = compare(runs, PLAIN, self.rounds, probe, spaced(kind), between)
        around = moments[: found.rounds + 1]
        return Timed(found, known, {name: expected(of, around) for name, of in known.items()})

    @cached_property
    def along(self) -> dict[str, dict[int, Ratio]]:
        """By kind: the automatic setting's speedup, by the number of tokens of each answer."""
        lengths = [n for n in (16, 48, 128, 256) if n < self.new_tokens] + [self.new_tokens]
        return {
            kind: {n: one.comparison.until(n).speedup(AUTOMATIC) for n in lengths}
            for kind, one in self.timed.items()
        }
