"""The learned head at work: drafts from the target's streams, as long as a token is worth it."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from labkit.errors import ParameterError
from labkit.model.config import ModelConfig
from labkit.model.decoder import Decoder
from labkit.model.rows import Rows
from labkit.optimize.fused import FusedDecoder
from labkit.optimize.fused.pack import format_of, to_blocks
from labkit.optimize.fused.weights import pack, read
from labkit.optimize.speculative.costs import RowCosts
from labkit.optimize.speculative.draft import NOTHING, Draft, Proposal
from labkit.optimize.speculative.head import Head

_LONGEST_REST = 16  # passes between two asks of a head that has nothing worth its cost
# Tokens that the head reads of a prompt, or of what it missed while copies served: with 128 of a
# prompt no more of its drafts stand.
_WINDOW = 16
_CATCH_UP, _CHAIN = 8, 3  # tokens read in one go, and drafted, where that is timed
_BRANCHES = 3  # tokens that a pass of the head may offer for one place


class Guess(NamedTuple):
    """What one pass of the head offers, likeliest first: tokens, their chances in the head's eyes,
    and the chances that the output comes to them."""

    tokens: list[int]
    chances: list[float]
    reaches: list[float]


class HeadCost(NamedTuple):
    """What a head costs, in passes of one row of the target: the first token of a draft; each
    further one, for which the head lies in the processor's caches; each token read besides."""

    first: float = 0.0
    further: float = 0.0
    read: float = 0.0

    def of(self, asked: tuple[int, int, int]) -> float:
        """Of so many of each."""
        first, further, read = asked
        return first * self.first + further * self.further + read * self.read


class _Drafted(NamedTuple):
    """Where the head drafted last, what it guessed, what it sent, and what that pass cost."""

    start: int
    chain: list[Guess]
    sent: Proposal
    cost: float


class HeadForward(Protocol):
    """A head that runs over a cache: the plain one or the fused one."""

    config: ModelConfig

    def guesses(
        self,
        tokens: Sequence[int],
        cache: Any,
        count: int,
        streams: Tensor,
        features: Tensor,
        first: int,
    ) -> tuple[list[int], list[float]]: ...

    def new_cache(self, slots: int, capacity: int) -> Any: ...


class PlainHead:
    """The head in PyTorch over a cache: the twin of the fused one, and what serves elsewhere."""

    def __init__(self, head: Head, target: Decoder) -> None:
        self.head, self.target, self.config = head, target, head.config

    def new_cache(self, slots: int, capacity: int) -> Any:
        from labkit.model.cache import StaticCache

        return StaticCache(self.config, slots, capacity, self.target.dtype, self.target.device)

    @torch.inference_mode()
    def traced(self, rows: Rows, cache: Any, features: Tensor) -> tuple[Tensor, Tensor]:
        """(logits over the head's ids of the wanted rows, streams of all rows)."""
        cache.reserve(rows)
        embedded = self.head.token_norm(self.target.embed_tokens(rows.tokens))
        x = self.head.fuse(torch.cat((embedded, self.head.feature_norm(features)), dim=-1))
        streams = self.head.layer(x, self.target.rope(rows.positions), rows, cache)
        return self.head.logits(streams[rows.wanted]), streams

    def guesses(
        self,
        tokens: Sequence[int],
        cache: Any,
        count: int,
        streams: Tensor,
        features: Tensor,
        first: int = 0,
    ) -> tuple[list[int], list[float]]:
        """The `count` likeliest words after the last of `tokens`, which go to the end of slot 0,
        and their probabilities. streams (room, hidden) takes the tokens' streams; features (any,
        hidden) has theirs from row `first` on."""
        rows = Rows.prefill(tokens, start=cache.length(0)).to(self.target.device)
        logits, found = self.traced(rows, cache, features[first : first + len(tokens)])
        streams[: len(tokens)] = found
        chances, words = logits[-1].float().softmax(-1).topk(min(count, logits.shape[-1]))
        return words.tolist(), chances.tolist()


def fused_head(
    head: Head, target: FusedDecoder, directory: Path, form: str = "q4_1"
) -> FusedDecoder:
    """The head as one native call a pass, over the target's own embedding.

    directory: the model's, whose config.json it is described by. form: of its matrices; at 4 bits
    a pass costs half as much as at 8, and its drafts are accepted as often within a few percent.
    """
    raw = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    raw |= {"num_hidden_layers": 1, "tie_word_embeddings": False}
    blocks = format_of(form)

    def tensors() -> Iterator[tuple[str, np.ndarray, str]]:
        for name, tensor in head.state_dict().items():
            if name == "ids":
                continue
            data = tensor.float().numpy()
            name = "lm_head.weight" if name == "words" else name.replace("layer.", "layers.0.", 1)
            matrix = data.ndim == 2
            yield name, to_blocks(data, blocks) if matrix else data, blocks.name if matrix else ""

    with tempfile.TemporaryDirectory() as folder:
        pack(raw, tensors(), Path(folder) / "head")
        weights = read(Path(folder) / "head", target.threads)
    return FusedDecoder(weights, embedding_of=target)


class LearnedHead(Draft):
    """Drafts with a learned head, one token after another from its own foreseen streams.

    ids (words,): the tokens that its logits stand for. costs (of rows) and cost (the head's own)
    let it stop where one more pass would lower the expected gain, and verify the likeliest tokens,
    which may be a tree (EAGLE-2, Li et al., 2406.16858): the head's own probability is a good
    guess of acceptance, and how good is learned on the way. Without costs it drafts a chain of as
    many tokens as it is asked for. spare: caches of the head that no request uses: the first use of
    a new one's memory takes as long as a pass of the target.
    """

    def __init__(
        self,
        head: HeadForward,
        ids: Tensor,
        costs: RowCosts | None = None,
        cost: HeadCost = HeadCost(),  # noqa: B008 (never changes)
        name: str = "learned head",
        spare: list[tuple[int, Any]] | None = None,
    ) -> None:
        self.head, self.name = head, name
        self.spare = spare if spare is not None else []
        self.ids: list[int] = ids.tolist()
        self.costs, self.cost = costs, cost
        self.drafts = self.passes = 0  # of the head, since it was made
        self.caught_up = 0  # tokens that they read besides: the prompt's, and those that came since
        self._cache: Any = None
        self._room = 0

    @property
    def asked(self) -> tuple[int, int, int]:
        """First tokens of drafts so far, further ones, and tokens that it read besides."""
        return self.drafts, self.passes - self.drafts, self.caught_up

    def check(self, config: ModelConfig) -> None:
        ours, theirs = self.head.config, config
        if (ours.hidden_size, ours.vocab_size) != (theirs.hidden_size, theirs.vocab_size):
            raise ParameterError(
                f"{self.name} was trained for streams of {ours.hidden_size} and a vocabulary of "
                f"{ours.vocab_size}; the target has {theirs.hidden_size} and {theirs.vocab_size}."
            )

    def begin(self, context: Sequence[int], most: int) -> None:
        if self._room < most and self.spare:
            self._room, self._cache = self.spare.pop()
        if self._room < most:
            self._room, self._cache = most, self.head.new_cache(1, most)
        self._cache.truncate(0, 0)
        self._before = 0  # places that it does not read
        self._read = 0  # places after them whose feature is the target's, and in the cache
        self._hits, self._hoped = 4.0, 4.0  # tokens that came, and the head's chances of them
        self._usual = 0.6  # chance of a pass's likeliest token
        self._last: _Drafted | None = None
        self._came, self._paid = 11.0, 10.0  # tokens of passes it drafted for, and their cost
        self._rest = self._resting = 0

    def end(self, context: Sequence[int]) -> None:
        self.spare.append((self._room, self._cache))
        self._room, self._cache = 0, None

    @property
    def gain(self) -> float:
        """Tokens that its passes lately gave, for what they cost in passes of the target."""
        return self._came / self._paid

    def watch(self, streams: Tensor) -> None:
        """The target's streams (most, hidden), filled as it reads."""
        self._streams = streams
        self._own = streams.new_empty(_WINDOW, streams.shape[1])  # the head's, of its last pass

    def propose(self, context: Sequence[int], limit: int) -> Proposal:
        self._learn(context)
        limit = min(limit, self._room - len(context))
        if self._resting > 0 or limit < 1:
            self._resting -= 1
            return NOTHING
        # What does not gain is left alone, for longer and longer, but asked again.
        self._rest = min(2 * self._rest + 1, _LONGEST_REST) if self.gain < 1 else 0
        self._resting = self._rest
        before = self.cost.of(self.asked)
        chain = self._draft(context, limit)
        proposal = self._worth_verifying(chain, limit)
        verifying = self.costs.r(len(proposal.tokens) + 1) if self.costs else 1.0
        cost = self.cost.of(self.asked) - before + verifying
        self._last = _Drafted(len(context), chain, proposal, cost)
        return proposal

    def _asking(self, passes: int) -> float:
        """The cost of a draft of so many passes, one at least, without what it reads besides."""
        return self.cost.of((1, passes - 1, 0))

    def _draft(self, context: Sequence[int], limit: int) -> list[Guess]:
        """What each pass of the head guesses, along the chain of the likeliest tokens."""
        if len(context) - 1 - self._before - self._read > _WINDOW:  # a prompt, or a long copy
            self._before, self._read = len(context) - 1 - _WINDOW, 0
        self._cache.truncate(0, self._read)
        unread = self._before + self._read
        features, first, tokens = self._streams, unread, context[unread + 1 :]
        self.caught_up += len(tokens) - 1
        self._read = len(context) - 1 - self._before
        self.drafts += 1
        chain: list[Guess] = []
        reaches = 1.0
        while True:
            guess = self._guess(tokens, features, first, reaches)
            chain.append(guess)
            reaches = guess.reaches[0]
            if len(chain) == limit or not self._worth_a_pass([g.reaches[0] for g in chain]):
                return chain
            features, first, tokens = self._own, len(tokens) - 1, guess.tokens[:1]

    def _guess(self, tokens: Sequence[int], features: Tensor, first: int, reached: float) -> Guess:
        """After tokens whose features begin at row `first`, where the output comes to them with
        probability `reached`."""
        self.passes += 1
        words, chances = self.head.guesses(
            tokens, self._cache, _BRANCHES, self._own, features, first
        )
        self._usual = 0.95 * self._usual + 0.05 * chances[0]
        trust = self._hits / self._hoped
        reaches = [reached * min(1.0, trust * chance) for chance in chances]
        return Guess([self.ids[word] for word in words], chances, reaches)

    def _worth_a_pass(self, reaches: list[float]) -> bool:
        """Whether the token that one more pass is likely to find repays the pass and its row."""
        if self.costs is None:
            return True
        rows = len(reaches) + 1
        if rows >= self.costs.most:
            return False
        reach = reaches[-1] * min(1.0, self._usual * self._hits / self._hoped)
        more = self.costs.r(rows + 1) - self.costs.r(rows) + self.cost.further
        spent = self._asking(len(reaches)) + self.costs.r(rows)
        return reach * spent > (1 + sum(reaches)) * more

    def _worth_verifying(self, chain: list[Guess], limit: int) -> Proposal:
        """Of all guesses, the likeliest to be reached, while a row more raises the gain.

        Their passes are paid, whatever is sent. No token is likelier to be reached than the one
        it follows, so that what is taken hangs together.
        """
        if self.costs is None:
            return Proposal([guess.tokens[0] for guess in chain])
        found = sorted(
            ((reach, -depth, -place)
             for depth, guess in enumerate(chain) for place, reach in enumerate(guess.reaches)),
            reverse=True,
        )  # fmt: skip
        tokens: list[int] = []
        parents: list[int] = []
        spine = [-1]  # places of the chain's own tokens in the proposal
        gained, asking = 1.0, self._asking(len(chain))
        for reach, depth, place in found[: min(limit, self.costs.most - 1)]:
            rows = len(tokens) + 1
            more = self.costs.r(rows + 1) - self.costs.r(rows)
            if reach * (asking + self.costs.r(rows)) <= gained * max(more, 0.0):
                break
            parents.append(spine[-depth])
            if not place:
                spine.append(len(tokens))
            tokens.append(chain[-depth].tokens[-place])
            gained += reach
        is_chain = parents == list(range(-1, len(parents) - 1))
        return Proposal(tokens, parents=() if is_chain else tuple(parents)) if tokens else NOTHING

    def _learn(self, context: Sequence[int]) -> None:
        """Hold the last drafts against what came, and with them the head's own chances."""
        if self._last is None:
            return
        start, chain, sent, cost = self._last
        came = context[start:]
        likeliest = Proposal([guess.tokens[0] for guess in chain])
        for hit, guess in zip(likeliest.outcomes(came), chain, strict=False):
            self._hits = 4 + 0.97 * (self._hits - 4) + hit
            self._hoped = 4 + 0.97 * (self._hoped - 4) + guess.chances[0]
        self._came = 0.95 * self._came + len(sent.rows_of(came))  # and the target's own token
        self._paid = 0.95 * self._paid + cost
        self._last = None


def head_cost(
    head: HeadForward, target: Any, costs: RowCosts, context: int = 256, repeats: int = 24
) -> HeadCost:
    """What drafting takes, medians of `repeats`.

    As it is paid: after a pass of the target, which leaves nothing of the head in the processor's
    caches.
    """
    draft = LearnedHead(head, torch.arange(head.config.vocab_size))
    text, most = [0] * (context + 1), context + repeats * (2 + _CATCH_UP) + _CHAIN + 1
    cache = target.new_cache(1, most)
    streams = torch.empty(most, target.config.hidden_size, dtype=target.dtype)
    streams[:context] = target.traced(Rows.prefill(text[:-1]), cache)[1]
    draft.begin(text[:-1], most)
    draft.watch(streams)
    draft.propose(text, 1)  # which reads the prompt
    taken: dict[tuple[int, int], list[float]] = {(1, 1): [], (1, _CHAIN): [], (_CATCH_UP, 1): []}
    for count, length in [*taken] * repeats:
        last = len(text) - 1
        text += [0] * count
        streams[last : last + count] = target.traced(
            Rows.prefill(text[last:-1], start=last), cache
        )[1]
        began = time.perf_counter()
        draft.propose(text, length)
        taken[count, length].append(time.perf_counter() - began)
    one, chain, many = (float(np.median(spent)) / costs.seconds for spent in taken.values())
    further, read = (chain - one) / (_CHAIN - 1), (many - one) / (_CATCH_UP - 1)
    return HeadCost(one, max(0.0, further), max(0.0, read))
