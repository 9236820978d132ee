"""Run in a process of its own with the sanitizers loaded: `python -m tests.sanitized FOLDER`."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import torch

from labkit.model.cache import CacheError
from labkit.model.rows import Rows
from labkit.optimize.fused import native
from labkit.optimize.fused.decoder import FusedDecoder
from labkit.optimize.fused.weights import packed
from tests.fused_helpers import logits, tiny_gguf

IDS = [(5 * n * n + n) % 97 for n in range(270)]


def main(folder: Path) -> None:
    """Every format over one and several threads; refusals must touch nothing."""
    plain_library = native.library
    sanitized = native.library("", sanitize=True)
    native.library = lambda isa="": sanitized  # type: ignore[assignment]
    cases = (("llama", "Q4_1"), ("qwen2", "Q8_0"), ("qwen3", "Q4_0"), ("llama", "Q5_0"))
    for name, kind in cases:
        file = tiny_gguf(folder / f"{name}-{kind}.gguf", name, kind)
        for threads in (1, 3):
            fused = FusedDecoder(packed(file, threads=threads))
            assert torch.equal(logits(fused, IDS), logits(fused, IDS, 7))
            cache = fused.new_cache(2, 20)
            fused(Rows.of([(0, 0, IDS[:19], True), (1, 0, IDS[:20], False)]), cache)
            streams = torch.empty(20, fused.config.hidden_size)
            fused.continued(IDS[19:20], cache, streams=streams)
            with contextlib.suppress(CacheError):
                fused.following(IDS[20], cache, slot=1)
                raise AssertionError("not refused")
            cache.truncate(0, 10)
            fused(Rows.of([(0, 10, IDS[:6], True, [-1, 0, 1, 0, 3, 1])]), cache)
            cache.keep(0, 10, [0, 3, 4])
            fused.best(Rows.of([(0, 13, IDS[:3], True)]), cache, streams)
            fused.continued(IDS[:4], cache, 0, [-1, 0, 0, 2], streams)
            cache.truncate(0, 16)
            right = [IDS[0]]
            while len(right) < 4:
                right.append(fused.following(right[-1], cache))
            for tree in ((), [-1, 0, 1, 2], [-1, 0, 1, 0]):
                cache.truncate(0, 16)
                assert fused.continued(right, cache, 0, tree, streams, True)[:2] == right[1:3]
            cache.truncate(0, 16)
            with contextlib.suppress(ValueError):
                fused.continued(IDS[:2], cache, 0, [-1, 1])
                raise AssertionError("not refused")
            fused(Rows.of([(0, 16, IDS[:3], True)]), cache)
            fused.guesses(IDS[:5], fused.new_cache(1, 5), 97, streams)
            for parts in ([(0, 19, [1, 2], True)], [(0, 19, [97], True)], [(2, 0, [1], True)]):
                with contextlib.suppress(CacheError, IndexError):
                    fused(Rows.of(parts), cache)
                    raise AssertionError("not refused")
    native.library = plain_library  # type: ignore[assignment]
    print(f"sanitized: {len(cases)} formats")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
