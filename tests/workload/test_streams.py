"""Random streams: none meets another, whatever it is for and whichever worker has it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from labkit.errors import ParameterError
from labkit.workload.streams import Use, request_seeds, stream, worker_streams


def begin(random: np.random.Generator) -> tuple[int, ...]:
    return tuple(random.integers(2**63, size=4).tolist())


def test_no_two_streams_begin_alike() -> None:
    seen = [begin(stream(seed, use)) for seed in range(20) for use in Use]
    seen += [begin(one) for seed in range(20) for one in worker_streams(seed, 8)]
    seen += [begin(np.random.default_rng(seed)) for seed in range(20)]  # what others draw by hand
    assert len(set(seen)) == len(seen)


def test_two_uses_of_one_seed_are_not_correlated() -> None:
    drawn = [stream(0, use).standard_normal(20_000) for use in Use]
    for one, other in itertools.combinations(drawn, 2):
        assert abs(np.corrcoef(one, other)[0, 1]) < 4 / np.sqrt(20_000)


def test_different_workers_never_share_a_seed() -> None:
    workers = [begin(one) for one in worker_streams(0, 1000)]
    assert len(set(workers)) == 1000
    assert [begin(one) for one in worker_streams(0, 10)] == workers[:10]


def test_every_request_has_a_sampling_seed_of_its_own() -> None:
    seeds = [seed for base in range(10) for seed in request_seeds(base, 2000)]
    assert len(set(seeds)) == len(seeds)
    assert min(seeds) >= 0
    assert max(seeds) < 2**63  # what torch's generators take
    assert request_seeds(0, 5) == request_seeds(0, 2000)[:5]


@pytest.mark.parametrize("seed", [-1, 1.5, True, "1", None])
def test_a_seed_that_is_none_is_refused(seed: object) -> None:
    with pytest.raises(ParameterError, match="seed .*whole numbers from 0 on"):
        stream(seed, Use.TEXT)  # type: ignore[arg-type]
