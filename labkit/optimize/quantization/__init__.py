"""Weight-only quantization: fewer bytes to read for a token, at a price in answers.

Weights are quantized in groups along the inputs of a matrix, each group with its own scale and
zero point. Ways to choose the integers: round to nearest; HQQ, which needs no data; and GPTQ on
searched scales, with refinement by coordinate descent. `pack` runs the result over packed integers.
"""

from labkit.optimize.quantization.calibration import linears
from labkit.optimize.quantization.decoder import METHODS, QuantizedDecoder, quantize, step_cost
from labkit.optimize.quantization.gptq import gptq
from labkit.optimize.quantization.grid import Quantized, round_to_nearest
from labkit.optimize.quantization.hqq import hqq
from labkit.optimize.quantization.packed import PackedDecoder, PackingError, pack

__all__ = [
    "METHODS",
    "PackedDecoder",
    "PackingError",
    "Quantized",
    "QuantizedDecoder",
    "gptq",
    "hqq",
    "linears",
    "pack",
    "quantize",
    "round_to_nearest",
    "step_cost",
]
