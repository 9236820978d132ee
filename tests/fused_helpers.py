"""Tiny GGUF models that the kernel can serve, and the plain twin of its arithmetic."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGMLQuantizationType
from hypothesis import strategies as st
from torch import Tensor, nn

from labkit.model.cache.table import Cache
from labkit.model.decoder import Decoder
from labkit.model.gguf_file import hf_config, tensors, weights_of
from labkit.model.gguf_header import GgufFile
from labkit.model.rows import Part, Rows
from labkit.model.shapes import check_weights, decoder_weights
from labkit.optimize.fused import FusedDecoder, native
from labkit.optimize.fused.pack import FORMATS, Format, from_blocks
from tests.conftest import make_reference
from tests.model.test_gguf_file import gguf_weights, write_gguf
from tests.tiny import whole

# Sizes that blocks of 32 divide; a vocabulary (97) that groups of 16 do not.
SIZES: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "head_dim": 16,
    "num_key_value_heads": 2, "max_position_embeddings": 512,
}  # fmt: skip


# Bytes of a block that hold its float16 scales, by format; elsewhere the first two.
SCALES = {
    "q4_1": (0, 2), "q5_1": (0, 2), "q4_k": (0, 2), "q5_k": (0, 2), "q6_k": (208,),
    "q3_k": (108,), "q2_k": (80, 82),
}  # fmt: skip


def random_blocks(form: Format, rows: int, columns: int, seed: int = 0) -> np.ndarray:
    """Random blocks (rows, blocks, bytes) of any format whose weights spread as a usual matrix's
    do. Every bit pattern but that of a scale may occur."""
    rng = np.random.default_rng(seed)
    spread = columns**-0.5
    if form.name in ("f16", "bf16", "f32"):
        values = rng.normal(0, spread, (rows, columns)).astype(np.float32)
        stored: np.ndarray = values.astype(np.float16) if form.name == "f16" else values
        if form.name == "bf16":
            stored = (values.view(np.uint32) >> 16).astype(np.uint16)
        return stored.view(np.uint8).reshape(rows, -1, form.nbytes)
    blocks = rng.integers(0, 256, (rows, columns // form.columns, form.nbytes), dtype=np.uint8)
    size = 0.01
    for _ in range(2):  # the second time with scales that give the wanted spread
        for at in SCALES.get(form.name, (0,)):
            scales = (size * rng.uniform(0.5, 1.5, blocks.shape[:2])).astype(np.float16)
            blocks[..., at : at + 2] = scales[..., None].view(np.uint8)
        size *= spread / float(from_blocks(blocks, form).std())
    return blocks


def mixed_gguf(path: Path, kinds: Sequence[str], name: str = "llama-tied") -> Path:
    """A tiny model whose matrices take these formats in turn, with random blocks."""
    sizes = dict(SIZES, hidden_size=256, intermediate_size=512, head_dim=64)
    if name.startswith("qwen3-moe"):
        sizes["moe_intermediate_size"] = 256
    reference = make_reference(name, **sizes)
    weights, formats = gguf_weights(reference), itertools.cycle(kinds)
    raw: dict[str, tuple[np.ndarray, GGMLQuantizationType]] = {}
    for number, (short, values) in enumerate(weights.items()):
        if values.ndim > 1 and "ffn_gate_inp" not in short:
            form, rows = FORMATS[next(formats)], math.prod(values.shape[:-1])
            blocks = random_blocks(form, rows, values.shape[-1], seed=number)
            stored = blocks.reshape(*values.shape[:-1], -1)
            raw[short] = stored, GGMLQuantizationType[form.name.upper()]
    return write_gguf(path, reference, weights, raw=raw)


def tiny_gguf(path: Path, name: str, kind: str) -> Path:
    """A random model of a family (conftest.TINY) with its matrices in blocks of `kind`."""
    sizes = dict(SIZES)
    if name == "llama-mha":
        sizes["num_key_value_heads"] = 4
    reference = make_reference(name, **sizes)
    return write_gguf(path, reference, gguf_weights(reference), GGMLQuantizationType[kind])


class Int8Linear(nn.Linear):
    """A linear layer that sees its input as the kernel does: int8 in blocks of 32."""

    def forward(self, x: Tensor) -> Tensor:
        blocks = x.unflatten(-1, (-1, 32))
        scale = blocks.abs().amax(-1, keepdim=True) / 127
        rounded = torch.where(scale > 0, (blocks / scale).round(), 0) * scale
        return nn.functional.linear(rounded.flatten(-2), self.weight, self.bias)


def plain_twin(file: Path) -> Decoder:
    """The plain decoder over the file's exact values, with the kernel's int8 inputs.

    Without a conversion: its tokenizer takes far longer than all else. Raises as a loader does.
    """
    header = GgufFile(file)
    raw = hf_config(header)
    config = check_weights(raw, {name: one.shape for name, one in weights_of(header)}, file)
    decoder = Decoder(config).eval().requires_grad_(False)
    given = ((n.removeprefix("model."), torch.from_numpy(v)) for n, v in tensors(header, raw))
    found = dict(decoder_weights(config, given))
    decoder.load_state_dict(found, assign=True, strict=False)
    decoder.tie()
    for module in decoder.modules():
        if isinstance(module, nn.Linear):
            module.__class__ = Int8Linear
    return decoder


def logits(decoder: Any, ids: Sequence[int], chunk: int = 1000) -> Tensor:
    """Logits of every position, (tokens, vocab), read in passes of `chunk` rows."""
    cache = decoder.new_cache(1, len(ids))
    passes = (
        Rows.prefill(ids[start : start + chunk], start=start, all_logits=True)
        for start in range(0, len(ids), chunk)
    )
    return torch.cat([decoder(rows, cache) for rows in passes])


def leave_alone(fused: FusedDecoder, calls: int) -> None:
    """Let the first thread do the next calls alone; 0: all threads together again."""
    native.library().lk_leave_alone(fused.engine._handle, calls)


def damaged_gguf(
    path: Path, tensor: str, row: int, value: float, kind: str = "Q8_0", name: str = "llama"
) -> Path:
    """A tiny model in which one number of a tensor, in this row, has another value."""
    reference = make_reference(name, **SIZES)
    weights = gguf_weights(reference)
    values = weights[f"{tensor}.weight"]
    values[row if values.ndim == 1 else (row, 3)] = value
    with np.errstate(all="ignore"):
        return write_gguf(path, reference, weights, GGMLQuantizationType[kind])


def fed_at_random(
    decoder: Any,
    cache: Cache,
    texts: Sequence[Sequence[int]],
    data: st.DataObject,
    check: Callable[[], object] = lambda: None,
) -> list[Tensor]:
    """Texts in the slots of a cache, each from where its slot ends, any rows of each a pass.

    Returns the logits of each text. check: called after each pass.
    """
    found: list[list[Tensor]] = [[] for _ in texts]
    while any(cache.length(slot) < len(text) for slot, text in enumerate(texts)):
        parts: list[Part] = []
        for slot, text in enumerate(texts):
            at = cache.length(slot)
            if at < len(text) and (not parts or data.draw(st.booleans())):
                count = data.draw(st.integers(1, len(text) - at))
                parts.append(whole(slot, at, text[at : at + count]))
        rows = Rows.of(parts)
        out = decoder(rows, cache)
        for span in rows.spans:
            found[span.slot].append(out[span.rows])
        check()
    return [torch.cat(one) for one in found]
