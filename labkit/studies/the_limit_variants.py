"""The variants of notebook 15, what each must read for a token, and how two of them compare."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from labkit.bench.client import Loaded, Source
from labkit.bench.variants import VARIANTS, runnable
from labkit.errors import LabkitError
from labkit.limits.cost import ELEMENT_BYTES, decode_cost, positions_read
from labkit.model.config import ModelConfig
from labkit.optimize.fused import AS_IS, FORMATS, FusedDecoder, available, load_fused
from labkit.studies.lab import ours
from labkit.timing.compare import Comparison
from labkit.timing.statistics import Ratio, paired_ratio

TRANSFORMERS, BF16 = "transformers", "transformers:bf16"
PLAIN_OURS = (TRANSFORMERS, BF16, "plain")
FUSED, ALL_LOGITS, Q8 = "fused", "fused:all-logits", "fused:q8_0"
# Each peer with weights as near to the file's own bits as it can run. llama.cpp and ik_llama.cpp
# also in q4_0: the same size, and llama.cpp has faster (repacked) kernels for it than for Q4_1.
PEERS = (
    *("llama.cpp", "llama.cpp:q4_0", "ik_llama.cpp", "ik_llama.cpp:q4_0"),
    *("onnxruntime-genai:int4", "openvino-genai:int4", "mnn:int4"),
)


def native(where: Source, weights: str) -> tuple[FusedDecoder | None, str]:
    """The fused decoder of a model; else None, and the reason why it cannot run here."""
    if missing := available():
        return None, missing
    try:
        return load_fused(where.model, weights), ""
    except LabkitError as error:
        return None, str(error)


def names(where: Source, weights: str, with_fused: bool, with_peers: bool) -> list[str]:
    """The variants to run, transformers first: ours that can run here, and installed peers."""
    found = [*PLAIN_OURS]
    if with_fused:
        found += [ALL_LOGITS, FUSED, Q8] if weights == AS_IS else [Q8]
    return found + runnable(PEERS if with_peers else (), bool(where.gguf))


def read_bytes(
    where: Source, config: ModelConfig, fused: FusedDecoder | None, context: int
) -> dict[str, float]:
    """Bytes that a decode step after `context` tokens reads, by the form of the weights."""
    found = {
        name: decode_cost(config, context, dtype=name).read_bytes
        for name in ("float32", "bfloat16")
    }
    kv = positions_read(config, context) * config.kv_bytes_per_token(ELEMENT_BYTES["float16"])
    for name in ("q8_0", "q4_0"):
        share = FORMATS[name].bits / 8 / ELEMENT_BYTES["bfloat16"]
        found[f"all in {name}"] = decode_cost(config, 0, dtype="bfloat16").weight_bytes * share + kv
    if fused is not None and where.gguf:
        found[f"the file as it is ({ALL_LOGITS})"] = fused.all_logits_bytes + kv
        if fused.weight_bytes != fused.all_logits_bytes:
            found[f"the file, its head screened ({FUSED})"] = fused.weight_bytes + kv
    return found


def same_tokens(comparison: Comparison, name: str) -> tuple[bool, int]:
    """Whether a variant gave the baseline's tokens in every round, and how many they were."""
    pairs = [
        (expected, found)
        for before, after in zip(
            comparison.traces[comparison.baseline], comparison.traces[name], strict=True
        )
        for expected, found in zip(before.tokens, after.tokens, strict=True)
    ]
    return all(expected == found for expected, found in pairs), len(pairs)


def quality(
    comparison: Comparison, name: str, judged: Mapping[str, float] | None
) -> dict[str, Any]:
    """The answers of a variant, for its finding.

    Greedy tokens that are the same are no proof by themselves: `lossless` also needs the same top
    token at every position that was judged. Without a judgement it is not stated.
    """
    same, count = same_tokens(comparison, name)
    found: dict[str, Any] = {"tokens_equal": same, "tokens_compared": count}
    if judged is None:
        return found
    return found | dict(judged) | {"lossless": same and judged["top1_agreement"] == 1}


def equal_runs(comparison: Comparison, one: str, other: str) -> tuple[int, int]:
    """In how many rounds two variants gave the same tokens, and of how many rounds."""
    pairs = zip(comparison.traces[one], comparison.traces[other], strict=True)
    same = [a.tokens == b.tokens for a, b in pairs]
    return sum(same), len(same)


def over(comparison: Comparison, one: str, other: str, metric: str = "tpot") -> Ratio:
    """How many times as fast one variant is as another, paired within rounds."""
    return paired_ratio(comparison.values(other, metric), comparison.values(one, metric))


def engine(name: str, one: Loaded) -> dict[str, Any]:
    """What a finding records of the engine of a variant."""
    variant = VARIANTS[name]
    found = {"version": one.version, "build": one.build, "link": one.link, "weights": one.weights}
    if variant.peer:
        return {"name": variant.peer} | found
    if name in (TRANSFORMERS, BF16):
        return {"name": "transformers"} | found
    return found | ours()
