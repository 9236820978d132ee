"""The ladder of notebook 15: which variants stand on it, and what each must read for a token."""

from __future__ import annotations

from typing import Any

from labkit.errors import LabkitError
from labkit.limits.cost import ELEMENT_BYTES, decode_cost
from labkit.model.config import ModelConfig
from labkit.optimize.fused import AS_IS, FORMATS, FusedDecoder
from labkit.optimize.fused.weights import packed
from labkit.peers.client import Source
from labkit.peers.variants import BARE, VARIANTS
from labkit.timing.compare import Comparison

_OURS = ("transformers", "plain")
# One row a peer, as near to the file's own bits as it runs.
_PEERS = ("llama.cpp", "ik_llama.cpp", "onnxruntime-genai:int4", "openvino-genai:int4")


def unserved(where: Source, weights: str) -> str | None:
    """Why the kernel cannot serve a model with these weights; None where it can."""
    try:
        packed(where.model, weights)
    except LabkitError as error:
        return str(error)
    return None


def names(where: Source, weights: str, with_fused: bool, with_peers: bool) -> list[str]:
    """The variants to run, transformers first: those of ours that can, and installed peers."""
    found = [*_OURS]
    if with_fused:
        as_is = [BARE, "fused:all-logits", "fused"] if weights == AS_IS else []
        found += [*as_is, "fused:q8_0"]
    for name in _PEERS if with_peers else ():
        variant = VARIANTS[name]
        if variant.missing() is None and (where.gguf or not variant.needs_gguf):
            found.append(name)
    return found


def lookups(where: Source) -> list[str]:
    """Of other engines' own speculation, the variants that can run here."""
    found = VARIANTS["llama.cpp:lookup"]
    return [found.name] if where.gguf and found.missing() is None else []


def read_bytes(
    where: Source, config: ModelConfig, dtype: str, fused: FusedDecoder | None, context: int
) -> dict[str, float]:
    """Bytes of a decode step at a context, by the form of the weights."""
    found = {
        name: decode_cost(config, context, dtype=name).read_bytes for name in (dtype, "bfloat16")
    }
    kv = context * config.kv_bytes_per_token(ELEMENT_BYTES["float16"])
    for name in ("q8_0", "q4_0"):
        bits = FORMATS[name].bits / 8 / ELEMENT_BYTES["bfloat16"]
        found[name] = decode_cost(config, 0, dtype="bfloat16").weight_bytes * bits + kv
    if fused is not None and where.gguf:
        found["the file as it is"] = fused.all_logits_bytes + kv
        if fused.screened:
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
