"""Prefixes that outlive a process: read from disk, they have the bits of computed ones."""

from __future__ import annotations

from array import array
from pathlib import Path
from typing import Any

import pytest
import torch

from labkit.engine.disk_blocks import DiskBlocks
from labkit.engine.prefix import PrefixCache, PrefixKey
from labkit.engine.prefix_key import block_names
from labkit.model.rows import Rows
from labkit.optimize.fused import FusedDecoder, load_fused
from tests.engine.test_disk_blocks import FASTER, flipped
from tests.fused_helpers import logits, tiny_gguf
from tests.paged_helpers import scattered
from tests.tiny import whole

IDS = [(7 * n * n + 3 * n) % 97 for n in range(300)]


@pytest.fixture(scope="module")
def fused(tmp_path_factory: Any) -> FusedDecoder:
    file = tiny_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf", "llama", "Q4_1")
    return load_fused(file, threads=2)


def served(fused: FusedDecoder, folder: Path, dtype: torch.dtype, ids: list[int]) -> Any:
    """As a fresh process serves a prompt: what came from disk, and the logits of the rest."""
    cache = scattered(fused.new_paged_cache(1, 14, dtype))
    tier = DiskBlocks(folder, cache.store.layout, FASTER)
    prefix = PrefixCache(cache, PrefixKey("tiny", "0"), tier)
    found = prefix.match(ids)
    cache.adopt(0, found, 16 * len(found))
    out = fused(Rows.of([whole(0, 16 * len(found), ids[16 * len(found) :])]), cache)
    prefix.publish(0, ids)
    cache.check()
    prefix.check()
    assert prefix.save(1) <= 1
    prefix.save()
    assert prefix.save() == 0
    return prefix.counts.from_disk, out


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_a_prefix_from_disk_has_the_bits_of_one_that_was_computed(
    fused: FusedDecoder, tmp_path: Path, dtype: torch.dtype
) -> None:
    cache = fused.new_cache(1, 300, dtype)
    expected = fused(Rows.of([whole(0, 0, IDS[:200])]), cache)
    assert served(fused, tmp_path, dtype, IDS[:200])[0] == 0
    from_disk, out = served(fused, tmp_path, dtype, IDS[:200])
    assert from_disk == 192
    assert torch.equal(out, expected[192:])
    other = [*IDS[:64], *IDS[100:150]]
    from_disk, out = served(fused, tmp_path, dtype, other)
    assert from_disk == 64
    if dtype is torch.float16:
        assert torch.equal(out, logits(fused, other)[64:])


def test_a_damaged_block_ends_the_match_and_is_computed(
    fused: FusedDecoder, tmp_path: Path
) -> None:
    served(fused, tmp_path, torch.float16, IDS[:100])
    files = sorted(tmp_path.glob("*/*.block"))
    assert len(files) == 6
    for path in files[::2]:
        path.write_bytes(flipped(path.read_bytes()))
    with pytest.warns(RuntimeWarning, match="made again when needed"):
        from_disk, out = served(fused, tmp_path, torch.float16, IDS[:100])
    assert torch.equal(out, logits(fused, IDS[:100])[from_disk:])


def test_more_on_disk_than_fits_in_memory_is_read_as_far_as_it_fits(
    fused: FusedDecoder, tmp_path: Path
) -> None:
    served(fused, tmp_path, torch.float16, IDS[:200])
    cache = scattered(fused.new_paged_cache(2, 6))
    tier = DiskBlocks(tmp_path, cache.store.layout, FASTER)
    prefix = PrefixCache(cache, PrefixKey("tiny", "0"), tier)
    cache.extend(1, 16)
    assert len(prefix.match(IDS[:200])) == 5
    cache.check()
    prefix.check()
    assert cache.room == 5


def test_a_whole_file_of_another_length_is_computed_again(
    fused: FusedDecoder, tmp_path: Path
) -> None:
    """Its checksum and its history are right: somebody else wrote it."""
    served(fused, tmp_path, torch.float16, IDS[:100])
    tier = DiskBlocks(tmp_path, fused.new_paged_cache(1, 1).store.layout, FASTER)
    key = PrefixKey("tiny", "0")
    for block in list(block_names(IDS[:100], key))[1:2]:
        tier.put(block.name, key.encoded() + array("q", IDS[:32]).tobytes(), b"short")
    from_disk, out = served(fused, tmp_path, torch.float16, IDS[:100])
    assert from_disk == 16
    assert torch.equal(out, logits(fused, IDS[:100])[16:])
    assert served(fused, tmp_path, torch.float16, IDS[:100])[0] == 96
