"""Our own variants, and transformers as it comes: they run in our environment.

Options: kind ("transformers", "compiled", "plain", "fused" or "read"), gguf, directory, model
(as the user named it), weights and screened (for "fused"), threads, context, device, dtype.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

Emit = Callable[[int], None]


def _synchronize(device: str) -> None:
    from labkit.limits.probe import synchronize

    synchronize(device)


class Generate:
    """transformers' `generate`, as everyone calls it; `compiled` with a static cache."""

    def __init__(self, options: dict[str, Any]) -> None:
        import transformers

        from labkit.model.load import resolve_device, resolve_dtype

        self.version = transformers.__version__
        self.device = resolve_device(options["device"])
        dtype = resolve_dtype(options["dtype"])
        loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(
            options["directory"], dtype=dtype
        )
        self.model = loaded.to(self.device).eval()
        self.model.generation_config.eos_token_id = None
        self.model.generation_config.pad_token_id = 0
        self.weight_bytes = _model_bytes(self.model)
        self.kv_element_bytes = dtype.itemsize
        self.settings: dict[str, Any] = {"do_sample": False}
        if options["kind"] == "compiled":
            compile_config: Any = transformers.CompileConfig(fullgraph=False, mode="default")
            compile_config._compile_all_devices = True  # its own guard allows GPUs only
            self.settings |= {"cache_implementation": "static", "compile_config": compile_config}

    def run(self, prompt: Sequence[int], new_tokens: int, emit: Emit) -> float:
        from transformers.generation.streamers import BaseStreamer

        class Streamer(BaseStreamer):
            """Passes new tokens on; the first put is the prompt."""

            seen_prompt = False

            def put(self, value: torch.Tensor) -> None:
                if self.seen_prompt:
                    emit(int(value.reshape(-1)[-1]))
                self.seen_prompt = True

            def end(self) -> None:
                """Nothing is held back."""

        ids = torch.tensor([list(prompt)], device=self.device)
        _synchronize(self.device)
        due = time.monotonic()
        self.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=new_tokens,
            streamer=Streamer(),
            **self.settings,
        )
        return due

    def logits(self, tokens: Sequence[int]) -> np.ndarray:
        ids = torch.tensor([list(tokens)], device=self.device)
        return np.asarray(self.model(ids).logits[0].float().cpu())


class Rows:
    """A decoder that speaks the forward contract: the plain one, or the fused one."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.version = torch.__version__.split("+")[0]
        self.decoder = (_fused if options["kind"] == "fused" else _plain)(options)
        self.cache = self.decoder.new_cache(1, options["context"])
        held = getattr(self.decoder, "weight_bytes", None)
        self.weight_bytes = _model_bytes(self.decoder) if held is None else int(held)
        config = self.decoder.config
        a_token = 2 * config.layers * config.kv_heads * config.head_dim
        self.kv_element_bytes = self.cache.nbytes / (a_token * options["context"])

    def run(self, prompt: Sequence[int], new_tokens: int, emit: Emit) -> float:
        from labkit.model.generate import generate

        self.cache.truncate(0, 0)
        due = time.monotonic()
        stream: Iterator[int] = generate(self.decoder, prompt, new_tokens, cache=self.cache)
        for token in stream:
            emit(token)
        return due

    def logits(self, tokens: Sequence[int]) -> np.ndarray:
        from labkit.model.rows import Rows as Pass

        self.cache.truncate(0, 0)
        parts = []
        for start in range(0, len(tokens), 512):
            rows = Pass.prefill(tokens[start : start + 512], start=start, all_logits=True)
            parts.append(self.decoder(rows, self.cache).float().cpu())
        return np.asarray(torch.cat(parts))


class Read:
    """Nothing but the reading of what the fused decoder reads for each token and all its logits:
    what this machine, as busy as it is just now, leaves of the limit to any engine."""

    def __init__(self, options: dict[str, Any]) -> None:
        from labkit.limits.probe import buffer
        from labkit.optimize.fused.weights import packed

        weights = packed(options["gguf"] or options["directory"], options["weights"], 1)
        self.version = torch.__version__.split("+")[0]
        self.weight_bytes, self.kv_element_bytes = weights.read_bytes(), 2.0
        self.a_token = weights.config.kv_bytes_per_token(self.kv_element_bytes)
        self.held = buffer(int(self.weight_bytes + options["context"] * self.a_token))

    def run(self, prompt: Sequence[int], new_tokens: int, emit: Emit) -> float:
        due = time.monotonic()
        for length in range(len(prompt), len(prompt) + new_tokens):
            self.held[: int(self.weight_bytes + length * self.a_token) // 4].sum()
            emit(0)
        return due

    def logits(self, tokens: Sequence[int]) -> np.ndarray:
        raise NotImplementedError("a bare read computes no logits")


def _plain(options: dict[str, Any]) -> Any:
    from labkit.model.load import load

    return load(options["model"], options["device"], options["dtype"]).decoder


def _fused(options: dict[str, Any]) -> Any:
    from importlib import import_module

    path = options["gguf"] or options["directory"]
    return import_module("labkit.optimize.fused").load_fused(
        path,
        weights=options["weights"],
        threads=options["threads"],
        screened=options.get("screened", True),
    )


def _model_bytes(model: Any) -> int:
    """Bytes a decode step reads: every parameter once, but an embedding table of its own."""
    weights = {p.data_ptr(): p for p in model.parameters()}
    total = sum(p.nbytes for p in weights.values())
    tables = [m.weight for m in model.modules() if isinstance(m, torch.nn.Embedding)]
    matrices = {m.weight.data_ptr() for m in model.modules() if isinstance(m, torch.nn.Linear)}
    return total - sum(t.nbytes for t in tables if t.data_ptr() not in matrices)


class Engine:
    """The variant asked for, under inference mode and with the threads asked for."""

    def __init__(self, options: dict[str, Any]) -> None:
        torch.set_num_threads(options["threads"])
        kinds: dict[str, Any] = {
            "transformers": Generate,
            "compiled": Generate,
            "plain": Rows,
            "fused": Rows,
            "read": Read,
        }
        with torch.inference_mode():
            self.inner = kinds[options["kind"]](options)
        self.version = self.inner.version
        self.weight_bytes = self.inner.weight_bytes
        self.kv_element_bytes = self.inner.kv_element_bytes

    def run(self, prompt: Sequence[int], new_tokens: int, emit: Emit) -> float:
        with torch.inference_mode():
            return float(self.inner.run(prompt, new_tokens, emit))

    @torch.inference_mode()
    def logits(self, tokens: Sequence[int]) -> np.ndarray:
        return np.asarray(self.inner.logits(tokens))
