"""What notebook 15 measures: answers, all variants interleaved, and passes of the fused decoder."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import torch

from labkit.bench import client
from labkit.bench.quality import judge_variants, score_variants
from labkit.bench.run import Measured, measure
from labkit.limits.cost import Cost, step_cost
from labkit.model.rows import Part, Rows
from labkit.optimize.fused import AS_IS, FusedDecoder
from labkit.report.told import decoders
from labkit.studies import the_limit_variants as variants
from labkit.studies.fused_stages import STEP, filled, passes, repeated
from labkit.studies.lab import Lab
from labkit.studies.the_limit_variants import ALL_LOGITS, FUSED, Q8, equal_runs, names, native
from labkit.timing.compare import Comparison, compare
from labkit.workload.questions import short
from labkit.workload.texts import pieces

_CHECKED_ROWS = 96  # rows read in one pass and one by one
_LONG_TURN = 16  # passes of a turn at a long context


class Judged(NamedTuple):
    """By variant, the numbers of `judge_variants`, and its `task_score`; why others have none."""

    found: dict[str, dict[str, float]]
    failed: dict[str, str]


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
    questions: int = 0  # of each kind that every variant answers too; 0: none
    row_counts: list[int] = field(default_factory=lambda: [1, 2, 4, 8, 16])
    long_context: int = 0  # tokens of a longer context whose step is timed too; 0: none

    def __post_init__(self) -> None:
        # The variants fix their own dtypes; answers are judged against float32.
        self.lab = Lab.open(
            "15_the_limit", "fused", self.model, "cpu", "float32",
            prompt_tokens=self.prompt_tokens, new_tokens=self.new_tokens, rounds=self.rounds,
            parameters=vars(self),
        )  # fmt: skip
        self.where = client.locate(self.model or None)
        self.weights = AS_IS if self.where.gguf else "q8_0"
        self.fused, self.missing = native(self.where, self.weights)
        self.names = names(self.where, self.weights, self.fused is not None, self.peers)

    @cached_property
    def judged(self) -> Judged:
        """Every variant's answers on the same text against the exact decoder's."""
        lab, count = self.lab, self.quality_tokens
        texts = pieces(lab.loaded.tokenizer, "evaluation", count, min(512, count // 2))
        judging = [name for name in self.names if name != ALL_LOGITS]
        found, failed = judge_variants(judging, self.where, lab.decoder, texts)
        if self.questions:
            asked = short(self.questions)
            scores, silent = score_variants(judging, self.where, lab.loaded.tokenizer, asked)
            failed |= silent
            for name in found.keys() & scores.keys():
                found[name] |= scores[name]["all"].quality()
        if FUSED in found:  # screening changes neither logits nor tokens
            found[ALL_LOGITS] = found[FUSED]
        return Judged(found, failed)

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
        return variants.read_bytes(self.where, lab.config, self.fused, lab.middle)

    @cached_property
    def ladder(self) -> Measured:
        """Every variant interleaved; AssertionError where screening the head changes a token."""
        lengths = self.prompt_tokens, self.new_tokens
        found = measure(self.names, self.where, *lengths, self.rounds, self.lab.hardware)
        self.lab.noted(found.comparison, "the ladder", apart=True)
        self.lab.keep_samples("ladder", found.comparison.to_dict())
        timed = {decoders.plain("float32"): "plain", decoders.FUSED: FUSED, decoders.FUSED_Q8: Q8}
        decoders.keep(self.lab.notebook, timed, found.comparison, alone=True)
        if self.screened_in(found.comparison):
            same, every = equal_runs(found.comparison, FUSED, ALL_LOGITS)
            assert same == every, "screening changed a token"
        return found

    @staticmethod
    def screened_in(comparison: Comparison) -> bool:
        """Whether the fused decoder ran both with its head screened and with every logit."""
        return {FUSED, ALL_LOGITS} <= set(comparison.variants)

    @cached_property
    def engines(self) -> list[str]:
        """The timed variants, without the control and the bare ones."""
        return self.ladder.comparison.variants

    @cached_property
    def rates(self) -> dict[str, float]:
        """Decode tokens/s of each variant."""
        return {name: 1 / self.ladder.comparison.mean(name) for name in self.engines}

    def cost(self, name: str, time: str = "tpot") -> Cost | None:
        """Of the pass that takes this time of a variant's trace; None where it is not known."""
        return self.ladder.costs.get((name, time))

    @cached_property
    def quality(self) -> dict[str, dict[str, Any]]:
        """By variant, its answers as judged, and its tokens against the baseline's."""
        assert self.same_bits or self.fused is None
        judged, comparison = self.judged.found, self.ladder.comparison
        return {n: variants.quality(comparison, n, judged.get(n)) for n in self.engines}

    @property
    def mine(self) -> str:
        """The variant of the fused decoder that reads the whole file, or what comes nearest."""
        return ALL_LOGITS if self.weights == AS_IS else Q8

    @cached_property
    def stepper(self) -> FusedDecoder | None:
        """The decoder of `mine`, in this process."""
        fused = self.fused
        if fused is None or self.weights != AS_IS or not fused.screened:
            return fused
        return FusedDecoder(fused.packed, screened=False)

    @cached_property
    def passes(self) -> Comparison | None:
        """Passes of the fused decoder by itself; None where it is left out."""
        if self.stepper is None:
            return None
        counts = self.row_counts
        ids = self.lab.prompt(5000, self.lab.middle + max(1, *counts))
        found = compare(passes(self.stepper, ids, counts), STEP, self.rounds, label="passes")
        self.lab.noted(found, "passes")
        self.lab.keep_samples("passes", found.to_dict())
        return found

    @cached_property
    def contexts(self) -> Comparison | None:
        """A decode step at the usual and at a long context, by itself; None where not asked for."""
        if self.stepper is None or not self.long_context:
            return None
        runs, costs = {}, {}
        for context in (self.lab.middle, self.long_context):
            ids = self.lab.prompt(6000, context + 1)
            cache = filled(self.stepper, ids[:-1], context + 1)
            name = context_name(context)
            runs[name] = repeated(self.stepper, cache, Part(0, context, ids[-1:]), _LONG_TURN)
            costs[name, "decode"] = self.step_at(context)
        found = self.lab.compare(runs, next(iter(runs)), self.rounds, costs, label="contexts")
        self.lab.keep_samples("contexts", found.to_dict())
        return found

    def step_at(self, context: int) -> Cost:
        """The cost of a decode step of the fused decoder by itself."""
        assert self.stepper is not None
        lab = self.lab
        return step_cost(
            lab.config, context, dtype="int8", weight_bytes=self.stepper.weight_bytes,
            kv_bytes_per_token=lab.config.kv_bytes_per_token(2),
        )  # fmt: skip


def context_name(context: int) -> str:
    """The name of a step at a context."""
    return f"context {context:,}"
