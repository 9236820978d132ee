"""The tasks of notebook 05: their plain answers, and the same answers with drafts."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

from torch import Tensor
from tqdm.auto import tqdm

from labkit.engine.accounting import Accounting
from labkit.engine.control import Adaptive, Control, Fixed
from labkit.engine.draft import Draft
from labkit.engine.generate import generate
from labkit.engine.row_costs import RowCosts
from labkit.engine.speculate import speculate
from labkit.model.decoder import Decoder
from labkit.model.forward import Forward, Traced, offers
from labkit.model.rows import Rows
from labkit.model.sampling import Sampler
from labkit.optimize.speculative.chooser import Chooser
from labkit.optimize.speculative.lookup import PromptLookup
from labkit.optimize.speculative.model_draft import ModelDraft, keep_layers, least_missed
from labkit.optimize.speculative.suffix import SuffixIndex
from labkit.studies.speculative_target import KeptHead
from labkit.timing.compare import Variant
from labkit.timing.trace import Trace, record
from labkit.workload.tasks import Task

T = TypeVar("T")
PLAIN, AUTOMATIC = "without drafts", "automatic"


class Setting(NamedTuple):
    """A way to speculate: makers of a draft and of a control, called once for each request."""

    draft: Callable[[], Draft]
    control: Callable[[], Control]


class Case(NamedTuple):
    """A task, and the greedy answer that decoding without drafts gives.

    streams (prompt + answer, hidden): the target's hidden states, for a draft that reads them; None
    where the target is not Traced, or where no draft reads them.
    """

    task: Task
    prompt: list[int]
    answer: list[int]
    streams: Tensor | None = None

    def beginning(self, tokens: int) -> Case:
        """The same case with only the first tokens of its answer."""
        return self._replace(answer=self.answer[:tokens])


def settings(costs: RowCosts, length: int = 4, head: KeptHead | None = None) -> dict[str, Setting]:
    """The settings that the notebook compares, by name.

    Two drafts that copy, with a fixed length; the learned head where there is one; and the
    automatic setting, which takes the cost of rows into account.
    """
    fixed = partial(Fixed, length)
    found = {
        f"prompt lookup, {length}": Setting(PromptLookup, fixed),
        f"suffix index, {length}": Setting(SuffixIndex, fixed),
    }
    if head is None:
        return found | {AUTOMATIC: Setting(SuffixIndex, lambda: Adaptive(costs))}
    longest = partial(Fixed, costs.most - 1)  # these two choose their own length below it
    return found | {
        "learned head": Setting(lambda: head.draft(costs), longest),
        AUTOMATIC: Setting(lambda: Chooser(costs, head.draft(costs)), longest),
    }


def own_layers(
    decoder: Decoder, ids: Sequence[int], share: float, length: int
) -> tuple[Setting, int]:
    """Self-speculation: the decoder drafts for itself with a share of its layers.

    It keeps the layers whose removal changes the next tokens of `ids` most. Returns the setting,
    with drafts of a fixed length, and the number of layers kept.
    """
    count = max(1, round(share * decoder.config.layers))
    kept = sorted(least_missed(decoder, ids)[-count:])
    skipping = keep_layers(decoder, kept)
    draft = partial(ModelDraft, skipping, name="layers skipped")
    return Setting(draft, partial(Fixed, length)), count


def answered(
    target: Forward,
    tokenizer: Any,
    tasks: Iterable[Task],
    new_tokens: int,
    stop_ids: Collection[int] = (),
    least: int = 8,
    streams: bool = True,
) -> list[Case]:
    """Plain greedy answers of up to new_tokens tokens.

    Tasks that do not fit the model's context, and tasks whose answer has fewer than `least` tokens,
    are left out. streams: keep the target's streams, for a draft that reads them.
    """
    progress = tqdm(list(tasks), desc="plain answers", unit="task")
    cases = (
        answered_one(target, tokenizer, task, new_tokens, stop_ids, least, streams)
        for task in progress
    )
    return [case for case in cases if case is not None]


def answered_one(
    target: Forward,
    tokenizer: Any,
    task: Task,
    new_tokens: int,
    stop_ids: Collection[int] = (),
    least: int = 8,
    streams: bool = True,
) -> Case | None:
    """The plain answer of one task, as in `answered`; None where the task is left out."""
    prompt = task.ids(tokenizer)
    if len(prompt) + new_tokens > target.config.max_positions:
        return None
    given = list(generate(target, prompt, new_tokens, stop_ids=stop_ids))
    if len(given) < least:
        return None
    kept = _streams(target, [*prompt, *given]) if streams else None
    return Case(task, prompt, given, kept)


def _streams(target: Forward, text: Sequence[int]) -> Tensor | None:
    """A target's streams along a text, (tokens, hidden); None where it is not Traced."""
    shows = offers(target, Traced)
    if shows is None:
        return None
    return shows.traced(Rows.prefill(text), shows.new_cache(1, len(text)))[1]


def speculated(
    target: Forward, case: Case, setting: Setting, accounting: Accounting | None = None
) -> Iterator[int]:
    """A case's answer with drafts; fills `accounting`."""
    return speculate(
        target, setting.draft(), case.prompt, len(case.answer),
        control=setting.control(), accounting=accounting,
    )  # fmt: skip


def sampled(target: Forward, case: Case, draft: Draft | None = None) -> list[int]:
    """An answer as long as the case's, drawn with a fixed seed, with a draft or without."""
    sampler, count = Sampler(0.8, top_p=0.95, seed=7), len(case.answer)
    if draft is None:
        return list(generate(target, case.prompt, count, sampler=sampler))
    return list(speculate(target, draft, case.prompt, count, sampler=sampler))


def of_round(of_cases: Sequence[T], number: int) -> T:
    """The item for a round: round n takes case n, and starts over after the last case."""
    return of_cases[number % len(of_cases)]


def variants(
    target: Forward, cases: Sequence[Case], of: dict[str, Setting], device: str = "cpu"
) -> dict[str, Variant]:
    """Decoding without drafts and every setting, for `compare`; round n runs the case
    of_round(cases, n)."""

    def plain(number: int) -> Trace:
        case = of_round(cases, number)
        stream = partial(generate, target, case.prompt, len(case.answer))
        return record(stream, len(case.prompt), device)

    def drafted(setting: Setting, number: int) -> Trace:
        case = of_round(cases, number)
        return record(partial(speculated, target, case, setting), len(case.prompt), device)

    runs: dict[str, Variant] = {PLAIN: plain}
    return runs | {name: partial(drafted, setting) for name, setting in of.items()}
