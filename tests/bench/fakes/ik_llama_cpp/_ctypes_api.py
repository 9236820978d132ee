"""The C interface with the older names that ik_llama.cpp keeps."""

from __future__ import annotations

from llama_api import *  # noqa: F403
from llama_api import Context


def llama_kv_cache_clear(context: Context) -> None:
    context.clear()
