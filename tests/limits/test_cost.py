"""The ledger against torch's own FLOP counter and against the bytes of real tensors and caches."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from labkit.limits.cost import (
    bytes_of_rows,
    decode_cost,
    experts_read,
    parameters,
    pass_cost,
    prefill_cost,
    step_cost,
    weight_bytes,
    weight_read_bytes,
    with_weights,
)
from labkit.model.cache.static import StaticCache
from labkit.model.experts import Experts
from labkit.model.rows import Rows
from tests.tiny import tiny_decoder


def counted(decoder, rows, cache):
    """FLOPs that torch counts in a pass; attention as matrix products, so that it is seen."""
    math = torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)
    with math, FlopCounterMode(display=False) as counter:
        decoder(rows, cache)
    return counter.get_total_flops()


def test_prefill_flops_of_tiny_models(tiny):
    decoder = tiny.model.decoder
    rows = Rows.prefill(list(range(24)))
    found = counted(decoder, rows, decoder.new_cache(1, 24))
    cost = pass_cost(decoder.config, [(0, 24)], logits=1, count_masked=True)
    assert found == pytest.approx(cost.flops, rel=0.01)


@pytest.mark.model
@pytest.mark.parametrize(("held", "new"), [(0, 64), (96, 1), (32, 8)])
def test_flops_of_the_real_model(real_model, held, new):
    decoder = real_model.decoder
    cache = decoder.new_cache(1, held + new)
    if held:
        decoder(Rows.prefill([1] * held), cache)
    found = counted(decoder, Rows.prefill([2] * new, start=held), cache)
    cost = pass_cost(decoder.config, [(held, new)], logits=1, count_masked=True)
    assert found == pytest.approx(cost.flops, rel=0.01)


def test_a_limit_charges_only_what_a_causal_mask_leaves():
    config = tiny_decoder().config
    seen = pass_cost(config, [(0, 100)], 1).attention_flops
    masked = pass_cost(config, [(0, 100)], 1, count_masked=True).attention_flops
    assert seen / masked == pytest.approx((100 * 101 / 2) / 100**2)


def test_weight_bytes_are_those_of_real_tensors(tiny):
    decoder = tiny.model.decoder
    weights = {p.data_ptr(): p.nbytes for p in decoder.parameters()}
    assert weight_bytes(decoder.config) == sum(weights.values())
    assert weight_bytes(decoder.config, "bfloat16") == sum(weights.values()) / 2


@pytest.mark.model
def test_weight_bytes_of_the_real_model(real_model):
    weights = {p.data_ptr(): p for p in real_model.decoder.parameters()}
    assert parameters(real_model.config) == sum(p.numel() for p in weights.values())
    assert weight_bytes(real_model.config) == sum(p.nbytes for p in weights.values())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_kv_bytes_are_those_of_a_real_cache(dtype):
    config = tiny_decoder().config
    cache = StaticCache(config, slots=3, capacity=50, dtype=getattr(torch, dtype))
    cost = pass_cost(config, [(50, 1)] * 3, 3, dtype)
    assert cost.kv_read_bytes == cache.nbytes
    assert cost.kv_write_bytes == cache.nbytes / 50


def test_an_untied_table_is_looked_up_not_read():
    tied, untied = tiny_decoder().config, tiny_decoder(tied_head=False).config
    table = tied.vocab_size * tied.hidden_size
    assert parameters(untied) - parameters(tied) == table
    assert weight_read_bytes(untied, 1) - weight_read_bytes(tied, 1) == 4 * tied.hidden_size


def mixture(**changes):
    return tiny_decoder(
        experts=Experts(**{"count": 8, "used": 2, "size": 24, "layers": (1,)} | changes)
    )


def test_one_row_reads_the_experts_that_it_uses_and_a_prompt_reads_all():
    decoder = mixture()
    expert = 3 * 48 * 24
    assert experts_read(decoder.config, 1) == 2
    assert experts_read(decoder.config, 2) == pytest.approx(8 * (1 - 0.75**2))
    assert experts_read(decoder.config, 1000) == pytest.approx(8)
    assert experts_read(tiny_decoder().config, 5) == 0
    held, one = parameters(decoder.config), weight_read_bytes(decoder.config, 1) / 4
    assert held == sum({p.data_ptr(): p.numel() for p in decoder.parameters()}.values())
    assert one == held - 6 * expert
    more = weight_read_bytes(decoder.config, 2) / 4
    assert more == pytest.approx(one + expert * (8 * (1 - 0.75**2) - 2))
    every = mixture(used=8).config
    assert weight_read_bytes(every, 1) == weight_bytes(every)


def test_the_expected_number_of_experts_is_that_of_random_routing():
    generator = torch.Generator().manual_seed(0)
    draws = torch.rand(4000, 5, 8, generator=generator).argsort(-1)[..., :2]  # five rows each
    found = sum(len(set(draw.flatten().tolist())) for draw in draws) / len(draws)
    assert experts_read(mixture().config, 5) == pytest.approx(found, rel=0.01)


def test_more_rows_read_more_of_a_mixture():
    config = mixture().config
    for rows in (1, 3, 200):
        expected = weight_read_bytes(config, rows)
        assert bytes_of_rows(config, weight_read_bytes(config, 1), rows) == pytest.approx(expected)
    assert bytes_of_rows(tiny_decoder().config, 1000, 50) == 1000


def test_prefill_and_decode_are_passes():
    config = tiny_decoder().config
    assert prefill_cost(config, 9, batch=2) == pass_cost(config, [(0, 9), (0, 9)], 2)
    assert decode_cost(config, 9, batch=2) == pass_cost(config, [(9, 1), (9, 1)], 2)


def test_a_quantized_model_reads_its_own_bytes():
    cost = decode_cost(tiny_decoder().config, 9)
    quantized = with_weights(cost, 1000)
    assert quantized.read_bytes == 1000 + cost.kv_read_bytes
    assert quantized.flops == cost.flops
    assert quantized.intensity > cost.intensity


def test_a_step_takes_the_bytes_that_are_given_and_the_configs_else():
    config = tiny_decoder().config
    plain = decode_cost(config, 50)
    kv = config.kv_bytes_per_token(4)
    assert step_cost(config, 50) == plain
    assert step_cost(config, 50, weight_bytes=plain.weight_bytes, kv_bytes_per_token=kv) == plain
    less = step_cost(config, 50, weight_bytes=1000, kv_bytes_per_token=kv / 4)
    assert less.read_bytes == 1000 + plain.kv_read_bytes / 4
    assert less.kv_write_bytes == kv / 4
    assert less.flops == plain.flops
    assert step_cost(config, 50, dtype="bfloat16") == decode_cost(config, 50, dtype="bfloat16")


def test_a_batch_reads_more_of_a_mixture_than_one_sequence():
    for config in (mixture().config, tiny_decoder().config):
        given, kv = weight_read_bytes(config, 1), config.kv_bytes_per_token(4)
        assert step_cost(config, 50, 1, weight_bytes=given).weight_bytes == given
        batch = step_cost(config, 50, 4, weight_bytes=given, kv_bytes_per_token=kv)
        plain = decode_cost(config, 50, 4)
        assert batch.weight_bytes == pytest.approx(plain.weight_bytes)
        assert (batch.kv_read_bytes, batch.flops) == (plain.kv_read_bytes, plain.flops)


@pytest.mark.parametrize(("before", "new"), [(0, 1), (0, 9), (3, 5), (5, 1), (6, 4), (20, 1)])
def test_a_window_leaves_less_to_read_and_to_compute(before, new):
    config = tiny_decoder(sliding_window=6, windowed=(True, False)).config
    cost = pass_cost(config, [(before, new)], 1)
    seen = sum(min(row + 1, 6) + row + 1 for row in range(before, before + new))
    assert cost.attention_flops == 4 * config.heads * config.head_dim * seen
    a_layer = config.kv_bytes_per_token(4) / 2
    assert cost.kv_read_bytes == (min(before, 5) + before) * a_layer
    assert step_cost(config, before, kv_bytes_per_token=2 * a_layer).kv_read_bytes == (
        (min(before, 5) + before) * a_layer
    )


def test_spans_and_layers_that_are_alike_count_as_often_as_they_are() -> None:
    config = tiny_decoder(sliding_window=6, windowed=(True, False)).config
    spans = [(3, 1), (9, 4), (3, 1), (0, 7), (3, 1)]
    whole = pass_cost(config, spans, 5)
    each = [pass_cost(config, [span], 1) for span in spans]
    for name in ("kv_read_bytes", "kv_write_bytes", "matrix_flops", "attention_flops"):
        assert getattr(whole, name) == pytest.approx(sum(getattr(one, name) for one in each))
