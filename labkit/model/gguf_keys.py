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

from labkit.base.units import shown
from labkit.errors import ModelError
from labkit.model.gguf_families import ARCHITECTURES, FREQUENCIES, LONG, SHORT
from labkit.model.gguf_header import GgufFile
from labkit.model.rope import frequencies

_ATTENTION, _YARN = "rope.scaling.attn_factor", "rope.scaling.yarn_"
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
# Keys that may have one value for each layer.
_OF_LAYERS = frozenset({"attention.head_count", "attention.head_count_kv", "feed_forward_length"})
NO_WEIGHTS = frozenset({FREQUENCIES, LONG, SHORT})  # tensors that are read here


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
            if key in _IGNORED and not isinstance(value, bool):
                raise self.wrong(key, f"{shown(value)}, is not true or false")
            if key in read:
                continue
            if key not in _FIXED:
                raise self.wrong(
                    key, f"{shown(value)}, is not known here, and may change the answers"
                )
            allowed = _FIXED[key]
            if not any(type(value) is type(one) and value == one for one in allowed):
                names = ", ".join(map(repr, allowed))
                raise self.wrong(key, f"{shown(value)}, is not computed here; allowed: {names}")

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
        good = all(type(one) in (bool, int) and one in (0, 1) for one in given)
        if len(given) != layers or not good:
            raise self.wrong(key, f"{shown(given)}, is no mark for each of {layers} layers")
        return [bool(one) for one in given]

    def _needed(self, key: str, default: float | None) -> Any:
        """What the file says, or else the default; ModelError where there is neither."""
        value = self._own.get(key, default)
        if value is None:
            raise ModelError(f"{self.path}: the key {self.arch}.{key} is missing. {_REMEDY}")
        return value

    def size(self, key: str, default: int | None = None) -> int:
        """A size of the model; ModelError where it is missing, or no whole number from 1 on."""
        value = self._needed(key, default)
        listed = isinstance(value, list) and key in _OF_LAYERS
        if listed and len(value) == self.given("block_count") and len(set(value)) == 1:
            value = value[0]  # one for each layer, and all the same
        if type(value) is not int or value < 1:
            raise self.wrong(key, f"{shown(value)}, is no size that all layers have")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self._needed(key, default)
        if not isinstance(value, float):  # llama.cpp refuses a whole number here
            raise self.wrong(key, f"{shown(value)}, is no floating-point number")
        if not math.isfinite(value):
            raise self.wrong(key, f"{value!r}, is no finite number")
        return float(value)

    def must_be(self, key: str, expected: float, why: str) -> None:
        """ModelError where the file has the key with another value, or another type of number."""
        value = self.given(key)
        if value is None:
            return
        if type(value) is not type(expected) or not math.isclose(value, expected, rel_tol=1e-5):
            raise self.wrong(key, f"{shown(value)}, is not supported: {why}")

    def rope(self, head_dim: int, context: int) -> dict[str, Any]:
        """RoPE's base and scaling, as `rope_parameters` of a config.json."""
        base = {"rope_theta": self.number("rope.freq_base", 10000.0)}
        kind, factor = self._scaling()
        tensors = NO_WEIGHTS & self.file.tensors.keys()
        if odd := sorted(tensors - ARCHITECTURES[self.arch].factors):
            raise ModelError(
                f"{self.path}: the tensor {odd[0]} is not read in {self.arch} files. {_REMEDY}"
            )
        if tensors and factor != 1.0:
            raise ModelError(
                f"{self.path}: {min(tensors)} beside a RoPE scaling factor of {factor:g} is not "
                f"supported. {_REMEDY}"
            )
        if LONG in tensors or SHORT in tensors:
            return base | self._longrope(head_dim, context)
        if kind == "yarn" and factor != 1.0:
            return base | self._yarn(factor, context)
        self.must_be(_ATTENTION, 1.0, f"only with YaRN, or {LONG}")
        if FREQUENCIES in tensors:
            return base | self._by_tensor(head_dim, base["rope_theta"])
        if factor == 1.0:
            return base | {"rope_type": "default"}
        return base | {"rope_type": "linear", "factor": factor}

    def _scaling(self) -> tuple[str, float]:
        """The kind of RoPE's scaling, and by how much; 1: not at all.

        llama.cpp takes a factor without a type as linear, and the old key where there is no new.
        """
        kind = self._own.get("rope.scaling.type", "linear")
        factor = self.number("rope.scaling.factor", 1.0)
        linear = self.number("rope.scale_linear", 1.0)
        if kind not in ("none", "linear", "yarn"):
            raise self.wrong("rope.scaling.type", f"{shown(kind)}, is not none, linear or yarn")
        for key, value in (("rope.scaling.factor", factor), ("rope.scale_linear", linear)):
            if value <= 0:
                raise self.wrong(key, f"{value:g}, must be above 0")
        if not self.has("rope.scaling.factor"):
            factor = linear
        elif self.has("rope.scale_linear") and linear != factor:
            raise self.wrong("rope.scale_linear", f"{linear:g}, contradicts the scaling factor")
        whole = 1.0 if kind == "yarn" else 0.0
        self.must_be(f"{_YARN}ext_factor", whole, "only YaRN has a ramp, and it has the whole")
        self.must_be(f"{_YARN}attn_factor", 1.0, "llama.cpp's versions differ in it")
        return kind, 1.0 if kind == "none" else factor

    def _longrope(self, head_dim: int, context: int) -> dict[str, Any]:
        original = "rope.scaling.original_context_length"
        return {
            "rope_type": "longrope",
            "short_factor": self._factors(SHORT, head_dim),
            "long_factor": self._factors(LONG, head_dim),
            "attention_factor": self.number(_ATTENTION, 1.0),
            "original_max_position_embeddings": self.size(original, context),
        }

    def _yarn(self, factor: float, context: int) -> dict[str, Any]:
        if factor < 1:
            raise self.wrong("rope.scaling.factor", f"{factor:g}, must be at least 1 for YaRN")
        return {
            "rope_type": "yarn",
            "factor": factor,
            "original_max_position_embeddings": self.size(
                "rope.scaling.original_context_length", context
            ),
            "attention_factor": self.number(_ATTENTION, 1.0) * (0.1 * math.log(factor) + 1),
            "beta_fast": self.number(f"{_YARN}beta_fast", 32.0),
            "beta_slow": self.number(f"{_YARN}beta_slow", 1.0),
        }

    def _by_tensor(self, head_dim: int, theta: float) -> dict[str, Any]:
        """The file's own factors of each frequency: Llama 3's where they are, else as they are."""
        factors = self._factors(FREQUENCIES, head_dim)
        found = torch.tensor(factors, dtype=torch.float32)
        llama3 = {
            "rope_type": "llama3",
            "factor": round(float(found.max()), 3),
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        }
        if found.max() > 1.001:
            expected = frequencies(head_dim, theta, None) / frequencies(head_dim, theta, llama3)
            if torch.allclose(expected, found, rtol=1e-4):
                return llama3
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


def token_id(fields: Mapping[str, Any], name: str, path: Path) -> int | None:
    """A token's number, or None where the file has none."""
    value = fields.get(f"tokenizer.ggml.{name}")
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
        raise ModelError(
            f"{path}: the key tokenizer.ggml.{name}, {shown(value)}, is no token's number."
        )
    return value
