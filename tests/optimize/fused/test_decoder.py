"""The fused decoder against its plain twin, against itself in other company, and refusing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit.engine.generate import generate
from labkit.model.cache.protocol import CacheError
from labkit.model.rows import Part, Rows
from labkit.optimize.fused import FusedDecoder, load_fused
from labkit.optimize.fused.native import ISAS
from tests.fused_helpers import fed_at_random, logits, plain_twin, tiny_gguf
from tests.tiny import whole

IDS = [(7 * n * n + 3 * n) % 97 for n in range(300)]  # long enough for three chunks


def agrees(expected, fused):
    """With a float32 cache the arithmetic is the twin's, but for inputs on the edge of two
    integers, which may round the other way: such a row, and those that look at it, differ a little.
    """
    found = fused(Rows.prefill(IDS, all_logits=True), fused.new_cache(1, 300, torch.float32))
    off, spread = (found - expected).abs().mean(1), expected.std()
    assert off[:3].max() < 1e-5 * spread
    assert off.mean() < 0.01 * spread
    assert (found.argmax(-1) == expected.argmax(-1)).float().mean() > 0.95


def test_logits_are_the_plain_twins(case):
    file, fused = case
    expected = logits(plain_twin(file), IDS)
    agrees(expected, fused)
    assert (logits(fused, IDS) - expected).abs().mean() < 0.03 * expected.std()  # float16 cache


@pytest.mark.parametrize("chunk", [1, 7, 130])
def test_a_row_does_not_depend_on_how_rows_are_cut_into_passes(case, chunk):
    _, fused = case
    assert torch.equal(logits(fused, IDS), logits(fused, IDS, chunk))


def test_threads_do_not_change_a_bit(case):
    file, fused = case
    assert torch.equal(logits(fused, IDS[:150]), logits(load_fused(file, threads=3), IDS[:150]))


def test_every_instruction_set_gives_the_same_bits(case):
    file, fused = case
    assert fused.isa in ISAS
    assert torch.equal(
        logits(fused, IDS[:150]), logits(load_fused(file, threads=1, isa="portable"), IDS[:150])
    )


@pytest.mark.usefixtures("own_cache")
def test_a_window_looks_back_as_far_as_the_plain_decoder_does(tmp_path):
    from dataclasses import replace

    file = tiny_gguf(tmp_path / "tiny.gguf", "llama", "Q8_0")
    fused, twin = load_fused(file, threads=2), plain_twin(file)
    for window in (1, 8, 140):
        narrow = FusedDecoder(replace_config(fused, sliding_window=window))
        twin.config = replace(twin.config, sliding_window=window)
        for layer in twin.layers:
            layer.self_attn.config = twin.config
        agrees(logits(twin, IDS), narrow)
        assert torch.equal(logits(narrow, IDS), logits(narrow, IDS, 1))


def replace_config(fused, **changes):
    """The decoder's packed weights under a changed config."""
    from dataclasses import replace

    packed = fused.packed
    return replace(packed, config=replace(packed.config, **changes))


@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_batch_invariance_over_random_mixes(fused, data):
    """Sequences that share passes, any rows of each a pass, come out as each does alone."""
    lengths = data.draw(st.lists(st.integers(1, 40), min_size=1, max_size=4))
    texts = [IDS[17 * k : 17 * k + length] for k, length in enumerate(lengths)]
    cache = fused.new_cache(len(texts), 64)
    found = fed_at_random(fused, cache, texts, data)
    for text, rows_found in zip(texts, found, strict=True):
        assert torch.equal(rows_found, logits(fused, text))


def test_truncating_and_forking_leave_what_a_fresh_slot_holds(fused):
    cache = fused.new_cache(2, 100)
    fused(Rows.prefill(IDS[:50]), cache)
    cache.truncate(0, 20)
    assert cache.fork(0) == 1
    expected = logits(fused, [*IDS[:20], *IDS[60:90]])[20:]
    for slot in (0, 1):
        found = fused(Rows.of([whole(slot, 20, IDS[60:90])]), cache)
        assert torch.equal(found, expected)


def test_a_float32_cache_is_nearer_and_twice_as_large(files):
    file = files("llama", "Q8_0")
    fused, twin = load_fused(file), plain_twin(file)
    half, whole = fused.new_cache(1, 64), fused.new_cache(1, 64, torch.float32)
    assert whole.nbytes == 2 * half.nbytes
    expected = logits(twin, IDS[:60])
    errors = [
        (fused(Rows.prefill(IDS[:60], all_logits=True), c) - expected).abs().mean()
        for c in (half, whole)
    ]
    assert errors[1] < errors[0]


def test_only_wanted_rows_come_in_order(fused):
    every = logits(fused, IDS[:10])
    cache = fused.new_cache(2, 16)
    rows = Rows.of([Part(1, 0, IDS[:10]), whole(0, 0, IDS[:4])])
    found = fused(rows, cache)
    assert torch.equal(found, torch.cat((every[9:], every[:4])))


def test_a_prompt_leaves_the_same_cache_whatever_is_asked_of_it(case):
    """Of rows that nobody asks about, the last layer makes keys and values alone."""
    _, fused = case
    last, every, streams = (fused.new_cache(1, 301) for _ in range(3))
    one = fused(Rows.prefill(IDS), last)
    assert torch.equal(fused(Rows.prefill(IDS, all_logits=True), every)[-1:], one)
    assert torch.equal(fused.traced(Rows.prefill(IDS), streams)[0], one)
    for cache in (last, every):
        assert torch.equal(cache.store.keys, streams.store.keys)
        assert torch.equal(cache.store.values, streams.store.values)


@pytest.mark.parametrize("token", [-1, 97, 2**40])
def test_a_token_outside_the_vocabulary_is_refused_before_anything_is_written(fused, token):
    cache = fused.new_cache(1, 16)
    fused(Rows.prefill(IDS[:4]), cache)
    keys = cache.store.keys.clone()
    with pytest.raises(IndexError, match=r"0\.\.96"):
        fused(Rows.prefill([5, token], start=4), cache)
    assert torch.equal(cache.store.keys, keys)
    assert cache.length(0) == 4


def test_rows_that_do_not_fit_are_refused(fused):
    cache = fused.new_cache(1, 16)
    with pytest.raises(CacheError, match="room for 16"):
        fused(Rows.prefill(IDS[:17]), cache)
    with pytest.raises(CacheError, match="slot 3"):
        fused(Rows.prefill(IDS[:2], slot=3), cache)
    with pytest.raises(CacheError, match="go on there"):
        fused(Rows.prefill(IDS[:2], start=5), cache)
    assert cache.length(0) == 0


def test_rows_that_contradict_themselves_are_refused_by_the_kernel(fused):
    cache = fused.new_cache(1, 16)
    rows = Rows.prefill(IDS[:3])
    rows.at[1] = 9
    with pytest.raises(CacheError, match="where their slots end"):
        fused(rows, cache)
    wrong = Rows.prefill(IDS[:3])
    wrong.asked[0] = 3
    with pytest.raises(IndexError, match=r"0\.\.2"):
        fused(wrong, cache)
    assert cache.length(0) == 0


def test_a_cache_of_another_decoder_is_refused_in_one_line_and_left_alone(files, fused):
    twin = plain_twin(files("llama", "Q4_1"))
    for decoder, other in ((fused, twin), (twin, fused)):
        cache = other.new_cache(1, 16)
        for ask in (
            lambda d=decoder, c=cache: d(Rows.prefill(IDS[:4]), c),
            lambda d=decoder, c=cache: d.traced(Rows.prefill(IDS[:4]), c),
            lambda c=cache: fused.greedy([Part(0, 0, IDS[:4])], c),
            lambda c=cache: fused.greedy([Part(0, 0, IDS[:4]), Part(1, 0, [5])], c),
        )[: 4 if decoder is fused else 2]:
            with pytest.raises(CacheError, match="decoder's own new_cache made") as refused:
                ask()
            assert "\n" not in str(refused.value)
        assert cache.length(0) == 0
        store = cache.store
        keys, values = store.tensors(0) if decoder is fused else (store.keys, store.values)
        assert not keys.any()
        assert not values.any()


def test_a_cache_of_another_model_is_refused(files, fused):
    other = load_fused(files("llama-mha", "Q4_0"), threads=2)
    cache = other.new_cache(1, 16)
    with pytest.raises(CacheError, match="one of another model"):
        fused(Rows.prefill(IDS[:4]), cache)
    with pytest.raises(CacheError, match="one of another model"):
        fused.greedy([Part(0, 0, IDS[:4])], cache)
    assert cache.length(0) == 0


def test_a_cache_with_the_angles_of_another_model_is_refused(fused):
    other = FusedDecoder(replace(fused.packed, config=replace(fused.config, rope_theta=500.0)))
    cache = fused.new_cache(1, 16)
    for run in (lambda: other(Rows.prefill([1, 2]), cache),
                lambda: other.greedy([Part(0, 0, [1, 2])], cache)):  # fmt: skip
        with pytest.raises(CacheError, match="one of another model"):
            run()
    assert cache.length(0) == 0


@pytest.mark.model
def test_the_real_model_says_what_its_plain_twin_says(real_model):
    from labkit.workload.prompts import prompt_ids

    fused = load_fused()
    ids = prompt_ids(real_model.tokenizer, 300, 3)
    expected, found = logits(real_model.decoder, ids), logits(fused, ids)
    logs = [x.double().log_softmax(-1) for x in (expected, found)]
    assert float((logs[0].exp() * (logs[0] - logs[1])).sum(-1).mean()) < 0.01
    assert torch.equal(found, logits(fused, ids, 7))
    tokens = list(generate(fused, ids[:50], 40))
    assert tokens == list(generate(fused, ids[:50], 40, cache=fused.new_cache(1, 700)))
