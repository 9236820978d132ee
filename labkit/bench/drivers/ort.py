"""ONNX Runtime GenAI on the CPU, with a model made by its own model builder.

Options: directory (Hugging Face format), format ("int4"), store, threads, context. The builder is
run with accuracy level 4 (int8 activations), its fastest for 4-bit weights.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np


def model_directory(options: dict[str, Any]) -> Path:
    """Where the built model is kept."""
    return Path(options["store"]) / f"onnxruntime-genai-{options['format']}"


def prepare(options: dict[str, Any]) -> None:
    """Build the model once."""
    target = model_directory(options)
    if target.exists():
        return
    partial = target.with_name(f".{target.name}-{os.getpid()}")
    partial.mkdir(parents=True)
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder"]
    command += ["-i", options["directory"], "-o", str(partial), "-p", options["format"]]
    command += ["-e", "cpu", "-c", str(partial / "work")]
    command += ["--extra_options", "int4_accuracy_level=4"]
    try:
        subprocess.run(command, check=True)
        shutil.rmtree(partial / "work", ignore_errors=True)
        sizes = {"weight_bytes": read_bytes(partial / "model.onnx")}
        (partial / "labkit.json").write_text(json.dumps(sizes), encoding="utf-8")
        os.replace(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def read_bytes(path: Path) -> int:
    """Bytes of all weights but those of a table that is only looked up."""
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    uses: dict[str, set[tuple[str, int]]] = {}
    for node in graph.node:
        for index, name in enumerate(node.input):
            uses.setdefault(name, set()).add((node.op_type, index))
    looked_up = {name for name, found in uses.items() if found == {("Gather", 0)}}
    # The rotary tables cover the whole context; a step reads one row of each.
    looked_up |= {"cos_cache", "sin_cache"}
    return sum(_tensor_bytes(t) for t in graph.initializer if t.name not in looked_up)


def _tensor_bytes(tensor: Any) -> int:
    length = [int(entry.value) for entry in tensor.external_data if entry.key == "length"]
    return length[0] if length else int(tensor.ByteSize())


class Engine:
    """A model; each run has a generator of its own, so nothing of an earlier prompt is left."""

    kv_element_bytes = 4
    weights = "int4 of its own (blocks of 32, head too), rounded from the dequantized file"
    same_weights = False

    def __init__(self, options: dict[str, Any]) -> None:
        import onnxruntime_genai as og

        self.og, folder = og, model_directory(options)
        self.version = metadata.version("onnxruntime-genai")
        kept = json.loads((folder / "labkit.json").read_text(encoding="utf-8"))
        self.weight_bytes = kept["weight_bytes"]
        self.context = options["context"]
        shipped = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))
        # A run must give all its tokens. The end of sequence becomes the last token id, and
        # min_length keeps that from being chosen.
        end = shipped["model"]["vocab_size"] - 1
        session = {"intra_op_num_threads": options["threads"]}
        changed = {"eos_token_id": end, "decoder": {"session_options": session}}
        config = og.Config(str(folder))
        config.overlay(json.dumps({"model": changed}))
        self.model = og.Model(config)

    def generator(self, prompts: int = 1) -> Any:
        """An empty context of the fixed size for each prompt."""
        params = self.og.GeneratorParams(self.model)
        params.set_search_options(max_length=self.context, min_length=self.context, do_sample=False)
        if prompts > 1:
            params.set_search_options(batch_size=prompts)
        return self.og.Generator(self.model, params)

    def run(self, prompt: Sequence[int], new_tokens: int, emit: Callable[[int], None]) -> float:
        return self.many([prompt], new_tokens, lambda _, token: emit(token))

    def many(
        self, prompts: Sequence[Sequence[int]], new_tokens: int, emit: Callable[[int, int], None]
    ) -> float:
        """A batch that begins together; RuntimeError for prompts of several lengths."""
        if len(set(map(len, prompts))) != 1:
            raise RuntimeError("a batch of this engine has prompts of one length")
        generator = self.generator(len(prompts))
        due = time.monotonic()
        generator.append_tokens(np.asarray(prompts, dtype=np.int32))
        for _ in range(new_tokens):
            generator.generate_next_token()
            for number, token in enumerate(generator.get_next_tokens()):
                emit(number, int(token))
        return due

    def logits(self, tokens: Sequence[int]) -> np.ndarray:
        generator = self.generator()
        generator.append_tokens(np.asarray([tokens], dtype=np.int32))
        return np.asarray(generator.get_output("logits"))[0]
