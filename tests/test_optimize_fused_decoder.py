"""The fused decoder against its plain twin, against itself in other company, and refusing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit.model.cache import CacheError
from labkit.model.generate import generate
from labkit.model.rows import Rows
from labkit.optimize.fused import FusedDecoder, load_fused
from labkit.optimize.fused.native import ISAS
from tests.fused_helpers import logits, plain_twin, tiny_gguf

IDS = [(7 * n * n + 3 * n) % 97 for n in range(300)]  # long enough for three chunks
CASES = [
    ("llama", "Q4_1"), ("llama-tied", "Q8_0"), ("llama-mha", "Q4_0"), ("qwen2", "Q8_0"),
    ("qwen2-tied", "Q4_1"), ("qwen3", "Q4_0"), ("llama-wide-heads", "Q8_0"), ("qwen3", "Q5_0"),
    ("qwen2-tied", "Q5_0"),
]  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    made: dict[tuple[str, str], Path] = {}

    def make(name: str, kind: str) -> Path:
        if (name, kind) not in made:
            folder = tmp_path_factory.mktemp("tiny")
            made[name, kind] = tiny_gguf(folder / f"{name}.gguf", name, kind)
        return made[name, kind]

    return make


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def case(request, files):
    """(file, fused decoder) of each family and format in turn."""
    file = files(*request.param)
    return file, load_fused(file, threads=2)


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

    packed = fused._packed
    return replace(packed, config=replace(packed.config, **changes))


@pytest.fixture(scope="module")
def fused(files):
    return load_fused(files("llama", "Q4_1"), threads=2)


@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_batch_invariance_over_random_mixes(fused, data):
    """Sequences that share passes, any rows of each a pass, come out as each does alone."""
    lengths = data.draw(st.lists(st.integers(1, 40), min_size=1, max_size=4))
    texts = [IDS[17 * k : 17 * k + length] for k, length in enumerate(lengths)]
    cache = fused.new_cache(len(texts), 64)
    found: list[list[torch.Tensor]] = [[] for _ in texts]
    while any(cache.length(k) < len(text) for k, text in enumerate(texts)):
        parts = []
        for k, text in enumerate(texts):
            at = cache.length(k)
            if at < len(text) and (not parts or data.draw(st.booleans())):
                count = data.draw(st.integers(1, len(text) - at))
                parts.append((k, at, text[at : at + count], True))
        rows = Rows.of(parts)
        out = fused(rows, cache)
        for span in rows.spans:
            found[span.slot].append(out[span.rows])
    for text, rows_found in zip(texts, found, strict=True):
        assert torch.equal(torch.cat(rows_found), logits(fused, text))


def test_truncating_and_forking_leave_what_a_fresh_slot_holds(fused):
    cache = fused.new_cache(2, 100)
    fused(Rows.prefill(IDS[:50]), cache)
    cache.truncate(0, 20)
    assert cache.fork(0) == 1
    expected = logits(fused, [*IDS[:20], *IDS[60:90]])[20:]
    for slot in (0, 1):
        found = fused(Rows.of([(slot, 20, IDS[60:90], True)]), cache)
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
    rows = Rows.of([(1, 0, IDS[:10], False), (0, 0, IDS[:4], True)])
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
        assert torch.equal(cache.keys, streams.keys)
        assert torch.equal(cache.values, streams.values)


def test_a_greedy_step_is_the_likeliest_of_the_logits(case):
    _, fused = case
    by_logits = list(generate(fused, IDS[:7], 60, sampler=lambda row: int(row.argmax())))
    assert list(generate(fused, IDS[:7], 60)) == by_logits


def test_a_greedy_step_goes_to_the_end_of_its_slot(fused):
    cache, other = (fused.new_cache(2, 16) for _ in range(2))
    for held in (cache, other):
        fused(Rows.prefill(IDS[:5], slot=1), held)
    expected, stream = fused.traced(Rows.prefill([IDS[5]], slot=1, start=5), other)
    streams = torch.zeros(6, stream.shape[1])
    assert fused.continued([IDS[5]], cache, slot=1, streams=streams) == [expected.argmax()]
    cache.truncate(1, 5)
    assert fused.following(IDS[5], cache, slot=1) == expected.argmax()
    assert torch.equal(streams[5:], stream)
    assert not streams[:5].any()
    assert (cache.length(0), cache.length(1)) == (0, 6)
    assert torch.equal(cache.keys, other.keys)


def test_a_greedy_step_refuses_what_a_pass_refuses(fused):
    cache = fused.new_cache(1, 6)
    fused(Rows.prefill(IDS[:5]), cache)
    with pytest.raises(IndexError, match=r"0\.\.96"):
        fused.following(97, cache)
    for wrong in (torch.zeros(5, 64), torch.zeros(9, 65), torch.zeros(9, 64).double()):
        with pytest.raises(ValueError, match="for positions 5 to 5, 64 float32 each"):
            fused.continued([1], cache, streams=wrong)
    assert cache.length(0) == 5
    with pytest.raises(CacheError, match="slot 3"):
        fused.following(1, cache, slot=3)
    fused.following(1, cache)
    with pytest.raises(CacheError, match="room for 6"):
        fused.following(1, cache)
    assert cache.length(0) == 6


def test_the_likeliest_tokens_of_several_rows_without_logits(case):
    _, fused = case
    rows = Rows.of([(0, 0, IDS[:9], True), (1, 0, IDS[20:25], False)])
    logits, streams = fused.traced(rows, fused.new_cache(2, 16))
    found = torch.zeros(16, streams.shape[1])
    best = fused.best(rows, fused.new_cache(2, 16), found)
    assert best == logits.argmax(-1).tolist()
    assert torch.equal(found[:14], streams)
    assert not found[14:].any()
    assert fused.best(rows, fused.new_cache(2, 16)) == best
    with pytest.raises(IndexError, match=r"0\.\.96"):
        fused.best(Rows.prefill([99]), fused.new_cache(2, 16))


def test_a_chain_goes_on_where_its_slot_ends(case):
    _, fused = case
    cache, other = (fused.new_cache(2, 20) for _ in range(2))
    for held in (cache, other):
        fused(Rows.prefill(IDS[:9], slot=1), held)
    streams = torch.zeros(20, fused.config.hidden_size)
    rows = Rows.prefill(IDS[9:16], slot=1, start=9, all_logits=True)
    logits, expected = fused.traced(rows, other)
    found = fused.continued(IDS[9:16], cache, slot=1, streams=streams)
    assert found == logits.argmax(-1).tolist()
    assert torch.equal(streams[9:16], expected)
    assert torch.equal(cache.keys, other.keys)
    with pytest.raises(CacheError, match="room for 20"):
        fused.continued(IDS[:5], cache, slot=1)
    with pytest.raises(IndexError, match=r"0\.\.96"):
        fused.continued([1, 97], cache, slot=1)
    with pytest.raises(CacheError, match="where their slots end"):
        fused.continued([], cache, slot=1)
    for wrong in ([0, 0], [-1, 1], [-1, -1], [-1, 2**40]):
        with pytest.raises(ValueError, match="follows none"):
            fused.continued([1, 2], cache, 1, wrong)
    assert cache.length(1) == 16


def test_a_tree_goes_on_where_its_slot_ends(case):
    _, fused = case
    tree = [-1, 0, 0, 1, 2, 4, 3]
    cache, other = (fused.new_cache(1, 20) for _ in range(2))
    for held in (cache, other):
        fused(Rows.prefill(IDS[:9]), held)
    streams = torch.zeros(20, fused.config.hidden_size)
    logits, expected = fused.traced(Rows.of([(0, 9, IDS[9:16], True, tree)]), other)
    assert fused.continued(IDS[9:16], cache, 0, tree, streams) == logits.argmax(-1).tolist()
    assert torch.equal(streams[9:16], expected)
    assert torch.equal(cache.keys, other.keys)


@pytest.mark.parametrize("token", [-1, 97, 2**40])
def test_a_token_outside_the_vocabulary_is_refused_before_anything_is_written(fused, token):
    cache = fused.new_cache(1, 16)
    fused(Rows.prefill(IDS[:4]), cache)
    keys = cache.keys.clone()
    with pytest.raises(IndexError, match=r"0\.\.96"):
        fused(Rows.prefill([5, token], start=4), cache)
    assert torch.equal(cache.keys, keys)
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
