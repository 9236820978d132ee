"""What a GGUF file says of the bytes that engines read from it."""

from __future__ import annotations

from pathlib import Path

from labkit.model.gguf_header import GgufFile


def gguf_read_bytes(path: Path) -> int:
    """Bytes of a GGUF file that a step reads: without an untied embedding and idle experts."""
    file = GgufFile(path)
    used = file.fields.get(f"{file.fields.get('general.architecture')}.expert_used_count", 0)
    sizes = {  # stacked experts are (experts, rows, columns)
        name: one.nbytes // one.shape[0] * used if name.endswith("_exps.weight") else one.nbytes
        for name, one in file.tensors.items()
    }
    looked_up = sizes["token_embd.weight"] if "output.weight" in sizes else 0
    return sum(sizes.values()) - looked_up


def gguf_format(path: Path) -> str:
    """The format of most bytes of a GGUF file's tensors, as "Q4_1"."""
    return GgufFile(path).formats().most_common(1)[0][0]
