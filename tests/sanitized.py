"""Run in a process of its own with the sanitizers loaded: `python -m tests.sanitized FOLDER`."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import torch

from labkit.errors import ModelError
from labkit.model.cache.protocol import CacheError
from labkit.model.rows import Part, Rows
from labkit.optimize.fused import native
from labkit.optimize.fused.decoder import FusedDecoder
from labkit.optimize.fused.pack import FORMATS
from labkit.optimize.fused.weights import packed
from labkit.optimize.speculative.head.fused import fused_head
from labkit.optimize.speculative.head.model import Head
from tests.fused_helpers import (
    damaged_gguf,
    leave_alone,
    logits,
    mixed_gguf,
    plain_twin,
    tiny_gguf,
)
from tests.paged_helpers import scattered
from tests.tiny import whole

IDS = [(5 * n * n + n) % 97 for n in range(270)]
# Of the later ones none has a screen: a tiny random model repeats tokens, and the tree below would
# have two children with one token, of which a screened pass follows one.
CASES = (
    ("llama", "Q4_1"), ("qwen2", "Q8_0"), ("qwen3", "Q4_0"), ("llama", "Q5_0"),
    ("gemma3", "Q4_1"), ("olmo2", "Q4_0"), ("phi4-mini", "Q4_1"),
    ("qwen3-moe", "Q4_1"),
)  # fmt: skip
MIXED = [name for name in FORMATS if name not in ("q4_0", "q4_1", "q8_0", "q5_0")]


def main(folder: Path) -> None:
    """Every format over one and several threads; refusals must touch nothing."""
    plain_library = native.library
    sanitized = native.library("", sanitize=True)
    native.library = lambda isa="": sanitized  # type: ignore[assignment]
    for name, kind in CASES:
        file = tiny_gguf(folder / f"{name}-{kind}.gguf", name, kind)
        for threads in (1, 3):
            fused = FusedDecoder(packed(file, threads=threads))
            assert torch.equal(logits(fused, IDS), logits(fused, IDS, 7))
            passes(fused)
            leave_alone(fused, 10**6)
            passes(fused)
            leave_alone(fused, 0)
            spans(fused)
            if threads == 3:
                paged(fused)
            if threads == 1 and not fused.config.experts:
                drafts(fused, Head.of(plain_twin(file), torch.arange(60)))
    for number in range(2):  # every format in another matrix
        file = mixed_gguf(folder / f"mixed-{number}.gguf", MIXED[number:] + MIXED[:number])
        fused = FusedDecoder(packed(file, threads=2))
        assert torch.equal(logits(fused, IDS[:40]), logits(fused, IDS[:40], 7))
    damaged(folder)
    native.library = plain_library
    print(f"sanitized: {len(FORMATS)} formats")


def passes(fused: FusedDecoder) -> None:
    """Chains, trees, guesses right and wrong, and what is refused."""
    cache = fused.new_cache(2, 20)
    fused(Rows.of([whole(0, 0, IDS[:19]), Part(1, 0, IDS[:20])]), cache)
    streams = torch.empty(20, fused.config.hidden_size)
    fused.greedy([Part(0, 19, IDS[19:20], streams=streams[19:])], cache)
    with contextlib.suppress(CacheError):
        fused.greedy([Part(1, 20, IDS[20:21])], cache)
        raise AssertionError("not refused")
    cache.truncate(0, 10)
    fused(Rows.of([whole(0, 10, IDS[:6], [-1, 0, 1, 0, 3, 1])]), cache)
    cache.keep(0, 10, [0, 3, 4])
    fused(Rows.of([whole(0, 13, IDS[:3])]), cache)
    fused.greedy([whole(0, 16, IDS[:4], [-1, 0, 0, 2], streams=streams)], cache)
    cache.truncate(0, 16)
    cache.truncate(1, 5)
    both = [whole(0, 16, IDS[:3], [-1, 0, 0], streams=streams), whole(1, 5, IDS[:9])]
    fused.greedy(both, cache)
    cache.truncate(0, 16)
    right = [IDS[0]]
    while len(right) < 4:
        (tokens,) = fused.greedy([Part(0, 15 + len(right), right[-1:])], cache)
        right += tokens
    for tree in ((), [-1, 0, 1, 2], [-1, 0, 1, 0]):
        cache.truncate(0, 16)
        (found,) = fused.greedy([whole(0, 16, right, tree, guesses=True, streams=streams)], cache)
        assert found[:2] == right[1:3]
    cache.truncate(0, 16)
    with contextlib.suppress(ValueError):
        fused.greedy([whole(0, 16, IDS[:2], [-1, 1])], cache)
        raise AssertionError("not refused")
    fused(Rows.of([whole(0, 16, IDS[:3])]), cache)
    for refused in (whole(0, 19, [1, 2]), whole(0, 19, [97]), whole(2, 0, [1])):
        with contextlib.suppress(CacheError, IndexError):
            fused(Rows.of([refused]), cache)
            raise AssertionError("not refused")


def spans(fused: FusedDecoder) -> None:
    """Embeddings, and rows that see each other, across the borders of slices and chunks."""
    cache = fused.new_cache(3, 260)
    given = torch.randn(128, fused.config.hidden_size)
    parts = [
        whole(0, 0, IDS[:100]),
        whole(1, 0, [0] * 128, embeddings=given, causal=False),
        whole(2, 0, IDS[:9], [-1, 0, 0, 1, 2, 4, 3, 6, 6], embeddings=given[:9]),
    ]
    fused(Rows.of(parts), cache)
    fused.greedy([whole(1, 128, IDS[:128], causal=False)], cache)
    with contextlib.suppress(CacheError):
        fused(Rows.of([whole(0, 100, IDS[:129], causal=False)]), cache)
        raise AssertionError("not refused")


def damaged(folder: Path) -> None:
    """What is no number is found without a conversion of it to a whole one."""
    for tensor, row in (("output", 3), ("blk.0.ffn_up", 7), ("blk.0.attn_v", 1)):
        file = damaged_gguf(folder / f"{tensor}.gguf", tensor, row, float("nan"))
        fused = FusedDecoder(packed(file, threads=2))
        for parts in ([Part(0, 0, IDS[:40])], [whole(0, 0, IDS[:40])]):
            with contextlib.suppress(ModelError):
                fused.greedy(parts, fused.new_cache(1, 40))
                raise AssertionError("not refused")


def paged(fused: FusedDecoder) -> None:
    """Blocks in any order to the end of the memory, shared, copied, and a table that lies."""
    cache = scattered(fused.new_paged_cache(3, 22))
    fused(Rows.of([whole(0, 0, IDS[:9]), Part(1, 0, IDS[:140])]), cache)
    cache.fork(1)
    fused(Rows.of([whole(1, 140, IDS[:6], [-1, 0, 1, 0, 3, 1]), Part(2, 140, [3])]), cache)
    cache.keep(1, 140, [0, 3, 4])
    with contextlib.suppress(CacheError):
        fused.greedy([Part(2, 141, IDS[:200])], cache)
        raise AssertionError("not refused")
    cache.release(0)
    fused.greedy([whole(1, 143, IDS[:3], causal=False)], cache)
    cache.store.point(2, 3, 22)
    with contextlib.suppress(CacheError):
        fused.greedy([Part(2, 141, [5])], cache)
        raise AssertionError("not refused")


def drafts(fused: FusedDecoder, head: Head) -> None:
    """A draft head on the target's engine, in turn with it."""
    native_head = fused_head(head, fused)
    cache, own = native_head.new_cache(1, 9), torch.zeros(8, fused.config.hidden_size)
    features = torch.randn(8, fused.config.hidden_size)
    native_head.guesses(IDS[:8], cache, 60, own, features, 0)
    fused.greedy([Part(0, 0, IDS[:3])], fused.new_cache(1, 3))
    native_head.guesses(IDS[8:9], cache, 3, own, own, 7)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
