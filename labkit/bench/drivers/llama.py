"""llama.cpp and ik_llama.cpp through their C interface, on a GGUF file.

The prompt goes through llama_decode in batches of 512, then one token at a time. The driver takes
the argmax. Options: package ("llama_cpp" or "ik_llama_cpp"), gguf, format (None for the
file as it is), store, threads, context, check, lookup (how many tokens llama-cpp-python's own
prompt lookup drafts for a pass; 0: no drafts).

check: compare a prompt's logits in batches with those token by token. Where they differ, the engine
reads batches wrongly: ik_llama.cpp 0.1.5 does from 32 rows on, with Q4_1 rows of 576 (mean KL 1.4
nats). It then gets smaller batches that it reads right, and the note says so.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import time
from collections.abc import Callable, Sequence
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

_BATCH = 512
_SMALLER = (31, 8, 1)  # tried in turn: engines change kernels at 32 and at 8 rows
_DIFFERENT = 0.1  # nats; rounding gives some 0.005
_FORMATS = {"f16": 1, "q4_0": 2, "q4_1": 3, "q8_0": 7}  # llama_ftype
_API = {"llama_cpp": "llama_cpp.llama_cpp", "ik_llama_cpp": "ik_llama_cpp._ctypes_api"}
_PROJECT = {"llama_cpp": "llama-cpp-python", "ik_llama_cpp": "ik-llama-cpp-python"}


def model_file(options: dict[str, Any]) -> Path:
    """The file that is run: the one given, or its requantized twin in the store."""
    source = Path(options["gguf"])
    if options["format"] is None:
        return source
    # Both engines run the very same requantized file, whichever of them wrote it.
    return Path(options["store"]) / f"{source.stem}.{options['format']}.gguf"


def prepare(options: dict[str, Any]) -> None:
    """Requantize once, with the engine's own quantizer."""
    target = model_file(options)
    if options["format"] is None or target.exists():
        return
    _preload(options["package"])
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}-{os.getpid()}")
    quantize = _quantize_call if options["package"] == "llama_cpp" else _quantize_program
    try:
        quantize(options, partial)
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def _quantize_call(options: dict[str, Any], target: Path) -> None:
    api = import_module(_API["llama_cpp"])
    params = api.llama_model_quantize_default_params()
    params.nthread = options["threads"]
    params.ftype = _FORMATS[options["format"]]
    params.allow_requantize = True
    source = os.fsencode(options["gguf"])
    if api.llama_model_quantize(source, os.fsencode(target), ctypes.byref(params)) != 0:
        raise RuntimeError(f"llama_model_quantize could not make {options['format']}")


def _quantize_program(options: dict[str, Any], target: Path) -> None:
    program = import_module("ik_llama_cpp.quantize").find_quantize_bin()
    if program is None:
        raise RuntimeError("ik-llama-cpp-python came without its llama-quantize program")
    command = [str(program), "--allow-requantize", options["gguf"], str(target)]
    command += [options["format"].upper(), str(options["threads"])]
    paths = [str(program.parent.parent / "lib"), os.environ.get("LD_LIBRARY_PATH", "")]
    subprocess.run(
        command, check=True, env=os.environ | {"LD_LIBRARY_PATH": ":".join(filter(None, paths))}
    )


def _preload(package: str) -> None:
    """Load ik's libggml by its path: its libllama does not know where that lies."""
    if package != "ik_llama_cpp":
        return
    spec = find_spec(package)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for library in sorted(Path(folder, "lib").glob("libggml*")):
            ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)


def _mean_kl(reference: np.ndarray, other: np.ndarray) -> float:
    """Mean KL(reference ‖ other) over rows of logits, nats."""

    def log_probs(logits: np.ndarray) -> np.ndarray:
        shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))

    left, right = log_probs(reference), log_probs(other)
    return float((np.exp(left) * (left - right)).sum(-1).mean())


def _format(options: dict[str, Any]) -> tuple[str, bool]:
    """The weights as they are run, in words, and whether they are the file's own."""
    if options["format"] is None:
        return f"{options.get('file_format')} as in the file", True
    kind = options["format"].upper()
    return f"{kind}, requantized from the file's {options.get('file_format')}", False


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

    def __init__(self, options: dict[str, Any]) -> None:
        _preload(options["package"])
        self.api: Any = import_module(_API[options["package"]])
        self.version = metadata.version(_PROJECT[options["package"]])
        self.name = options["package"].replace("_cpp", ".cpp")
        self.weights_file = str(model_file(options))
        self.weights, self.same_weights = _format(options)
        self.prompt_batch, self.wants_check = _BATCH, options.get("check", True)
        self.draft = _lookup(options.get("lookup", 0))
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
        params.n_ctx = -(-options["context"] // 256) * 256
        params.n_batch = params.n_ubatch = _BATCH
        params.n_threads = params.n_threads_batch = options["threads"]
        return params

    def clear(self) -> None:
        """Forget every token."""
        if hasattr(self.api, "llama_memory_clear"):
            self.api.llama_memory_clear(self.api.llama_get_memory(self.context), False)
        else:
            self.api.llama_kv_cache_clear(self.context)

    def decode(
        self, tokens: Sequence[int], start: int, all_logits: bool = False
    ) -> list[np.ndarray]:
        """One llama_decode; a row of logits (vocab,) a token or of the last, views to be copied."""
        batch, count = self.batch, len(tokens)
        batch.n_tokens = count
        for i, token in enumerate(tokens):
            batch.token[i], batch.pos[i] = token, start + i
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
            batch.logits[i] = all_logits or i == count - 1
        if (code := self.api.llama_decode(self.context, batch)) != 0:
            raise RuntimeError(f"llama_decode returned {code}")
        first = 0 if all_logits else count - 1
        pointers = (self.api.llama_get_logits_ith(self.context, i) for i in range(first, count))
        return [np.ctypeslib.as_array(pointer, (self.vocab,)) for pointer in pointers]

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
        """Find a batch size that is read right; a note where it is not the usual one."""
        if not self.wants_check:
            return None
        self.prompt_batch = 1
        reference = self.logits(sample)
        self.prompt_batch = _BATCH
        usual, whole = _mean_kl(reference, self.logits(sample)), self._seconds(sample)
        sizes = iter(_SMALLER)
        while self.prompt_batch > 1 and _mean_kl(reference, self.logits(sample)) > _DIFFERENT:
            self.prompt_batch = next(sizes)
        if self.prompt_batch == _BATCH:
            return None
        name, longer = self.name, self._seconds(sample) / whole
        return (
            f"{self.version} reads prompts in batches of {self.prompt_batch}, because in batches "
            f"of {_BATCH} its logits are wrong (mean KL {usual:.2f} nats against its own, token by "
            f"token); this prompt of {len(sample)} tokens then took {longer:.2f} times as long. To "
            f"see it: `python -m labkit.bench.quality {name} {name}:unchecked`"
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
