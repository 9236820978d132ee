"""One hash: equal in every way for a decoder that keeps its bits, told where it ends for others."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from torch import Tensor

from labkit.engine import one_hash_ways
from labkit.engine.one_hash import digest_of, first_difference, main, one_hash
from labkit.engine.one_hash_ways import Answer, KnownText, Questions
from labkit.errors import ParameterError
from labkit.optimize.fused import FusedDecoder, load_fused
from tests.engine.served_helpers import prompt
from tests.fused_helpers import tiny_gguf
from tests.tiny import save_tiny_model

PROMPTS = [prompt(n, length, 20) for n, length in enumerate((1, 16, 17, 40, 33, 70, 2, 48))]


def test_every_way_gives_one_hash(tmp_path: Path) -> None:
    file = tiny_gguf(tmp_path / "tiny.gguf", "llama", "Q4_1")
    decoders = [(f"{n} threads", load_fused(file, threads=n)) for n in (1, 2)]
    lines = list(one_hash(decoders, PROMPTS, 6, batches=(2, 5)))
    assert [line.ends for line in lines] == [""] * len(lines)
    assert {line.digest for line in lines} == {lines[0].digest}
    names = {line.way.rpartition(",")[0] for line in lines}
    assert names >= {"alone", "in batches of 5", "every chunk size", "cold", "hit on disk"}
    assert len(lines) == 2 * (1 + 2 + 8)
    hits = {line.way: line.fact for line in lines if line.fact}
    tokens = sum(map(len, PROMPTS))
    shared = sum((len(one) - 1) // 16 * 16 for one in PROMPTS)
    assert len(hits) == 4
    for way, fact in hits.items():
        assert fact.startswith(f"{shared / tokens:.0%} of the prompts' tokens were hits")
        assert (", 0 tokens read from disk" in fact, "from disk" in fact) == (False, "disk" in way)


class Variant:
    """A decoder whose bits depend on how many rows share a pass."""

    def __init__(self, inner: FusedDecoder) -> None:
        self.inner, self.config = inner, inner.config
        self.new_cache, self.new_paged_cache = inner.new_cache, inner.new_paged_cache

    def __call__(self, rows, cache) -> Tensor:
        return self.inner(rows, cache) * (1 + 1e-7 * (len(rows.spans) > 2))


def test_where_it_ends_is_told(tiny_fused: FusedDecoder) -> None:
    ways = ["in batches of 2", "in batches of 4"]
    lines = list(one_hash([("x", Variant(tiny_fused))], PROMPTS, 6, (2, 4), ways))
    assert [line.ends for line in lines[:2]] == ["", ""]
    assert "answers, the first of them answer 0 from token" in lines[2].ends
    assert lines[2].digest != lines[0].digest
    assert "differs: " in str(lines[2])


def test_a_difference_has_its_place() -> None:
    one = [Answer((1, 2), (b"a", b"b")), Answer((1, 2), (b"c", b"d"))]
    other = [one[0], Answer((1, 2), (b"c", b"x"))]
    assert first_difference(one, one) == ""
    told = first_difference(one, other)
    assert told == "1 of 2 answers, the first of them answer 1 from token 1 on"
    assert digest_of(one) != digest_of(other)


def test_drafts_are_accepted_in_part(tiny_fused: FusedDecoder) -> None:
    asked = Questions(tiny_fused, PROMPTS, 12)
    known = asked.alone()
    for tree in (False, True):
        engine = asked.engine()
        text = [*PROMPTS[3], *known[3].tokens]
        draft = KnownText(text, 97, tree, 3)
        ((answer, _),) = asked.served(engine, [3], draft=lambda _, draft=draft: draft)
        assert answer == known[3]
        answered = [record for record in engine.records if record.decode]
        assert 1 < len(answered) < 12  # some were accepted, not all


def test_neighbours_are_cancelled_and_others_preempted(tiny_fused, monkeypatch) -> None:
    asked, made = Questions(tiny_fused, PROMPTS, 6), []
    monkeypatch.setattr(
        one_hash_ways, "BatchEngine",
        lambda *args, make=one_hash_ways.BatchEngine, **more: made.append(make(*args, **more))
        or made[-1],
    )  # fmt: skip
    one_hash_ways.preempted(asked)
    assert sum(len(record.preempted) for record in made[0].records) == len(PROMPTS) * 5
    one_hash_ways.neighbours_cancelled(asked)
    served = {one.request for record in made[1].records for one in record.rows}
    assert max(served) >= len(PROMPTS)


def test_unknown_ways_are_refused(tiny_fused: FusedDecoder) -> None:
    with pytest.raises(ParameterError, match="unknown ways: .'colder'.; allowed are in batches of"):
        list(one_hash([("x", tiny_fused)], PROMPTS, 2, only=["colder"]))


def test_the_command(tmp_path: Path) -> None:
    folder = str(save_tiny_model(tmp_path))
    given = ["--model", folder, "--answers", "4", "--prompt-tokens", "40", "--new-tokens", "3"]
    how = ["--weights", "q8_0", "--threads", "1", "--batches", "3"]
    how += ["--ways", "in batches of 3; cold"]
    result = CliRunner().invoke(main, [*given, *how])
    assert result.exit_code == 0, result.output
    lines = [line for line in result.output.splitlines() if " equal" in line or "hash" in line]
    assert [line[:16].strip() for line in lines[:3]] == [
        "alone, 1 thread", "in batches of 3,", "cold, 1 thread",
    ]  # fmt: skip
    assert lines[-1].startswith("one hash: ")
    result = CliRunner().invoke(main, [*given, "--batches", "0"])
    assert result.exit_code == 2
    assert "allowed are numbers from 1 on" in result.output
