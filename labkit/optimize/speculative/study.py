"""Speculation on a batch of tasks: what the notebook predicts, runs and compares."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from tqdm.auto import tqdm

from labkit.model.config import ModelConfig
from labkit.model.generate import Forward, generate
from labkit.model.load import LoadedModel
from labkit.optimize import fused
from labkit.optimize.speculative.accounting import Accounting
from labkit.optimize.speculative.control import Adaptive, Control, Fixed
from labkit.optimize.speculative.costs import RowCosts
from labkit.optimize.speculative.draft import Draft
from labkit.optimize.speculative.lookup import PromptLookup
from labkit.optimize.speculative.predict import mixed_speedup
from labkit.optimize.speculative.replay import replay
from labkit.optimize.speculative.request import speculate
from labkit.optimize.speculative.suffix import SuffixIndex
from labkit.timing.trace import Trace, record
from labkit.workload.tasks import Task

PLAIN, AUTOMATIC = "plain decoding", "automatic"


class Setting(NamedTuple):
    """How one speculates; draft and control are made anew for every request."""

    draft: Callable[[], Draft]
    control: Callable[[], Control]


class Case(NamedTuple):
    """A task with the greedy answer of plain decoding."""

    task: Task
    prompt: list[int]
    answer: list[int]


def fastest(loaded: LoadedModel, name: str = "") -> tuple[str, Any]:
    """Our fastest decoder of a loaded model, and what it is called.

    The fused one where this machine and model allow it, else the plain one.
    """
    if loaded.decoder.device.type == "cpu" and fused.available() is None:
        try:
            return "fused decoder", fused.load_fused(name or None)
        except fused.FusedError:
            pass
    return "plain decoder", loaded.decoder


def settings(costs: RowCosts, length: int = 4) -> dict[str, Setting]:
    """Prompt lookup and suffix index at a fixed length, and the automatic setting."""
    fixed = partial(Fixed, length)
    return {
        f"prompt lookup, {length}": Setting(PromptLookup, fixed),
        f"suffix index, {length}": Setting(SuffixIndex, fixed),
        AUTOMATIC: Setting(SuffixIndex, lambda: Adaptive(costs)),
    }


def answered(
    target: Forward,
    tokenizer: Any,
    tasks: Iterable[Task],
    new_tokens: int,
    stop_ids: Collection[int] = (),
    least: int = 8,
) -> list[Case]:
    """Plain greedy answers; without the tasks that do not fit, or have shorter answers."""
    cases = []
    for task in tqdm(list(tasks), desc="plain answers", unit="task"):
        prompt = task.ids(tokenizer)
        if len(prompt) + new_tokens > target.config.max_positions:
            continue
        answer = list(generate(target, prompt, new_tokens, stop_ids=stop_ids))
        if len(answer) >= least:
            cases.append(Case(task, prompt, answer))
    return cases


def speculated(
    target: Forward, case: Case, setting: Setting, accounting: Accounting | None = None
) -> Iterator[int]:
    """The case's answer once more, with a draft."""
    return speculate(
        target, setting.draft(), case.prompt, len(case.answer),
        control=setting.control(), accounting=accounting,
    )  # fmt: skip


def foreseen(
    config: ModelConfig, case: Case, setting: Setting, costs: RowCosts, draft_cost: float = 0.0
) -> tuple[Accounting, float]:
    """What a setting would do on a case, and the speedup to expect of it; the target rests."""
    account = replay(config, setting.draft(), case.prompt, case.answer, setting.control())
    rates = account.acceptance_at()
    return account, mixed_speedup(rates, account.lengths, costs, draft_cost)


def of_round(cases: Sequence[Case], number: int) -> Case:
    """The case of a round of a comparison: each in turn."""
    return cases[number % len(cases)]


def expected(speedups: Sequence[float], rounds: int) -> float:
    """The median over a comparison's rounds of what is expected of their cases."""
    return float(np.median([speedups[number % len(speedups)] for number in range(1, rounds + 1)]))


def variants(
    target: Forward, cases: Sequence[Case], of: dict[str, Setting], device: str = "cpu"
) -> dict[str, Callable[[int], Trace]]:
    """Plain decoding and every setting, for `compare`; round n asks case n."""

    def plain(number: int) -> Trace:
        case = of_round(cases, number)
        stream = partial(generate, target, case.prompt, len(case.answer))
        return record(stream, len(case.prompt), device)

    def drafted(setting: Setting, number: int) -> Trace:
        case = of_round(cases, number)
        return record(partial(speculated, target, case, setting), len(case.prompt), device)

    runs: dict[str, Callable[[int], Trace]] = {PLAIN: plain}
    return runs | {name: partial(drafted, setting) for name, setting in of.items()}
