"""Numbers and rows of notebook 05, from the counts of drafts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from labkit.engine.accounting import Accounting
from labkit.report.told.words import effect
from labkit.studies.lab import told_share
from labkit.studies.speculative_forecast import EVERY, Held
from labkit.studies.speculative_prompts import Rounds, together
from labkit.studies.speculative_tasks import PLAIN
from labkit.timing.compare import again
from labkit.timing.statistics import Ratio, interval


def spaced(kind: str) -> str:
    """edit_prose -> edit prose."""
    return kind.replace("_", " ")


def acceptance(accounts: Sequence[Accounting]) -> float:
    """Accepted over proposed draft tokens, of several requests; 0 where none was proposed."""
    proposed = sum(account.proposed for account in accounts)
    return sum(account.accepted for account in accounts) / max(1, proposed)


def tokens_a_pass(accounts: Sequence[Accounting]) -> float:
    """Output tokens over passes of the target, of several requests."""
    return sum(account.tokens for account in accounts) / sum(a.passes for a in accounts)


def work_a_token(account: Accounting, reads: bool) -> float:
    """What a token takes of the target: passes, where each reads the weights once; else rows."""
    rows = 0 if reads else account.proposed
    return (account.passes + rows) / account.tokens


def accepted_and_given(accounts: Sequence[Accounting]) -> str:
    """A cell: acceptance rate and tokens a pass."""
    return f"{acceptance(accounts):.2f} · {tokens_a_pass(accounts):.2f}"


def forecast(values: Sequence[float]) -> str:
    """A cell: the mean of what each calibration prompt leads to expect, with its interval."""
    return str(interval(values)) if len(values) > 1 else f"{values[0]:.2f}x (one prompt)"


def beside(measured: Ratio, expected: float | None) -> str:
    """A cell: a measured speedup, and the forecast in brackets."""
    return f"{measured} ({'–' if expected is None else f'{expected:.2f}'})"


def against_forecasts(
    timed: Mapping[str, Rounds], held: Sequence[Held], settings: Iterable[str], seen: str
) -> list[dict[str, object]]:
    """A row a kind of task, and one for all: the measured speedups beside the forecasts, and the
    control, which must show no difference.

    seen: the setting of which the row says what its rounds could have seen.
    """
    forecasts = {(one.kind, one.setting): one.forecast for one in held}
    names, control = list(settings), again(PLAIN)
    every = {name: together(timed.values(), name) for name in [*names, control]}
    measured = {
        kind: {name: one.speedup(name) for name in [*names, control]} for kind, one in timed.items()
    }
    rows: list[dict[str, object]] = []
    for kind, of in (measured | {EVERY: every}).items():
        told = {name: beside(of[name], forecasts.get((kind, name))) for name in names}
        least = {f"{seen} could have seen": effect(of[seen].smallest_effect)}
        rows.append({"kind of task": spaced(kind), **told, **least, control: str(of[control])})
    return rows


def missed(held: Sequence[Held]) -> list[dict[str, object]]:
    """A row a forecast that did not hold."""
    return [
        {
            "kind of task": spaced(one.kind),
            "setting": one.setting,
            "forecast": f"{one.forecast:.2f}x",
            "measured": str(one.measured),
        }
        for one in held
        if not one.holds
    ]


def share(found: Ratio | None) -> str:
    """A cell: the share of the bare read, or a dash."""
    return "–" if found is None else told_share(found)


def where_time_goes(accounts: Mapping[str, Sequence[Accounting]]) -> list[dict[str, object]]:
    """A row a setting, all tasks together: acceptance, tokens a pass, and shares of its own time.

    Settings ran one after another, so that their seconds cannot be compared; shares can.
    """
    rows: list[dict[str, object]] = []
    for name, each in accounts.items():
        verifying = sum(account.verifying for account in each)
        drafting = sum(account.drafting for account in each)
        lost = sum(account.lost for account in each)
        total = verifying + drafting
        rows.append(
            {
                "setting": name,
                "tokens a pass": tokens_a_pass(each),
                "acceptance": acceptance(each),
                "passes": f"{verifying / total:.1%}",
                "of these, rejected rows": f"{lost / total:.1%}",
                "drafting": f"{drafting / total:.1%}",
            }
        )
    return rows
