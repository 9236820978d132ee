"""Which draft tokens stand: greedy, by drawing, and by the rejection rule.

Each returns the accepted tokens followed by one of the target's own. What is drawn is drawn from
the target's logits (drafted + 1, vocab), of the last token and of every drafted one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from labkit.model.sampling import Sample, Sampler, greedy, likeliest
from labkit.optimize.speculative.draft import Proposal

Verify = Callable[[Tensor, Proposal], list[int]]


def follow(proposal: Proposal, choose: Callable[[int], int]) -> list[int]:
    """What is chosen after row upon row, up to the first that the draft did not foresee."""
    tokens: list[int] = []
    row: int | None = 0
    while row is not None:
        tokens.append(choose(row))
        row = proposal.after(row, tokens[-1])
    return tokens


def accept_greedy(best: Sequence[int], proposal: Proposal) -> list[int]:
    """The target's likeliest tokens, up to the first that the draft did not foresee.

    best: of each row.
    """
    return follow(proposal, best.__getitem__)


def accept_drawn(logits: Tensor, proposal: Proposal, sampler: Sample) -> list[int]:
    """Draw each token as without a draft, up to the first that the draft did not foresee.

    For a draft that puts all probability on its token this is the rejection rule: it stands with
    probability target_probs[token], and what replaces it follows the rest; in a tree, so does each
    of a row's tokens in turn. It draws the same
    random numbers as plain decoding, so that a seed gives the same tokens with and without.
    """
    return follow(proposal, lambda row: sampler(logits[row]))


def rejection_rule(
    target_probs: Tensor, draft_probs: Tensor, drafted: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Speculative sampling (Leviathan et al., 2211.17192; Chen et al., 2302.01318) of many chains.

    target_probs (chains, n + 1, vocab); draft_probs (chains, n, vocab); drafted (chains, n) ->
    (how many stand (chains,), the token after them (chains,)). A token stands with probability
    min(1, target / draft); the first that does not is replaced by one drawn from what the target
    gives more than the draft, max(0, target - draft). Both together follow the target exactly.
    """
    chains, count = drafted.shape
    ours = target_probs[:, :count].gather(-1, drafted[..., None])[..., 0]
    theirs = draft_probs.gather(-1, drafted[..., None])[..., 0]
    stands = torch.rand(drafted.shape, generator=generator) * theirs < ours
    accepted = stands.long().cumprod(1).sum(1)
    chain = torch.arange(chains)
    target = target_probs[chain, accepted]  # (chains, vocab)
    nothing = torch.zeros_like(target_probs[:, :1])  # after the last drafted token
    rest = (target - torch.cat((draft_probs, nothing), 1)[chain, accepted]).clamp_min(0)
    rest = torch.where(rest.sum(-1, keepdim=True) > 0, rest, target)  # rounding left nothing
    return accepted, torch.multinomial(rest, 1, generator=generator)[:, 0]


def accept_sampled(logits: Tensor, proposal: Proposal, sampler: Sampler) -> list[int]:
    """The rejection rule for one chain, with the sampler's temperature, top-k and top-p."""
    assert proposal.probs is not None
    drafted = torch.tensor([proposal.tokens])
    target_probs = sampler.probs(logits).cpu()[None]
    count, token = rejection_rule(
        target_probs, proposal.probs.cpu()[None], drafted, sampler.generator
    )
    return [*proposal.tokens[: int(count)], int(token)]


def is_greedy(sampler: Sample) -> bool:
    """Whether a sampler always takes the likeliest token."""
    return sampler is greedy or (isinstance(sampler, Sampler) and sampler.temperature == 0)


def verifier(sampler: Sample) -> Verify:
    """The rule for a sampler; one that is not ours can only be drawn from, which is right too."""
    if is_greedy(sampler):
        return lambda logits, proposal: accept_greedy(likeliest(logits), proposal)
    if not isinstance(sampler, Sampler):
        return lambda logits, proposal: accept_drawn(logits, proposal, sampler)

    def verify(logits: Tensor, proposal: Proposal) -> list[int]:
        if proposal.probs is None or not proposal.tokens:
            return accept_drawn(logits, proposal, sampler)
        return accept_sampled(logits, proposal, sampler)

    return verify
