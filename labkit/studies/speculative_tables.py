"""Numbers, rows and sentences of notebook 05, from the counts of drafts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from labkit.base.units import seconds
from labkit.engine.accounting import Accounting
from labkit.engine.row_costs import RowCosts
from labkit.optimize.speculative.predict import break_even, mixed_speedup
from labkit.quality.lossless import SameAnswer
from labkit.studies.speculative_target import KeptHead


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


def accepted_and_given(accounts: Sequence[Accounting]) -> str:
    """A cell: acceptance rate and tokens a pass."""
    return f"{acceptance(accounts):.2f} · {tokens_a_pass(accounts):.2f}"


def pays(length: int, costs: RowCosts) -> str:
    """The acceptance rate from which drafts of a length pay, in words."""
    least = break_even(length, costs)
    if least > 1:
        return "at no acceptance"
    return "at any acceptance" if least < 0.005 else f"from an acceptance of {least:.2f} on"


def told_head(head: KeptHead | None) -> str:
    """How the head was trained and its cost, in sentences; or how to train one."""
    if head is None:
        return (
            "No head has been trained for this model. "
            "`python -m labkit.optimize.speculative.head.train` trains one: up to 20 minutes to "
            "write text, and 30 to train. This notebook then compares it with the other drafts."
        )
    recipe, cost = head.recipe, head.cost
    return (
        f"The learned head was trained for {recipe['minutes']:.0f} minutes on "
        f"{recipe['tokens']:,} tokens of the target's own text. On text that was kept from "
        f"training, its likeliest token is the target's at {recipe['agreement']:.0%} of positions. "
        f"The first token of a draft costs {cost.first:.2f} passes of one row, each further token "
        f"{cost.further:.2f}."
    )


def told_same(same: Sequence[SameAnswer]) -> str:
    """How many greedy answers are equal, and how many differ at a tie."""
    exact = sum(one.margin is None for one in same)
    text = (
        f"Greedy: **{exact} of {len(same)}** answers equal plain decoding's in every token "
        f"({sum(one.tokens for one in same):,} tokens compared)"
    )
    ties = len(same) - exact
    return f"{text}; {ties} first differ at a tie within rounding." if ties else f"{text}."


def where_time_goes(accounts: Mapping[str, Sequence[Accounting]]) -> list[dict[str, object]]:
    """A row a setting: acceptance, tokens a pass, and the time of a token, all tasks together."""
    rows: list[dict[str, object]] = []
    for name, each in accounts.items():
        tokens = sum(account.tokens for account in each)
        verifying = sum(account.verifying for account in each)
        drafting = sum(account.drafting for account in each)
        lost = sum(account.lost for account in each)
        rows.append(
            {
                "setting": name,
                "tokens a pass": tokens_a_pass(each),
                "acceptance": acceptance(each),
                "verifying, a token": seconds(verifying / tokens),
                "drafting, a token": seconds(drafting / tokens),
                "lost to rejected rows": f"{lost / verifying:.0%}",
            }
        )
    return rows


def machines(
    curves: Mapping[str, RowCosts], length: int, accounts: Sequence[Accounting]
) -> list[dict[str, object]]:
    """A row for each curve of row costs: when drafts pay, and the speedup of those sent here."""
    return [
        {
            "machine": name,
            f"r({length + 1})": costs.r(length + 1),
            "drafts pay": pays(length, costs),
            "automatic could give": max(mixed_speedup(account, costs) for account in accounts),
        }
        for name, costs in curves.items()
    ]
