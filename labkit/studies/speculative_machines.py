"""What rows would cost on other machines, by the rates that their vendors print."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from labkit.engine.accounting import Accounting
from labkit.engine.row_costs import RowCosts
from labkit.limits.cost import Cost
from labkit.limits.datasheet import machine
from labkit.limits.hardware import Hardware
from labkit.optimize.speculative.costs import limit_costs
from labkit.optimize.speculative.predict import mixed_speedup
from labkit.studies.speculative_sentences import least_acceptance
from labkit.timing.statistics import MARGIN, geometric_mean

MACHINES = ("raspberry-pi-5", "epyc-9654", "rtx-4090", "h200-sxm", "mi300x")


def unknown(cost: Cost, there: Hardware) -> str:
    """Why a machine's limit for a pass cannot be told; empty where it can."""
    if there.in_cache(cost.read_bytes):
        return "its cache holds the weights, and the cache's bandwidth is not printed"
    if 0 < there.capacity < cost.read_bytes:
        return "the weights do not fit its memory"
    return ""


def printed(cost_of: Callable[[int], Cost], most: int, attention: str) -> dict[str, RowCosts | str]:
    """By machine: r(k) at its limit, or why that is not known. Parameters: of `limit_costs`."""
    found: dict[str, RowCosts | str] = {}
    for there in map(machine, MACHINES):
        reason = unknown(cost_of(1), there)
        found[there.name] = reason or limit_costs(
            cost_of, there, range(1, most + 1), attention=attention
        )
    return found


def free_up_to(costs: RowCosts) -> str:
    """How many rows take as long as one."""
    count = next((k for k in range(1, costs.most) if costs.r(k + 1) > 1 + MARGIN), costs.most)
    return f"{count} or more" if count == costs.most else str(count)


def rows_of(
    machines: Mapping[str, RowCosts | str], length: int, accounts: Sequence[Accounting]
) -> list[dict[str, object]]:
    """A row for each machine whose limit is known: what rows cost, the acceptance rate from which
    drafts pay, and the mean speedup of those sent here."""
    return [
        {
            "machine": name,
            f"r({length + 1})": f"{costs.r(length + 1):.2f}",
            "rows as fast as one": free_up_to(costs),
            f"drafts of {length} pay from": least_acceptance(length, costs),
            "drafts sent here": f"{sent_speedup(accounts, costs):.2f}x",
        }
        for name, costs in machines.items()
        if not isinstance(costs, str)
    ]


def left_out(machines: Mapping[str, RowCosts | str]) -> str:
    """Why machines are missing from the table, in sentences; empty where none is."""
    why: dict[str, list[str]] = {}
    for name, reason in machines.items():
        if isinstance(reason, str):
            why.setdefault(reason, []).append(name)
    return " ".join(
        f"Not told for {' and '.join(names)}: {reason}." for reason, names in why.items()
    )


def sent_speedup(accounts: Sequence[Accounting], costs: RowCosts) -> float:
    """The mean speedup of drafts as they were sent and accepted, by the cost of rows alone."""
    return geometric_mean([mixed_speedup(account, costs) for account in accounts])
