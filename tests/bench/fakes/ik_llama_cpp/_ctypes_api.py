"""The C interface with the older names that ik_llama.cpp keeps."""

from __future__ import annotations

from types import SimpleNamespace

from llama_api import *  # noqa: F403


def llama_kv_cache_clear(context: SimpleNamespace) -> None:
    context.held.clear()
