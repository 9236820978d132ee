"""torchao's own weight-only quantization of the same decoder, as PyTorch users know it.

torchao is optional (`python -m pip install -e '.[torchao]'`). It is no fixed dependency, because
every import of a transformers model loads it where it is installed, which takes seconds. Its 4-bit
path on a CPU calls the same kernel as `packed`. Its 8-bit path, uncompiled, dequantizes the matrix
in every product.
"""

from __future__ import annotations

import copy
import importlib.util
from typing import Any

import torch
from torch import nn

from labkit.errors import LabkitError, ParameterError
from labkit.model.decoder import Decoder
from labkit.model.weights import counted_bytes
from labkit.optimize.quantization.packed import GROUPS


class TorchaoError(LabkitError):
    """torchao is not installed, or lacks a function that is used here."""


def available() -> str | None:
    """None where torchao is installed; else what is missing, with the remedy."""
    if importlib.util.find_spec("torchao") is None:
        return "torchao is not installed: python -m pip install -e '.[torchao]'."
    return None


class TorchaoDecoder(Decoder):
    """A decoder whose linear layers have torchao's tensors as weights."""

    @property
    def weight_bytes(self) -> float:
        """Bytes of weights that a pass of one row reads, as torchao stores them."""
        return counted_bytes(self)


def _configs(group: int) -> dict[int, Any]:
    if missing := available():
        raise TorchaoError(missing)
    try:
        from torchao.prototype.quantization.int4 import PrototypeInt4WeightOnlyConfig
        from torchao.quantization import Int8WeightOnlyConfig
    except ImportError as error:
        raise TorchaoError(
            f"this torchao has no int4 for the CPU where it is expected ({error}): install 0.18."
        ) from error
    four = PrototypeInt4WeightOnlyConfig(group_size=group)
    return {8: Int8WeightOnlyConfig(), 4: four}


@torch.inference_mode()
def quantize_with_torchao(decoder: Decoder, bits: int, group: int = 64) -> TorchaoDecoder:
    """Quantize the layers to int8 (a scale a row) or int4 (in groups), and the head to int8.

    Everything else is bfloat16, the KV cache included. The original decoder does not change. Raises
    TorchaoError where torchao is missing or has no kernel for the group, ParameterError for other
    widths.
    """
    configs = _configs(group)
    if bits == 4 and group not in GROUPS:
        allowed = ", ".join(map(str, GROUPS))
        raise TorchaoError(f"no kernel for groups of {group}; allowed: {allowed}.")
    if bits not in configs:
        raise ParameterError(f"{bits} bits are not supported by torchao here; allowed: 4, 8.")
    from torchao.quantization import quantize_

    made = copy.deepcopy(decoder).to(torch.bfloat16)  # its kernels are fast in this dtype
    made.frequencies = decoder.frequencies
    made.tie()
    for layer in made.layers:
        quantize_(layer, configs[bits])
    alone = nn.Sequential(made.lm_head)
    quantize_(alone, configs[8])
    made.__class__ = TorchaoDecoder
    return made  # type: ignore[return-value]
