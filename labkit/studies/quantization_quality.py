"""How far quantization changes answers, judged on text: the first measurement of notebook 04."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from labkit.model.forward import Forward
from labkit.optimize.quantization import QuantizedDecoder
from labkit.quality.divergence import Divergence, share_of_excess, share_of_kl
from labkit.quality.judge import judge, rows_at_once
from labkit.quality.tasks import asking, score
from labkit.studies import quantization_sentences as sentences
from labkit.studies.lab import Lab
from labkit.studies.quantization_variants import PLAIN
from labkit.workload.questions import short
from labkit.workload.texts import pieces

# Where nearest's excess perplexity is smaller, a share of it says nothing.
_LEAST_EXCESS = 0.01


@dataclass
class Quality:
    """Every variant against the plain decoder, on text that no method was fitted to.

    twins: the quantized decoders by name, computed in the plain decoder's dtype; they read `tokens`
    tokens. runs: what the engines run; all of it reads the same `other_tokens` tokens, and the
    `piece_tokens` positions after `long_context` tokens of one text (0: no long text). nearest: the
    name of rounding to nearest in `twins`, or "". questions: sums, and as many lookups, that what
    runs is asked; 0: none.
    """

    lab: Lab
    twins: Mapping[str, QuantizedDecoder]
    runs: Mapping[str, Forward]
    nearest: str
    tokens: int
    other_tokens: int
    piece_tokens: int
    long_context: int
    questions: int

    @cached_property
    def texts(self) -> list[list[int]]:
        """The text for the methods, in pieces."""
        return pieces(self.lab.loaded.tokenizer, "evaluation", self.tokens, self.piece_tokens)

    @property
    def others(self) -> list[list[int]]:
        """The text for what runs: the first pieces."""
        return self.texts[: -(-min(self.other_tokens, self.tokens) // self.piece_tokens)]

    def _judge(
        self, found: Mapping[str, Forward], texts: list[list[int]], skip: int = 0
    ) -> dict[str, Divergence]:
        lab = self.lab
        rows = rows_at_once(lab.config, lab.device)
        return judge(lab.decoder, found, texts, rows, skip=skip) if found else {}

    @cached_property
    def methods(self) -> dict[str, Divergence]:
        """How the next-token distributions of each method differ from the plain decoder's."""
        return self._judge(self.twins, self.texts)

    @cached_property
    def running(self) -> dict[str, Divergence]:
        """The same of everything that runs, as its kernels compute it, all on the same text."""
        return self._judge(self.runs, self.others)

    @cached_property
    def far(self) -> dict[str, Divergence]:
        """The same at a long context; {} where none was asked for."""
        if not self.long_context:
            return {}
        length = self.long_context + self.piece_tokens
        text = pieces(self.lab.loaded.tokenizer, "evaluation", length, length)
        return self._judge(self.runs, text, self.long_context)

    @cached_property
    def told(self) -> dict[str, dict[str, Any]]:
        """The `quality` of each timed variant's finding."""
        return {
            name: found.judged() | self._score(name, self.runs[name]) | {"lossless": False}
            for name, found in self.running.items()
        }

    @cached_property
    def plain(self) -> dict[str, float]:
        """The share of the questions that the plain decoder answers right."""
        return self._score(PLAIN, self.lab.decoder)

    def _score(self, name: str, decoder: Forward) -> dict[str, float]:
        """The share of questions that a decoder answers right; {} where none were asked."""
        if not self.questions:
            return {}
        asked, tokenizer = short(self.questions), self.lab.loaded.tokenizer
        return score(asking(decoder), tokenizer, asked, f"asking {name}")["all"].quality()

    @cached_property
    def tables(self) -> dict[str, dict[str, dict[str, Any]]]:
        """What is told of the methods, of what runs, of the plain decoder's right answers, and of
        what runs at a long context."""
        found = {
            "methods": {name: one.judged() for name, one in self.methods.items()},
            "running": self.told,
            "plain": {PLAIN: self.plain} if self.plain else {},
            "long_context": {name: one.judged() for name, one in self.far.items()},
        }
        self.lab.keep_samples("quality", found)
        return found

    def sentences(self, group: int) -> Iterator[str]:
        """Each method's error against nearest's, and as its kernel computes it."""
        for name in self._rivals:
            found, worse = self.methods[name], self.methods[self.nearest]
            excess = share_of_excess(found, worse) if worse.excess > _LEAST_EXCESS else None
            yield sentences.against_nearest(
                name, group, found.kl.size, share_of_kl(found, worse), excess
            )
        for name, found in self.running.items():
            if name in self.methods:
                yield sentences.by_its_kernel(name, found, self.methods[name], self.lab.dtype)

    @property
    def _rivals(self) -> list[str]:
        """The methods whose weights take as many bytes as nearest's."""
        if not self.nearest:
            return []
        nbytes = self.twins[self.nearest].weight_bytes
        return [n for n, t in self.twins.items() if n != self.nearest and t.weight_bytes == nbytes]


# Columns of a table of answers: the label, the key of a finding's quality, how a value is told, and
# the keys of its interval.
_COLUMNS: tuple[tuple[str, str, str, tuple[str, str]], ...] = (
    ("KL, mean", "kl_mean", "{:.3g}", ("kl_mean_low", "kl_mean_high")),
    ("KL, 99th percentile", "kl_p99", "{:.3g}", ("kl_p99_low", "kl_p99_high")),
    ("same top token", "top1_agreement", "{:.1%}", ("top1_low", "top1_high")),
    ("perplexity", "perplexity_ratio", "x{:.4f}", ("perplexity_low", "perplexity_high")),
    ("right answers", "task_score", "{:.0%}", ("task_score_low", "task_score_high")),
)


def answer_row(name: str, told: Mapping[str, Any]) -> dict[str, object]:
    """A row of a table of answers: what `told` has, each with its interval where it has one."""
    row: dict[str, object] = {"variant": name}
    for label, key, form, (low, high) in _COLUMNS:
        if key in told:
            row[label] = form.format(told[key])
            if low in told:
                row[label] = f"{row[label]} [{form.format(told[low])}, {form.format(told[high])}]"
    return row


def plain_row(told: Mapping[str, Any]) -> dict[str, object]:
    """The row of the plain decoder in such a table: its right answers, and dashes, because every
    other column compares with it."""
    row = answer_row(PLAIN, told)
    return {"variant": PLAIN} | {label: row.get(label, "–") for label, *_ in _COLUMNS}


def positions_of(told: Mapping[str, Mapping[str, Any]]) -> int:
    """The number of positions of a table; ValueError where its rows were judged on several."""
    counts = {one["positions"] for one in told.values()}
    if len(counts) != 1:
        raise ValueError(f"one table, but rows of {sorted(counts)} positions.")
    return int(counts.pop())
