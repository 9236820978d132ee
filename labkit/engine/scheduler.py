"""Which rows the next pass has: a pure function of the requests, the free memory and a budget.

`plan_pass` is in-flight batching: requests join and leave between any two passes (Orca, Yu et al.,
OSDI 2022), prompts are read in chunks beside the rows of requests that answer (Sarathi-Serve,
2403.02310), and memory is handed out block by block (vLLM, 2309.06180). `plan_static` is its plain
twin: a batch starts together, and the next one starts when all of it is done.

The rules of `plan_pass`:

- Every request that answers gets its row in every pass, the oldest first.
- Prompts share what the budget leaves, the oldest first; at least `Budget.least` rows a pass.
- Requests are admitted in the order of their arrival. One is admitted when memory has room for its
  prompt and for its next `horizon` tokens, beside what the running requests were promised in the
  same way. So `max_new_tokens` reserves nothing, and whoever is admitted makes progress.
- Where the first in the queue finds no room, at most `Budget.patience` later ones may overtake it.
- Where the running requests need more memory than there is, the newest gives up its slot. It
  computes its tokens again later. Its horizon doubles each time, so that nobody goes in and out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from labkit.errors import ParameterError

HORIZON = 32  # tokens for which an admitted request finds memory


class Running(NamedTuple):
    """A request in a slot.

    number: its place in the order of arrival. length: positions that its slot holds. unread: rows
    until its next token, 1 where it answers. remaining: tokens that it may still give. horizon:
    tokens for which it was promised memory. extra: drafted tokens that it could verify.
    """

    number: int
    length: int
    unread: int
    remaining: int
    horizon: int = HORIZON
    extra: int = 0


class Waiting(NamedTuple):
    """A request without a slot: one that has just come, or one that had to leave.

    length: positions that a prefix cache gives it, in whole blocks. shared: those of these blocks
    that others hold now, so that they take no memory. unread, remaining, horizon: as in Running.
    passed: requests that overtook it.
    """

    number: int
    length: int
    unread: int
    remaining: int
    horizon: int = HORIZON
    shared: int = 0
    passed: int = 0


class State(NamedTuple):
    """All that a plan depends on. Both lists begin with the oldest request.

    room: blocks that can be had. slots: free ones. block_size: positions of a block.
    """

    running: Sequence[Running]
    waiting: Sequence[Waiting]
    room: int
    slots: int
    block_size: int


@dataclass(frozen=True)
class Budget:
    """The most rows of a pass.

    rows: where nobody answers. answering: where somebody waits for a next token, his own row
    included. least: rows of prompts in each pass, however many answer. patience: requests that may
    overtake one that finds no memory.
    """

    rows: int = 512
    answering: int = 64
    least: int = 1
    patience: int = 16

    def __post_init__(self) -> None:
        if min(self.rows, self.answering, self.least) < 1 or self.patience < 0:
            raise ParameterError(
                f"{self}: rows, answering and least must be at least 1, patience at least 0."
            )


class Share(NamedTuple):
    """The rows of one request in a pass; `reads`: rows of a prompt, and not its last alone."""

    number: int
    rows: int
    reads: bool


class Plan(NamedTuple):
    """The shares of the next pass, and the requests that get a slot for it.

    Where `preempted` is not empty, it is all there is: these give up their slots, and the state
    that follows is planned anew.
    """

    shares: list[Share]
    admitted: list[int]
    preempted: list[int]


Policy = Callable[[State, Budget], Plan]


def blocks_of(positions: int, block_size: int) -> int:
    """Blocks that hold so many positions."""
    return -(-positions // block_size)


def plan_pass(state: State, budget: Budget) -> Plan:
    """The next pass of in-flight batching."""
    shares, room = _answering(state)
    if room < 0:
        return _preempt(state)
    left = budget.rows
    if shares:
        left = max(budget.answering - len(shares), budget.least)
    left -= _chunks(state, shares, left, room)
    if state.running and not shares:  # nobody can go on: all memory is held by half a prompt each
        return _preempt(state)
    admitted: list[int] = []
    drafting = [one for one in state.running if one.extra and one.unread == 1]
    if left > 0 and (drafting or (state.waiting and state.slots)):
        free = state.room - sum(_promised(one, state.block_size) for one in state.running)
        left, free = _admit(state, shares, admitted, left, free, budget.patience)
        if drafting and free >= 0:
            _draft(drafting, shares, left)
    return Plan(shares, admitted, [])


def has_rows_left(running: Sequence[Running], budget: Budget) -> bool:
    """Whether the prompts that are being read leave rows for another one."""
    unread = [one.unread for one in running if one.unread > 1]
    most = budget.rows if len(unread) == len(running) else budget.answering
    return sum(unread) < most


def _answering(state: State) -> tuple[list[Share], int]:
    """One row of each request that answers; and the blocks that are left, below 0 if too few."""
    size, room = state.block_size, state.room
    shares = []
    for one in state.running:
        if one.unread == 1:
            room -= one.length % size == 0
            shares.append(Share(one.number, 1, False))
    return shares, room


def _preempt(state: State) -> Plan:
    """The newest gives up its slot."""
    return Plan([], [], [max(one.number for one in state.running)])


def _chunks(state: State, shares: list[Share], left: int, room: int) -> int:
    """Rows of prompts that are being read; returns how many."""
    size, given = state.block_size, 0
    for one in state.running:
        if one.unread > 1 and given < left:
            fits = room * size + -one.length % size
            count = min(one.unread, left - given, fits)
            if count:
                room -= blocks_of(one.length + count, size) - blocks_of(one.length, size)
                shares.append(Share(one.number, count, True))
                given += count
    return given


def _promised(one: Running, size: int) -> int:
    """Blocks that a running request may still take before its horizon."""
    ahead = one.unread + min(one.horizon, one.remaining - 1)
    return blocks_of(one.length + ahead, size) - blocks_of(one.length, size)


def _admit(
    state: State, shares: list[Share], admitted: list[int], left: int, free: int, patience: int
) -> tuple[int, int]:
    """Requests that get a slot, with their first rows.

    left: rows that may be given. free: blocks that no running request was promised. Returns what
    remains of both.
    """
    for one in state.waiting:
        if left <= 0 or len(admitted) == state.slots:
            break
        ahead = one.length + one.unread + min(one.horizon, one.remaining - 1)
        cost = blocks_of(ahead, state.block_size) - one.shared
        if cost <= free:
            count = min(one.unread, left)
            free, left = free - cost, left - count
            shares.append(Share(one.number, count, one.unread > 1))
            admitted.append(one.number)
        elif one.passed >= patience:
            break
    return left, free


def _draft(drafting: Sequence[Running], shares: list[Share], left: int) -> None:
    """Rows for drafts, the same number for each that drafts: at most the tokens before its horizon,
    for which it was promised memory."""
    each = left // len(drafting)
    most = {one.number: min(one.extra, one.horizon, one.remaining - 1, each) for one in drafting}
    for at, share in enumerate(shares):
        if extra := most.get(share.number, 0):
            shares[at] = Share(share.number, 1 + extra, False)


def plan_static(state: State, budget: Budget) -> Plan:
    """The next pass of static batching: nobody joins a batch that has started.

    All prompts of a batch are read first; then every request gets its row. Memory for whole answers
    is reserved at the start, so nobody is preempted.
    """
    if not state.running:
        return _start_batch(state, budget)
    reading = [one for one in state.running if one.unread > 1]
    if not reading:
        return Plan([Share(one.number, 1, False) for one in state.running], [], [])
    shares, left = [], budget.rows
    for one in reading:
        count = min(one.unread, left)
        if count:
            shares.append(Share(one.number, count, True))
            left -= count
    return Plan(shares, [], [])


def _start_batch(state: State, budget: Budget) -> Plan:
    """As many of the queue as find a slot, and memory for their whole answers."""
    shares: list[Share] = []
    admitted: list[int] = []
    free, left = state.room, budget.rows
    for one in state.waiting:
        cost = blocks_of(one.length + one.unread + one.remaining - 1, state.block_size) - one.shared
        if cost > free or len(admitted) == state.slots:
            break
        free -= cost
        admitted.append(one.number)
        count = min(one.unread, left)
        if count:
            shares.append(Share(one.number, count, one.unread > 1))
            left -= count
    return Plan(shares, admitted, [])
