"""What notebook 06 measures: first tokens, whole loads, no hits, identical and near questions."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from labkit.base.places import writable_cache
from labkit.engine.disk_blocks import BreakEven
from labkit.studies.caching_alone import NoHits, Responses
from labkit.studies.caching_first import FirstTokens
from labkit.studies.caching_loads import LOADS, QUESTIONS, Load, fitting, makers
from labkit.studies.caching_near import NearQuestions
from labkit.studies.caching_parts import of_reading
from labkit.studies.caching_proof import Proved, proofs
from labkit.studies.caching_served import aligned
from labkit.studies.lab import Lab
from labkit.studies.speculative_target import fastest
from labkit.timing.statistics import Ratio

_PROVED, _SHARED = 4, 64  # prompts of the proof, and the tokens that they share at most
_QUESTION = 64  # tokens of a request that is asked twice, at most


@dataclass
class Measurements:
    """The experiment; the fields are the notebook's parameters."""

    model: str = ""
    device: str = "auto"
    dtype: str = "float32"
    new_tokens: int = 16  # of every answer that is timed to its end
    prefixes: list[int] = field(default_factory=lambda: [64, 128, 256, 512, 1024, 2048])
    own_tokens: int = 16  # of a prompt, after the shared ones
    rounds: int = 8  # after each prefix, and of identical requests
    workloads: list[str] = field(default_factory=lambda: list(LOADS))
    load_rounds: int = 6
    requests: int = 12  # of a load
    slots: int = 4  # requests of a load that are served at the same time
    zero_tokens: int = 256  # of a prompt that shares nothing
    zero_rounds: int = 40
    near_questions: int = 12  # of each of two kinds; 0: none
    thresholds: list[float] = field(default_factory=lambda: [0.9, 0.95, 0.99, 0.999])

    def __post_init__(self) -> None:
        self.lab = Lab.open(
            "06_caching", "caching", self.model, self.device, self.dtype,
            prompt_tokens=max(self.prefixes), new_tokens=self.new_tokens, rounds=self.rounds,
            parameters=vars(self),
        )  # fmt: skip
        self.target = fastest(self.lab.loaded, self.model)
        # Removed with the study, or at the end of the process.
        self._temporary = tempfile.TemporaryDirectory(prefix="caching-", dir=writable_cache())
        self.folder = Path(self._temporary.name)

    @property
    def exact(self) -> bool:
        """Whether the decoder gives a row the same bits whatever shares its pass."""
        return not self.target.reason

    @cached_property
    def proved(self) -> list[Proved]:
        """Answers cold, from memory and from disk, against those alone."""
        shared = self.lab.prompt(1000, aligned(min(_SHARED, max(self.prefixes))))
        prompts = [
            (*shared, *self.lab.prompt(1001 + number, self.own_tokens)) for number in range(_PROVED)
        ]
        return proofs(self.lab, self.target.decoder, prompts, self.new_tokens)

    @cached_property
    def first(self) -> FirstTokens:
        """First tokens after shared prefixes."""
        folder = self._folder("first")
        return FirstTokens(
            self.lab, self.target, folder, self.prefixes, self.own_tokens, self.rounds
        )

    def _folder(self, name: str) -> Path:
        (path := self.folder / name).mkdir(exist_ok=True)
        return path

    @cached_property
    def break_even(self) -> BreakEven:
        """Whether the disk is worth reading, by what was measured on another text."""
        first = self.first
        return BreakEven(first.kv_bytes, first.prefill_rate, first.disk.median)

    @cached_property
    def _loads(self) -> tuple[dict[str, Load], dict[str, str]]:
        lab = self.lab
        made = makers(lab.loaded.tokenizer, lab.config, self.requests, self.slots, self.new_tokens)
        kept, left = fitting(made, self.workloads, lab.config)
        found = {
            name: Load(
                lab, self.target, name, make, self.slots, self.load_rounds,
                self._folder("responses of a load") if name == QUESTIONS else None,
            )
            for name, make in kept.items()
        }  # fmt: skip
        return found, left

    @property
    def whole(self) -> dict[str, Load]:
        """The loads by name."""
        return self._loads[0]

    @property
    def left_out(self) -> dict[str, str]:
        """Loads that the model cannot hold, and why."""
        return self._loads[1]

    @cached_property
    def nothing(self) -> NoHits:
        """Requests that share nothing."""
        folder = self._folder("no hits")
        return NoHits(
            self.lab, self.target, folder, self.zero_tokens, self.new_tokens, self.zero_rounds
        )

    @cached_property
    def identical(self) -> Responses:
        """Requests that were asked before."""
        tokens = min(_QUESTION, self.zero_tokens)
        folder = self._folder("responses")
        return Responses(self.lab, self.target, folder, tokens, self.new_tokens, self.rounds)

    @cached_property
    def near(self) -> NearQuestions:
        """Questions that are nearly alike."""
        found = NearQuestions(self.lab, self.target, self.near_questions)
        self.lab.keep_samples("near_questions", found.samples())
        return found

    @cached_property
    def parts(self) -> dict[str, Ratio]:
        """Seconds of each part of reading the longest prefix from disk, after it was timed."""
        first = self.first
        assert first.comparisons
        blocks = aligned(first.prefixes[-1]) // first.engine.cache.block_size
        return of_reading(first.engine, first.folder, blocks)

    def asked(self) -> dict[str, Any]:
        """What a finding records of a load beside its own facts."""
        return {"slots": self.slots, "new_tokens": self.new_tokens}
