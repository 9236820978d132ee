"""The scheduler alone: what it plans, over any state; and whole runs in a world without a model."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit.engine.scheduler import (
    HORIZON,
    Budget,
    Plan,
    Policy,
    Running,
    State,
    Waiting,
    blocks_of,
    plan_pass,
    plan_static,
)
from labkit.errors import ParameterError

SIZE = 16


def counts(plan: Plan) -> dict[int, int]:
    return {share.number: share.rows for share in plan.shares}


def state(running=(), waiting=(), room=100, slots=4) -> State:
    return State(list(running), list(waiting), room, slots, SIZE)


def test_requests_that_answer_get_their_row_and_a_prompt_gets_the_rest() -> None:
    running = [Running(0, 40, 1, 9), Running(1, 7, 93, 9), Running(2, 50, 1, 9)]
    plan = plan_pass(state(running), Budget(rows=500, answering=34))
    assert counts(plan) == {0: 1, 2: 1, 1: 32}
    assert [share.reads for share in plan.shares] == [False, False, True]
    assert plan_pass(state(running[1:2]), Budget(rows=500, answering=34)).shares[0].rows == 93


def test_a_prompt_is_read_however_many_answer() -> None:
    running = [Running(n, 40, 1, 9) for n in range(30)] + [Running(30, 0, 90, 9)]
    plan = plan_pass(state(running), Budget(answering=16, least=4))
    assert counts(plan)[30] == 4


def test_prompts_are_read_in_the_order_of_arrival() -> None:
    running = [Running(0, 0, 50, 9), Running(1, 0, 50, 9)]
    plan = plan_pass(state(running, [Waiting(2, 0, 50, 9)]), Budget(rows=70))
    assert (counts(plan), plan.admitted) == ({0: 50, 1: 20}, [])
    plan = plan_pass(state(running, [Waiting(2, 0, 50, 9)]), Budget(rows=120))
    assert (counts(plan), plan.admitted) == ({0: 50, 1: 50, 2: 20}, [2])


def test_the_newest_is_preempted_where_memory_is_out_and_nothing_else_is_planned() -> None:
    running = [Running(3, 32, 1, 9), Running(5, 48, 1, 9), Running(7, 5, 1, 9)]
    assert plan_pass(state(running, room=2), Budget()).preempted == []
    plan = plan_pass(state(running, [Waiting(9, 0, 1, 1)], room=1), Budget())
    assert plan == Plan([], [], [7])


def test_half_read_prompts_that_hold_all_memory_are_no_standstill() -> None:
    running = [Running(0, 32, 20, 9), Running(1, 48, 20, 9)]
    assert plan_pass(state(running, room=0), Budget()) == Plan([], [], [1])


def test_a_chunk_takes_no_more_memory_than_there_is() -> None:
    running = [Running(0, 30, 80, 9)]
    assert counts(plan_pass(state(running, room=2), Budget())) == {0: 34}


def test_a_huge_max_tokens_reserves_nothing_and_blocks_nobody() -> None:
    """TensorRT-LLM 2866."""
    waiting = [Waiting(0, 0, 20, 100_000), Waiting(1, 0, 20, 4)]
    plan = plan_pass(state(waiting=waiting, room=8), Budget())
    assert plan.admitted == [0, 1]


def test_admission_keeps_what_others_were_promised() -> None:
    running = [Running(0, 16, 1, 1000)]  # its next 32 tokens take 3 blocks
    cost = blocks_of(16 + HORIZON, SIZE)
    waiting = [Waiting(1, 0, 16, 1000)]
    assert plan_pass(state(running, waiting, room=3 + cost - 1), Budget()).admitted == []
    assert plan_pass(state(running, waiting, room=3 + cost), Budget()).admitted == [1]


def test_blocks_that_others_hold_cost_nothing() -> None:
    waiting = [Waiting(1, 64, 1, 1, shared=4)]
    assert plan_pass(state(waiting=waiting, room=1), Budget()).admitted == [1]
    waiting = [Waiting(1, 64, 1, 1, shared=3)]
    assert plan_pass(state(waiting=waiting, room=1), Budget()).admitted == []


def test_a_request_that_finds_no_room_is_overtaken_only_so_often() -> None:
    waiting = [Waiting(0, 0, 500, 9, passed=2), Waiting(1, 0, 5, 9)]
    assert plan_pass(state(waiting=waiting, room=4), Budget(patience=3)).admitted == [1]
    assert plan_pass(state(waiting=waiting, room=4), Budget(patience=2)).admitted == []


def test_slots_bound_how_many_are_admitted() -> None:
    waiting = [Waiting(n, 0, 5, 9) for n in range(4)]
    assert plan_pass(state(waiting=waiting, slots=3), Budget()).admitted == [0, 1, 2]


def test_drafts_share_the_rows_that_are_left() -> None:
    running = [Running(0, 40, 1, 9, extra=8), Running(1, 40, 1, 3, extra=8), Running(2, 9, 1, 9)]
    assert counts(plan_pass(state(running), Budget(answering=64))) == {0: 9, 1: 3, 2: 1}
    assert counts(plan_pass(state(running), Budget(answering=13))) == {0: 6, 1: 3, 2: 1}
    assert counts(plan_pass(state(running, room=0), Budget(answering=64))) == {0: 1, 1: 1, 2: 1}


def test_static_batching_lets_nobody_join() -> None:
    waiting = [Waiting(n, 0, 10, 9) for n in range(4)]
    plan = plan_static(state(waiting=waiting, slots=3), Budget(rows=25))
    assert (plan.admitted, counts(plan)) == ([0, 1, 2], {0: 10, 1: 10, 2: 5})
    running = [Running(0, 10, 1, 8), Running(2, 5, 5, 9)]
    assert counts(plan_static(state(running, waiting), Budget())) == {2: 5}
    running = [Running(0, 10, 1, 8), Running(2, 10, 1, 8)]
    plan = plan_static(state(running, waiting), Budget())
    assert (plan.admitted, counts(plan)) == ([], {0: 1, 2: 1})


def test_static_batching_reserves_whole_answers() -> None:
    waiting = [Waiting(n, 0, 10, 39) for n in range(4)]  # 48 positions each
    assert plan_static(state(waiting=waiting, room=8), Budget()).admitted == [0, 1]


@pytest.mark.parametrize(
    "wrong", [{"rows": 0}, {"answering": 0}, {"least": 0}, {"patience": -1}], ids=str
)
def test_impossible_budgets_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ParameterError, match="must be at least 1"):
        Budget(**wrong)


@dataclass
class Job:
    """A request in a world without a model."""

    prompt: int
    answer: int
    arrives: int
    given: int = 0
    length: int = -1  # in its slot; -1 without one
    horizon: int = HORIZON
    passed: int = 0
    preempted: int = 0
    started: int = -1
    ended: int = -1

    @property
    def unread(self) -> int:
        return self.prompt + self.given - max(self.length, 0)


class World:
    """Runs a policy over jobs until all have ended; every plan is checked."""

    def __init__(self, jobs: list[Job], policy: Policy, budget: Budget, blocks: int, slots: int):
        self.jobs, self.policy, self.budget = jobs, policy, budget
        self.blocks, self.slots = blocks, slots
        self.time = self.preemptions = self.rows = 0

    def run(self) -> None:
        while any(job.ended < 0 for job in self.jobs):
            self.step()
            assert self.time < 100_000

    def step(self) -> None:
        while (plan := self.policy(self.state(), self.budget)).preempted:
            assert not plan.shares
            assert not plan.admitted
            self.preempt(plan.preempted)
        self.check(plan)
        for number in plan.admitted:
            self.jobs[number].length = 0
            for waiting in range(number):
                job = self.jobs[waiting]
                job.passed += job.length < 0 <= job.arrives <= self.time and job.ended < 0
        for share in plan.shares:
            self.give(self.jobs[share.number], share.rows)
        self.time += 1

    def state(self) -> State:
        here = [(n, job) for n, job in enumerate(self.jobs) if job.ended < 0]
        running = [
            Running(n, job.length, job.unread, job.answer - job.given, job.horizon)
            for n, job in here if job.length >= 0
        ]  # fmt: skip
        waiting = [
            Waiting(n, 0, job.unread, job.answer - job.given, job.horizon, passed=job.passed)
            for n, job in here if job.length < 0 and job.arrives <= self.time
        ]  # fmt: skip
        return State(running, waiting, self.room(), self.slots - len(running), SIZE)

    def room(self) -> int:
        lengths = [job.length for job in self.jobs if job.length > 0]
        return self.blocks - sum(blocks_of(length, SIZE) for length in lengths)

    def preempt(self, numbers: list[int]) -> None:
        held = [n for n, job in enumerate(self.jobs) if job.length >= 0]
        assert len(held) > 1
        assert numbers == [held[-1]]  # the newest
        job = self.jobs[numbers[0]]
        job.length, job.horizon = -1, 2 * job.horizon
        job.preempted += 1
        self.preemptions += 1

    def check(self, plan: Plan) -> None:
        """Rows exist, one share a request, whoever answers gets his row, the budget is kept."""
        here = [n for n, job in enumerate(self.jobs) if job.length >= 0]
        numbers = [share.number for share in plan.shares]
        assert len(set(numbers)) == len(numbers)
        assert set(numbers) <= {*here, *plan.admitted}
        assert len(here) + len(plan.admitted) <= self.slots
        for share in plan.shares:
            assert 1 <= share.rows <= self.jobs[share.number].unread
        answering = {n for n in here if self.jobs[n].unread == 1}
        if self.policy is plan_pass:
            assert answering <= set(numbers)
            extra = sum(share.rows for share in plan.shares) - len(answering)
            most = self.budget.answering - len(answering) if answering else self.budget.rows
            assert extra <= max(most, self.budget.least)

    def give(self, job: Job, count: int) -> None:
        job.length += count
        self.rows += count
        assert self.room() >= 0
        if job.started < 0:
            job.started = self.time
        if job.length == job.prompt + job.given:
            job.given += 1
            if job.given == job.answer:
                job.length, job.ended = -1, self.time


def random_jobs(rng: random.Random, blocks: int, count: int) -> list[Job]:
    most = blocks * SIZE
    jobs = []
    for _ in range(count):
        prompt = rng.randint(1, max(1, most // rng.choice([1, 2, 8])))
        answer = rng.randint(1, max(1, min(most - prompt + 1, rng.choice([4, 40, 400]))))
        jobs.append(Job(prompt, answer, rng.randint(0, 40)))
    return sorted(jobs, key=lambda job: job.arrives)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10**9), st.sampled_from([plan_pass, plan_static]))
def test_every_request_ends_whatever_comes(seed: int, policy: Policy) -> None:
    rng = random.Random(seed)
    blocks = rng.randint(1, 12)
    budget = Budget(
        rng.randint(1, 90), rng.randint(1, 40), rng.randint(1, 4), patience=rng.randint(0, 3)
    )
    world = World(random_jobs(rng, blocks, 8), policy, budget, blocks, rng.randint(1, 5))
    world.run()
    assert all(job.given == job.answer for job in world.jobs)
    if policy is plan_static:
        assert world.preemptions == 0


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**9))
def test_nobody_is_preempted_again_and_again(seed: int) -> None:
    """vllm 25538: the horizon doubles with every preemption, so there are few."""
    rng = random.Random(seed)
    jobs = [Job(rng.randint(1, 60), rng.randint(50, 400), 0) for _ in range(10)]
    world = World(jobs, plan_pass, Budget(), 32, 8)
    world.run()
    assert max(job.preempted for job in jobs) <= 5  # 32 * 2 ** 4 tokens are more than an answer
    assert world.rows <= 3 * sum(job.prompt + job.answer for job in jobs)


def test_a_huge_request_neither_blocks_the_others_nor_starves() -> None:
    small = [Job(20, 20, n) for n in range(200)]
    huge = Job(400, 20, 5)
    jobs = sorted([*small, huge], key=lambda job: job.arrives)
    world = World(jobs, plan_pass, Budget(patience=8), 32, 8)
    world.run()
    number = jobs.index(huge)
    overtook = [job for job in jobs[number + 1 :] if job.started < huge.started]
    assert 0 < len(overtook) <= 8 + 8  # those that were admitted together count at once
    assert huge.ended < max(job.ended for job in small)
