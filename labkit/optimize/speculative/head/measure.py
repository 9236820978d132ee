"""What a head costs on this machine, measured."""

from __future__ import annotations

import time

import numpy as np
import torch

from labkit.engine.row_costs import RowCosts
from labkit.model.forward import Traced
from labkit.model.rows import Rows
from labkit.optimize.speculative.head.cost import HeadCost
from labkit.optimize.speculative.head.draft import LearnedHead
from labkit.optimize.speculative.head.forward import HeadForward

_CATCH_UP, _CHAIN = 8, 3  # tokens read at once and tokens drafted in the timed calls


def head_cost(
    head: HeadForward, target: Traced, costs: RowCosts, context: int = 256, repeats: int = 24
) -> HeadCost:
    """What drafting costs, in passes of one row of the target: medians of `repeats`.

    costs: of rows; they contain the seconds of such a pass. context: tokens before the first draft.
    Each draft is timed after a pass of the target, as in a request: the target's weights have then
    pushed the head's out of the processor's caches.
    """
    draft = LearnedHead(head, torch.arange(head.config.vocab_size))
    text, most = [0] * (context + 1), context + repeats * (2 + _CATCH_UP) + _CHAIN + 1
    cache = target.new_cache(1, most)
    streams = torch.empty(most, target.config.hidden_size, dtype=target.dtype)
    streams[:context] = target.traced(Rows.prefill(text[:-1]), cache)[1]
    draft.begin(text[:-1], most)
    draft.watch(streams)
    draft.propose(text, 1)  # reads the prompt
    taken: dict[tuple[int, int], list[float]] = {(1, 1): [], (1, _CHAIN): [], (_CATCH_UP, 1): []}
    for count, length in [*taken] * repeats:
        last = len(text) - 1
        text += [0] * count
        streams[last : last + count] = target.traced(
            Rows.prefill(text[last:-1], start=last), cache
        )[1]
        began = time.perf_counter()
        draft.propose(text, length)
        taken[count, length].append(time.perf_counter() - began)
    one, chain, many = (float(np.median(spent)) / costs.seconds for spent in taken.values())
    further, read = (chain - one) / (_CHAIN - 1), (many - one) / (_CATCH_UP - 1)
    return HeadCost(one, max(0.0, further), max(0.0, read))
