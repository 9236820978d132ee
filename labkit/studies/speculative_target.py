"""The target of notebook 05: our fastest decoder, the cost of its rows, and its learned head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from labkit.engine.passes import traced
from labkit.engine.row_costs import RowCosts
from labkit.limits.cost import Cost, pass_cost, with_weights
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
    """A decoder, its name on the page, and why the fused decoder is not used ("" if it is)."""

    name: str
    decoder: Forward
    reason: str = ""

    @property
    def weight_bytes(self) -> float | None:
        """Bytes of weights that a pass reads; None where they are those of the model's dtype."""
        weighed = offers(self.decoder, Weighed)
        return None if weighed is None else weighed.weight_bytes

    def step_cost(self, context: int, dtype: str) -> Cost:
        """The cost of one plain decode step after `context` tokens."""
        nbytes = self.weight_bytes
        config, step = self.decoder.config, [(context, 1)]
        if nbytes is None:
            return pass_cost(config, step, 1, dtype)
        return with_weights(pass_cost(config, step, 1, dtype, "float16"), nbytes)


def fastest(loaded: LoadedModel, name: str = "") -> Target:
    """The fused decoder of a loaded model where this machine can run it, else the plain decoder.

    name: the model as the user named it; empty for the default.
    """
    if loaded.decoder.device.type != "cpu":
        return Target("plain decoder", loaded.decoder, "the fused decoder runs on the CPU only")
    try:
        return Target("fused decoder", fused.load_fused(name or None))
    except fused.FusedError as error:
        reason = f"the fused decoder does not run: {error}"
        return Target("plain decoder", loaded.decoder, reason)


def costs_of(
    loaded: LoadedModel, target: Forward, ks: Sequence[int] = DEFAULT_KS, context: int = 512,
    rounds: int = 25,
) -> RowCosts:  # fmt: skip
    """Measure passes of `ks` rows after real text.

    context: tokens of that text; at most half of what the model can hold is used.
    """
    context = min(context, loaded.config.max_positions // 2)
    text = prompt_ids(loaded.tokenizer, context, 9000)
    return row_costs(target, ks, context, rounds, text=text)


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


def kept_head(loaded: LoadedModel, target: Forward, costs: RowCosts) -> KeptHead | None:
    """The head that was trained for a model (`head.train`); None where there is none yet."""
    path = head_path(loaded)
    if not path.exists():
        return None
    head, recipe = load_head(loaded.decoder, path)
    forward: HeadForward = (
        fused_head(head, target)
        if isinstance(target, fused.FusedDecoder)
        else PlainHead(head, loaded.decoder)
    )
    return KeptHead(forward, head.ids, recipe, []).measured(target, costs)
