"""Which draft tokens are accepted: greedily, by drawing, and by the rejection rule.

Each rule returns the accepted tokens, followed by one of the target's own. Drawing is from the
target's logits (drafted + 1, vocab): after the last token, and after every drafted one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from labkit.engine.draft import Proposal
from labkit.model.sampling import Sample, Sampler, is_greedy, likeliest

Verify = Callable[[Tensor, Proposal], list[int]]


def accept_greedy(best: Sequence[int], proposal: Proposal) -> list[int]:
    """The target's likeliest tokens, up to the first that was not proposed.

    best: the likeliest token after each row, (drafted + 1).
    """
    return proposal.walk(best.__getitem__)[1]


def accept_drawn(logits: Tensor, proposal: Proposal, sampler: Sample) -> list[int]:
    """Draw each token as without a draft, up to the first that was not proposed.

    For draft tokens of probability 1 this is the rejection rule: a token is accepted with
    probability target_probs[token], and its replacement follows the rest of the distribution. In a
    tree the same holds for each token that follows a row. It uses the same random numbers as plain
    decoding, so a seed gives the same tokens with and without a draft.
    """
    return proposal.walk(lambda row: sampler(logits[row]))[1]


def rejection_rule(
    target_probs: Tensor, draft_probs: Tensor, drafted: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Speculative sampling (Leviathan et al., 2211.17192; Chen et al., 2302.01318) of many chains.

    target_probs (chains, n + 1, vocab); draft_probs (chains, n, vocab); drafted (chains, n) ->
    (how many are accepted (chains,), the token after them (chains,)). A token is accepted with
    probability min(1, target / draft). The first that is not is replaced by one drawn from
    max(0, target - draft). Both together follow the target exactly.
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


def verifier(sampler: Sample) -> Verify:
    """The rule for a sampler. A sampler that is not ours is drawn from, which is exact too."""
    if is_greedy(sampler):
        return lambda logits, proposal: accept_greedy(likeliest(logits), proposal)
    if not isinstance(sampler, Sampler):
        return lambda logits, proposal: accept_drawn(logits, proposal, sampler)

    def verify(logits: Tensor, proposal: Proposal) -> list[int]:
        if proposal.probs is None or not proposal.tokens:
            return accept_drawn(logits, proposal, sampler)
        return accept_sampled(logits, proposal, sampler)

    return verify
