"""The variants of notebook 15, and the bytes that each must read for a token."""

from __future__ import annotations

from typing import Any

from labkit.bench.client import Source
from labkit.bench.variants import BARE, VARIANTS
from labkit.errors import LabkitError
from labkit.limits.cost import ELEMENT_BYTES, decode_cost
from labkit.model.config import ModelConfig
from labkit.optimize.fused import AS_IS, FORMATS, FusedDecoder, available, load_fused
from labkit.timing.compare import Comparison

PLAIN_OURS = ("transformers", "plain")
FUSED, ALL_LOGITS, Q8 = "fused", "fused:all-logits", "fused:q8_0"
# One variant a peer, with weights as near to the file's own bits as it can run.
PEERS = ("llama.cpp", "ik_llama.cpp", "onnxruntime-genai:int4", "openvino-genai:int4")


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
        found += [BARE, ALL_LOGITS, FUSED, Q8] if weights == AS_IS else [Q8]
    for name in PEERS if with_peers else ():
        variant = VARIANTS[name]
        if variant.missing() is None and (where.gguf or not variant.needs_gguf):
            found.append(name)
    return found


def read_bytes(
    where: Source, config: ModelConfig, dtype: str, fused: FusedDecoder | None, context: int
) -> dict[str, float]:
    """Bytes that a decode step after `context` tokens reads, by the form of the weights."""
    found = {
        name: decode_cost(config, context, dtype=name).read_bytes for name in (dtype, "bfloat16")
    }
    kv = context * config.kv_bytes_per_token(ELEMENT_BYTES["float16"])
    for name in ("q8_0", "q4_0"):
        share = FORMATS[name].bits / 8 / ELEMENT_BYTES["bfloat16"]
        found[name] = decode_cost(config, 0, dtype="bfloat16").weight_bytes * share + kv
    if fused is not None and where.gguf:
        found["the file as it is"] = fused.all_logits_bytes + kv
        if fused.weight_bytes != fused.all_logits_bytes:
            found["the file, its head screened"] = fused.weight_bytes + kv
    return found


def same_tokens(comparison: Comparison, name: str) -> dict[str, Any]:
    """Whether a variant gave the baseline's greedy tokens in every round, for its finding."""
    pairs = [
        (expected, found)
        for before, after in zip(
            comparison.traces[comparison.baseline], comparison.traces[name], strict=True
        )
        for expected, found in zip(before.tokens, after.tokens, strict=True)
    ]
    same = all(expected == found for expected, found in pairs)
    return {"lossless": same, "tokens_compared": len(pairs)}


def equal_runs(comparison: Comparison, one: str, other: str) -> tuple[int, int]:
    """In how many rounds two variants gave the same tokens, and of how many rounds."""
    pairs = zip(comparison.traces[one], comparison.traces[other], strict=True)
    same = [a.tokens == b.tokens for a, b in pairs]
    return sum(same), len(same)
