"""A model as the kernel reads it: structs full of addresses into packed weights."""

from __future__ import annotations

import ctypes
from ctypes import byref
from typing import Any

import numpy as np

from labkit.model.config import ModelConfig
from labkit.model.experts import ROUTER
from labkit.optimize.fused import structs
from labkit.optimize.fused.pack import LANES, FusedError, format_of
from labkit.optimize.fused.screen import SCREEN, SCREEN_ERROR
from labkit.optimize.fused.weights import EMBEDDING, PackedWeights

FUSE = "fuse.weight"  # the matrix that only a draft head has
_NORMS = (
    *("input_layernorm", "post_attention_layernorm"),
    *("self_attn.q_norm", "self_attn.k_norm"),
    *("attention_post_norm", "feed_forward_post_norm"),
)
_ATTENTION = tuple(f"self_attn.{name}_proj" for name in ("q", "k", "v", "o"))
_FEED_FORWARD = tuple(f"{name}_proj" for name in ("gate", "up", "down"))


def score_scale(config: ModelConfig) -> float:
    """What scores are multiplied by; without a multiplier 1 / sqrt(head size), in float32."""
    if config.attention_multiplier is not None:
        return config.attention_multiplier
    return float(np.float32(1) / np.sqrt(np.float32(config.head_dim)))


def _mixtures(config: ModelConfig) -> tuple[int, int, int, bool]:
    """What the kernel knows of all mixtures of experts; zeros where there are none."""
    own = config.experts
    return (own.count, own.used, own.size, own.normalized) if own else (0, 0, 0, False)


class NativeModel:
    """The struct of a model, and the memory that it points into.

    screened: whether the likeliest token may be found with the screen. embedding: the weights that
    hold the embedding table, where they are not the model's own. ref: the struct, for a call.
    outputs: rows of the head. Raises FusedError for weights that lack a matrix.
    """

    def __init__(
        self, packed: PackedWeights, screened: bool, embedding: PackedWeights | None = None
    ) -> None:
        self.packed, self.screened, self.config = packed, screened, packed.config
        self._embedding = packed if embedding is None else embedding
        self._held: list[ctypes.Array[Any]] = []  # what the struct points to
        self._windows = sorted({self.config.window_of(i) or 0 for i in range(self.config.layers)})
        try:
            self._layers = (structs.Layer * self.config.layers)(
                *(self._layer(i) for i in range(self.config.layers))
            )
            self._model = self._struct()
        except KeyError as error:
            raise FusedError(f"the weights lack {error}.") from error
        self.ref = byref(self._model)
        self.outputs = packed.entries[packed.head].rows
        self.width = -(-self.outputs // LANES) * LANES  # floats of a row of logits

    def _vector(self, name: str) -> int | None:
        """The address of a vector; None where the model has none of this name."""
        return self.packed.addresses(name)[0] if name in self.packed.entries else None

    def _matrix(self, name: str, packed: PackedWeights | None = None) -> structs.Matrix:
        """A matrix, and its bias where the model has one."""
        packed = packed or self.packed
        entry, location = packed.entries[name], packed.locations[name]
        bias = self._vector(name.removesuffix("weight") + "bias")
        starts = (ctypes.c_void_p * packed.threads)(*packed.addresses(name))
        self._held.append(starts)
        return structs.Matrix(
            ctypes.addressof(starts), bias, location.stride,
            entry.rows, entry.columns, format_of(entry.format).number, location.share,
        )  # fmt: skip

    def _layer(self, number: int) -> structs.Layer:
        name, experts = f"layers.{number}", self.config.experts
        attention = (
            *(self._vector(f"{name}.{norm}.weight") for norm in _NORMS),
            *self._kinds(number),
            *(self._matrix(f"{name}.{matrix}.weight") for matrix in _ATTENTION),
        )
        if experts is None or number not in experts.layers:
            return structs.Layer(*attention, *self._feed_forward(f"{name}.mlp"))
        owners = (f"{name}.mlp.experts.{i}" for i in range(experts.count))
        made = (structs.Expert * experts.count)(
            *(structs.Expert(*self._feed_forward(owner)) for owner in owners)
        )
        self._held.append(made)
        none = (structs.Matrix() for _ in _FEED_FORWARD)
        return structs.Layer(*attention, *none, self._matrix(f"{name}.{ROUTER}"), made)

    def _kinds(self, number: int) -> tuple[int, int]:
        """Which of the windows and of the angles a layer has."""
        rope = self.config.rope_of(number)
        view = self._windows.index(self.config.window_of(number) or 0)
        return view, -1 if rope is None else rope

    def _feed_forward(self, name: str) -> list[structs.Matrix]:
        return [self._matrix(f"{name}.{matrix}.weight") for matrix in _FEED_FORWARD]

    def _struct(self) -> structs.Model:
        c = self.config
        return structs.Model(
            c.vocab_size, c.hidden_size, c.intermediate_size, c.layers, c.heads, c.kv_heads,
            c.head_dim, c.turned, c.ropes, len(self._windows), tuple(self._windows),
            structs.ACTIVATIONS[c.activation], c.qk_norm_whole, c.rms_norm_eps,
            c.embedding_multiplier, c.residual_multiplier, score_scale(c),
            *_mixtures(c), self._layers,
            self._vector("norm.weight"), self._matrix(EMBEDDING, self._embedding),
            self._matrix(self.packed.head), self._vector("token_norm.weight"),
            self._vector("feature_norm.weight"),
            self._matrix(FUSE) if FUSE in self.packed.entries else structs.Matrix(),
            self._matrix(SCREEN) if self.screened else structs.Matrix(),
            self._vector(SCREEN_ERROR) if self.screened else None,
        )  # fmt: skip
