"""A GGUF file with random weights in the shape of a known model, to time engines on.

`python -m labkit.bench.random_model qwen2.5-0.5b Q4_K_M file.gguf` needs llama.cpp (`make peers`),
whose own quantizer chooses the format of each tensor. Speed does not depend on the values. The
tokens are the default model's, filled up to the vocabulary's size, so its text can be read; what
the model answers means nothing.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np

from labkit.base.command import clear_errors
from labkit.base.places import try_file
from labkit.bench.install import is_installed, peer_python
from labkit.errors import LabkitError, ParameterError
from labkit.model.gguf_header import GgufFile
from labkit.model.load import default_gguf

# The models' own config.json (huggingface.co/Qwen/Qwen2.5-0.5B and -1.5B); both have tied heads.
SHAPES: dict[str, dict[str, int]] = {
    "qwen2.5-0.5b": {
        "hidden": 896, "intermediate": 4864, "layers": 24, "heads": 14, "kv_heads": 2,
        "head_dim": 64, "vocab": 151_936,
    },
    "qwen2.5-1.5b": {
        "hidden": 1536, "intermediate": 8960, "layers": 28, "heads": 12, "kv_heads": 2,
        "head_dim": 128, "vocab": 151_936,
    },
}  # fmt: skip
FTYPES = {"Q4_K_M": 15, "Q4_K_S": 14, "Q5_K_M": 17, "Q6_K": 18, "Q3_K_M": 12, "Q2_K": 10}
_QUANTIZE = """
import ctypes, sys
from llama_cpp import llama_cpp as api
params = api.llama_model_quantize_default_params()
params.ftype = int(sys.argv[3])
params.allow_requantize = True
source, target = (one.encode() for one in sys.argv[1:3])
sys.exit(api.llama_model_quantize(source, target, ctypes.byref(params)))
"""


def tensors(shape: dict[str, int], seed: int = 0) -> Iterator[tuple[str, np.ndarray]]:
    """(name in a GGUF file, values) of a Qwen2 model: matrices float16 (rows, columns) with the
    spread of a usual initialization, vectors float32."""
    rng = np.random.default_rng(seed)
    hidden, inner = shape["hidden"], shape["intermediate"]
    queries, kv = (shape[name] * shape["head_dim"] for name in ("heads", "kv_heads"))

    def matrix(rows: int, columns: int) -> np.ndarray:
        values = rng.standard_normal((rows, columns), dtype=np.float32)
        return (values * columns**-0.5).astype(np.float16)

    ones = np.ones(hidden, dtype=np.float32)
    yield "token_embd.weight", matrix(shape["vocab"], hidden)
    yield "output_norm.weight", ones
    for number in range(shape["layers"]):
        layer = f"blk.{number}"
        for name, rows in (("q", queries), ("k", kv), ("v", kv)):
            yield f"{layer}.attn_{name}.weight", matrix(rows, hidden)
            yield f"{layer}.attn_{name}.bias", np.zeros(rows, dtype=np.float32)
        yield f"{layer}.attn_output.weight", matrix(hidden, queries)
        yield f"{layer}.attn_norm.weight", ones
        yield f"{layer}.ffn_norm.weight", ones
        yield f"{layer}.ffn_gate.weight", matrix(inner, hidden)
        yield f"{layer}.ffn_up.weight", matrix(inner, hidden)
        yield f"{layer}.ffn_down.weight", matrix(hidden, inner)


def write(shape: dict[str, int], path: Path) -> None:
    """Write the model with matrices in float16."""
    from gguf import GGUFWriter

    writer: Any = GGUFWriter(path, "qwen2")
    writer.add_block_count(shape["layers"])
    writer.add_context_length(32_768)
    writer.add_embedding_length(shape["hidden"])
    writer.add_feed_forward_length(shape["intermediate"])
    writer.add_head_count(shape["heads"])
    writer.add_head_count_kv(shape["kv_heads"])
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(1e6)
    own = GgufFile(default_gguf()).fields
    tokens = list(own["tokenizer.ggml.tokens"])
    count = shape["vocab"] - len(tokens)
    writer.add_tokenizer_model(own["tokenizer.ggml.model"])
    writer.add_tokenizer_pre(own["tokenizer.ggml.pre"])
    writer.add_token_list(tokens + [f"<unused{n}>" for n in range(count)])
    writer.add_token_types(own["tokenizer.ggml.token_type"] + [5] * count)  # 5: unused
    writer.add_token_merges(list(own["tokenizer.ggml.merges"]))
    writer.add_bos_token_id(own["tokenizer.ggml.bos_token_id"])
    writer.add_eos_token_id(own["tokenizer.ggml.eos_token_id"])
    for name, values in tensors(shape):
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def quantize(source: Path, target: Path, kind: str) -> None:
    """Quantize a file, also one that is quantized already, with llama.cpp's own quantizer."""
    command = [peer_python("llama.cpp"), "-c", _QUANTIZE, source, target, FTYPES[kind]]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode:
        raise LabkitError(f"llama.cpp could not quantize to {kind}: {done.stderr[-500:]}")


def make(name: str, kind: str, target: Path) -> None:
    """Write a random model of a known shape, quantized; ParameterError for an unknown one."""
    for given, known in ((name, SHAPES), (kind, FTYPES)):
        if given not in known:
            raise ParameterError(f"{given!r} is unknown; allowed: {', '.join(known)}.")
    try_file(target, "the model", "give another file")
    if not is_installed("llama.cpp"):
        raise LabkitError("llama.cpp, which quantizes, is not installed; run `make peers`.")
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        whole = Path(folder) / "f16.gguf"
        write(SHAPES[name], whole)
        quantize(whole, target, kind)


@click.command()
@click.argument("shape")
@click.argument("kind")
@click.argument("target", type=click.Path(path_type=Path))
@clear_errors
def main(shape: str, kind: str, target: Path) -> None:
    """Write TARGET: a random model in a known SHAPE, with its matrices in formats of KIND."""
    make(shape, kind, target)


if __name__ == "__main__":
    main()
