"""The C interface with llama.cpp's own names for its memory, and its quantizer."""

from __future__ import annotations

import ctypes
import os
from typing import Any

from llama_api import *  # noqa: F403
from llama_api import CALLS, Context


def llama_print_system_info() -> bytes:
    return b"CPU : SSE3 = 1 | AVX2 = 1 | AVX512 = 0 | AMX_INT8 = 1 | REPACK = 1 | "


def llama_get_memory(context: Context) -> Context:
    return context


def llama_memory_clear(memory: Context, data: bool) -> None:
    memory.clear()


def llama_memory_seq_rm(memory: Context, sequence: int, first: int, last: int) -> bool:
    assert (sequence, last) == (0, -1)
    del memory.held[first:]
    return True


class QuantizeParams(ctypes.Structure):
    """Those that the driver sets."""

    _fields_ = (
        ("nthread", ctypes.c_int32),
        ("ftype", ctypes.c_int32),
        ("allow_requantize", ctypes.c_bool),
    )


def llama_model_quantize_default_params() -> QuantizeParams:
    return QuantizeParams(0, 0, False)


def llama_model_quantize(source: bytes, target: bytes, params: Any) -> int:
    given = params._obj
    CALLS["quantized"] = given.nthread, given.ftype, given.allow_requantize
    with open(os.fsdecode(target), "w") as file:
        file.write("half of it")
    if b"unreadable" in source:
        return 1
    with open(os.fsdecode(target), "w") as file:
        file.write("all of it")
    return 0
