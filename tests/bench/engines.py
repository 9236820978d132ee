"""The engines that are tested over fakes: what each is told, and how it is run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from labkit.bench import client

FAKES = Path(__file__).with_name("fakes")
DRIVERS = Path(client.__file__).with_name("drivers")
PROJECTS = ("llama-cpp-python", "ik-llama-cpp-python", "onnxruntime-genai", "openvino-genai", "mnn")
PROMPTS = [[7], [3, 14, 15, 9, 26], [(5 * n * n + n) % 49 for n in range(600)]]
ENGINES = ["llama_cpp", "ik_llama_cpp", "ort", "ov", "mnn"]


def options_of(name: str, folder: Path, **changes: Any) -> dict[str, Any]:
    """What a driver is told, with the models that it would have made already there."""
    (folder / "m").mkdir(exist_ok=True)
    (folder / "m" / "config.json").write_text('{"hidden_size": 64, "intermediate_size": 192}')
    options: dict[str, Any] = {"threads": 3, "context": 640, "file_format": "Q4_1"}
    options |= {"store": str(folder / "store"), "directory": str(folder / "m")}
    if name in ("ort", "ov"):
        options |= {"format": "int4"}
        engine = {"ort": "onnxruntime-genai", "ov": "openvino-genai"}[name]
        made = folder / "store" / f"{engine}-int4"
        made.mkdir(parents=True, exist_ok=True)
        (made / "labkit.json").write_text('{"weight_bytes": 1234}')
        shipped = {"vocab_size": 50, "eos_token_id": 7, "decoder": {"session_options": {"a": 1}}}
        (made / "genai_config.json").write_text(json.dumps({"model": shipped}))
    elif name == "mnn":
        options |= {"block": 64, "head_bits": 4}
        made = folder / "store" / "mnn-int4-64-head-int4"
        made.mkdir(parents=True, exist_ok=True)
        (made / "llm.mnn.weight").write_bytes(bytes(1234))
        (made / "config.json").write_text("{}")
    else:
        options |= {"package": name, "format": None, "gguf": str(folder / "m.gguf")}
    return options | changes


def driver_of(name: str) -> Path:
    return DRIVERS / f"{'llama' if 'llama' in name else name}.py"


def run(engine: Any, toy: Any, prompt: list[int], count: int) -> list[int]:
    """The tokens of a run; EVENTS has what was computed and emitted in it."""
    toy.EVENTS.clear()
    tokens: list[int] = []

    def emit(token: int) -> None:
        toy.EVENTS.append(("emit", token))
        tokens.append(token)

    assert isinstance(engine.run(prompt, count, emit), float)
    return tokens
