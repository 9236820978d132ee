"""The target of notebook 05: our fastest decoder, the cost of its rows, and its learned head."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from labkit.base.device import device_name
from labkit.engine.passes import traced
from labkit.engine.row_costs import RowCosts
from labkit.limits.cost import Cost
from labkit.limits.of_decoder import decoder_cost
from labkit.model.cache.table import Cache
from labkit.model.forward import Forward, Traced, Weighed, offers
from labkit.model.load import LoadedModel
from labkit.optimize import fused
from labkit.optimize.speculative.costs import DEFAULT_KS, row_costs
from labkit.optimize.speculative.head.cost import HeadCost
from labkit.optimize.speculative.head.draft import LearnedHead
from labkit.optimize.speculative.head.forward import HeadForward
from labkit.optimize.speculative.head.fused import fused_head
from labkit.optimize.speculative.head.measure import head_cost
from labkit.optimize.speculative.head.model import load_head
from labkit.optimize.speculative.head.plain import PlainHead
from labkit.optimize.speculative.head.train import head_path
from labkit.workload.prompts import prompt_ids


class Target(NamedTuple):
    """A decoder, its name on the page, and why the fused decoder is not used ("" if it is).

    products: the dtype of its matrix products where that is not the one of the loaded model; its
    attention is then computed in float32.
    """

    name: str
    decoder: Forward
    reason: str = ""
    products: str = ""

    @property
    def weight_bytes(self) -> float | None:
        """Bytes of weights that a pass reads; None where they are those of the model's dtype."""
        weighed = offers(self.decoder, Weighed)
        return None if weighed is None else weighed.weight_bytes

    @property
    def attention(self) -> str:
        """The dtype of attention's arithmetic where the products have another one; else empty."""
        return "float32" if self.products else ""

    def runs_on(self, device: torch.device) -> str:
        """The device, or on a CPU the threads, that it runs on, in words."""
        if device.type != "cpu":
            return device_name(device)
        found = self.decoder
        count = found.threads if isinstance(found, fused.FusedDecoder) else torch.get_num_threads()
        return "1 thread" if count == 1 else f"{count} threads"

    @property
    def format(self) -> str:
        """The formats of its weights where they are not those of the loaded model; else empty."""
        if not isinstance(self.decoder, fused.FusedDecoder):
            return ""
        return " and ".join(self.decoder.formats)

    def cost(self, context: int, rows: int, dtype: str) -> Cost:
        """The cost of a pass of `rows` after `context` tokens, each row with its likeliest token.

        dtype: of the model's weights as loaded. Its own weights count as what a pass of one row
        reads of them, and more where more rows use more experts.
        """
        return decoder_cost(self.decoder, context, rows, dtype, self.products)


def fastest(loaded: LoadedModel, name: str = "") -> Target:
    """The fused decoder of a loaded model where this machine can run it, else the plain decoder.

    name: the model as the user named it; empty for the default.
    """
    if loaded.decoder.device.type != "cpu":
        return Target("plain decoder", loaded.decoder, "the fused decoder runs on the CPU only")
    try:
        return Target("fused decoder", fused.load_fused(name or None), products="int8")
    except fused.FusedError as error:
        reason = f"the fused decoder does not run: {error}"
        return Target("plain decoder", loaded.decoder, reason)


def costs_of(
    loaded: LoadedModel, target: Forward, ks: Sequence[int] = DEFAULT_KS, context: int = 512,
    rounds: int = 25, between: Callable[[], object] | None = None,
) -> RowCosts:  # fmt: skip
    """Measure passes of `ks` rows after real text.

    context: tokens of that text; at most half of what the model can hold is used. between: runs
    before every round.
    """
    context = min(context, loaded.config.max_positions // 2)
    text = prompt_ids(loaded.tokenizer, context, 9000)
    return row_costs(target, ks, context, rounds, text, between)


class KeptHead(NamedTuple):
    """A trained head, ready to run.

    ids (words,): the token of each of its logits. recipe: how it was trained. spare: caches of
    it that no request uses now. cost: in passes of one row of the target.
    """

    forward: HeadForward
    ids: Tensor
    recipe: dict[str, Any]
    spare: list[tuple[int, Cache]]
    cost: HeadCost = HeadCost()

    def measured(self, target: Forward, costs: RowCosts) -> KeptHead:
        """The same head with its cost measured now."""
        return self._replace(
            cost=head_cost(self.forward, traced(offers(target, Traced), target), costs)
        )

    def draft(self, costs: RowCosts) -> LearnedHead:
        """A draft with this head, for one request."""
        return LearnedHead(self.forward, self.ids, costs, self.cost, spare=self.spare)


def has_head(loaded: LoadedModel) -> bool:
    """Whether a head was trained for a model (`head.train`)."""
    return head_path(loaded).exists()


def kept_head(loaded: LoadedModel, target: Forward, costs: RowCosts) -> KeptHead | None:
    """The head that was trained for a model (`head.train`); None where there is none yet."""
    if not has_head(loaded):
        return None
    head, recipe = load_head(loaded.decoder, head_path(loaded))
    forward: HeadForward = (
        fused_head(head, target)
        if isinstance(target, fused.FusedDecoder)
        else PlainHead(head, loaded.decoder)
    )
    return KeptHead(forward, head.ids, recipe, []).measured(target, costs)
