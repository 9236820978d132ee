"""What notebook 15 measures: the fused decoder's answers, and all variants interleaved."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import torch

from labkit.bench import client
from labkit.bench.client import Loaded
from labkit.bench.run import measure
from labkit.bench.variants import BARE
from labkit.engine.sequence import check_lengths
from labkit.model.rows import Rows
from labkit.optimize.fused import AS_IS
from labkit.quality.judge import judge
from labkit.studies.fused_stages import row_seconds, stage_seconds
from labkit.studies.lab import Lab, LimitSeconds
from labkit.studies.the_limit_variants import (
    ALL_LOGITS,
    FUSED,
    Q8,
    equal_runs,
    names,
    native,
    read_bytes,
    same_tokens,
)
from labkit.timing.compare import Comparison
from labkit.workload.texts import pieces

_CHECKED_ROWS = 96  # rows read in one pass and one by one


class Ladder(NamedTuple):
    """All variants interleaved, the bytes that a step of each reads, and the engines' reports."""

    comparison: Comparison
    nbytes: dict[str, float]
    told: dict[str, Loaded]

    @property
    def screened(self) -> bool:
        """Whether the fused decoder ran both with its head screened and with every logit."""
        return {FUSED, ALL_LOGITS} <= set(self.comparison.traces)


@dataclass
class Measurements:
    """The experiment; the fields are the notebook's parameters."""

    model: str = ""
    device: str = "auto"
    dtype: str = "float32"
    prompt_tokens: int = 128
    new_tokens: int = 64
    rounds: int = 8
    peers: bool = True  # other engines, where `make peers` has installed them
    quality_tokens: int = 2048  # positions on which answers are judged
    row_counts: list[int] = field(default_factory=lambda: [1, 2, 4, 8, 16])

    def __post_init__(self) -> None:
        self.lab = Lab.open(
            "15_the_limit", "fused", self.model, "cpu", self.dtype,
            prompt_tokens=self.prompt_tokens, new_tokens=self.new_tokens, rounds=self.rounds,
        )  # fmt: skip
        check_lengths(self.lab.config, self.prompt_tokens, self.new_tokens)
        self.where = client.locate(self.model or None)
        self.weights = AS_IS if self.where.gguf else "q8_0"
        self.fused, self.missing = native(self.where, self.weights)
        self.names = names(self.where, self.weights, self.fused is not None, self.peers)

    @cached_property
    def judged(self) -> dict[str, Any]:
        """The fused decoder's answers on text against the exact decoder's; {} where it is left
        out."""
        if self.fused is None:
            return {}
        lab, count = self.lab, self.quality_tokens
        texts = pieces(lab.loaded.tokenizer, "evaluation", count, min(512, count // 2))
        found = judge(lab.decoder, {FUSED: self.fused}, texts)[FUSED].quality()
        return found | {"lossless": False}

    @cached_property
    def same_bits(self) -> int:
        """How many rows gave the same bits in one pass as in passes of one row each; AssertionError
        where one did not, 0 where the fused decoder is left out."""
        fused = self.fused
        if fused is None:
            return 0
        ids = self.lab.prompt(1000, min(_CHECKED_ROWS, self.lab.config.max_positions))
        whole = fused(Rows.prefill(ids, all_logits=True), fused.new_cache(1, len(ids)))
        cache = fused.new_cache(1, len(ids))
        alone = [fused(Rows.prefill([token], 0, at), cache) for at, token in enumerate(ids)]
        assert torch.equal(whole, torch.cat(alone)), "a row's result depends on its neighbours"
        return len(ids)

    @cached_property
    def expected(self) -> dict[str, float]:
        """Bytes that a decode step in the middle of the answer reads, by the form of the
        weights."""
        lab = self.lab
        return read_bytes(self.where, lab.config, lab.dtype, self.fused, lab.middle)

    @cached_property
    def ladder(self) -> Ladder:
        """Every variant interleaved; AssertionError where screening the head changes a token."""
        lengths = self.prompt_tokens, self.new_tokens
        found = Ladder(*measure(self.names, self.where, *lengths, self.rounds))
        self.lab.keep_samples("ladder", found.comparison.to_dict())
        if found.screened:
            same, every = equal_runs(found.comparison, FUSED, ALL_LOGITS)
            assert same == every, "screening changed a token"
        return found

    @cached_property
    def measured(self) -> list[str]:
        """The variants that were timed, without the control."""
        comparison = self.ladder.comparison
        return [name for name in comparison.traces if name != comparison.control]

    @cached_property
    def engines(self) -> list[str]:
        """The timed variants that give tokens."""
        return [name for name in self.measured if name != BARE]

    @cached_property
    def rates(self) -> dict[str, float]:
        """Decode tokens/s of each variant, the median over rounds."""
        return {name: 1 / self.ladder.comparison.median(name) for name in self.measured}

    def least(self, name: str) -> LimitSeconds:
        """From bytes/s to the seconds that it takes to read what a step of a variant reads."""
        nbytes = self.ladder.nbytes[name]
        return lambda bandwidth: nbytes / bandwidth

    @cached_property
    def shares(self) -> dict[str, float]:
        """The fraction of its limit that each variant reached, where its bytes are known."""
        comparison, nbytes, _ = self.ladder
        known = [name for name in self.measured if name in nbytes]
        return {name: self.lab.fraction(comparison, name, self.least(name)) for name in known}

    @cached_property
    def quality(self) -> dict[str, dict[str, Any]]:
        """By variant: the fused decoder's answers as judged, others' tokens against the
        baseline's."""
        found = {name: same_tokens(self.ladder.comparison, name) for name in self.engines}
        if self.judged and self.same_bits:
            found |= dict.fromkeys([self.fused_name, ALL_LOGITS], self.judged)
        return found

    @property
    def fused_name(self) -> str:
        """The variant that runs the decoder judged here."""
        return FUSED if self.weights == AS_IS else Q8

    @cached_property
    def _passes(self) -> list[int]:
        """Token ids for passes of the fused decoder by itself: a context, and the rows after it."""
        return self.lab.prompt(5000, self.lab.middle + max(self.row_counts))

    @cached_property
    def stages(self) -> dict[str, float]:
        """Seconds of a decode step by stage; {} where the fused decoder is left out."""
        ids = self._passes[: self.lab.middle + 1]
        return {} if self.fused is None else stage_seconds(self.fused, ids)

    @cached_property
    def pass_seconds(self) -> dict[int, float]:
        """Seconds of passes by their rows; {} where the fused decoder is left out."""
        counts = sorted({1, *self.row_counts})
        return {} if self.fused is None else row_seconds(self.fused, self._passes, counts)
