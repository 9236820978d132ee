"""Where packed weights lie in memory: of each thread's share one stretch, in the order of a pass.

A pass is a chain of products, and each thread takes the same part of all of them. Were every matrix
whole, a thread would leap over the others' parts from product to product, and each leap waits for
the memory anew. In a stretch of its own it reads on where it left off: the processor, which looks
some kilobytes ahead of a reader, has the next product's first lines there before the barrier is
passed. Bare reads of a model's bytes, on Zen 4 with two threads, barriers and all, against one long
read: matrix by matrix 1.24 times as long, so 1.06 times.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from labkit.optimize.fused.pack import LANES

_LINE = 64  # bytes of a cache line, at which each share begins
_STAGES = (
    *((f"self_attn.{name}_proj.weight",) for name in ("q", "k", "v", "o")),
    ("mlp.gate_proj.weight", "mlp.up_proj.weight"),  # multiplied side by side
    ("mlp.down_proj.weight",),
)
_LAYER = re.compile(r"layers\.(\d+)\.")


@dataclass(frozen=True)
class Entry:
    """Where a tensor lies in the file: a vector of floats, or a matrix of interleaved blocks."""

    offset: int
    nbytes: int
    rows: int
    columns: int = 0
    format: str = ""

    @property
    def groups(self) -> int:
        """Of sixteen rows, the last one filled up."""
        return -(-self.rows // LANES)

    @property
    def group_bytes(self) -> int:
        """Bytes of sixteen rows of a matrix."""
        return self.nbytes // self.groups


@dataclass(frozen=True)
class Place:
    """Where a matrix lies in memory: thread t's groups share * t up to share * (t + 1) from
    starts[t] on, `stride` bytes apart. A vector lies at its one start."""

    starts: tuple[int, ...]
    share: int = 0
    stride: int = 0

    def held(self, entry: Entry) -> Iterator[tuple[int, int, int]]:
        """Each thread's start, first group and number of groups."""
        for thread, start in enumerate(self.starts):
            yield start, *_part(entry.groups, self.share, thread)


def stages(names: Iterable[str]) -> list[tuple[str, ...]]:
    """Matrices in the order in which a pass reads them; those of a tuple group by group in turn.

    What no layer has comes last, but for the matrix that begins a draft head's pass.
    """
    left = dict.fromkeys(names)
    layers = sorted({int(number[1]) for name in left if (number := _LAYER.match(name))})
    wanted: list[tuple[str, ...]] = [("fuse.weight",)]
    wanted += [tuple(f"layers.{n}.{name}" for name in stage) for n in layers for stage in _STAGES]
    found = [stage for stage in wanted if all(name in left for name in stage)]
    for name in (name for stage in found for name in stage):
        del left[name]
    return found + [(name,) for name in left]


def lay_out(entries: Mapping[str, Entry], threads: int) -> tuple[dict[str, Place], int]:
    """The place of every tensor for so many threads, and the bytes of them all."""
    places: dict[str, Place] = {}
    end = 0
    for name, entry in entries.items():
        if not entry.format:
            places[name] = Place((end,))
            end += _whole_lines(entry.nbytes)
    order = stages(name for name, entry in entries.items() if entry.format)
    for thread in range(threads):
        for stage in order:
            some = [entries[name] for name in stage]
            share = _share(some[0].groups, len(stage), threads)
            stride = sum(entry.group_bytes for entry in some)
            start = end
            for name, entry in zip(stage, some, strict=True):
                before = places[name].starts if thread else ()
                places[name] = Place((*before, start), share, stride)
                start += entry.group_bytes
            _, held = _part(some[0].groups, share, thread)
            end += _whole_lines(held * stride)
    return places, end


def _whole_lines(nbytes: int) -> int:
    return -(-nbytes // _LINE) * _LINE


def _part(groups: int, share: int, thread: int) -> tuple[int, int]:
    """A thread's first group and how many it has; those past the last have none."""
    first = min(thread * share, groups)
    return first, min(share, groups - first)


def _share(groups: int, together: int, threads: int) -> int:
    """Groups of a thread. Two matrices side by side give a block of 32: two groups of each."""
    return -(-groups // (together * threads)) * together
