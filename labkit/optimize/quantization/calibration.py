"""The inputs of each matrix when real text runs through the layers.

A layer is fitted on the inputs that it will really get: the outputs of the quantized layers before
it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from labkit.model.decoder import Decoder
from labkit.model.rows import Rows


def linears(layer: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers inside a decoder layer, by name."""
    return {name: m for name, m in layer.named_modules() if isinstance(m, nn.Linear)}


class Stream:
    """A text on its way through the layers of a decoder, one layer at a time."""

    def __init__(self, decoder: Decoder, ids: Sequence[int]) -> None:
        self.rows = Rows.prefill(ids).to(decoder.device)
        self.cache = decoder.new_cache(1, len(self.rows))
        self.cache.reserve(self.rows)
        self.rope = decoder.rope(self.rows.positions)
        self.x = decoder.table(self.rows.tokens)  # (rows, hidden)

    def through(self, layer: nn.Module) -> Tensor:
        """The stream after a layer. A second call writes the same keys and values to the cache."""
        after: Tensor = layer(self.x, self.rope, self.rows, self.cache.store)
        return after

    def inputs(self, layer: nn.Module) -> dict[tuple[str, ...], Tensor]:
        """The inputs (rows, in) of the layer's matrices. Key: the names of all with this input."""
        found: dict[str, Tensor] = {}

        def keep(name: str) -> torch.utils.hooks.RemovableHandle:
            return linears(layer)[name].register_forward_pre_hook(
                lambda _, given: found.update({name: given[0]})
            )

        hooks = [keep(name) for name in linears(layer)]
        try:
            self.through(layer)
        finally:
            for hook in hooks:
                hook.remove()
        return _together(found)


def _together(inputs: dict[str, Tensor]) -> dict[tuple[str, ...], Tensor]:
    """One entry for all names that got the same tensor."""
    names: dict[int, list[str]] = {}
    for name, x in inputs.items():
        names.setdefault(id(x), []).append(name)
    return {tuple(same): inputs[same[0]] for same in names.values()}


def hessians(layer: nn.Module, texts: Sequence[Stream]) -> dict[tuple[str, ...], Tensor]:
    """The sum of x x^T (in, in) over all rows of the texts, for every input of a layer.

    The texts stay before the layer: their streams do not change.
    """
    sums: dict[tuple[str, ...], Tensor] = {}
    for text in texts:
        for names, x in text.inputs(layer).items():
            added = x.float().T @ x.float()
            sums[names] = sums[names] + added if names in sums else added
    return sums
