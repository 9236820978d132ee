"""Where weights come from: a GGUF file, whose blocks stay as they are, or a directory to round."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from labkit.model.load import read_tensors
from labkit.optimize.fused.pack import BLOCK, FusedError, format_of, to_blocks

# Names of the two matrices over the vocabulary. Where they are tied, only the first is used.
EMBEDDING, HEAD = "embed_tokens.weight", "lm_head.weight"


class Weights(NamedTuple):
    """A tensor by its name in the plain decoder: a matrix's blocks (rows, columns / 32, bytes) and
    their format, or a vector (n,) and ""."""

    name: str
    data: np.ndarray
    format: str = ""


def gguf_weights(path: Path) -> tuple[dict[str, Any], Iterator[Weights]]:
    """A GGUF file's config and its tensors, blocks as they are in the file."""
    from labkit.model.gguf_file import half_split, hf_config, hf_name, open_gguf

    reader = open_gguf(path)
    config = hf_config(reader, path)
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}

    def tensors() -> Iterator[Weights]:
        for tensor in reader.tensors:
            shape = tuple(int(n) for n in reversed(tensor.shape))
            what = tensor.name.split(".")[2] if tensor.name.startswith("blk.") else ""
            data, kind = np.asarray(tensor.data), ""
            if len(shape) == 2:
                form = format_of(tensor.tensor_type.name.lower())
                kind = form.name
                data = data.reshape(shape[0], shape[1] // BLOCK, form.nbytes)
            elif tensor.tensor_type.name != "F32":
                raise FusedError(
                    f"{path.name}: {tensor.name} is {tensor.tensor_type.name}, not F32."
                )
            if config["model_type"] == "llama" and what in heads:
                data = half_split(data, heads[what])
            yield Weights(hf_name(tensor.name, path).removeprefix("model."), data, kind)

    return config, tensors()


def directory_weights(directory: Path, form: str) -> tuple[dict[str, Any], Iterator[Weights]]:
    """A model directory's config and tensors, matrices rounded to a format of pack.FORMATS.

    The head never has less than 8 bits, as in llama.cpp.
    """
    raw = json.loads((directory / "config.json").read_text(encoding="utf-8"))

    def tensors() -> Iterator[Weights]:
        for name, tensor in read_tensors(directory):
            own = "q8_0" if name in (EMBEDDING, HEAD) else form
            yield rounded(name, tensor.float().numpy(), own)

    return raw, tensors()


def rounded(name: str, data: np.ndarray, form: str) -> Weights:
    """A float tensor: a matrix (rows, columns) in blocks of a format, a vector as it is."""
    if data.ndim != 2:
        return Weights(name, data)
    return Weights(name, to_blocks(data, format_of(form)), form)
