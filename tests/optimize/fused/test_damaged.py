"""A model with weights that are no numbers is refused, as the plain decoder refuses it, and never
answers with some token."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from gguf import GGMLQuantizationType

from labkit.engine.generate import generate
from labkit.errors import ModelError
from labkit.model.load import load
from labkit.model.rows import Part, Rows
from labkit.model.sampling import likeliest
from labkit.optimize.fused import FusedDecoder
from labkit.optimize.fused.pack import FORMATS
from labkit.optimize.fused.weights import packed
from labkit.optimize.speculative.head.fused import fused_head
from labkit.optimize.speculative.head.model import Head
from tests.conftest import make_reference
from tests.fused_helpers import (
    SCALES,
    SIZES,
    damaged_gguf,
    leave_alone,
    logits,
    plain_twin,
    random_blocks,
    tiny_gguf,
)
from tests.model.test_gguf_file import gguf_weights, write_gguf
from tests.optimize.fused.test_formats import RUN
from tests.tiny import whole

IDS = [(7 * n * n + 3 * n) % 97 for n in range(40)]
SPOILED = 77  # a token that no prompt here has but the one that is refused
NAN, INFINITE = float("nan"), float("inf")
# Tensors of a file, and the row that is damaged.
PLACES = [
    ("output", 5), ("output", 96), ("token_embd", IDS[2]), ("output_norm", 40),
    ("blk.0.attn_norm", 3), ("blk.1.ffn_norm", 63), ("blk.0.attn_q", 17), ("blk.1.attn_k", 9),
    ("blk.0.attn_v", 31), ("blk.1.attn_v", 0), ("blk.0.attn_output", 50), ("blk.1.ffn_gate", 95),
    ("blk.0.ffn_up", 1), ("blk.1.ffn_down", 7),
]  # fmt: skip
Damage = Callable[..., Path]


@pytest.fixture
def damaged(tmp_path: Path) -> Damage:
    """Makes a file of a tiny model in which one number of a tensor is damaged."""
    return partial(damaged_gguf, tmp_path / "tiny.gguf")


def each_pass() -> Iterator[list[Part]]:
    """Greedy passes of every kind: of one row, all rows, guesses, and several parts."""
    yield [Part(0, 0, IDS[:9])]
    yield [whole(0, 0, IDS[:9])]
    yield [whole(0, 0, IDS[:3], guesses=True)]
    yield [whole(0, 0, IDS[:3], (-1, 0, 0), guesses=True)]
    yield [Part(0, 0, IDS[:9]), Part(1, 0, IDS[:5])]


def refuses(decoder: FusedDecoder, dtype: torch.dtype = torch.float16) -> None:
    """Check that no pass is answered, and that none leaves anything in the cache."""
    for parts in each_pass():
        cache = decoder.new_cache(2, 16, dtype)
        with pytest.raises(ModelError, match=r"no numbers \(NaN\)"):
            decoder.greedy(parts, cache)
        assert [cache.length(0), cache.length(1)] == [0, 0]
        assert cache.store.values.isfinite().all()
        assert cache.store.keys.isfinite().all()


@pytest.mark.parametrize("value", [NAN, INFINITE, -INFINITE])
@pytest.mark.parametrize(("tensor", "row"), PLACES)
def test_wherever_a_number_is_damaged_the_model_is_refused(
    damaged: Damage, tensor: str, row: int, value: float
) -> None:
    file = damaged(tensor, row, value)
    plain = load(file, "cpu").decoder
    found = plain(Rows.prefill(IDS[:9]), plain.new_cache(1, 9))
    if not found.amax(-1).isfinite().all():  # of a NaN, NaN
        with pytest.raises(ModelError, match="NaN"):
            likeliest(found)
    weights = packed(file, threads=2)
    for decoder in (FusedDecoder(weights), FusedDecoder(weights, screened=False)):
        refuses(decoder)
    refuses(decoder, torch.float32)
    leave_alone(decoder, 10**6)
    refuses(decoder)


@pytest.mark.parametrize("isa", RUN)
@pytest.mark.parametrize("kind", ["Q4_1", "Q5_0", "F32"])
@pytest.mark.parametrize(("tensor", "row"), [("blk.1.ffn_up", 40), ("blk.0.attn_v", 3)])
def test_every_instruction_set_refuses(
    damaged: Damage, tensor: str, row: int, kind: str, isa: str
) -> None:
    for name in ("llama", "qwen3"):
        file = damaged(tensor, row, NAN, kind, name)
        refuses(FusedDecoder(packed(file, threads=2), isa))


@pytest.mark.parametrize(
    "name", ["qwen3-moe", "gemma3", "olmo2", "granite", "smollm3", "phi4-mini"]
)
def test_every_family_is_refused(damaged: Damage, name: str) -> None:
    """Where routers choose experts, one that is damaged is not just never chosen."""
    places = [("blk.0.attn_output", 3), ("blk.2.ffn_down", 5)]
    if name == "qwen3-moe":
        places = [("blk.0.ffn_gate_inp", 4), ("blk.2.ffn_gate_inp", 0)]
    for tensor, row in places:
        refuses(FusedDecoder(packed(damaged(tensor, row, NAN, "Q8_0", name), threads=2)))


@pytest.mark.parametrize("isa", RUN)
@pytest.mark.parametrize("name", FORMATS)
def test_a_head_of_any_format_with_one_damaged_row(tmp_path: Path, name: str, isa: str) -> None:
    """The other logits are numbers, and one of them is the largest."""
    reference = make_reference("llama", **SIZES | {"hidden_size": 256, "head_dim": 64})
    form = FORMATS[name]
    blocks = random_blocks(form, 97, 256)
    if name in ("f16", "bf16", "f32"):
        blocks[50, 0, form.nbytes // 32 - 2 :][:2] = 0xFF
    else:
        at = SCALES.get(name, (0,))[0]
        blocks[50, 0, at : at + 2] = 0xFF  # a NaN of float16
    raw = {"output.weight": (blocks.reshape(97, -1), GGMLQuantizationType[name.upper()])}
    weights = gguf_weights(reference)
    file = write_gguf(
        tmp_path / "tiny.gguf", reference, weights, GGMLQuantizationType.Q8_0, raw=raw
    )
    decoder = FusedDecoder(packed(file, threads=2), isa)
    found = logits(decoder, IDS[:9])
    assert found.isnan().sum(-1).tolist() == [1] * 9  # of the logits, those can be had
    refuses(decoder)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_a_token_that_is_refused_spoils_no_other(damaged: Damage, dtype: torch.dtype) -> None:
    decoder = FusedDecoder(packed(damaged("token_embd", SPOILED, NAN), threads=2))
    expected = list(generate(decoder, IDS[:5], 9, cache=decoder.new_cache(2, 32, dtype)))
    cache = decoder.new_cache(2, 32, dtype)
    for parts in (
        [Part(0, 0, [*IDS[:14], SPOILED])],
        [Part(0, 0, [SPOILED, *IDS[:20]], wanted=0)],
        [Part(1, 0, IDS[:9]), Part(0, 0, [*IDS[:7], SPOILED, *IDS[:9]])],
    ):
        with pytest.raises(ModelError):
            decoder.greedy(parts, cache)
        with pytest.raises(ModelError):
            decoder(Rows.of(parts), cache)
        assert [cache.length(0), cache.length(1)] == [0, 0]
        assert list(generate(decoder, IDS[:5], 9, cache=cache)) == expected
        cache.truncate(0, 0)


def test_a_damaged_draft_head_is_refused(tmp_path: Path) -> None:
    file = tiny_gguf(tmp_path / "tiny.gguf", "llama", "Q8_0")
    fused = FusedDecoder(packed(file, threads=1))
    head, features = Head.of(plain_twin(file), torch.arange(60)), torch.ones(8, 64)
    native_head = fused_head(head, fused)

    def guess() -> None:
        cache, streams = native_head.new_cache(1, 9), torch.zeros(8, 64)
        native_head.guesses(IDS[:8], cache, 3, streams, features, 0)

    guess()
    features[3, 5] = NAN
    with pytest.raises(ModelError, match="NaN"):
        guess()
    head.words[7] = NAN
    with pytest.raises(ModelError, match="lm_head.weight cannot be rounded.*NaN"):
        fused_head(head, fused)
