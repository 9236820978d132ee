"""From logits to a token: greedy, and temperature, top-k, top-p with a seed."""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Integral, Real

import torch
from torch import Tensor

from labkit.base.units import shown
from labkit.errors import ModelError, ParameterError

Sample = Callable[[Tensor], int]
_WARMEST = 1e30  # far above what makes every token as likely as any other
NOT_NUMBERS = (
    "the logits are no numbers (NaN) or infinite: the model's weights or its config are damaged."
)


def likeliest(logits: Tensor) -> list[int]:
    """The most likely token of each row of logits (rows, vocab); the lowest number among equals.

    Raises ModelError where the largest is no finite number, as `target_probs` does. By numpy on the
    CPU: torch would split one row over its threads. Those then spin for some milliseconds on the
    cores that the fused decoder's threads need for the next token.
    """
    best: list[int]
    if logits.device.type != "cpu":
        chosen = logits.argmax(-1, keepdim=True)
        best = chosen[:, 0].tolist()
        finite = logits.gather(-1, chosen).isfinite().all().item()
    else:
        values = logits.detach().float().numpy()
        best = values.argmax(-1).tolist()
        finite = all(math.isfinite(row[at]) for row, at in zip(values, best, strict=True))
    if not finite:  # argmax takes a NaN for the largest
        raise ModelError(NOT_NUMBERS)
    return best


def greedy(logits: Tensor) -> int:
    """The most likely token of logits (vocab,); the lowest number among equals."""
    return likeliest(logits[None])[0]


def target_probs(
    logits: Tensor, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0
) -> Tensor:
    """The distribution a sampler draws from, over the last dimension of logits.

    Temperature first, then the top_k most likely, then the smallest set of them whose mass
    reaches top_p (Holtzman et al., 1904.09751); what is left is scaled to sum to 1.
    """
    # The largest becomes 0 first: any other, over however small a temperature, is then -infinity.
    wide = logits.double()
    below = wide - wide.amax(-1, keepdim=True)
    probs = torch.softmax(below / temperature, dim=-1).float()
    if probs.isnan().any():
        raise ModelError(NOT_NUMBERS)
    if top_k:
        kth = probs.topk(min(top_k, probs.shape[-1]), dim=-1).values[..., -1:]
        probs = torch.where(probs >= kth, probs, 0)
    probs = probs / probs.sum(-1, keepdim=True)
    if top_p < 1:
        ordered, order = probs.sort(dim=-1, descending=True, stable=True)  # the first among equals
        before = ordered.cumsum(-1) - ordered  # mass of the likelier ones
        kept = torch.where(before < top_p, ordered, 0)
        kept[..., 0] = ordered[..., 0]  # the first always stays, however small top_p is
        probs = torch.zeros_like(probs).scatter(-1, order, kept)
    return probs / probs.sum(-1, keepdim=True)


def _is(kind: type, value: object) -> bool:
    """Whether a value is a number of a kind; True and False are none."""
    return isinstance(value, kind) and not isinstance(value, bool)


class Sampler:
    """Draws from `target_probs` with a random stream of its own; temperature 0 is greedy."""

    def __init__(
        self, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, seed: int = 0
    ) -> None:
        fits = (
            _is(Real, temperature) and 0 <= temperature <= _WARMEST
            and _is(Integral, top_k) and top_k >= 0
            and _is(Real, top_p) and 0 < top_p <= 1
            and _is(Integral, seed) and -(2**63) <= seed < 2**64
        )  # fmt: skip
        if not fits:
            named = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed}
            given = ", ".join(f"{name} {shown(one, 30)}" for name, one in named.items())
            raise ParameterError(
                f"{given}: allowed are temperature >= 0 (at most {_WARMEST:g}), a whole top_k >= 0 "
                "(0: all), 0 < top_p <= 1, a whole seed from -2**63 to 2**64 - 1."
            )
        self.temperature, self.top_k, self.top_p = temperature, top_k, top_p
        self.generator = torch.Generator().manual_seed(int(seed))

    def probs(self, logits: Tensor) -> Tensor:
        """The distribution drawn from, for logits (..., vocab)."""
        if self.temperature == 0:
            best = logits.argmax(-1, keepdim=True)
            return torch.zeros_like(logits, dtype=torch.float32).scatter(-1, best, 1.0)
        return target_probs(logits, self.temperature, self.top_k, self.top_p)

    def __call__(self, logits: Tensor) -> int:
        if self.temperature == 0:
            return greedy(logits)
        probs = self.probs(logits).cpu()
        return int(torch.multinomial(probs, 1, generator=self.generator))


def is_greedy(sampler: Sample) -> bool:
    """Whether a sampler always takes the likeliest token."""
    return sampler is greedy or (isinstance(sampler, Sampler) and sampler.temperature == 0)
