"""The calls of llama.cpp's C interface that the driver makes, as strict as the real ones.

A context holds the tokens that it was given. Logits lie in one buffer that each pass writes over,
and only rows that asked for them have any. CALLS keeps what was set before loading.
"""

from __future__ import annotations

import ctypes
from types import SimpleNamespace
from typing import Any

import numpy as np
import toy

CALLS: dict[str, Any] = {}


def llama_backend_init() -> None:
    """Nothing to do."""


def llama_model_default_params() -> SimpleNamespace:
    return SimpleNamespace(n_gpu_layers=99)


def llama_context_default_params() -> SimpleNamespace:
    return SimpleNamespace(n_ctx=64, n_batch=1, n_ubatch=1, n_threads=99, n_threads_batch=99)


def llama_model_load_from_file(path: bytes, params: SimpleNamespace) -> dict[str, Any] | None:
    CALLS["file"], CALLS["n_gpu_layers"] = path.decode(), params.n_gpu_layers
    return None if b"broken" in path else {"path": path}


def llama_init_from_model(model: dict[str, Any], params: SimpleNamespace) -> SimpleNamespace:
    CALLS["context"] = params
    buffer = np.zeros((params.n_batch, toy.VOCAB), np.float32)
    return SimpleNamespace(held=[], params=params, buffer=buffer, asked=[])


def llama_model_get_vocab(model: dict[str, Any]) -> dict[str, Any]:
    return model


def llama_vocab_n_tokens(vocab: dict[str, Any]) -> int:
    return toy.VOCAB


def llama_batch_init(most: int, embd: int, sequences: int) -> SimpleNamespace:
    return SimpleNamespace(
        n_tokens=0,
        token=(ctypes.c_int32 * most)(),
        pos=(ctypes.c_int32 * most)(),
        n_seq_id=(ctypes.c_int32 * most)(),
        seq_id=[(ctypes.c_int32 * sequences)() for _ in range(most)],
        logits=(ctypes.c_int8 * most)(),
    )


def llama_decode(context: SimpleNamespace, batch: SimpleNamespace) -> int:
    """0; 1 where there is no room; -1 for rows that do not go on where the context ends."""
    count, start = batch.n_tokens, len(context.held)
    if start + count > context.params.n_ctx:
        return 1
    if list(batch.pos[:count]) != list(range(start, start + count)):
        return -1
    if count > context.params.n_batch or set(batch.n_seq_id[:count]) != {1}:
        return -1
    toy.EVENTS.append(("rows", count))
    context.held += batch.token[:count]
    found = toy.logits(context.held)[start:]
    if toy.WRONG_FROM and count >= toy.WRONG_FROM[0]:
        found = -found
    context.buffer[:] = np.nan  # what an earlier pass left is gone
    context.buffer[:count] = found
    context.asked = list(batch.logits[:count])
    return 0


def llama_get_logits_ith(context: SimpleNamespace, row: int) -> Any:
    pointer = ctypes.POINTER(ctypes.c_float)
    if not context.asked[row]:
        return pointer()  # NULL
    return context.buffer[row].ctypes.data_as(pointer)
