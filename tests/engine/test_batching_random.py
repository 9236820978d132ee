"""Five hundred random schedules: whatever happens around a request, it gets the bits that it gets
alone, and after every step each block is accounted for."""

from __future__ import annotations

import random

import pytest

from labkit.engine.batching import BatchEngine
from labkit.engine.scheduler import Budget, blocks_of
from labkit.engine.served import Finish, Refused
from tests.engine.served_helpers import Ask, Judge, Served, check, finish, prompt, with_prefixes

SCHEDULES, AT_ONCE = 500, 25
LENGTHS = (1, 2, 15, 16, 17, 31, 32, 33, 48, 49, 70)  # about whole blocks of 16


class Schedule:
    """Requests that come, are cancelled and preempted at random; few blocks, so that memory runs
    out by itself too."""

    def __init__(self, judge: Judge, seed: int) -> None:
        self.rng = rng = random.Random(seed)
        self.judge = judge
        self.watched = rng.random() < 0.7  # else all is greedy, and no logits are made
        self.crowded = rng.random() < 0.3  # answers outgrow what they were promised
        self.engine = BatchEngine(
            judge.decoder,
            slots=rng.choice([3, 5] if self.crowded else [1, 2, 3, 5]),
            blocks=rng.choice([6, 8, 12] if self.crowded else [6, 8, 12, 30]),
            budget=Budget(
                rng.choice([1, 5, 16, 40, 200]), rng.choice([1, 4, 20, 60]),
                patience=rng.choice([0, 1, 16]),
            ),
            prefix=with_prefixes if rng.random() < 0.8 else None,
        )  # fmt: skip
        self.served: list[Served] = []

    def ask(self) -> Ask:
        rng = self.rng
        if self.served and rng.random() < 0.3:  # an equal prompt: a full hit, if it is still there
            ask = rng.choice(self.served).ask
            return Ask(ask.prompt, ask.count, ask.drawn, draft=ask.draft, watched=self.watched)
        lengths = LENGTHS[:5] if self.crowded else LENGTHS
        words = prompt(rng.randrange(4), rng.choice(lengths), rng.choice([0, 16, 20, 32]))
        drawn = rng.choice([None, 1, 2]) if self.watched else None
        draft = rng.choice(["", "", "chain", "tree"])
        count = 70 if self.crowded else rng.choice([1, 3, 8, 20])
        return Ask(words, count, drawn, draft=draft, watched=self.watched)

    def run(self) -> None:
        for left in range(self.rng.randint(3, 8), -1, -1):
            if left:
                self.submit()
            for _ in range(self.rng.choice([0, 1, 2, 6])):
                self.disturb()
                self.step()
        finish(self.engine)
        for one in self.served:
            self.judge.check(one)
            assert one.handle.finish in (Finish.LENGTH, Finish.CANCELLED)

    def submit(self) -> None:
        ask = self.ask()
        if blocks_of(len(ask.prompt) + ask.count - 1, 16) > self.engine.cache.book.total:
            with pytest.raises(Refused, match="blocks of 16 positions"):
                self.judge.submit(self.engine, ask)
        else:
            self.served.append(self.judge.submit(self.engine, ask))

    def step(self) -> None:
        for event in self.engine.step():
            self.judge.check(self.served[event.number])
        check(self.engine)

    def disturb(self) -> None:
        if self.engine.running and self.rng.random() < 0.2:
            self.engine.preempt(self.rng.choice(self.engine.running))
            check(self.engine)
        if self.served and self.rng.random() < 0.1:
            self.rng.choice(self.served).handle.cancel()


@pytest.mark.parametrize("first", range(0, SCHEDULES, AT_ONCE))
def test_random_schedules(judge: Judge, first: int) -> None:
    for seed in range(first, first + AT_ONCE):
        try:
            Schedule(judge, seed).run()
        except BaseException as error:
            error.add_note(f"in the schedule of seed {seed}")
            raise
