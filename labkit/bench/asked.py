"""What engines are asked where several requests are served at once."""

from __future__ import annotations

from dataclasses import dataclass

import psutil

from labkit.base.units import scaled
from labkit.errors import ParameterError
from labkit.model.config import ModelConfig
from labkit.timing.statistics import FEWEST_ROUNDS

MOST = 256  # sequences of a llama.cpp context
_SAMPLE = 64  # tokens, at least, of the prompt by which an engine's batches are checked


@dataclass(frozen=True)
class Asked:
    """`streams` prompts at the same moment, for each of the numbers, in each of the rounds.

    answers: of how many prompts the distinct answers are counted; 0 for none.
    """

    prompt_tokens: int = 128
    new_tokens: int = 128
    streams: tuple[int, ...] = (1, 4, 16)
    rounds: int = FEWEST_ROUNDS
    answers: int = 0

    @property
    def most(self) -> int:
        """Sequences at the same time, at most."""
        return max(self.streams)

    @property
    def sample(self) -> int:
        """Tokens of the prompt that engines are tried with: as many rows as a pass of answers."""
        return max(self.prompt_tokens, self.most, _SAMPLE)

    @property
    def context(self) -> int:
        """Tokens for which each sequence has room: nothing is ever evicted."""
        return max(self.prompt_tokens + self.new_tokens, self.sample + 2) + 16

    def check(self) -> None:
        """ParameterError for numbers that cannot be measured."""
        given, counts = ", ".join(map(str, self.streams)), set(self.streams)
        if not counts or not 1 <= min(counts) <= max(counts) <= MOST:
            raise ParameterError(f"streams {given or 'none'}: allowed are 1 to {MOST}.")
        if len(counts) < len(self.streams):
            raise ParameterError(f"streams {given}: name each number once.")
        if self.rounds < FEWEST_ROUNDS or self.answers < 0:
            raise ParameterError(
                f"{self.rounds} rounds and {self.answers} answers: allowed are at least "
                f"{FEWEST_ROUNDS} rounds, and answers from 0 on."
            )
        if self.answers and self.most == 1:
            raise ParameterError(
                "distinct answers are counted beside others: give a number of streams above 1."
            )

    def check_memory(self, config: ModelConfig, engines: int) -> None:
        """ParameterError where the keys and values of so many engines do not fit into memory."""
        each = self.most * self.context * config.kv_bytes_per_token(2.0)
        free = psutil.virtual_memory().available
        if engines * each > free:
            raise ParameterError(
                f"{self.most} sequences of {self.context} tokens take {scaled(each, 'B')} of keys "
                f"and values in float16, in each of {engines} engines; {scaled(free, 'B')} of "
                "memory are free. Take fewer streams, tokens, or engines."
            )
