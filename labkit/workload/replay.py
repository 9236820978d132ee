"""A recorded trace as requests for the model at hand: tokens for its hash ids, made smaller."""

from __future__ import annotations

import math

from labkit.errors import ParameterError
from labkit.workload.recorded import BLOCK, RecordedTrace, TracedRequest
from labkit.workload.streams import Use, request_seeds, stream
from labkit.workload.timed import TimedRequest, TimedWorkload, Tokens


def replayed(
    trace: RecordedTrace,
    vocab_size: int,
    *,
    shrink: int = 1,
    speed: float = 1.0,
    first: int | None = None,
    most_tokens: int | None = None,
    seed: int = 0,
) -> TimedWorkload:
    """The requests of a trace, with token ids below `vocab_size`.

    shrink: so many tokens of the trace are one here, for models with a short context; it must
    divide a block of 512. speed: the trace runs so many times as fast. first: so many requests
    only. most_tokens: longer requests, prompt and answer, are left out; how many is told in the
    facts. Raises ParameterError.
    """
    _check(vocab_size, shrink, speed, first)
    seeds = request_seeds(seed, len(trace.requests))
    requests: list[TimedRequest] = []
    taken = trace.requests[:first]
    for number, one in enumerate(taken):
        new = max(1, one.new_tokens // shrink)
        length = max(1, one.prompt_tokens // shrink)
        if most_tokens is None or length + new <= most_tokens:
            prompt = _prompt(one, number, length, BLOCK // shrink, vocab_size, seed)
            requests.append(TimedRequest(one.due / speed, prompt, new, number, seeds[number]))
    left_out = len(taken) - len(requests)
    facts = {"shrink": shrink, "speed": speed, "left_out": left_out, "failed": trace.failed}
    return TimedWorkload(f"replay of {trace.name}", tuple(requests), seed, facts)


def _check(vocab_size: int, shrink: int, speed: float, first: int | None) -> None:
    if vocab_size < 1 or shrink < 1 or BLOCK % shrink or not 0 < speed < math.inf:
        raise ParameterError(
            f"vocab_size {vocab_size}, shrink {shrink}, speed {speed}: allowed are 1 and more, "
            f"a divisor of {BLOCK}, and numbers above 0."
        )
    if first is not None and first < 1:
        raise ParameterError(f"the first {first} requests: allowed are 1 and more.")


def _prompt(
    one: TracedRequest, number: int, length: int, block: int, vocab_size: int, seed: int
) -> Tokens:
    """Its tokens: those of each hash id one after another, or tokens of its own without ids."""
    if not one.hash_ids:
        return tuple(_drawn(seed, (0, number), length, vocab_size))
    blocks = (_drawn(seed, (1, which), block, vocab_size) for which in one.hash_ids)
    return tuple(token for tokens in blocks for token in tokens)[:length]


def _drawn(seed: int, key: tuple[int, int], count: int, vocab_size: int) -> list[int]:
    """`count` token ids that follow from the seed and the key alone."""
    found: list[int] = stream(seed, Use.TEXT, *key).integers(vocab_size, size=count).tolist()
    return found
