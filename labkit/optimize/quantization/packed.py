"""A quantized decoder over packed integers, run by the kernels that torch itself has.

`torch._weight_int4pack_mm_for_cpu` multiplies by 4-bit integers in groups, and
`torch._weight_int8pack_mm` by 8-bit ones. The whole gain is that they read fewer bytes. They are
fast in bfloat16 only. With float32 inputs they give the same answers as the dequantized weights,
but take ten times as long.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from labkit.errors import LabkitError
from labkit.model.decoder import Decoder
from labkit.model.weights import counted_bytes
from labkit.optimize.graph_rewriting import shared_copy
from labkit.optimize.quantization.decoder import QuantizedDecoder, linears, replace
from labkit.optimize.quantization.grid import Quantized

GROUPS = (32, 64, 128, 256)  # group sizes that the 4-bit kernel supports
_ROWS = 32  # the kernel needs a number of outputs that this divides


class PackingError(LabkitError):
    """A quantized matrix that torch has no kernel for on this machine."""


class Int4Linear(nn.Module):
    """x @ W^T (+ bias) over 4-bit integers in groups, each with two numbers of `dtype`.

    The kernel's weight is (level - 8) * scale + offset; x is rounded to `dtype` on its way in.
    """

    def __init__(self, matrix: Quantized, bias: Tensor | None, dtype: torch.dtype) -> None:
        super().__init__()
        self.group, self.bias = matrix.group, bias
        levels = matrix.integers.flatten(1).int()
        self.packed = torch._convert_weight_to_int4pack_for_cpu(levels, 1)
        offset = (8 - matrix.zero) * matrix.scale
        pairs = torch.cat((matrix.scale, offset), dim=-1)  # (out, groups, 2)
        self.scales = pairs.transpose(0, 1).contiguous().to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        given = x.to(self.scales.dtype)
        out = torch._weight_int4pack_mm_for_cpu(given, self.packed, self.group, self.scales)
        out = out.to(x.dtype)
        return out if self.bias is None else out + self.bias

    @property
    def weight_bytes(self) -> float:
        """Bytes of the levels and their scales."""
        return self.packed.nbytes + self.scales.nbytes


class Int8Linear(nn.Module):
    """x @ W^T (+ bias) over signed 8-bit integers with a scale a row, x rounded to `dtype`."""

    def __init__(self, matrix: Quantized, bias: Tensor | None, dtype: torch.dtype) -> None:
        super().__init__()
        self.bias, self.dtype = bias, dtype
        self.integers = (matrix.integers.flatten(1).int() - 128).to(torch.int8)  # (out, in)
        self.scale = matrix.scale.flatten()

    def forward(self, x: Tensor) -> Tensor:
        # The kernel would round the scales too. So it gets ones; the scales are applied after it.
        ones = torch.ones_like(self.scale, dtype=self.dtype)
        out = torch._weight_int8pack_mm(x.to(self.dtype), self.integers, ones)
        out = (out.float() * self.scale).to(x.dtype)
        return out if self.bias is None else out + self.bias

    @property
    def weight_bytes(self) -> float:
        """Bytes of the integers and their scales."""
        return self.integers.nbytes + self.scale.nbytes


class Int8Embedding(nn.Module):
    """An embedding table that shares the 8-bit head's integers: a lookup dequantizes its rows."""

    def __init__(self, head: Int8Linear, dtype: torch.dtype) -> None:
        super().__init__()
        self.integers, self.scale, self.dtype = head.integers, head.scale, dtype

    def forward(self, tokens: Tensor) -> Tensor:
        rows = F.embedding(tokens, self.integers).float()
        return (rows * self.scale[tokens][..., None]).to(self.dtype)


class PackedDecoder(Decoder):
    """A decoder whose matrices are packed. It computes in the dtype of its vectors."""

    @property
    def dtype(self) -> torch.dtype:
        return self.norm.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.norm.weight.device

    @property
    def weight_bytes(self) -> float:
        """Bytes of weights that a pass of one row reads, as they lie in memory here."""
        return counted_bytes(self)


def _packed(matrix: Quantized, bias: Tensor | None, dtype: torch.dtype) -> nn.Module:
    if matrix.bits == 8 and matrix.symmetric and matrix.scale.shape[1] == 1:
        return Int8Linear(matrix, bias, dtype)
    if matrix.bits == 4 and matrix.group in GROUPS and len(matrix.scale) % _ROWS == 0:
        return Int4Linear(matrix, bias, dtype)
    raise PackingError(
        f"no kernel for {matrix.bits} bits in groups of {matrix.group} and {len(matrix.scale)} "
        f"outputs: take 4 bits in groups of 32, 64, 128 or 256 and outputs divisible by {_ROWS}, "
        "or 8 bits symmetric with a scale a row (group None)."
    )


def pack(quantized: QuantizedDecoder, dtype: torch.dtype = torch.bfloat16) -> PackedDecoder:
    """The same model over packed integers.

    dtype: of the kernels' inputs. bfloat16 is fast; float32 gives the answers of the dequantized
    weights. Raises PackingError where torch has no kernel for a matrix.
    """
    source = quantized.decoder
    if source.device.type != "cpu":
        raise PackingError(f"torch's packed kernels are used on the CPU only, not {source.device}.")
    made = shared_copy(source)
    made.__class__ = PackedDecoder
    for layer, matrices in zip(made.layers, quantized.layers, strict=True):
        for name, matrix in matrices.items():
            replace(layer, name, _packed(matrix, linears(layer)[name].bias, dtype))
    if quantized.head is not None:
        tied = source.embed_tokens.weight is source.lm_head.weight
        head = _packed(quantized.head, None, dtype)
        made.lm_head = head  # type: ignore[assignment]
        if tied and isinstance(head, Int8Linear):
            made.embed_tokens = Int8Embedding(head, source.dtype)  # type: ignore[assignment]
    return made  # type: ignore[return-value]
