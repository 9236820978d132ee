"""Our own variants, and transformers as it comes: they run in our environment.

Options: kind ("transformers", "compiled", "plain", "fused" or "engine"), gguf, directory, model (as
the user named it), file_format, weights and screened (for "fused" and "engine"), threads, context,
streams, device, dtype.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch

from labkit.base.device import resolve_device, synchronize
from labkit.engine.batching import BatchEngine
from labkit.engine.generate import generate
from labkit.engine.passes import Passes
from labkit.engine.scheduler import blocks_of
from labkit.engine.sequence import Decoding, check_prompt
from labkit.engine.served import ServedRequest
from labkit.errors import ModelError
from labkit.model.cache.paged import BLOCK_SIZE
from labkit.model.cache.table import Cache
from labkit.model.forward import Forward
from labkit.model.load import load, resolve_dtype
from labkit.model.rows import Rows
from labkit.model.weights import read_bytes

Emit = Callable[[int], None]
EmitOf = Callable[[int, int], None]  # (number of the prompt, token)
_TRANSFORMERS = "https://github.com/huggingface/transformers"
_CHUNK = 512  # rows of a pass whose logits are all computed


class Kind(Protocol):
    """What one kind of variant does; as the engine of a worker (worker.py), without its threads."""

    version: str
    build: str
    link: str
    weights: str
    same_weights: bool
    weight_bytes: int
    kv_element_bytes: float

    def run(self, prompt: Sequence[int], new_tokens: int, emit: Emit) -> float:
        """Emit the tokens; when the run was due, in monotonic seconds."""

    def many(self, prompts: Sequence[Sequence[int]], new_tokens: int, emit: EmitOf) -> float:
        """As `run`, for prompts that are asked at the same moment."""

    def logits(self, tokens: Sequence[int]) -> np.ndarray:
        """Logits of every position, (tokens, vocab) float32."""


def in_dtype(dtype: torch.dtype, options: dict[str, Any]) -> tuple[str, bool]:
    """Plain weights of a dtype, in words, and whether they are the file's own values."""
    name = str(dtype).removeprefix("torch.")
    if options.get("file_format") is None:
        return name, dtype == torch.float32
    if dtype == torch.float32:
        return f"{name}, dequantized from the file's {options['file_format']}", True
    return f"{name}, rounded from the dequantized file", False


def in_blocks(options: dict[str, Any]) -> tuple[str, bool]:
    """Blocks as the fused decoder reads them, in words, and whether they are the file's own."""
    if options["weights"] == "as-is":
        return f"{options.get('file_format')} as in the file", True
    return f"{options['weights'].upper()}, rounded from the model's float32 weights", False


class Generate:
    """transformers' `generate`, as everyone calls it; `compiled` with a static cache."""

    def __init__(self, options: dict[str, Any]) -> None:
        import transformers

        self.version, self.link = transformers.__version__, _TRANSFORMERS
        self.build = f"wheels of transformers and torch {torch.__version__}"
        self.device = resolve_device(options["device"])
        dtype = resolve_dtype(options["dtype"])
        self.weights, self.same_weights = in_dtype(dtype, options)
        loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(
            options["directory"], dtype=dtype
        )
        self.model = loaded.to(self.device).eval()
        self.model.generation_config.eos_token_id = None
        self.model.generation_config.pad_token_id = 0
        self.weight_bytes = int(read_bytes(self.model))
        self.kv_element_bytes: float = dtype.itemsize
        self.settings: dict[str, Any] = {"do_sample": False}
        if options["kind"] == "compiled":
            compile_config: Any = transformers.CompileConfig(fullgraph=False, mode="default")
            compile_config._compile_all_devices = True  # its own guard allows GPUs only
            self.settings |= {"cache_implementation": "static", "compile_config": compile_config}

    def run(self, prompt: Sequence[int], new_tokens: int, emit: Emit) -> float:
        return self.many([prompt], new_tokens, lambda _, token: emit(token))

    def many(self, prompts: Sequence[Sequence[int]], new_tokens: int, emit: EmitOf) -> float:
        """A static batch; ModelError for prompts of several lengths, which would need padding."""
        from transformers.generation.streamers import BaseStreamer

        if len(set(map(len, prompts))) != 1:
            raise ModelError("a batch of transformers' generate has prompts of one length here.")

        class Streamer(BaseStreamer):
            """Passes new tokens on, one of each prompt; the first put is the prompts."""

            seen_prompt = False

            def put(self, value: torch.Tensor) -> None:
                if self.seen_prompt:
                    for number, token in enumerate(value.reshape(-1).tolist()):
                        emit(number, token)
                self.seen_prompt = True

            def end(self) -> None:
                """Every token is out already."""

        ids = torch.tensor([list(prompt) for prompt in prompts], device=self.device)
        synchronize(self.device)
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


class OurDecoder:
    """A decoder that fits the forward contract: the plain one, or the fused one."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.version, self.link = torch.__version__.split("+")[0], ""
        self.build, dtype = f"wheel of torch {torch.__version__}", options.get("dtype", "float32")
        self.weights, self.same_weights = in_dtype(resolve_dtype(dtype), options)
        fused = options["kind"] != "plain"
        self.decoder = (_fused if fused else _plain)(options)
        if fused:
            self.build, (self.weights, self.same_weights) = _kernel_build(), in_blocks(options)
        streams = options.get("streams", 1)
        self.cache = self.new_cache(streams, options["context"])
        self.weight_bytes = int(read_bytes(self.decoder))
        a_token = self.decoder.config.kv_bytes_per_token(1.0)
        self.kv_element_bytes = self.cache.nbytes / (a_token * options["context"] * streams)

    def new_cache(self, streams: int, context: int) -> Cache:
        return self.decoder.new_cache(streams, context)

    def run(self, prompt: Sequence[int], new_tokens: int, emit: Emit) -> float:
        self.cache.truncate(0, 0)
        due = time.monotonic()
        for token in generate(self.decoder, prompt, new_tokens, cache=self.cache):
            emit(token)
        return due

    def many(self, prompts: Sequence[Sequence[int]], new_tokens: int, emit: EmitOf) -> float:
        """Passes alone: first all prompts, then a row of each."""
        for slot, prompt in enumerate(prompts):
            check_prompt(self.decoder.config, prompt, new_tokens)
            self.cache.truncate(slot, 0)
        due = time.monotonic()
        requests = [Decoding(self.cache, p, new_tokens, slot=n) for n, p in enumerate(prompts)]
        passes = Passes(self.decoder, self.cache)
        while running := [request for request in requests if not request.done]:
            for request, tokens in zip(running, passes.step(running), strict=True):
                emit(request.slot, tokens[0])
        return due

    def logits(self, tokens: Sequence[int]) -> np.ndarray:
        self.cache.truncate(0, 0)
        parts = []
        for start in range(0, len(tokens), _CHUNK):
            rows = Rows.prefill(tokens[start : start + _CHUNK], start=start, all_logits=True)
            parts.append(self.decoder(rows, self.cache).float().cpu())
        return np.asarray(torch.cat(parts))


class Served(OurDecoder):
    """The fused decoder behind the engine for many requests, as a server would use it."""

    def new_cache(self, streams: int, context: int) -> Cache:
        blocks = streams * blocks_of(context, BLOCK_SIZE)
        self.engine = BatchEngine(self.decoder, streams, blocks)
        return self.engine.cache

    def run(self, prompt: Sequence[int], new_tokens: int, emit: Emit) -> float:
        return self.many([prompt], new_tokens, lambda _, token: emit(token))

    def many(self, prompts: Sequence[Sequence[int]], new_tokens: int, emit: EmitOf) -> float:
        """Requests that are submitted together; the engine plans their passes."""
        for prompt in prompts:
            check_prompt(self.decoder.config, prompt, new_tokens)  # else some would stay queued
        due = time.monotonic()
        handles = [self.engine.submit(ServedRequest(prompt, new_tokens)) for prompt in prompts]
        number = {handle.number: n for n, handle in enumerate(handles)}
        while not self.engine.idle:
            for event in self.engine.step():
                for token in event.tokens:
                    emit(number[event.number], token)
        for handle in handles:
            if handle.error is not None:
                raise handle.error
        return due

    def logits(self, tokens: Sequence[int]) -> np.ndarray:
        try:
            return super().logits(tokens)
        finally:
            self.cache.truncate(0, 0)  # the engine expects its slots empty


def _kernel_build() -> str:
    from labkit.base.native import compiler
    from labkit.optimize.fused import native

    return f"compiled here: {compiler()} {' '.join(native.flags())}"


def _plain(options: dict[str, Any]) -> Forward:
    return load(options["model"], options["device"], options["dtype"]).decoder


def _fused(options: dict[str, Any]) -> Forward:
    from labkit.optimize.fused import load_fused

    return load_fused(
        options["gguf"] or options["directory"],
        weights=options["weights"],
        threads=options["threads"],
        screened=options.get("screened", True),
    )


_KINDS: dict[str, Callable[[dict[str, Any]], Kind]] = {
    "transformers": Generate,
    "compiled": Generate,
    "plain": OurDecoder,
    "fused": OurDecoder,
    "engine": Served,
}


class Engine:
    """A variant by its kind, under inference mode and with the threads given."""

    def __init__(self, options: dict[str, Any]) -> None:
        torch.set_num_threads(options["threads"])
        with torch.inference_mode():
            self.inner = _KINDS[options["kind"]](options)
        self.version, self.build = self.inner.version, self.inner.build
        self.link, self.weights = self.inner.link, self.inner.weights
        self.same_weights = self.inner.same_weights
        self.weight_bytes = self.inner.weight_bytes
        self.kv_element_bytes = self.inner.kv_element_bytes

    @torch.inference_mode()
    def run(self, prompt: Sequence[int], new_tokens: int, emit: Emit) -> float:
        return self.inner.run(prompt, new_tokens, emit)

    @torch.inference_mode()
    def many(self, prompts: Sequence[Sequence[int]], new_tokens: int, emit: EmitOf) -> float:
        return self.inner.many(prompts, new_tokens, emit)

    @torch.inference_mode()
    def logits(self, tokens: Sequence[int]) -> np.ndarray:
        return self.inner.logits(tokens)
