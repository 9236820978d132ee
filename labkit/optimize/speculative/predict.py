"""How much a draft should gain, before it is run.

Leviathan et al. (2211.17192): a pass gives (1 - a^(n+1)) / (1 - a) tokens, and the speedup is this
number over (n c + 1), with acceptance rate a, draft length n and draft cost c. Here r(n + 1)
replaces the 1, because n + 1 rows may cost more than one row. The acceptance rate may also differ
from position to position.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate
from operator import mul

from labkit.engine.accounting import Accounting
from labkit.engine.row_costs import RowCosts


def expected_tokens(acceptance: float, length: int) -> float:
    """Expected tokens a pass, if each of `length` drafted ones has this acceptance rate."""
    return expected_in_chain([acceptance] * length)


def expected_in_chain(acceptance: Sequence[float]) -> float:
    """Expected tokens a pass. acceptance: of each position, given that all before are accepted."""
    survives: Iterable[float] = accumulate(acceptance, mul)
    return 1.0 + sum(survives)


def speedup(acceptance: float, length: int, costs: RowCosts, draft_cost: float = 0.0) -> float:
    """Expected speedup over plain decoding; draft_cost: of one drafted token, in plain passes."""
    return expected_tokens(acceptance, length) / (costs.r(length + 1) + length * draft_cost)


def mixed_speedup(
    account: Accounting, costs: RowCosts, draft_cost: float = 0.0, asking: float = 0.0
) -> float:
    """Expected speedup of passes with different draft lengths, each with its own acceptance.

    One acceptance for all lengths would be wrong: a control drafts more where more is accepted.
    asking: the whole cost of drafting in plain passes, where it is not proportional to tokens.
    """
    lengths = account.lengths.items()
    tokens = sum(n * expected_in_chain(account.acceptance_at(length)) for length, n in lengths)
    cost = sum(n * (costs.r(length + 1) + length * draft_cost) for length, n in lengths)
    return tokens / (cost + asking)


def break_even(length: int, costs: RowCosts, draft_cost: float = 0.0) -> float:
    """The acceptance from which drafts of a length pay; infinite where they never do."""
    return acceptance_for(costs.r(length + 1) + length * draft_cost, length)


def acceptance_for(passes: float, length: int) -> float:
    """The acceptance at which a draft of a length gives as many tokens as passes of one row would
    in its time. passes: its time, in passes of one row. Infinite from length + 1 passes on.
    """
    if passes >= length + 1:
        return float("inf")
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if expected_tokens(middle, length) < passes else (low, middle)
    return high
