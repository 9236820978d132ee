"""llama.cpp and ik_llama.cpp through their C interface, on a GGUF file.

The prompt goes through llama_decode in batches of 512, then one token at a time. The driver takes
the argmax. Options: package ("llama_cpp" or "ik_llama_cpp"), gguf, format (None for the
file as it is), store, threads, context, streams (sequences of the context, each with room for
`context` tokens), check, lookup (how many tokens llama-cpp-python's own prompt lookup drafts for a
pass; 0: no drafts).

check: compare a prompt's logits in batches with those token by token. Where they differ, the engine
reads batches wrongly: ik_llama.cpp 0.1.5 does from 32 rows on, with Q4_1 rows of 576 (mean KL 1.4
nats). It then gets smaller batches that it reads right, and the note says so. A pass over many
sequences is a batch like any other, and is split alike.

ik_llama.cpp's flash attention ends the process where a block of keys has none that a row may see,
as happens beside other sequences (its issue 389). With several sequences it is off.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from importlib import import_module, metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from labkit.bench.drivers.llama_files import API, format_of, model_file, preload, requantize

_BATCH = 512
_SMALLER = (31, 8, 1)  # tried in turn: engines change kernels at 32 and at 8 rows
_DIFFERENT = 0.1  # nats; rounding gives some 0.005
_WITHOUT = (
    "With several sequences it runs without its flash attention, which then ends the process."
)
_PROJECT = {"llama_cpp": "llama-cpp-python", "ik_llama_cpp": "ik-llama-cpp-python"}


class Row(NamedTuple):
    """A token at a position of a sequence, and whether its logits are wanted."""

    token: int
    position: int
    sequence: int = 0
    wanted: bool = True


def prepare(options: dict[str, Any]) -> None:
    """Requantize the file once, where another format is asked for."""
    requantize(options)


def _mean_kl(reference: np.ndarray, other: np.ndarray) -> float:
    """Mean KL(reference ‖ other) over rows of logits, nats."""

    def log_probs(logits: np.ndarray) -> np.ndarray:
        shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))

    left, right = log_probs(reference), log_probs(other)
    return float((np.exp(left) * (left - right)).sum(-1).mean())


def _features(api: Any) -> str:
    """The instruction sets that the engine says it was built with ("AVX2 = 1 | ...")."""
    if not hasattr(api, "llama_print_system_info"):  # ik's Python package leaves it out
        return ""
    said = api.llama_print_system_info().decode()
    pairs = [part.split(":")[-1].split("=") for part in said.split("|")]
    kept = [pair[0].strip() for pair in pairs if len(pair) == 2 and pair[1].strip() == "1"]
    sets = [name for name in kept if name.startswith(("AVX", "AMX", "NEON", "SVE"))]
    return f"uses {', '.join(sets)}" if sets else ""


def _lookup(tokens: int) -> Callable[[np.ndarray], np.ndarray] | None:
    """llama-cpp-python's own prompt lookup; None for no drafts."""
    if not tokens:
        return None
    found: Any = import_module("llama_cpp.llama_speculative")
    draft: Callable[[np.ndarray], np.ndarray] = found.LlamaPromptLookupDecoding(
        num_pred_tokens=tokens
    )
    return draft


class Engine:
    """A context of fixed size whose memory is cleared before each run."""

    weight_bytes = None  # counted from the file by whoever started us
    kv_element_bytes = 2
    without = ""

    def __init__(self, options: dict[str, Any]) -> None:
        preload(options["package"])
        self.api: Any = import_module(API[options["package"]])
        self.version = metadata.version(_PROJECT[options["package"]])
        self.name = options["package"].replace("_cpp", ".cpp")
        self.weights_file = str(model_file(options))
        self.weights, self.same_weights = format_of(options)
        self.prompt_batch, self.wants_check = _BATCH, options.get("check", True)
        self.draft, self.streams = _lookup(options.get("lookup", 0)), options.get("streams", 1)
        self.api.llama_backend_init()
        path = os.fsencode(self.weights_file)
        self.model = self.api.llama_model_load_from_file(path, self._model_params())
        if not self.model:
            raise RuntimeError(f"{Path(self.weights_file).name} could not be loaded")
        self.context = self.api.llama_init_from_model(self.model, self._context_params(options))
        if not self.context:
            raise RuntimeError("no context could be made")
        self.vocab = self.api.llama_vocab_n_tokens(self.api.llama_model_get_vocab(self.model))
        self.batch = self.api.llama_batch_init(_BATCH, 0, 1)
        self.build = _features(self.api)

    def _model_params(self) -> Any:
        params = self.api.llama_model_default_params()
        params.n_gpu_layers = 0
        return params

    def _context_params(self, options: dict[str, Any]) -> Any:
        params = self.api.llama_context_default_params()
        params.n_seq_max = self.streams
        params.n_ctx = self.streams * (-(-options["context"] // 256) * 256)
        params.n_batch = params.n_ubatch = _BATCH
        params.n_threads = params.n_threads_batch = options["threads"]
        if self.streams > 1 and hasattr(params, "flash_attn"):  # ik's name; llama.cpp's is another
            params.flash_attn, self.without = False, _WITHOUT
        return params

    def clear(self) -> None:
        """Forget every token."""
        if hasattr(self.api, "llama_memory_clear"):
            self.api.llama_memory_clear(self.api.llama_get_memory(self.context), False)
        else:
            self.api.llama_kv_cache_clear(self.context)

    def forward(self, rows: Sequence[Row]) -> list[np.ndarray]:
        """One llama_decode; logits (vocab,) of each wanted row, views that the next one changes."""
        batch = self.batch
        batch.n_tokens = len(rows)
        for i, row in enumerate(rows):
            batch.token[i], batch.pos[i] = row.token, row.position
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, row.sequence
            batch.logits[i] = row.wanted
        if (code := self.api.llama_decode(self.context, batch)) != 0:
            raise RuntimeError(f"llama_decode returned {code}")
        wanted = (i for i, row in enumerate(rows) if row.wanted)
        pointers = (self.api.llama_get_logits_ith(self.context, i) for i in wanted)
        return [np.ctypeslib.as_array(pointer, (self.vocab,)) for pointer in pointers]

    def decode(
        self, tokens: Sequence[int], start: int, all_logits: bool = False
    ) -> list[np.ndarray]:
        """A pass over tokens of one sequence; logits of each, or of the last alone."""
        last = len(tokens) - 1
        return self.forward(
            [Row(token, start + i, 0, all_logits or i == last) for i, token in enumerate(tokens)]
        )

    def read(self, tokens: Sequence[int], all_logits: bool = False) -> list[np.ndarray]:
        """Read a prompt into an empty context, in batches."""
        rows: list[np.ndarray] = []
        for start in range(0, len(tokens), self.prompt_batch):
            part = self.decode(tokens[start : start + self.prompt_batch], start, all_logits)
            rows += [row.copy() for row in part] if all_logits else part
        return rows

    def run(self, prompt: Sequence[int], new_tokens: int, emit: Callable[[int], None]) -> float:
        self.clear()
        due = time.monotonic()
        context = [*prompt, int(self.read(prompt)[-1].argmax())]
        emit(context[-1])
        end = len(prompt) + new_tokens
        while len(context) < end:
            for token in self.step(context, end - len(context) - 1):
                context.append(token)
                emit(token)
        return due

    def many(
        self, prompts: Sequence[Sequence[int]], new_tokens: int, emit: Callable[[int, int], None]
    ) -> float:
        """A sequence for each prompt; after the prompts, a pass has the next row of every one."""
        if self.draft or len(prompts) > self.streams:
            raise RuntimeError(
                f"{len(prompts)} prompts at once: this context has {self.streams} sequences"
                f"{', and drafts for one alone' if self.draft else ''}"
            )
        self.clear()
        due = time.monotonic()
        read = [
            Row(token, i, sequence, i == len(prompt) - 1)
            for sequence, prompt in enumerate(prompts)
            for i, token in enumerate(prompt)
        ]
        last = self.answer(read, self.prompt_batch, emit)
        passes = -(-len(prompts) // self.prompt_batch)
        for done in range(new_tokens - 1):
            rows = [Row(last[n], len(prompt) + done, n) for n, prompt in enumerate(prompts)]
            last = self.answer(rows, -(-len(rows) // passes), emit)
        return due

    def answer(
        self, rows: Sequence[Row], size: int, emit: Callable[[int, int], None]
    ) -> dict[int, int]:
        """Passes of `size` rows; the likeliest token of each sequence, for its wanted row."""
        found: dict[int, int] = {}
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            wanted = [row.sequence for row in part if row.wanted]
            for sequence, logits in zip(wanted, self.forward(part), strict=True):
                found[sequence] = int(logits.argmax())
                emit(sequence, found[sequence])
        return found

    def step(self, context: Sequence[int], room: int) -> list[int]:
        """The accepted drafts and one token more; the engine lacks the context's last token."""
        draft = self.draft(np.array(context, np.intc))[:room].tolist() if self.draft else []
        rows = self.decode([context[-1], *draft], len(context) - 1, bool(draft))
        tokens = [int(rows[0].argmax())]
        while len(tokens) <= len(draft) and tokens[-1] == draft[len(tokens) - 1]:
            tokens.append(int(rows[len(tokens)].argmax()))
        if len(tokens) <= len(draft):
            memory = self.api.llama_get_memory(self.context)
            self.api.llama_memory_seq_rm(memory, 0, len(context) - 1 + len(tokens), -1)
        return tokens

    def logits(self, tokens: Sequence[int]) -> np.ndarray:
        self.clear()
        return np.stack(self.read(tokens, True))

    def check(self, sample: Sequence[int]) -> str | None:
        """Find a batch size that is read right; a note where something is not as usual."""
        notes = [self._batches(sample) if self.wants_check else "", self.without]
        return " ".join(filter(None, notes)) or None

    def _batches(self, sample: Sequence[int]) -> str:
        self.prompt_batch = 1
        reference = self.logits(sample)
        self.prompt_batch = _BATCH
        usual, whole = _mean_kl(reference, self.logits(sample)), self._seconds(sample)
        sizes = iter(_SMALLER)
        while self.prompt_batch > 1 and _mean_kl(reference, self.logits(sample)) > _DIFFERENT:
            self.prompt_batch = next(sizes)
        if self.prompt_batch == _BATCH:
            return ""
        name, longer = self.name, self._seconds(sample) / whole
        several = self.streams > self.prompt_batch
        split = f" More sequences than {self.prompt_batch} get several passes." if several else ""
        return (
            f"{self.version} reads prompts in batches of {self.prompt_batch}, because in batches "
            f"of {_BATCH} its logits are wrong (mean KL {usual:.2f} nats against its own, token by "
            f"token); this prompt of {len(sample)} tokens then took {longer:.2f} times as long."
            f"{split} To see it: `python -m labkit.bench.quality {name} {name}:unchecked`"
        )

    def _seconds(self, sample: Sequence[int]) -> float:
        """How long a prompt takes in the present batches: the median of three."""
        spent = []
        for _ in range(3):
            self.clear()
            start = time.monotonic()
            self.read(sample)
            spent.append(time.monotonic() - start)
        return sorted(spent)[1]
