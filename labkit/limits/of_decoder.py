"""The cost of a pass of a decoder as it is: with the bytes that its own weights take."""

from __future__ import annotations

from dataclasses import replace

from labkit.limits.cost import Cost, bytes_of_rows, pass_cost, with_weights
from labkit.model.forward import Forward, Weighed, offers


def decoder_cost(decoder: Forward, context: int, rows: int, dtype: str, products: str = "") -> Cost:
    """The cost of a pass of `rows` after `context` tokens, each row with its likeliest token.

    dtype: of the weights as loaded. Own weights (`Weighed`) count as what a pass of one row reads
    of them, and more where more rows use more experts; keys and values beside them are float16.
    products: the dtype of the matrix products where it is another one.
    """
    weighed, span = offers(decoder, Weighed), [(context, rows)]
    if weighed is None:
        return pass_cost(decoder.config, span, rows, dtype)
    read = bytes_of_rows(decoder.config, weighed.weight_bytes, rows)
    cost = with_weights(pass_cost(decoder.config, span, rows, dtype, "float16"), read)
    return replace(cost, dtype=products or dtype)
