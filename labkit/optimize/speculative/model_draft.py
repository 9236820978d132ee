"""A model as draft: a smaller one with the same tokenizer, or the target with layers skipped."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from labkit.engine.draft import NOTHING, Draft, Proposal
from labkit.errors import ParameterError
from labkit.model.cache.table import Cache
from labkit.model.config import ModelConfig
from labkit.model.decoder import Decoder
from labkit.model.forward import Forward
from labkit.model.load import LoadedModel
from labkit.model.rows import Rows
from labkit.model.sampling import Sampler, greedy
from labkit.optimize.graph_rewriting import shared_copy


def check_tokenizers(target: LoadedModel, draft: LoadedModel) -> None:
    """Raise ParameterError unless both models give every token the same id."""
    ours, theirs = target.tokenizer.get_vocab(), draft.tokenizer.get_vocab()
    if ours == theirs:
        return
    differ = sorted(t for t in ours.keys() | theirs.keys() if ours.get(t) != theirs.get(t))
    first = differ[0]
    raise ParameterError(
        f"{draft.name} cannot draft for {target.name}: their tokenizers differ in {len(differ)} "
        f"tokens; {first!r} is {theirs.get(first, 'unknown')} here and "
        f"{ours.get(first, 'unknown')} there. Take a draft of the target's own family."
    )


class ModelDraft(Draft):
    """Drafts token by token with a decoder and a cache of its own (Leviathan et al., 2211.17192).

    Without a sampler it proposes its likeliest tokens. With one it samples from its distribution
    and adds that to the proposal: the rejection rule needs it where the target samples. The sampler
    must be the draft's own. If draft and target shared random numbers, their samples would depend
    on each other.
    """

    _cache: Cache  # made when a request begins

    def __init__(
        self, decoder: Forward, sampler: Sampler | None = None, name: str = "draft model"
    ) -> None:
        self.decoder, self.sampler, self.name = decoder, sampler, name
        self._room = 0  # capacity of the cache in tokens
        self._fed: list[int] = []  # the tokens in the cache
        self._sure = 0  # how many of them are known to equal the context's first tokens

    def check(self, config: ModelConfig) -> None:
        theirs, ours = self.decoder.config.vocab_size, config.vocab_size
        if theirs != ours:
            raise ParameterError(
                f"{self.name} has a vocabulary of {theirs}, the target one of {ours}: a draft "
                "needs the target's own tokenizer."
            )

    def begin(self, context: Sequence[int], most: int) -> None:
        room = min(most, self.decoder.config.max_positions)
        if self._room < room:
            self._cache, self._room = self.decoder.new_cache(1, room), room
        self._cache.truncate(0, 0)
        self._fed, self._sure = [], 0

    def propose(self, context: Sequence[int], limit: int) -> Proposal:
        limit = min(limit, self._room - len(context))
        if limit < 1:
            return NOTHING
        self._take_back(context)
        new = list(context[len(self._fed) :])
        tokens: list[int] = []
        probs: list[Tensor] = []
        while True:
            logits = self.decoder(Rows.prefill(new, start=len(self._fed)), self._cache)
            self._fed += new
            tokens.append(self._draw(logits, probs))
            if len(tokens) == limit:
                return Proposal(tokens, torch.cat(probs) if probs else None)
            new = tokens[-1:]

    def _take_back(self, context: Sequence[int]) -> None:
        """Drop what the target rejected; the context's last token is always fed again."""
        same, most = self._sure, min(len(self._fed), len(context) - 1)
        while same < most and self._fed[same] == context[same]:
            same += 1
        if same < len(self._fed):
            self._cache.truncate(0, same)
            del self._fed[same:]
        self._sure = same

    def _draw(self, logits: Tensor, probs: list[Tensor]) -> int:
        """The next token from logits (1, vocab); a sampler's distribution is added to `probs`."""
        if self.sampler is None:
            return greedy(logits[-1])
        probs.append(self.sampler.probs(logits[-1:]).cpu())
        return int(torch.multinomial(probs[-1], 1, generator=self.sampler.generator))


def keep_layers(decoder: Decoder, kept: Sequence[int]) -> Decoder:
    """The same decoder with only the layers `kept`; it shares the weights.

    Draft and Verify (Zhang et al., 2309.08168): the target drafts for itself. Raises
    ParameterError for layers it does not have.
    """
    if (
        not kept
        or sorted(set(kept)) != list(kept)
        or not 0 <= kept[0] <= kept[-1] < len(decoder.layers)
    ):
        raise ParameterError(
            f"layers {list(kept)}: allowed are rising numbers in 0..{len(decoder.layers) - 1}."
        )
    skipping = shared_copy(decoder)
    skipping.layers = nn.ModuleList(skipping.layers[i] for i in kept)
    skipping.config = decoder.config.with_layers(kept)
    for number, layer in enumerate(skipping.layers):
        layer.self_attn.layer = number  # type: ignore[union-attr]
        layer.self_attn.config = skipping.config  # type: ignore[union-attr]
    return skipping


def agreement(decoder: Decoder, draft: Decoder, ids: Sequence[int]) -> float:
    """Share of positions where both pick the same next token: the acceptance rate when greedy."""
    picks = [
        model(Rows.prefill(ids, all_logits=True), model.new_cache(1, len(ids))).argmax(-1)
        for model in (decoder, draft)
    ]
    return float((picks[0] == picks[1]).float().mean())


def least_missed(decoder: Decoder, ids: Sequence[int]) -> list[int]:
    """All layer numbers. Those come first without which a text's next tokens change least often."""
    count = len(decoder.layers)
    without = [[i for i in range(count) if i != gone] for gone in range(count)]
    scores = [agreement(decoder, keep_layers(decoder, kept), ids) for kept in without]
    return sorted(range(count), key=lambda layer: -scores[layer])
