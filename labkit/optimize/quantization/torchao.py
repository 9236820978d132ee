"""torchao's own weight-only quantization of the same decoder, as PyTorch users know it.

An optional library (`pip install 'labkit[torchao]'`): where it is installed, every import of a
transformers model loads it too, which takes seconds, so it is not among the dependencies. Its
4-bit path on a CPU calls the kernel of `packed`; its 8-bit one, uncompiled, dequantizes the
matrix in every product.
"""

from __future__ import annotations

import copy
import importlib.util
from typing import Any

import torch
from torch import Tensor, nn

from labkit.errors import LabkitError, ParameterError
from labkit.limits.cost import vector_parameters
from labkit.model.decoder import Decoder


class TorchaoError(LabkitError):
    """torchao is not there, or has moved what we call."""


def available() -> str | None:
    """None where torchao is installed; else what is missing, with the remedy."""
    if importlib.util.find_spec("torchao") is None:
        return "torchao is not installed: pip install 'labkit[torchao]'."
    return None


class TorchaoDecoder(Decoder):
    """A decoder whose linear layers hold torchao's tensors."""

    @property
    def weight_bytes(self) -> float:
        """Bytes of weights that a pass must read, as torchao's tensors hold them."""
        matrices = [m.weight for m in self.modules() if isinstance(m, nn.Linear)]
        vectors = vector_parameters(self.config) * self.dtype.itemsize
        return sum(map(_nbytes, matrices)) + vectors


def _nbytes(weight: Tensor) -> int:
    """Bytes of the tensors within one of torchao's, or of a plain one."""
    inner = [t for t in vars(weight).values() if isinstance(t, Tensor)]
    return sum(t.nbytes for t in inner) if inner else weight.nbytes


def _configs(group: int) -> dict[int, Any]:
    if missing := available():
        raise TorchaoError(missing)
    try:
        from torchao.prototype.quantization.int4 import PrototypeInt4WeightOnlyConfig
        from torchao.quantization import Int8WeightOnlyConfig
    except ImportError as error:
        raise TorchaoError(
            f"this torchao has no int4 for the CPU where we look ({error}): install 0.18."
        ) from error
    four = PrototypeInt4WeightOnlyConfig(group_size=group)
    return {8: Int8WeightOnlyConfig(), 4: four}


@torch.inference_mode()
def quantize_with_torchao(decoder: Decoder, bits: int, group: int = 64) -> TorchaoDecoder:
    """torchao's int8 (a scale a row) or int4 (in groups) in the layers, int8 in the head.

    All else, the KV cache too, is bfloat16.

    The decoder given stays as it is. Raises TorchaoError where torchao is missing, ParameterError
    for other widths.
    """
    configs = _configs(group)
    if bits not in configs:
        raise ParameterError(f"{bits} bits are not supported by torchao here; allowed: 4, 8.")
    from torchao.quantization import quantize_

    made = copy.deepcopy(decoder).to(torch.bfloat16)  # what its kernels are fast in
    made.frequencies = decoder.frequencies
    made.tie()
    for layer in made.layers:
        quantize_(layer, configs[bits])
    alone = nn.Sequential(made.lm_head)
    quantize_(alone, configs[8])
    made.__class__ = TorchaoDecoder
    return made  # type: ignore[return-value]
