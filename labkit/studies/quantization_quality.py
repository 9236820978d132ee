"""How far quantization changes answers, judged on text: the first measurement of notebook 04."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from labkit.model.forward import Forward
from labkit.quality.divergence import Divergence, share_of_excess
from labkit.quality.judge import judge
from labkit.studies.lab import Lab
from labkit.studies.quantization_sentences import against_nearest, in_bfloat16
from labkit.workload.texts import pieces


@dataclass
class Quality:
    """Every variant against the plain decoder, on text that no method was fitted to.

    fitted: the quantized decoders by name, computed in float32; they read `tokens` tokens. runs:
    what the engines run; those that are not in `fitted` read `other_tokens` tokens. nearest: the
    name of rounding to nearest in `fitted`, or "".
    """

    lab: Lab
    fitted: Mapping[str, Forward]
    runs: Mapping[str, Forward]
    nearest: str
    tokens: int
    other_tokens: int
    piece_tokens: int

    @cached_property
    def texts(self) -> list[list[int]]:
        """The text for the methods, in pieces."""
        return pieces(self.lab.loaded.tokenizer, "evaluation", self.tokens, self.piece_tokens)

    @property
    def others(self) -> list[list[int]]:
        """The text for everything else: the first pieces."""
        return self.texts[: -(-min(self.other_tokens, self.tokens) // self.piece_tokens)]

    @cached_property
    def judged(self) -> dict[str, Divergence]:
        """How each variant's next-token distributions differ from the plain decoder's."""
        plain = self.lab.decoder
        found = judge(plain, self.fitted, self.texts)
        rest = {name: run for name, run in self.runs.items() if name not in found}
        return found | judge(plain, rest, self.others)

    @cached_property
    def packed(self) -> dict[str, Divergence]:
        """The methods' decoders again, as torch's kernels run them: in bfloat16."""
        found = {name: self.runs[name] for name in self.fitted if name in self.runs}
        return judge(self.lab.decoder, found, self.others) if found else {}

    @cached_property
    def shares(self) -> dict[str, tuple[float, float, float]]:
        """By method: its excess perplexity over that of nearest, with a 95 % interval."""
        if not self.nearest:
            return {}
        worse = self.judged[self.nearest]
        names = [name for name in self.fitted if name != self.nearest]
        return {name: share_of_excess(self.judged[name], worse) for name in names}

    @cached_property
    def told(self) -> dict[str, dict[str, Any]]:
        """The `quality` of each variant's finding."""
        told = {name: found.quality() | {"lossless": False} for name, found in self.judged.items()}
        for name, found in self.packed.items():
            told[name]["kl_mean_bfloat16"] = float(found.kl.mean())
        for name, (share, _, _) in self.shares.items():
            told[name]["share_of_nearest_excess"] = share
        self.lab.keep_samples("quality", told)
        return told

    def sentences(self, group: int) -> Iterator[str]:
        """Each method's error compared with nearest's, and in bfloat16 compared with float32."""
        for name, share in self.shares.items():
            large = self.judged[self.nearest].excess > 0.01
            nearest = self.told[self.nearest]
            yield against_nearest(name, group, self.told[name], nearest, share if large else None)
        for name, found in self.packed.items():
            yield in_bfloat16(name, found, self.judged[name])
