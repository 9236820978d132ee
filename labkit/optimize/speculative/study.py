"""Speculation on a batch of tasks: what the notebook runs and compares."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

from torch import Tensor
from tqdm.auto import tqdm

from labkit.model.config import ModelConfig
from labkit.model.generate import Forward, generate
from labkit.model.load import LoadedModel
from labkit.model.reference import reference_generate
from labkit.model.rows import Rows
from labkit.optimize import fused
from labkit.optimize.speculative.accounting import Accounting
from labkit.optimize.speculative.chooser import Chooser
from labkit.optimize.speculative.control import Adaptive, Control, Fixed
from labkit.optimize.speculative.costs import DEFAULT_KS, RowCosts, row_costs
from labkit.optimize.speculative.draft import Draft
from labkit.optimize.speculative.head import load_head
from labkit.optimize.speculative.head_draft import (
    HeadCost,
    HeadForward,
    LearnedHead,
    PlainHead,
    fused_head,
    head_cost,
)
from labkit.optimize.speculative.lookup import PromptLookup
from labkit.optimize.speculative.request import speculate
from labkit.optimize.speculative.suffix import SuffixIndex
from labkit.optimize.speculative.train_head import head_path
from labkit.timing.trace import Trace, record, record_pushed
from labkit.workload.prompts import prompt_ids
from labkit.workload.tasks import Task

T = TypeVar("T")
PLAIN, AUTOMATIC = "plain decoding", "automatic"


class Setting(NamedTuple):
    """How one speculates; draft and control are made anew for every request."""

    draft: Callable[[], Draft]
    control: Callable[[], Control]


class Case(NamedTuple):
    """A task with the greedy answer of plain decoding, and the target's streams along both."""

    task: Task
    prompt: list[int]
    answer: list[int]
    streams: Tensor | None = None


class KeptHead(NamedTuple):
    """A trained head that runs, the tokens it knows, its recipe, and what it costs. spare: its
    caches between requests."""

    forward: HeadForward
    ids: Tensor
    recipe: dict[str, Any]
    spare: list[tuple[int, Any]]
    cost: HeadCost = HeadCost()

    def measured(self, target: Any, costs: RowCosts) -> KeptHead:
        """With its cost beside that of rows."""
        return self._replace(cost=head_cost(self.forward, target, costs))

    def draft(self, costs: RowCosts) -> LearnedHead:
        """A draft with it, for one request."""
        return LearnedHead(self.forward, self.ids, costs, self.cost, spare=self.spare)


def fastest(loaded: LoadedModel, name: str = "") -> tuple[str, Any, str]:
    """What our fastest decoder of a loaded model is called, the decoder, and why it is no faster.

    The fused one where this machine and model allow it, for no reason (""); else the plain one.
    """
    if loaded.decoder.device.type != "cpu":
        return "plain decoder", loaded.decoder, "the fused decoder runs on the CPU alone"
    try:
        return "fused decoder", fused.load_fused(name or None), ""
    except fused.FusedError as error:
        return "plain decoder", loaded.decoder, f"the fused decoder does not run: {error}"


def costs_of(
    loaded: LoadedModel, target: Any, ks: Sequence[int] = DEFAULT_KS, context: int = 512,
    rounds: int = 25,
) -> RowCosts:  # fmt: skip
    """What rows cost a target after real text; context: at most half of what the model can hold."""
    context = min(context, loaded.config.max_positions // 2)
    text = prompt_ids(loaded.tokenizer, context, 9000)
    return row_costs(target, ks, context, rounds, text=text)


def kept_head(loaded: LoadedModel, target: Any, costs: RowCosts) -> KeptHead | None:
    """The head trained for a model (train_head.py); None where there is none yet."""
    path = head_path(loaded)
    if not path.exists():
        return None
    head, recipe = load_head(loaded.decoder, path)
    forward: HeadForward = (
        fused_head(head, target, loaded.directory)
        if isinstance(target, fused.FusedDecoder)
        else PlainHead(head, loaded.decoder)
    )
    return KeptHead(forward, head.ids, recipe, []).measured(target, costs)


def settings(costs: RowCosts, length: int = 4, head: KeptHead | None = None) -> dict[str, Setting]:
    """Prompt lookup and suffix index at a fixed length, the head, and the automatic setting."""
    fixed = partial(Fixed, length)
    found = {
        f"prompt lookup, {length}": Setting(PromptLookup, fixed),
        f"suffix index, {length}": Setting(SuffixIndex, fixed),
    }
    if head is None:
        return found | {AUTOMATIC: Setting(SuffixIndex, lambda: Adaptive(costs))}
    longest = partial(Fixed, costs.most - 1)  # these two stop by themselves
    return found | {
        "learned head": Setting(lambda: head.draft(costs), longest),
        AUTOMATIC: Setting(lambda: Chooser(costs, head.draft(costs)), longest),
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
            cases.append(Case(task, prompt, answer, _streams(target, [*prompt, *answer])))
    return cases


def _streams(target: Any, text: Sequence[int]) -> Tensor | None:
    if not hasattr(target, "traced"):
        return None
    streams: Tensor = target.traced(Rows.prefill(text), target.new_cache(1, len(text)))[1]
    return streams


def speculated(
    target: Forward, case: Case, setting: Setting, accounting: Accounting | None = None
) -> Iterator[int]:
    """The case's answer once more, with a draft."""
    return speculate(
        target, setting.draft(), case.prompt, len(case.answer),
        control=setting.control(), accounting=accounting,
    )  # fmt: skip


# How transformers speculates: it copies from the prompt, or drafts with its own first layers.
TRANSFORMERS: dict[str, Callable[[ModelConfig], dict[str, Any]]] = {
    "transformers": lambda config: {},
    "transformers, prompt lookup": lambda config: {"prompt_lookup_num_tokens": 10},
    "transformers, own layers as assistant": lambda config: {
        "assistant_early_exit": max(1, config.layers // 3)
    },
}


def against_transformers(
    target: Forward, reference: Any, case: Case, setting: Setting, new_tokens: int
) -> dict[str, Callable[[int], Trace]]:
    """The same task by transformers' `generate`, three ways, and by a setting of ours."""
    case = case._replace(answer=case.answer[:new_tokens])

    def theirs(how: dict[str, Any], number: int) -> Trace:
        def run(push: Callable[[int], None]) -> None:
            reference_generate(reference, case.prompt, len(case.answer), push, **how)

        return record_pushed(run, len(case.prompt), str(reference.device))

    def ours(number: int) -> Trace:
        return record(partial(speculated, target, case, setting), len(case.prompt))

    runs: dict[str, Callable[[int], Trace]] = {
        name: partial(theirs, how(target.config)) for name, how in TRANSFORMERS.items()
    }
    return runs | {"ours, automatic": ours}


def of_round(of_cases: Sequence[T], number: int) -> T:
    """What belongs to the case of a round of a comparison: each in turn."""
    return of_cases[number % len(of_cases)]


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
