"""Which tokens of a head are worth their cost: one more pass of it, one more row to verify.

Costs are in passes of one row of the target.
"""

from __future__ import annotations

from collections.abc import Sequence

from labkit.engine.draft import NOTHING, Proposal
from labkit.engine.row_costs import RowCosts
from labkit.optimize.speculative.head.cost import HeadCost
from labkit.optimize.speculative.head.outcomes import Guess


def worth_a_pass(reaches: Sequence[float], next_chance: float, costs: RowCosts,
                 cost: HeadCost) -> bool:  # fmt: skip
    """Whether the next likely token is worth its cost: one more pass of the head, one more row.

    reaches: for each token of the chain so far, the probability that the output reaches it.
    next_chance: the probability of the next token, given that all of these came.
    """
    rows = len(reaches) + 1
    if rows >= costs.most:
        return False
    more = costs.r(rows + 1) - costs.r(rows) + cost.further
    spent = cost.of((1, len(reaches) - 1, 0)) + costs.r(rows)
    return reaches[-1] * next_chance * spent > (1 + sum(reaches)) * more


def worth_verifying(
    chain: Sequence[Guess], limit: int, costs: RowCosts, cost: HeadCost
) -> Proposal:
    """The likeliest of all guesses, as long as one more row raises the ratio of tokens to cost.

    The cost of the head's passes counts in full: they have run already. No token is likelier than
    the one it follows, so the chosen tokens form a chain or a tree (EAGLE-2, Li et al.,
    2406.16858).
    """
    guesses = sorted(
        ((reach, -depth, -rank)
         for depth, guess in enumerate(chain) for rank, reach in enumerate(guess.reaches)),
        reverse=True,
    )  # fmt: skip
    tokens: list[int] = []
    parents: list[int] = []
    spine = [-1]  # where the chain's own tokens are in the proposal
    gained, drafting = 1.0, cost.of((1, len(chain) - 1, 0))
    for reach, depth, rank in guesses[: min(limit, costs.most - 1)]:
        rows = len(tokens) + 1
        more = costs.r(rows + 1) - costs.r(rows)
        if reach * (drafting + costs.r(rows)) <= gained * max(more, 0.0):
            break
        parents.append(spine[-depth])
        if not rank:
            spine.append(len(tokens))
        tokens.append(chain[-depth].tokens[-rank])
        gained += reach
    is_chain = parents == list(range(-1, len(parents) - 1))
    return Proposal(tokens, parents=() if is_chain else tuple(parents)) if tokens else NOTHING
