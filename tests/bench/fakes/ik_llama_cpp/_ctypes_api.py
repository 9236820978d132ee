"""The C interface with the older names that ik_llama.cpp keeps."""

from __future__ import annotations

from types import SimpleNamespace

import llama_api
from llama_api import *  # noqa: F403
from llama_api import Context


def llama_context_default_params() -> SimpleNamespace:
    return SimpleNamespace(**vars(llama_api.llama_context_default_params()), flash_attn=True)


def llama_kv_cache_clear(context: Context) -> None:
    context.clear()
