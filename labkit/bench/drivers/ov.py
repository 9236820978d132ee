"""OpenVINO GenAI on the CPU, with a model exported by optimum-intel.

Options: directory (Hugging Face format), format ("int4" or "int8"), store, threads, context,
streams. Its prefix cache is off: it would answer a repeated prompt from memory.
"""

from __future__ import annotations

import itertools
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

_PASSING = {"Convert", "Subtract", "Multiply", "Reshape"}  # how weights are dequantized
_BLOCK = 16  # positions of a block of its cache, at least


def model_directory(options: dict[str, Any]) -> Path:
    """Where the exported model is kept."""
    return Path(options["store"]) / f"openvino-genai-{options['format']}"


def group_size(directory: str) -> int:
    """The largest group, up to the exporter's default of 128, that divides every row."""
    config = json.loads((Path(directory) / "config.json").read_text(encoding="utf-8"))
    rows = (config["hidden_size"], config["intermediate_size"])
    return next((n for n in (128, 64, 32) if all(row % n == 0 for row in rows)), -1)


def own_format(options: dict[str, Any]) -> str:
    """What the exporter makes, in words."""
    if options["format"] == "int8":
        return "int8 of its own (a scale a row)"
    return f"int4 of its own (groups of {group_size(options['directory'])}, head int8)"


def prepare(options: dict[str, Any]) -> None:
    """Export the model once."""
    target = model_directory(options)
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}-{os.getpid()}")
    command = [str(Path(sys.executable).with_name("optimum-cli")), "export", "openvino"]
    command += ["-m", options["directory"], "--task", "text-generation-with-past"]
    command += ["--weight-format", options["format"], "--disable-convert-tokenizer"]
    if options["format"] == "int4":
        command += ["--group-size", str(group_size(options["directory"]))]
    try:
        done = subprocess.run([*command, str(partial)], stderr=subprocess.PIPE, text=True)
        if done.returncode:
            last = [line for line in done.stderr.splitlines() if line.strip()][-1:]
            raise RuntimeError(f"optimum-cli could not export the model: {''.join(last)}")
        sizes = {"weight_bytes": read_bytes(partial / "openvino_model.xml")}
        (partial / "labkit.json").write_text(json.dumps(sizes), encoding="utf-8")
        os.replace(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def read_bytes(path: Path) -> int:
    """Bytes of all constants but those of a table that is only looked up."""
    import openvino

    nodes = openvino.Core().read_model(path).get_ordered_ops()
    constants = [node for node in nodes if node.get_type_name() == "Constant"]
    return sum(node.get_byte_size() for node in constants if not _only_looked_up(node))


def _only_looked_up(node: Any) -> bool:
    """Whether this constant, dequantized or not, is only ever the table of a Gather."""
    users = [use for out in node.outputs() for use in out.get_target_inputs()]
    return bool(users) and all(
        (use.get_node().get_type_name() == "Gather" and use.get_index() == 0)
        or (use.get_node().get_type_name() in _PASSING and _only_looked_up(use.get_node()))
        for use in users
    )


def _tensor(prompt: Sequence[int]) -> Any:
    import openvino

    return openvino.Tensor(np.asarray([prompt], dtype=np.int64))


def _streamer(emit: Callable[[int], None]) -> Any:
    """A streamer that hands every token on as it comes, not its text."""
    import openvino_genai as genai

    class Streamer(genai.StreamerBase):
        def write(self, token: Any) -> Any:
            for one in [token] if isinstance(token, int) else token:
                emit(one)
            return genai.StreamingStatus.RUNNING

        def end(self) -> None:
            """Every token is out already."""

    return Streamer()


class Engine:
    """A pipeline that drops the keys and values of a run at its end.

    For one sequence it is LLMPipeline, for several ContinuousBatchingPipeline, with room for all.
    """

    kv_element_bytes = 1
    same_weights = False

    def __init__(self, options: dict[str, Any]) -> None:
        import openvino_genai as genai

        self.genai, self.folder = genai, model_directory(options)
        self.version = metadata.version("openvino-genai")
        kept = json.loads((self.folder / "labkit.json").read_text(encoding="utf-8"))
        self.weight_bytes = kept["weight_bytes"]
        self.weights = f"{own_format(options)}, rounded from the dequantized file"
        self.properties = {
            "INFERENCE_NUM_THREADS": options["threads"],
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
        }
        self.streams, self.numbers = options.get("streams", 1), itertools.count()
        make = self._for_one if self.streams == 1 else self._for_several
        scheduler = genai.SchedulerConfig()
        scheduler.enable_prefix_caching = False
        self.pipeline = make(scheduler, options["context"])

    def _for_one(self, scheduler: Any, context: int) -> Any:
        scheduler.cache_size = 1
        return self.genai.LLMPipeline(
            str(self.folder), "CPU", scheduler_config=scheduler, **self.properties
        )

    def _for_several(self, scheduler: Any, context: int) -> Any:
        scheduler.num_kv_blocks = self.streams * (context // _BLOCK + 1)
        return self.genai.ContinuousBatchingPipeline(
            str(self.folder), scheduler, "CPU", self.properties
        )

    def _config(self, new_tokens: int) -> Any:
        config = self.genai.GenerationConfig()
        config.max_new_tokens = new_tokens
        config.ignore_eos = True
        config.do_sample = config.apply_chat_template = False
        return config

    def run(self, prompt: Sequence[int], new_tokens: int, emit: Callable[[int], None]) -> float:
        if self.streams > 1:
            return self.many([prompt], new_tokens, lambda _, token: emit(token))
        config, streamer = self._config(new_tokens), _streamer(emit)
        due = time.monotonic()
        self.pipeline.generate(_tensor(prompt), config, streamer)
        return due

    def many(
        self, prompts: Sequence[Sequence[int]], new_tokens: int, emit: Callable[[int, int], None]
    ) -> float:
        """All requests go to the pipeline's scheduler; each step gives tokens of some of them."""
        if len(prompts) > self.streams:
            raise RuntimeError(f"{len(prompts)} prompts at once: there is room for {self.streams}")
        if self.streams == 1:
            return self.run(prompts[0], new_tokens, lambda token: emit(0, token))
        config = self._config(new_tokens)
        due = time.monotonic()
        handles = [
            self.pipeline.add_request(next(self.numbers), _tensor(prompt), config)
            for prompt in prompts
        ]
        while self.pipeline.has_non_finished_requests():
            self.pipeline.step()
            for number, handle in enumerate(handles):
                while handle.can_read():  # read waits for more
                    for output in handle.read().values():
                        for token in output.generated_ids:
                            emit(number, token)
        return due

    def logits(self, tokens: Sequence[int]) -> np.ndarray:
        """By OpenVINO itself, from the same exported model: the pipeline shows no logits."""
        import openvino

        model = openvino.Core().compile_model(
            self.folder / "openvino_model.xml", "CPU", self.properties
        )
        count = len(tokens)
        given = {
            "input_ids": np.asarray([tokens], dtype=np.int64),
            "attention_mask": np.ones((1, count), dtype=np.int64),
            "position_ids": np.arange(count, dtype=np.int64)[None],
            "beam_idx": np.zeros(1, dtype=np.int32),
        }
        wanted = {name: given[name] for port in model.inputs for name in port.names & set(given)}
        return np.asarray(model.create_infer_request().infer(wanted)["logits"])[0]
