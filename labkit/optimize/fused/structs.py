"""The kernel's structs and codes, as kernel/model.h and kernel/rows.h define them.

`native.library` compares the sizes of all of them with the kernel's own.
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_float, c_int32, c_int64, c_void_p
from enum import IntEnum


class Status(IntEnum):
    """How a call of the kernel ends (kernel/rows.h says what each means)."""

    DONE = 0
    TOKEN_OUTSIDE = 1
    ROWS_DO_NOT_FIT = 2
    WANTED_OUTSIDE = 3
    NO_MEMORY = 4
    FEATURES_DIFFER = 5
    NO_TREE = 6
    SPAN_TOO_LONG = 7
    OTHER_MODEL = 8
    NOT_FINITE = 9
    NO_BLOCK = 10
    BEYOND_HALF = 11


VIEWS = 2  # different windows of a model's layers at most (kViews)
ACTIVATIONS = {"silu": 0, "gelu_tanh": 1}
# Stages that a pass may leave out, so that their share of its time can be measured.
SKIP = {"attention": 1, "head": 2, "products": 4, "rest": 8}


class Matrix(ctypes.Structure):
    """Interleaved blocks (kernel/model.h)."""

    _fields_ = (
        ("starts", c_void_p),
        ("bias", c_void_p),
        ("stride", c_int64),
        ("rows", c_int32),
        ("columns", c_int32),
        ("format", c_int32),
        ("share", c_int32),
    )


class Expert(ctypes.Structure):
    """One feed-forward of a mixture (kernel/model.h)."""

    _fields_ = tuple((name, Matrix) for name in ("gate", "up", "down"))


class Layer(ctypes.Structure):
    """A layer's vectors and matrices (kernel/model.h)."""

    _fields_ = (
        *((name, c_void_p) for name in ("attention_norm", "feed_forward_norm")),
        *((name, c_void_p) for name in ("query_norm", "key_norm")),
        *((name, c_void_p) for name in ("attention_post_norm", "feed_forward_post_norm")),
        *((name, c_int32) for name in ("view", "rope")),
        *((name, Matrix) for name in ("query", "key", "value", "output", "gate", "up", "down")),
        ("router", Matrix),
        ("experts", POINTER(Expert)),
    )


class Model(ctypes.Structure):
    """Shapes and weights of a decoder (kernel/model.h)."""

    _fields_ = (
        *((name, c_int32) for name in ("vocab", "hidden", "intermediate", "layers")),
        *((name, c_int32) for name in ("heads", "kv_heads", "head_dim", "turned", "ropes")),
        ("views", c_int32),
        ("windows", c_int32 * VIEWS),
        *((name, c_int32) for name in ("activation", "whole_norms")),
        *((name, c_float) for name in ("eps", "embedding_multiplier")),
        *((name, c_float) for name in ("residual_multiplier", "score_scale")),
        *((name, c_int32) for name in ("experts", "used", "expert_size", "normalized")),
        ("layer", POINTER(Layer)),
        ("norm", c_void_p),
        ("embedding", Matrix),
        ("head", Matrix),
        *((name, c_void_p) for name in ("token_norm", "feature_norm")),
        ("fuse", Matrix),
        ("screen", Matrix),
        ("screen_error", c_void_p),
    )


class Cache(ctypes.Structure):
    """Memory of keys and values (kernel/model.h)."""

    _fields_ = (
        *((name, c_void_p) for name in ("keys", "values", "cosines", "sines", "table")),
        *((name, c_int32) for name in ("layers", "kv_heads", "head_dim")),
        *((name, c_int32) for name in ("slots", "capacity", "type", "turned", "ropes")),
        *((name, c_int32) for name in ("blocks", "unused")),
    )


class Span(ctypes.Structure):
    """The rows of one slot (kernel/rows.h)."""

    _fields_ = tuple((name, c_int64) for name in ("slot", "start", "count", "first_row", "causal"))


class Rows(ctypes.Structure):
    """The rows of a pass (kernel/rows.h)."""

    _fields_ = (
        *((name, c_void_p) for name in ("tokens", "positions", "wanted", "spans")),
        *((name, c_void_p) for name in ("embeddings", "features", "streams", "best")),
        *((name, c_void_p) for name in ("chances", "paths", "parents")),
        *((name, c_int32) for name in ("rows", "wanted_rows", "span_count", "skip")),
        *((name, c_int32) for name in ("path_width", "likely", "guesses", "unused")),
    )


class Continuation(ctypes.Structure):
    """The next tokens of one slot (kernel/rows.h)."""

    _fields_ = (
        *((name, c_void_p) for name in ("tokens", "parents", "features", "streams")),
        *((name, c_void_p) for name in ("best", "chances")),
        *((name, c_int64) for name in ("slot", "position")),
        *((name, c_int32) for name in ("count", "wanted", "likely", "guesses")),
        *((name, c_int32) for name in ("skip", "unused")),
    )


STRUCTS = (Matrix, Expert, Layer, Model, Cache, Span, Rows, Continuation)  # as lk_sizes orders them
