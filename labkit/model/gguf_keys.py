"""What the keys of a GGUF file say of a model: each is honoured, or the file is refused.

The keys: github.com/ggml-org/ggml/blob/master/docs/gguf.md and llama.cpp's src/llama-arch.cpp.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from labkit.errors import ModelError
from labkit.model.gguf_families import ARCHITECTURES
from labkit.model.gguf_header import GgufFile
from labkit.model.rope import frequencies

_REMEDY = "Convert the model to GGUF again, or use its safetensors."
# Keys under <architecture>. that are read below.
_READ = frozenset(
    {
        "context_length", "embedding_length", "block_count", "feed_forward_length", "vocab_size",
        "attention.head_count", "attention.head_count_kv", "attention.key_length",
        "attention.value_length", "attention.layer_norm_rms_epsilon", "attention.scale",
        "rope.freq_base", "rope.dimension_count", "rope.scale_linear", "rope.scaling.type",
        "rope.scaling.factor", "rope.scaling.original_context_length", "rope.scaling.attn_factor",
        "rope.scaling.yarn_ext_factor", "rope.scaling.yarn_attn_factor",
        "rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_slow",
    }
)  # fmt: skip
# Keys that say what is done here in any case. Any other value is refused.
_FIXED: dict[str, tuple[Any, ...]] = {
    "logit_scale": (1.0,),
    "embedding_scale": (1.0,),
    "residual_scale": (1.0,),
    "final_logit_softcapping": (0.0,),
    "attn_logit_softcapping": (0.0,),
    "attention.causal": (True,),
    "attention.sliding_window": (0,),
    "attention.clamp_kqv": (0.0,),
    "attention.max_alibi_bias": (0.0,),
    "expert_count": (0,),
    "expert_used_count": (0,),
    "expert_shared_count": (0,),
    "expert_gating_func": (1,),  # softmax
    "expert_weights_norm": (True,),
    "expert_weights_scale": (1.0,),
    "leading_dense_block_count": (0,),
    "use_parallel_residual": (False,),
    "tensor_data_layout": ("Meta AI original pth", ""),
    "rope.scaling.yarn_log_multiplier": (0.0,),
}
# Keys that change nothing that is computed here.
_IGNORED = frozenset({"rope.scaling.finetuned"})
_FREQUENCIES = "rope_freqs.weight"
_LONG, _SHORT = "rope_factors_long.weight", "rope_factors_short.weight"
NO_WEIGHTS = frozenset({_FREQUENCIES, _LONG, _SHORT})  # tensors that are read here


class Keys:
    """The keys of one file under its architecture; errors name the file, the key and a remedy."""

    def __init__(self, file: GgufFile) -> None:
        self.file, self.path = file, file.path
        self.arch = str(file.fields.get("general.architecture"))
        if self.arch not in ARCHITECTURES:
            raise ModelError(
                f"{file.path}: architecture {self.arch!r} is not supported; supported: "
                f"{', '.join(ARCHITECTURES)}."
            )
        prefix = f"{self.arch}."
        self._own = {
            key.removeprefix(prefix): value
            for key, value in file.fields.items()
            if key.startswith(prefix)
        }
        self._check_known()

    def _check_known(self) -> None:
        read = _READ | _IGNORED | ARCHITECTURES[self.arch].keys
        for key, value in self._own.items():
            if key in read:
                continue
            if key not in _FIXED:
                raise self.wrong(key, f"{value!r}, is not known here, and may change the answers")
            if value not in _FIXED[key]:
                raise self.wrong(key, f"{value!r}, is not computed here")

    def wrong(self, key: str, what: str) -> ModelError:
        return ModelError(f"{self.path}: the key {self.arch}.{key}, {what}. {_REMEDY}")

    def has(self, key: str) -> bool:
        return key in self._own

    def given(self, key: str) -> Any:
        """What the file says; None where it says nothing."""
        return self._own.get(key)

    def count(self, key: str) -> int:
        """A whole number; 0 where it is missing."""
        return 0 if self.given(key) in (None, 0) else self.size(key)

    def marks(self, key: str, layers: int, every: int) -> list[bool]:
        """Which layers are marked: those that a list says, or all but the last of each `every`."""
        given = self.given(key)
        if not isinstance(given, list):
            every = self.size(key, every)
            return [(layer + 1) % every != 0 for layer in range(layers)]
        if len(given) != layers or not all(one in (0, 1) for one in given):
            raise self.wrong(key, f"{_short(given)}, is no mark for each of {layers} layers")
        return [bool(one) for one in given]

    def size(self, key: str, default: int | None = None) -> int:
        """A size of the model; ModelError where it is missing, or no whole number from 1 on."""
        value = self._own.get(key, default)
        if value is None:
            raise ModelError(f"{self.path}: the key {self.arch}.{key} is missing. {_REMEDY}")
        if isinstance(value, list) and value and len(set(value)) == 1:
            value = value[0]  # one for each layer, and all the same
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise self.wrong(key, f"{_short(value)}, is no size that all layers have")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self._own.get(key, default)
        if value is None:
            raise ModelError(f"{self.path}: the key {self.arch}.{key} is missing. {_REMEDY}")
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self.wrong(key, f"{_short(value)}, is no number")
        if not math.isfinite(value):
            raise self.wrong(key, f"{value!r}, is no finite number")
        return float(value)

    def must_be(self, key: str, expected: float, why: str) -> None:
        """ModelError where the file has the key with another value."""
        if self.has(key) and not math.isclose(self.number(key), expected, rel_tol=1e-5):
            raise self.wrong(key, f"{_short(self._own[key])}, is not supported: {why}")

    def rope(self, head_dim: int, context: int) -> dict[str, Any]:
        """RoPE's base and scaling, as `rope_parameters` of a config.json."""
        base = {"rope_theta": self.number("rope.freq_base", 10000.0)}
        kind = self._own.get("rope.scaling.type")
        factor = self.number("rope.scaling.factor", 1.0)
        linear = self.number("rope.scale_linear", 1.0)
        if kind not in (None, "none", "linear", "yarn"):
            raise self.wrong("rope.scaling.type", f"{_short(kind)}, is not none, linear or yarn")
        if factor <= 0 or linear <= 0:
            raise self.wrong("rope.scaling.factor", "must be above 0")
        # llama.cpp takes a factor without a type as linear, and the old key where there is no new.
        if not self.has("rope.scaling.factor"):
            factor = linear
        elif self.has("rope.scale_linear") and linear != factor:
            raise self.wrong("rope.scale_linear", f"{linear:g}, contradicts the scaling factor")
        if _LONG in self.file.tensors or _SHORT in self.file.tensors:
            if factor != 1.0 or kind not in (None, "none"):
                raise ModelError(f"{self.path}: {_LONG} beside another scaling. {_REMEDY}")
            return base | self._longrope(head_dim, context)
        own = self.file.tensors.get(_FREQUENCIES)
        if own is not None:
            if factor != 1.0 and kind != "none":
                raise ModelError(
                    f"{self.path}: {_FREQUENCIES} beside a RoPE scaling factor of {factor:g} is "
                    f"not supported. {_REMEDY}"
                )
            return base | self._by_tensor(head_dim, base["rope_theta"])
        if kind == "none" or factor == 1.0:
            return base | {"rope_type": "default"}
        if kind == "yarn":
            return base | self._yarn(factor, context)
        return base | {"rope_type": "linear", "factor": factor}

    def _longrope(self, head_dim: int, context: int) -> dict[str, Any]:
        original = "rope.scaling.original_context_length"
        return {
            "rope_type": "longrope",
            "short_factor": self._factors(_SHORT, head_dim),
            "long_factor": self._factors(_LONG, head_dim),
            "attention_factor": self.number("rope.scaling.attn_factor", 1.0),
            "original_max_position_embeddings": self.size(original, context),
        }

    def _yarn(self, factor: float, context: int) -> dict[str, Any]:
        key = "rope.scaling.yarn_ext_factor"
        self.must_be(key, 1.0, "only YaRN with its whole ramp")
        extra = self.number("rope.scaling.attn_factor", 1.0) * self.number(
            "rope.scaling.yarn_attn_factor", 1.0
        )
        return {
            "rope_type": "yarn",
            "factor": factor,
            "original_max_position_embeddings": self.size(
                "rope.scaling.original_context_length", context
            ),
            "attention_factor": extra * (0.1 * math.log(factor) + 1),
            "beta_fast": self.number("rope.scaling.yarn_beta_fast", 32.0),
            "beta_slow": self.number("rope.scaling.yarn_beta_slow", 1.0),
        }

    def _by_tensor(self, head_dim: int, theta: float) -> dict[str, Any]:
        """The file's own factors of each frequency: Llama 3's where they are, else as they are."""
        found = np.array(self._factors(_FREQUENCIES, head_dim), dtype=np.float32)
        llama3 = {
            "rope_type": "llama3",
            "factor": round(float(found.max()), 3),
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        }
        if found.max() > 1.001:
            expected = frequencies(head_dim, theta, None) / frequencies(head_dim, theta, llama3)
            if torch.allclose(expected, torch.from_numpy(found), rtol=1e-4):
                return llama3
        factors = [float(one) for one in found]
        return {
            "rope_type": "longrope",
            "short_factor": factors,
            "long_factor": factors,
            "attention_factor": 1.0,
            "original_max_position_embeddings": self.size("context_length"),
        }

    def _factors(self, name: str, head_dim: int) -> list[float]:
        """What the frequencies of pairs are divided by, from a tensor of the file."""
        tensor = self.file.tensors.get(name)
        if tensor is None or tensor.kind != "F32" or tensor.shape != (head_dim // 2,):
            there = "missing" if tensor is None else f"{tensor.kind} {tensor.shape}"
            raise ModelError(
                f"{self.path}: {name} is {there}, not F32 ({head_dim // 2},). {_REMEDY}"
            )
        found = self.file.read(tensor).view(np.float32)[0]
        if not (np.isfinite(found).all() and (found > 0).all()):
            raise ModelError(f"{self.path}: {name} must hold numbers above 0. {_REMEDY}")
        return [float(one) for one in found]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]} ..."


def token_id(fields: Mapping[str, Any], name: str, path: Path) -> int | None:
    """A token's number, or None where the file has none."""
    value = fields.get(f"tokenizer.ggml.{name}")
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
        raise ModelError(f"{path}: the key tokenizer.ggml.{name}, {value!r}, is no token's number.")
    return value
