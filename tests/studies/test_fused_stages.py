"""Where a fused pass spends its time: parts that add up, and a decoder left as it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from labkit.model.rows import Rows
from labkit.optimize.fused import FusedDecoder, available, load_fused
from labkit.studies.fused_stages import CALL, REST, parts, row_seconds, stage_seconds
from tests.tiny import save_tiny_model

IDS = list(range(100, 130))


@pytest.fixture(scope="module")
def fused(tmp_path_factory: pytest.TempPathFactory) -> FusedDecoder:
    if reason := available():
        pytest.skip(reason)
    folder: Path = save_tiny_model(tmp_path_factory.mktemp("model"))
    return load_fused(folder, "q8_0")


def test_a_part_is_what_a_pass_without_it_saves() -> None:
    median = {"whole": 10.0, "products": 3.0, "head": 8.0, "attention": 9.0,
              "norms and quantization": 9.5, "everything": 0.4}  # fmt: skip
    found = parts(median)
    assert found == pytest.approx(
        {"layer products": 5.0, "head": 2.0, "attention": 1.0, "norms and quantization": 0.5,
         CALL: 0.4, REST: 1.1}
    )  # fmt: skip
    assert sum(found.values()) == pytest.approx(10.0)


def test_a_stage_that_saves_nothing_counts_for_nothing_and_the_rest_may_be_negative() -> None:
    median = {"whole": 10.0, "products": 0.5, "head": 9.0, "attention": 10.5,
              "norms and quantization": 9.0, "everything": 0.5}  # fmt: skip
    found = parts(median)
    assert found["attention"] == 0
    assert found[REST] == pytest.approx(-1.0)
    assert sum(found.values()) == pytest.approx(10.0)


def test_timing_leaves_the_decoder_as_it_was(fused: FusedDecoder) -> None:
    rows = Rows.prefill(IDS)
    before = fused(rows, fused.new_cache(1, len(IDS)))
    stages = stage_seconds(fused, IDS, repeats=2)
    taken = row_seconds(fused, IDS, [1, 3], repeats=2)
    assert list(taken) == [1, 3]
    assert list(stages)[-2:] == [CALL, REST]
    assert fused(rows, fused.new_cache(1, len(IDS))).equal(before)


def test_a_pass_that_fails_leaves_no_stage_out_afterwards(fused: FusedDecoder) -> None:
    from labkit.studies.fused_stages import pass_seconds

    cache = fused.new_cache(1, 4)
    with pytest.raises(IndexError):
        pass_seconds(fused, cache, Rows.prefill([10**6]), skip=1)
    assert fused.skip == 0
    assert cache.length(0) == 0
