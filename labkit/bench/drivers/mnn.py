"""MNN-LLM on the CPU, with a model exported by the project's own exporter, llmexport.

Options: directory (Hugging Face format), block and head_bits (of the int4 export), store, threads.
A pass gives the logits of its last row; the driver takes the argmax.

MNN's converter reports each use to a server of its makers, and installs what it needs for that
wherever `pip` points. It goes without where that module is missing, so it is made missing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import numpy as np

# The exporter is a script among its helpers: it imports them, and is imported, from its own folder.
_EXPORT = """
import importlib.util, sys
sys.modules["MNN.tools.utils.log"] = None
[folder] = importlib.util.find_spec("llmexport").submodule_search_locations
sys.path.insert(0, folder)
import llmexport
llmexport.main()
"""


def model_directory(options: dict[str, Any]) -> Path:
    """Where the exported model is kept."""
    return Path(options["store"]) / f"mnn-int4-{options['block']}-head-int{options['head_bits']}"


def prepare(options: dict[str, Any]) -> None:
    """Export the model once."""
    target = model_directory(options)
    if target.exists():
        return
    partial = target.with_name(f".{target.name}-{os.getpid()}")
    partial.mkdir(parents=True)
    command = [sys.executable, "-c", _EXPORT, "--path", options["directory"], "--export", "mnn"]
    command += ["--dst_path", str(partial), "--quant_bit", "4", "--quant_block"]
    command += [str(options["block"]), "--lm_quant_bit", str(options["head_bits"])]
    try:
        # It leaves a log in the folder where it runs.
        done = subprocess.run(command, cwd=partial, capture_output=True, text=True)
        if done.returncode or not (partial / "llm.mnn.weight").is_file():
            last = [line for line in done.stderr.splitlines() if line.strip()][-1:]
            raise RuntimeError(f"llmexport could not export the model: {''.join(last)}")
        shutil.rmtree(partial / "onnx", ignore_errors=True)
        os.replace(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


class Engine:
    """A model whose keys and values are dropped before each run."""

    kv_element_bytes = 4
    same_weights = False

    def __init__(self, options: dict[str, Any]) -> None:
        # `from MNN import llm` would find the bare C module, which MNN has under this name too.
        llm: Any = import_module("MNN.llm")
        folder = model_directory(options)
        self.version = metadata.version("mnn")
        # A step reads all of it: scales too, and the head, which is the embedding as well.
        self.weight_bytes = (folder / "llm.mnn.weight").stat().st_size
        self.weights = (
            f"int4 of its own (blocks of {options['block']}, head int{options['head_bits']}), "
            "rounded from the dequantized file"
        )
        self.llm: Any = llm.create(str(folder / "config.json"))
        self.llm.set_config({"thread_num": options["threads"], "sampler_type": "greedy"})
        self.llm.load()

    def step(self, tokens: Sequence[int]) -> np.ndarray:
        """Logits (vocab,) after these tokens, which follow those before them."""
        found = self.llm.forward(list(tokens)).read()
        # A copy: the next pass writes its logits over these.
        return np.array(found, dtype=np.float32).reshape(-1)

    def run(self, prompt: Sequence[int], new_tokens: int, emit: Callable[[int], None]) -> float:
        self.llm.reset()
        due = time.monotonic()
        token = int(self.step(prompt).argmax())
        emit(token)
        for _ in range(new_tokens - 1):
            token = int(self.step([token]).argmax())
            emit(token)
        return due

    def logits(self, tokens: Sequence[int]) -> np.ndarray:
        """Token by token: a pass of several rows gives the last row's alone."""
        self.llm.reset()
        return np.stack([self.step([token]) for token in tokens])
