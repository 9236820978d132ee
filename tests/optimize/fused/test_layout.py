"""Where weights lie: every byte of the file once, each thread's in the order of a pass."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labkit.optimize.fused import FORMATS
from labkit.optimize.fused.layout import Entry, lay_out, stages
from labkit.optimize.fused.weights import PackedWeights, packed
from tests.fused_helpers import tiny_gguf


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tiny_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf", "qwen2", "Q8_0")


def from_memory(weights: PackedWeights, name: str) -> bytes:
    """A tensor's bytes, put together again from where they lie."""
    entry, location = weights.entries[name], weights.locations[name]
    if not entry.format:
        return weights.blob[location.starts[0] :][: entry.nbytes].tobytes()
    parts = []
    for start, first, count in location.shares(entry):
        assert first == len(parts)
        for group in range(count):
            at = start + group * location.stride
            parts.append(weights.blob[at : at + entry.group_bytes].tobytes())
    return b"".join(parts)


@pytest.mark.parametrize("threads", [1, 2, 3, 7, 64])
def test_all_of_the_file_is_in_memory(file, threads):
    one, weights = packed(file, threads=1), packed(file, threads=threads)
    assert weights.threads == threads
    for name in weights.entries:
        assert from_memory(weights, name) == from_memory(one, name)


def test_a_pass_reads_on_and_on(file):
    """A thread's share of a product begins where its share of the one before ends."""
    weights = packed(file, threads=2)
    order = stages(name for name, entry in weights.entries.items() if entry.format)
    assert order[0] == ("layers.0.self_attn.q_proj.weight",)
    assert order[4] == ("layers.0.mlp.gate_proj.weight", "layers.0.mlp.up_proj.weight")
    for thread in range(2):
        end = None
        for stage in order:
            held = [list(weights.locations[n].shares(weights.entries[n]))[thread] for n in stage]
            start, _, count = held[0]
            assert end is None or 0 <= start - end < 64
            end = start + count * weights.locations[stage[0]].stride


def entries(rows: st.SearchStrategy[int]) -> st.SearchStrategy[Entry]:
    """Matrices of random shapes and formats."""
    return st.builds(
        lambda rows, blocks, form: Entry(
            -(-rows // 16) * 16 * blocks * form.nbytes, rows, form.columns * blocks, form.name
        ),
        rows,
        st.integers(1, 5),
        st.sampled_from(list(FORMATS.values())),
    )


@given(
    st.lists(entries(st.integers(1, 200)), min_size=1, max_size=5),
    entries(st.integers(1, 6).map(lambda n: 32 * n)),
    st.integers(1, 9),
)
def test_nothing_overlaps(some, pair, threads):
    """Every byte belongs to one group of one matrix, within what is allocated."""
    table = {f"layers.0.mlp.{name}_proj.weight": pair for name in ("gate", "up")}
    table |= {f"matrix {number}": entry for number, entry in enumerate(some)}
    table["vector"] = Entry(100, 25)
    locations, size = lay_out(table, threads)
    taken = np.zeros(size, dtype=int)
    for name, entry in table.items():
        if not entry.format:
            taken[locations[name].starts[0] :][: entry.nbytes] += 1
            continue
        assert sum(count for _, _, count in locations[name].shares(entry)) == entry.groups
        for start, _, count in locations[name].shares(entry):
            for group in range(count):
                at = start + group * locations[name].stride
                assert at + entry.group_bytes <= size
                taken[at : at + entry.group_bytes] += 1
    assert taken.max() == 1
    assert taken.sum() == sum(entry.nbytes for entry in table.values())
