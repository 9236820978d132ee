"""Mixtures of experts: in place of one feed-forward, a layer has many, and a row takes a few.

The arithmetic is that of Qwen3-MoE (Qwen3 technical report, 2505.09388). Sparsely gated mixtures:
Shazeer et al., 1701.06538.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from labkit.errors import ModelError
from labkit.model.values import flag, size

_PARTS = ("gate_proj", "up_proj", "down_proj")
ROUTER = "mlp.gate.weight"  # its name within a layer


@dataclass(frozen=True)
class Experts:
    """The mixtures of a model: in `layers`, a row goes through `used` of `count` experts.

    size: the inner size of an expert (`moe_intermediate_size`). normalized: whether the weights of
    the experts that a row uses are scaled to sum to 1 (`norm_topk_prob`).
    """

    count: int
    used: int
    size: int
    layers: tuple[int, ...]
    normalized: bool = False

    def kept(self, layers: Sequence[int]) -> Experts | None:
        """The mixtures of a model that keeps only these layers, numbered anew."""
        own = tuple(number for number, old in enumerate(layers) if old in self.layers)
        return replace(self, layers=own) if own else None

    def idle(self, sizes: Mapping[str, float]) -> float:
        """Of tensors by name and bytes, the bytes of those experts that one row does not use."""
        routed = sum(nbytes for name, nbytes in sizes.items() if ".experts." in name)
        return routed * (self.count - self.used) / self.count


def _count(raw: Mapping[str, Any]) -> int:
    """The number of experts. transformers 5 calls it num_local_experts, hub files num_experts."""
    names = [name for name in ("num_experts", "num_local_experts") if raw.get(name) is not None]
    found = [size(raw, name) for name in names or ["num_experts"]]
    if len(set(found)) > 1:
        raise ModelError(f"num_experts is {found[0]}, but num_local_experts is {found[1]}.")
    return found[0]


def _sparse(raw: Mapping[str, Any], layers: int) -> tuple[int, ...]:
    """The layers that have a mixture: every `decoder_sparse_step`-th, but for mlp_only_layers."""
    step = size(raw, "decoder_sparse_step", 1)
    dense = raw.get("mlp_only_layers") or []
    if not isinstance(dense, list) or any(type(one) is not int or one < 0 for one in dense):
        raise ModelError(f"mlp_only_layers must be a list of layer numbers; it is {dense!r}.")
    return tuple(n for n in range(layers) if (n + 1) % step == 0 and n not in dense)


def read_experts(raw: Mapping[str, Any], layers: int) -> Experts | None:
    """The mixtures that Qwen3-MoE's config.json asks for; None where no layer has one.

    Raises ModelError for numbers that cannot be.
    """
    count, used = _count(raw), size(raw, "num_experts_per_tok")
    if used > count:
        raise ModelError(f"num_experts_per_tok is {used}, but there are {count} experts.")
    inner, sparse = size(raw, "moe_intermediate_size"), _sparse(raw, layers)
    return Experts(count, used, inner, sparse, flag(raw, "norm_topk_prob")) if sparse else None


def expert_name(name: str, expert: int) -> str:
    """The name of one expert's tensor: mlp.experts.gate_proj -> mlp.experts.<expert>.gate_proj."""
    return name.replace(".experts.", f".experts.{expert}.")


def mixture_shapes(experts: Experts, hidden: int) -> dict[str, tuple[int, ...]]:
    """The shape of every weight of a layer's mixture, by its name within the layer."""
    found: dict[str, tuple[int, ...]] = {ROUTER: (experts.count, hidden)}
    shapes = dict.fromkeys(_PARTS[:2], (experts.size, hidden)) | {_PARTS[2]: (hidden, experts.size)}
    for number in range(experts.count):
        found |= {f"mlp.experts.{number}.{part}.weight": shape for part, shape in shapes.items()}
    return found


def check_count(experts: Experts, given: Iterable[str], where: object) -> None:
    """ModelError where there are too few tensors for so many experts, before all are listed."""
    names = list(given)
    if any(name.endswith("mlp.experts.gate_up_proj") for name in names):
        raise ModelError(
            f"{where}: experts stacked in one tensor are not read, only one by one, as on the hub: "
            "save the model with transformers' save_pretrained, which splits them."
        )
    if len(_PARTS) * experts.count * len(experts.layers) > len(names):
        raise ModelError(
            f"{where}: {experts.count:,} experts in each of {len(experts.layers):,} layers in the "
            f"config, but only {len(names):,} tensors."
        )


class Router(nn.Module):
    """Chooses the experts of a row, and weighs them.

    top_k, num_experts: named as transformers names them, so that weights.py can ask either.
    """

    def __init__(self, experts: Experts, hidden: int) -> None:
        super().__init__()
        self.top_k, self.num_experts = experts.used, experts.count
        self.normalized = experts.normalized
        self.weight = nn.Parameter(torch.zeros(experts.count, hidden))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Weights and numbers of each row's experts, (rows, used), the likeliest first.

        Of equals it is the lower number: a rule of ours, for torch.topk has none.
        """
        logits = F.linear(x, self.weight).float()  # (rows, experts)
        chosen = logits.sort(dim=-1, descending=True, stable=True).indices[:, : self.top_k]
        weights = logits.softmax(-1).gather(1, chosen)
        if self.normalized:
            weights = weights / weights.sum(-1, keepdim=True)
        return weights.to(x.dtype), chosen


class Mixture(nn.Module):
    """The sum of a row's experts, each times its weight, in the order of their numbers."""

    def __init__(self, experts: Experts, hidden: int, made: Iterable[nn.Module]) -> None:
        super().__init__()
        self.gate = Router(experts, hidden)
        self.experts = nn.ModuleList(made)

    def forward(self, x: Tensor) -> Tensor:
        """(rows, hidden) -> (rows, hidden). An expert sees only the rows that are routed to it."""
        weights, chosen = self.gate(x)
        out = torch.zeros_like(x)
        for number in chosen.unique().tolist():
            rows, ranks = (chosen == number).nonzero(as_tuple=True)
            out.index_add_(0, rows, self.experts[number](x[rows]) * weights[rows, ranks, None])
        return out
