"""The plain decoder against transformers: every family, prefill, decode and ragged rows."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from labkit.model.attention import visible
from labkit.model.cache.growing import GrowingCache
from labkit.model.cache.static import StaticCache
from labkit.model.cache.table import Cache
from labkit.model.cache.window import SlidingWindowCache
from labkit.model.decoder import Decoder
from labkit.model.load import LoadedModel
from labkit.model.reference import reference_logits
from labkit.model.rows import Part, Rows
from labkit.workload.prompts import prompt_ids
from tests.conftest import Tiny
from tests.tiny import whole

TOLERANCE = 1e-4
LENGTH = 24  # three times the sliding window of the tiny models


def random_ids(length: int = LENGTH, seed: int = 0) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 97, (length,), generator=generator).tolist()


def worst(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference, which means something only where logits are not all near zero."""
    assert ours.shape == theirs.shape
    assert theirs.std() > 0.1
    return (ours - theirs).abs().max().item()


def prefill(decoder: Decoder, ids: list[int], cache: Cache | None = None) -> Tensor:
    """Logits of every position from one pass."""
    cache = cache or decoder.new_cache(1, len(ids))
    return decoder(Rows.prefill(ids, all_logits=True), cache)


def step_by_step(decoder: Decoder, ids: list[int], cache: Cache) -> Tensor:
    """Logits of every position, one token a pass."""
    rows = [Rows.decode({0: (token, at)}) for at, token in enumerate(ids)]
    return torch.cat([decoder(row, cache) for row in rows])


def in_chunks(decoder: Decoder, ids: list[int], cache: Cache, sizes: list[int]) -> Tensor:
    """Logits of every position, in passes of the given numbers of rows."""
    bounds = [0, *itertools.accumulate(sizes)]
    parts = [
        Rows.prefill(ids[a:b], start=a, all_logits=True) for a, b in itertools.pairwise(bounds)
    ]
    return torch.cat([decoder(part, cache) for part in parts])


def test_prefill_equals_transformers(tiny: Tiny) -> None:
    ids = random_ids()
    assert worst(prefill(tiny.model.decoder, ids), tiny.logits(ids)) <= TOLERANCE


def test_decoding_step_by_step_equals_transformers(tiny: Tiny) -> None:
    ids, decoder = random_ids(seed=1), tiny.model.decoder
    ours = step_by_step(decoder, ids, decoder.new_cache(1, LENGTH))
    assert worst(ours, tiny.logits(ids)) <= TOLERANCE


def test_only_the_rows_that_ask_get_logits(llama: Tiny) -> None:
    decoder, ids = llama.model.decoder, random_ids()
    rows = Rows.of([Part(0, 0, ids[:5]), whole(1, 0, ids[5:8]), Part(2, 0, ids[8:9])])
    logits = decoder(rows, decoder.new_cache(3, LENGTH))
    assert logits.shape == (5, 97)
    assert logits.dtype == torch.float32
    assert worst(logits[:1], prefill(decoder, ids[:5])[-1:]) <= TOLERANCE
    assert worst(logits[1:4], prefill(decoder, ids[5:8])) <= TOLERANCE


@st.composite
def schedules(draw: st.DrawFn) -> list[list[tuple[int, int]]]:
    """Passes, each a list of (slot, rows): prefill chunks and decode rows in any mix."""
    left = dict.fromkeys(range(3), LENGTH)
    passes = []
    while any(left.values()):
        slots = draw(st.permutations([slot for slot in left if left[slot]]))
        chosen = slots[: draw(st.integers(1, len(slots)))]
        sizes = [draw(st.sampled_from([n for n in (1, 2, 9, 24) if n <= left[s]])) for s in chosen]
        passes.append(list(zip(chosen, sizes, strict=True)))
        for slot, size in passes[-1]:
            left[slot] -= size
    return passes


def run_ragged(
    decoder: Decoder, prompts: list[list[int]], passes: list[list[tuple[int, int]]]
) -> list[Tensor]:
    """Logits of every position of every prompt, computed side by side."""
    cache = decoder.new_cache(len(prompts), LENGTH)
    got: list[list[Tensor]] = [[] for _ in prompts]
    for chosen in passes:
        starts = [(slot, cache.length(slot), n) for slot, n in chosen]
        rows = Rows.of(whole(s, at, prompts[s][at : at + n]) for s, at, n in starts)
        logits = decoder(rows, cache)
        for span in rows.spans:
            got[span.slot].append(logits[span.rows])
    return [torch.cat(parts) for parts in got]


@given(passes=schedules())
@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
def test_ragged_rows_equal_one_by_one(tiny: Tiny, passes: list[list[tuple[int, int]]]) -> None:
    prompts = [random_ids(seed=seed) for seed in range(3)]
    for ids, logits in zip(prompts, run_ragged(tiny.model.decoder, prompts, passes), strict=True):
        assert worst(logits, tiny.logits(ids)) <= TOLERANCE


CACHES: dict[str, Callable[[Any], Cache]] = {
    "static": lambda config: StaticCache(config, 1, LENGTH),
    "growing": lambda config: GrowingCache(config, 1),
    "window that never forgets": lambda config: SlidingWindowCache(config, LENGTH),
}


@pytest.mark.parametrize("kind", CACHES)
@pytest.mark.parametrize("sizes", [[LENGTH], [1] * LENGTH, [10, 1, 1, 9, 3]], ids=str)
def test_every_cache_gives_the_same_logits(tiny: Tiny, kind: str, sizes: list[int]) -> None:
    ids, decoder = random_ids(seed=2), tiny.model.decoder
    ours = in_chunks(decoder, ids, CACHES[kind](tiny.model.config), sizes)
    assert worst(ours, tiny.logits(ids)) <= TOLERANCE


@pytest.mark.parametrize("sinks", [0, 3])
@pytest.mark.parametrize("sizes", [[LENGTH], [1] * LENGTH, [10, 1, 1, 9, 3]], ids=str)
def test_a_sliding_window_is_attention_under_its_mask(
    llama: Tiny, sinks: int, sizes: list[int]
) -> None:
    ids, config = random_ids(seed=3), llama.model.config
    cache = SlidingWindowCache(config, window=7, sinks=sinks)
    ours = in_chunks(llama.model.decoder, ids, cache, sizes)
    at = torch.arange(LENGTH)
    mask = (at[None] <= at[:, None]) & ((at[None] > at[:, None] - 7) | (at[None] < sinks))
    assert worst(ours, llama.logits(ids, mask)) <= TOLERANCE
    assert worst(ours, llama.logits(ids)) > 0.01  # the window did hide something


def test_a_window_without_sinks_on_llama_is_mistral(
    llama: Tiny, make_tiny: Callable[[str], Tiny]
) -> None:
    windowed = make_tiny("mistral-window").reference
    before = {name: tensor.clone() for name, tensor in windowed.state_dict().items()}
    windowed.load_state_dict(llama.reference.state_dict())
    ids, cache = random_ids(seed=4), SlidingWindowCache(llama.model.config, window=8, sinks=0)
    with torch.inference_mode():
        theirs = windowed(torch.tensor([ids])).logits[0]
    windowed.load_state_dict(before)
    assert worst(step_by_step(llama.model.decoder, ids, cache), theirs) <= TOLERANCE


def test_the_models_own_window_holds_within_a_wider_cache(
    make_tiny: Callable[[str], Tiny],
) -> None:
    tiny, ids = make_tiny("mistral-window"), random_ids(seed=5)
    wide = SlidingWindowCache(tiny.model.config, window=16, sinks=2)
    assert worst(step_by_step(tiny.model.decoder, ids, wide), tiny.logits(ids)) <= TOLERANCE


def test_truncating_takes_a_draft_back(tiny: Tiny) -> None:
    ids, decoder = random_ids(seed=6), tiny.model.decoder
    cache = decoder.new_cache(1, LENGTH + 4)
    prefill(decoder, ids[:12], cache)
    decoder(Rows.prefill(random_ids(5, seed=7), start=12), cache)  # a draft that is rejected
    cache.truncate(0, 12)
    rest = decoder(Rows.prefill(ids[12:], start=12, all_logits=True), cache)
    assert worst(rest, tiny.logits(ids)[12:]) <= TOLERANCE


def test_forks_go_different_ways(tiny: Tiny) -> None:
    shared, decoder = random_ids(10, seed=8), tiny.model.decoder
    ways = [random_ids(8, seed=9), random_ids(8, seed=10)]
    cache = GrowingCache(tiny.model.config, slots=2)
    prefill(decoder, shared, cache)
    assert cache.fork(0) == 1
    for at in range(8):
        both = {slot: (ways[slot][at], 10 + at) for slot in (0, 1)}
        logits = decoder(Rows.decode(both), cache)
    for slot in (0, 1):
        theirs = tiny.logits(shared + ways[slot])[-1]
        assert worst(logits[slot], theirs) <= TOLERANCE


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_narrow_dtypes_stay_near(llama: Tiny, dtype: str) -> None:
    from labkit.model.load import load

    narrow = load(llama.model.directory, "cpu", dtype).decoder
    ids = random_ids()
    logits = prefill(narrow, ids)
    assert logits.dtype == torch.float32
    assert narrow.new_cache(1, 1).nbytes == 2 * 3 * 2 * 16 * 2
    agreement = torch.cosine_similarity(logits, llama.logits(ids), dim=-1)
    assert agreement.min() > 0.99


def test_the_mask_by_hand() -> None:
    seen = visible(torch.tensor([4, 5]), torch.tensor([0, 1, 2, 3, 4, 5]), window=2, sinks=1)
    assert seen.int().tolist() == [[1, 0, 0, 1, 1, 0], [1, 0, 0, 0, 1, 1]]


@pytest.mark.parametrize("token", [-1, 97])
def test_a_token_outside_the_vocabulary_changes_nothing(llama: Tiny, token: int) -> None:
    decoder = llama.model.decoder
    cache = decoder.new_cache(1, LENGTH)
    with pytest.raises(IndexError):
        decoder(Rows.prefill([5, token]), cache)
    assert cache.length(0) == 0


def test_rows_refuse_what_is_no_batch() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Rows.of([whole(0, 0, [])])
    with pytest.raises(ValueError, match="only once"):
        Rows.of([whole(0, 0, [1]), whole(0, 1, [2])])


@pytest.mark.model
def test_real_logits_equal_transformers(real_model: LoadedModel, real_reference: Any) -> None:
    for number, length in enumerate((512, 200, 37)):
        prompt = prompt_ids(real_model.tokenizer, length, number)
        ours = prefill(real_model.decoder, prompt)
        assert worst(ours, reference_logits(real_reference, prompt)) <= 1e-3
