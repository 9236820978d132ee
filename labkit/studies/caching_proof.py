"""The proof of notebook 06: an answer from a cached prefix has the bits of the answer alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from labkit.engine.one_hash_ways import Answers, Questions, cold, hit_in_memory, hit_on_disk
from labkit.model.forward import Forward
from labkit.quality.lossless import SameAnswer, same_answer, tie_margin
from labkit.studies.lab import Lab

WAYS = {"cold": cold, "hit in memory": hit_in_memory, "hit on disk": hit_on_disk}


@dataclass(frozen=True)
class Proved:
    """Answers in one way beside those of `generate` alone.

    bits: how many have the same logits to the bit, at every token. same: all of them, by tokens.
    fact: what was hit, in words; empty where there is nothing to say.
    """

    way: str
    bits: int
    same: Sequence[SameAnswer]
    fact: str = ""

    @property
    def lossless(self) -> bool:
        return all(one.lossless for one in self.same)

    @property
    def exact(self) -> bool:
        """Whether every logit of every answer has the same bits."""
        return self.bits == len(self.same)


def proofs(
    lab: Lab, decoder: Forward, prompts: Sequence[tuple[int, ...]], new_tokens: int
) -> list[Proved]:
    """Each of WAYS. A decoder whose bits depend on what shares a pass may differ in rounding."""
    asked = Questions(decoder, prompts, new_tokens)
    alone = asked.alone()
    return [_proved(lab, asked, alone, way) for way in WAYS]


def _proved(lab: Lab, asked: Questions, alone: Answers, way: str) -> Proved:
    found = WAYS[way](asked)
    tie = tie_margin(lab.decoder.dtype)
    same = [
        same_answer(lab.decoder, prompt, one.tokens, other.tokens, tie)
        for prompt, one, other in zip(asked.prompts, alone, found, strict=True)
    ]
    bits = sum(one == other for one, other in zip(alone, found, strict=True))
    return Proved(way, bits, same, asked.facts.get(way, ""))


def quality(proved: Sequence[Proved]) -> dict[str, Any]:
    """As the `quality` of a finding."""
    tokens = sum(one.tokens for way in proved for one in way.same)
    return {"lossless": all(one.lossless for one in proved), "tokens_compared": tokens}
