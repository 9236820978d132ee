"""generate: the tokens transformers generates, one at a time, and prompts it must refuse."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

import pytest
import torch
from torch import Tensor

from labkit.engine.generate import generate
from labkit.errors import LabkitError, ModelError
from labkit.model.cache.growing import GrowingCache
from labkit.model.cache.protocol import CacheError
from labkit.model.cache.static import StaticCache
from labkit.model.cache.table import Cache
from labkit.model.cache.window import SlidingWindowCache
from labkit.model.config import ModelConfig
from labkit.model.load import LoadedModel
from labkit.model.reference import load_reference, reference_generate
from labkit.model.rows import Rows
from labkit.model.sampling import Sampler
from labkit.workload.prompts import prompt_ids
from tests.conftest import Tiny

PROMPT = [3, 14, 15, 92, 65, 35]


def generated_by_transformers(reference: Any, prompt: Sequence[int], count: int) -> list[int]:
    out = reference.generate(
        torch.tensor([list(prompt)]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
        do_sample=False,
        max_new_tokens=count,
        min_new_tokens=count,
        eos_token_id=None,
        pad_token_id=0,
    )
    return out[0, len(prompt) :].tolist()


class Counting:
    """A decoder that counts its passes and the rows of each."""

    def __init__(self, decoder: Any) -> None:
        self.decoder, self.config, self.passes = decoder, decoder.config, []

    def __call__(self, rows: Rows, cache: Any) -> Tensor:
        self.passes.append(len(rows))
        return self.decoder(rows, cache)

    def new_cache(self, slots: int, capacity: int) -> Cache:
        return self.decoder.new_cache(slots, capacity)


def test_greedy_tokens_are_transformers_tokens(tiny: Tiny) -> None:
    ours = list(generate(tiny.model.decoder, PROMPT, 40))
    assert ours == generated_by_transformers(tiny.reference, PROMPT, 40)
    assert len(set(ours)) > 1


@pytest.mark.parametrize(
    "make",
    [
        lambda config: StaticCache(config, 1, 46),
        lambda config: GrowingCache(config),
        lambda config: SlidingWindowCache(config, 46),
    ],
    ids=["static", "growing", "sliding"],
)
def test_every_cache_gives_the_same_tokens(
    llama: Tiny, make: Callable[[ModelConfig], Cache]
) -> None:
    decoder, cache = llama.model.decoder, make(llama.model.config)
    expected = list(generate(decoder, PROMPT, 40))
    assert list(generate(decoder, PROMPT, 40, cache=cache)) == expected
    assert cache.length(0) == len(PROMPT) + 39  # the last token is yielded, not fed
    cache.truncate(0, 0)
    assert list(generate(decoder, PROMPT, 40, cache=cache)) == expected


def test_one_pass_a_token_and_none_ahead(llama: Tiny) -> None:
    counting = Counting(llama.model.decoder)
    stream = generate(counting, PROMPT, 5)
    assert counting.passes == []
    next(stream)
    assert counting.passes == [len(PROMPT)]
    assert len(list(stream)) == 4
    assert counting.passes == [len(PROMPT), 1, 1, 1, 1]


def test_a_stop_token_is_yielded_and_ends_the_stream(llama: Tiny) -> None:
    free = list(generate(llama.model.decoder, PROMPT, 20))
    stop = free[7]
    cut = list(generate(llama.model.decoder, PROMPT, 20, stop_ids=(stop,)))
    assert cut == free[: free.index(stop) + 1]


def test_sampling_is_reproducible_and_varies(llama: Tiny) -> None:
    def sampled(seed: int) -> list[int]:
        return list(generate(llama.model.decoder, PROMPT, 20, sampler=Sampler(2.0, seed=seed)))

    assert sampled(1) == sampled(1)
    assert sampled(1) != sampled(2)


@pytest.mark.parametrize(
    ("prompt", "count", "message"),
    [
        ([], 1, "both must be at least 1"),
        (PROMPT, 0, "both must be at least 1"),
        ([5] * 128, 1, "make 129; the model's context is 128. Shorten"),
        ([5] * 28, 101, "28 prompt tokens and 101 new ones make 129"),
        ([5, 97], 1, r"must lie in 0\.\.96"),
        ([5, -1], 1, r"must lie in 0\.\.96"),
    ],
)
def test_a_prompt_that_cannot_be_served_is_refused_at_the_call(
    llama: Tiny, prompt: list[int], count: int, message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        generate(llama.model.decoder, prompt, count)


def test_the_whole_context_can_be_used(llama: Tiny) -> None:
    assert len(list(generate(llama.model.decoder, [5] * 100, 28))) == 28


def test_a_cache_too_small_is_an_error_and_not_a_wrong_token(llama: Tiny) -> None:
    cache = StaticCache(llama.model.config, 1, len(PROMPT) + 2)
    stream = generate(llama.model.decoder, PROMPT, 10, cache=cache)
    expected = list(generate(llama.model.decoder, PROMPT, 3))
    assert list(islice(stream, 3)) == expected
    with pytest.raises(CacheError, match="make it larger"):
        next(stream)


def test_a_slot_in_use_is_refused(llama: Tiny) -> None:
    cache = llama.model.decoder.new_cache(1, 40)
    list(generate(llama.model.decoder, PROMPT, 3, cache=cache))
    with pytest.raises(LabkitError, match="must go on there"):
        list(generate(llama.model.decoder, PROMPT, 3, cache=cache))


def test_the_timed_baseline_streams_what_transformers_generates(llama: Tiny) -> None:
    pushed: list[int] = []
    reference_generate(load_reference(llama.model), PROMPT, 12, pushed.append)
    assert pushed == generated_by_transformers(llama.reference, PROMPT, 12)


@pytest.mark.parametrize("how", [{"prompt_lookup_num_tokens": 4}, {"assistant_early_exit": 1}])
def test_its_own_speculation_streams_every_token(llama: Tiny, how: dict[str, int]) -> None:
    plain: list[int] = []
    pushed: list[int] = []
    reference = load_reference(llama.model)
    reference_generate(reference, PROMPT, 12, plain.append)
    reference_generate(reference, PROMPT, 12, pushed.append, **how)
    assert pushed == plain


@pytest.mark.model
def test_128_real_greedy_tokens_are_transformers_tokens(
    real_model: LoadedModel, real_reference: Any
) -> None:
    prompt = prompt_ids(real_model.tokenizer, 64)
    ours = list(generate(real_model.decoder, prompt, 128))
    assert ours == generated_by_transformers(real_reference, prompt, 128)
