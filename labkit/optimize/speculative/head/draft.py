"""A draft by the learned head: from the target's streams, as long as one more token pays."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from labkit.engine.draft import NOTHING, Draft, Proposal
from labkit.engine.row_costs import RowCosts
from labkit.errors import ParameterError
from labkit.model.cache.table import Cache
from labkit.model.config import ModelConfig
from labkit.optimize.speculative.head.cost import HeadCost
from labkit.optimize.speculative.head.forward import HeadForward
from labkit.optimize.speculative.head.outcomes import Drafted, Guess, Outcomes
from labkit.optimize.speculative.head.worth import worth_a_pass, worth_verifying

# The most tokens that the head reads at once: a prompt's end, or tokens that another source
# drafted. Reading 128 tokens of a prompt instead does not raise the acceptance rate.
_WINDOW = 16
_BRANCHES = 3  # candidate tokens from each pass of the head


class LearnedHead(Draft):
    """Drafts with a learned head, one token after another from its own predicted streams.

    ids (words,): the token id of each logit. costs: of the target's rows. cost: of the head's
    passes. With costs, it stops where one more pass would lower the expected gain, and sends the
    likeliest tokens as a chain or a tree. The head's probability of a token estimates how likely
    its acceptance is; the request's outcomes correct this estimate. Without costs, it drafts a
    chain of `limit` tokens. spare: (capacity, cache) of caches that no request uses now. They are
    reused because the first use of a new cache takes as long as a pass of the target.
    """

    def __init__(
        self,
        head: HeadForward,
        ids: Tensor,
        costs: RowCosts | None = None,
        cost: HeadCost = HeadCost(),  # noqa: B008 (never changes)
        name: str = "learned head",
        spare: list[tuple[int, Cache]] | None = None,
    ) -> None:
        self.head, self.name = head, name
        self.spare = spare if spare is not None else []
        self.ids: list[int] = ids.tolist()
        self.costs, self.cost = costs, cost
        self.drafts = self.passes = 0  # since this draft was made
        self.caught_up = 0  # other tokens read: the prompt's, and accepted ones
        self._cache: Cache | None = None
        self._room = 0  # capacity of the cache in tokens
        self._start_over()

    def _start_over(self) -> None:
        self.outcomes = Outcomes()
        self._last: Drafted | None = None
        self._skipped = 0  # first tokens of the context that it does not read
        self._read = 0  # tokens after them that are in the cache with the target's streams

    @property
    def asked(self) -> tuple[int, int, int]:
        """Counts so far: first tokens of drafts, further tokens, other tokens read."""
        return self.drafts, self.passes - self.drafts, self.caught_up

    @property
    def gain(self) -> float:
        """Tokens that recent drafts gave, over their cost in passes of the target.

        It is 1.1 at the start of a request.
        """
        return self.outcomes.gain

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
        if self._cache is None or self._room < most:
            self._room, self._cache = most, self.head.new_cache(1, most)
        self._cache.truncate(0, 0)
        self._start_over()

    def end(self, context: Sequence[int]) -> None:
        if self._cache is not None:
            self.spare.append((self._room, self._cache))
        self._room, self._cache = 0, None

    def watch(self, streams: Tensor) -> None:
        """The target's streams (most, hidden), filled row by row as the target reads."""
        self._streams = streams
        self._own = streams.new_empty(_WINDOW, streams.shape[1])  # the head's, of its last pass

    def propose(self, context: Sequence[int], limit: int) -> Proposal:
        if self._last is not None:
            self.outcomes.learn(self._last, context)
            self._last = None
        limit = min(limit, self._room - len(context))
        if self._cache is None or limit < 1 or self.outcomes.rests():
            return NOTHING
        before = self.cost.of(self.asked)
        chain = self._draft(context, limit, self._cache)
        if self.costs is None:
            proposal = Proposal([guess.tokens[0] for guess in chain])
        else:
            proposal = worth_verifying(chain, limit, self.costs, self.cost)
        verifying = self.costs.r(len(proposal.tokens) + 1) if self.costs else 1.0
        cost = self.cost.of(self.asked) - before + verifying
        self._last = Drafted(len(context), chain, proposal, cost)
        return proposal

    def _draft(self, context: Sequence[int], limit: int, cache: Cache) -> list[Guess]:
        """The guess of each pass of the head, along the chain of the likeliest tokens."""
        if len(context) - 1 - self._skipped - self._read > _WINDOW:  # a prompt, or a long copy
            self._skipped, self._read = len(context) - 1 - _WINDOW, 0
        cache.truncate(0, self._read)
        unread = self._skipped + self._read
        features, first, tokens = self._streams, unread, context[unread + 1 :]
        self.caught_up += len(tokens) - 1
        self._read = len(context) - 1 - self._skipped
        self.drafts += 1
        chain: list[Guess] = []
        reached = 1.0
        while True:
            words, chances = self.head.guesses(tokens, cache, _BRANCHES, self._own, features, first)
            chain.append(self._guess(words, chances, reached))
            reached = chain[-1].reaches[0]
            if len(chain) == limit or not self._goes_on(chain):
                return chain
            features, first, tokens = self._own, len(tokens) - 1, chain[-1].tokens[:1]

    def _guess(self, words: list[int], chances: list[float], reached: float) -> Guess:
        """What a pass offers. reached: the probability that the output reaches its parent."""
        self.passes += 1
        self.outcomes.note_chance(chances[0])
        trust = self.outcomes.trust
        reaches = [reached * min(1.0, trust * chance) for chance in chances]
        return Guess([self.ids[word] for word in words], chances, reaches)

    def _goes_on(self, chain: list[Guess]) -> bool:
        """Whether one more pass is worth its cost."""
        if self.costs is None:
            return True
        next_chance = min(1.0, self.outcomes.usual * self.outcomes.trust)
        reaches = [guess.reaches[0] for guess in chain]
        return worth_a_pass(reaches, next_chance, self.costs, self.cost)
