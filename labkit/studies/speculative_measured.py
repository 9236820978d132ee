"""What notebook 05 measures: row costs, acceptance, answers with drafts, rounds of each kind."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from labkit.engine.accounting import Accounting
from labkit.engine.row_costs import RowCosts
from labkit.errors import ModelError
from labkit.limits.cost import Cost, experts_read, matrix_parameters
from labkit.limits.roofline import limit
from labkit.optimize.speculative.costs import limit_costs
from labkit.quality.lossless import SameAnswer, same_answer
from labkit.report.told import decoders
from labkit.studies.lab import Lab
from labkit.studies.speculative_forecast import EVERY, Foreseen, Held, all_foreseen, foreseen, hold
from labkit.studies.speculative_prompts import Rounds, rounds_for
from labkit.studies.speculative_tables import spaced, work_a_token
from labkit.studies.speculative_target import KeptHead, costs_of, fastest, has_head, kept_head
from labkit.studies.speculative_tasks import (
    AUTOMATIC,
    PLAIN,
    Case,
    Setting,
    answered,
    answered_one,
    own_layers,
    settings,
    speculated,
    variants,
)
from labkit.workload.tasks import KINDS, OUTSIDE, Task, human_eval, tasks

# Tokens of an answer over which self-speculation is replayed. More would take long: each of its
# draft tokens is a pass of the plain decoder.
_BEGINNING = 24


class Calibration(NamedTuple):
    """What forecasts are made from, measured before anything is timed: the cost of rows, and plain
    answers to tasks that are not timed. spread: seconds from the first row's pass to the last."""

    costs: RowCosts
    cases: list[Case]
    spread: float


class Checked(NamedTuple):
    """An answer with drafts compared with that without drafts, and the counts of its drafts."""

    same: SameAnswer
    account: Accounting


@dataclass
class Measurements:
    """The experiment; the fields are the notebook's parameters."""

    model: str = ""
    device: str = "auto"
    dtype: str = "float32"
    new_tokens: int = 256
    tasks_a_kind: int = 6  # that are timed; at most 6, all held out
    calibration_tasks: int = 12  # a kind, which forecasts are made from; at most 12, other ones
    length: int = 4  # tokens a draft, where the length is fixed
    rows: list[int] = field(default_factory=lambda: [1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16])
    context: int = 0  # at which the cost of rows is measured; 0: the calibration tasks' mean
    row_rounds: int = 25
    kept_layers: float = 0.6  # share of the layers that self-speculation keeps
    rounds: int = 6
    outside_tasks: int = 6  # of HumanEval
    compare_transformers: bool = True  # run transformers' own speculation on one task
    peers: bool = True  # and llama.cpp's, where `make peers` has installed it

    def __post_init__(self) -> None:
        self.lab = Lab.open(
            "05_speculative", "speculative", self.model, self.device, self.dtype,
            prompt_tokens=max(1, self.context), new_tokens=self.new_tokens, rounds=self.rounds,
            parameters=vars(self),
        )  # fmt: skip
        self.target = fastest(self.lab.loaded, self.model)

    @cached_property
    def calibration(self) -> Calibration:
        """The cost of rows. Between its rounds the decoder answers the calibration tasks, so that
        the rounds are spread over as long a time."""
        loaded, target = self.lab.loaded, self.target.decoder
        given = self._calibrating()
        left, cases = iter(given), list[Case]()
        streams = has_head(loaded)

        def answer_next() -> bool:
            if (task := next(left, None)) is None:
                return False
            case = answered_one(target, loaded.tokenizer, task, self.new_tokens,
                                loaded.config.eos_ids, streams=streams)  # fmt: skip
            cases.extend([case] if case else [])
            return True

        began = time.perf_counter()
        rows = sorted({*self.rows, self.length + 1})
        context = self.context or self._middle(given)
        costs = costs_of(loaded, target, rows, context, self.row_rounds, answer_next)
        spread = time.perf_counter() - began
        while answer_next():
            pass
        _some(cases, len(given), self.new_tokens)
        return Calibration(costs, cases, spread)

    def _middle(self, some: Sequence[Task]) -> int:
        """Tokens in the cache in the middle of an answer, the mean over tasks. At another context
        attention takes another share of a pass, and extra rows another multiple of one row."""
        prompts = [len(task.ids(self.lab.loaded.tokenizer)) for task in some]
        return sum(prompts) // len(prompts) + self.new_tokens // 2

    def _calibrating(self) -> list[Task]:
        count, outside = self.calibration_tasks, self.outside_tasks
        found = [t for kind in KINDS for t in tasks((kind,), held_out=False)[:count]]
        return [*found, *human_eval(outside + count if outside else 0)[outside:]]

    @property
    def costs(self) -> RowCosts:
        """The cost of the target's rows: measured once, before anything is timed."""
        return self.calibration.costs

    @cached_property
    def head(self) -> KeptHead | None:
        """The head that was trained for this model, if there is one."""
        return kept_head(self.lab.loaded, self.target.decoder, self.costs)

    def pass_cost(self, rows: int, context: int = 0) -> Cost:
        """The cost of a pass of `rows`; context: by default where the cost of rows is measured."""
        return self.target.cost(context or self.costs.context, rows, self.lab.dtype)

    @cached_property
    def limit(self) -> RowCosts:
        """r(k) at the limit of this machine."""
        ks, context = range(1, self.costs.most + 1), self.costs.context
        return limit_costs(self.pass_cost, self.lab.hardware, ks, context, self.target.attention)

    @cached_property
    def cases(self) -> list[Case]:
        """The tasks that the model can hold, with the answers of decoding without drafts."""
        every = [t for kind in KINDS for t in tasks((kind,), held_out=True)[: self.tasks_a_kind]]
        every += human_eval(self.outside_tasks)
        loaded, target = self.lab.loaded, self.target.decoder
        found = answered(target, loaded.tokenizer, every, self.new_tokens, loaded.config.eos_ids,
                         streams=has_head(loaded))  # fmt: skip
        _some(found, len(every), self.new_tokens)
        return found

    @cached_property
    def kinds(self) -> dict[str, list[Case]]:
        """The cases of each kind that has any."""
        return _by_kind(self.cases)

    @cached_property
    def settings(self) -> dict[str, Setting]:
        """The settings that are compared."""
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

    def accounts(self, name: str, kind: str = "") -> list[Accounting]:
        """The counts of a setting's drafts, by timed case; kind: of that kind only."""
        pairs = zip(self.cases, self.checked[name], strict=True)
        return [one.account for case, one in pairs if kind in ("", case.task.kind)]

    @cached_property
    def calibrated(self) -> dict[str, dict[str, list[Foreseen]]]:
        """By kind and setting: the replay on each calibration case."""
        config, cases = self.lab.config, _by_kind(self.calibration.cases)
        return {kind: all_foreseen(config, of, self.settings) for kind, of in cases.items()}

    @cached_property
    def forecasts(self) -> dict[str, dict[str, list[float]]]:
        """By kind and setting: the speedup that each calibration case leads to expect."""
        return {
            kind: {name: self._speedups(found) for name, found in of.items()}
            for kind, of in self.calibrated.items()
        }

    @cached_property
    def own_layers(self) -> tuple[Setting, int]:
        """Self-speculation, and the number of layers that it keeps."""
        text = self.calibration.cases[0].prompt[:96]
        return own_layers(self.lab.decoder, text, self.kept_layers, self.length)

    @cached_property
    def skipped(self) -> dict[str, Foreseen]:
        """By kind: the replay of self-speculation on the beginning of a calibration answer."""
        setting, _ = self.own_layers
        return {
            kind: foreseen(self.lab.config, cases[0].beginning(_BEGINNING), setting)
            for kind, cases in _by_kind(self.calibration.cases).items()
        }

    @property
    def skipped_cost(self) -> float:
        """What a token of self-speculation's draft costs, in passes: its share of the weights."""
        _, kept = self.own_layers
        parts = matrix_parameters(self.lab.config, experts_read(self.lab.config, 1))
        read = parts["layers"] * kept / self.lab.config.layers + parts["head"]
        return read / (parts["layers"] + parts["head"])

    def one_pass(self, kind: str) -> Cost:
        """The cost of a plain decode step in the middle of an average case of a kind."""
        cases = self.kinds[kind]
        context = sum(len(case.prompt) + len(case.answer) // 2 for case in cases)
        return self.pass_cost(1, context // len(cases))

    @cached_property
    def timed(self) -> dict[str, Rounds]:
        """By kind: decoding without drafts twice a round and every setting once, beside the bare
        read of a pass of one row."""
        found = {kind: self._time(kind) for kind in self.kinds}
        samples = {kind: one.comparison.to_dict() for kind, one in found.items()}
        self.lab.keep_samples("tasks", samples)
        decoder = decoders.FUSED if self.target.products else decoders.plain(self.lab.dtype)
        comparisons = [one.comparison for one in found.values()]
        decoders.keep(self.lab.notebook, {decoder: PLAIN}, *comparisons)
        return found

    def _time(self, kind: str) -> Rounds:
        lab, cases, cost = self.lab, self.kinds[kind], self.one_pass(kind)
        runs = variants(self.target.decoder, cases, self.settings, str(lab.device))
        rounds = rounds_for(self.rounds, len(cases))
        found = lab.compare(runs, PLAIN, rounds, {(PLAIN, "decode"): cost}, label=spaced(kind))
        reads = limit(cost, lab.hardware).bound == "memory"
        work = {
            name: [work_a_token(account, reads) for account in self.accounts(name, kind)]
            for name in self.settings
        }
        return Rounds(found, len(cases), work)

    @cached_property
    def replayed(self) -> dict[str, dict[str, list[Foreseen]]]:
        """By kind and setting: the replay on each timed case."""
        config = self.lab.config
        return {kind: all_foreseen(config, of, self.settings) for kind, of in self.kinds.items()}

    @cached_property
    def held(self) -> list[Held]:
        """Every forecast beside what was measured."""
        replays = {
            kind: {name: self._speedups(found) for name, found in of.items()}
            for kind, of in self.replayed.items()
        }
        return hold(self.timed, self.forecasts, replays)

    @property
    def forecast_of_all(self) -> float | None:
        """The forecast of the automatic setting over all kinds; None where none could be made."""
        found = (one for one in self.held if (one.kind, one.setting) == (EVERY, AUTOMATIC))
        return next((one.forecast for one in found), None)

    def _speedups(self, found: Sequence[Foreseen]) -> list[float]:
        return [one.speedup(self.costs, self.head and self.head.cost) for one in found]


def _some(cases: Sequence[Case], asked: int, new_tokens: int) -> None:
    """ModelError where no task is left: none fits, or every answer is too short."""
    if not cases:
        raise ModelError(
            f"none of {asked} tasks with answers of up to {new_tokens} tokens could be used: they "
            "do not fit the model's context, or it answers with fewer than 8 tokens."
        )


def _by_kind(cases: list[Case]) -> dict[str, list[Case]]:
    found = {kind: [c for c in cases if c.task.kind == kind] for kind in (*KINDS, *OUTSIDE)}
    return {kind: of for kind, of in found.items() if of}
