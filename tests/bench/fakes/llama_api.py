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


class Context:
    """Sequences, each with the tokens that it holds, and room for its share of the context."""

    def __init__(self, params: SimpleNamespace) -> None:
        self.params, self.asked = params, list[int]()
        self.sequences: list[list[int]] = [[] for _ in range(params.n_seq_max)]
        self.room = params.n_ctx // params.n_seq_max
        self.buffer = np.zeros((params.n_batch, toy.VOCAB), np.float32)

    @property
    def held(self) -> list[int]:
        """Of the first sequence."""
        return self.sequences[0]

    def clear(self) -> None:
        for held in self.sequences:
            held.clear()


def llama_backend_init() -> None:
    """Nothing to do."""


def llama_model_default_params() -> SimpleNamespace:
    return SimpleNamespace(n_gpu_layers=99)


def llama_context_default_params() -> SimpleNamespace:
    return SimpleNamespace(
        n_ctx=64, n_seq_max=1, n_batch=1, n_ubatch=1, n_threads=99, n_threads_batch=99
    )


def llama_model_load_from_file(path: bytes, params: SimpleNamespace) -> dict[str, Any] | None:
    CALLS["file"], CALLS["n_gpu_layers"] = path.decode(), params.n_gpu_layers
    return None if b"broken" in path else {"path": path}


def llama_init_from_model(model: dict[str, Any], params: SimpleNamespace) -> Context:
    CALLS["context"] = params
    return Context(params)


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


def llama_decode(context: Context, batch: SimpleNamespace) -> int:
    """0; 1 where there is no room; -1 for rows that do not go on where their sequence ends."""
    count = batch.n_tokens
    if count > context.params.n_batch or set(batch.n_seq_id[:count]) != {1}:
        return -1
    rows = []
    for i in range(count):
        held = context.sequences[batch.seq_id[i][0]]
        if len(held) == context.room:
            return 1
        if batch.pos[i] != len(held):
            return -1
        held.append(batch.token[i])
        rows.append((held, len(held)))
    beside = sum(bool(held) for held in context.sequences) > 1
    assert not (beside and getattr(context.params, "flash_attn", False)), "the real one ends here"
    toy.EVENTS.append(("rows", count))
    every = {id(held): toy.logits(held) for held, _ in rows}  # of each sequence, once
    found = np.array([every[id(held)][length - 1] for held, length in rows])
    if toy.WRONG_FROM and count >= toy.WRONG_FROM[0]:
        found = -found
    context.buffer[:] = np.nan  # what an earlier pass left is gone
    context.buffer[:count] = found
    context.asked = list(batch.logits[:count])
    return 0


def llama_get_logits_ith(context: Context, row: int) -> Any:
    pointer = ctypes.POINTER(ctypes.c_float)
    if not context.asked[row]:
        return pointer()  # NULL
    return context.buffer[row].ctypes.data_as(pointer)
