"""Weight-only quantization: fewer bytes to read for a token, at a price in answers.

Weights are quantized in groups along the inputs of a matrix; each group has its own scale and zero
point. Three ways choose the integers: rounding to nearest; HQQ, which needs no data; and GPTQ on
searched scales, refined by coordinate descent. `pack` runs the result over packed integers, and
WithQuantizedCache reads an 8-bit KV cache.
"""

from labkit.optimize.quantization.cache import WithQuantizedCache
from labkit.optimize.quantization.calibration import linears
from labkit.optimize.quantization.decoder import METHODS, QuantizedDecoder, quantize
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
    "WithQuantizedCache",
    "gptq",
    "hqq",
    "linears",
    "pack",
    "quantize",
    "round_to_nearest",
]
