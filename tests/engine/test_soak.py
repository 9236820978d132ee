"""The soak on a tiny model: nothing lost, doubled, wrong or leaked; and what it would find."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from labkit.engine.soak import asked_of, soak
from labkit.engine.soak_worker import ANSWERS, BLOCKS, JOURNAL, Asked, ended
from labkit.errors import LabkitError
from tests.engine.served_helpers import prompt
from tests.fused_helpers import tiny_gguf

PROMPTS = [prompt(n % 5, 3 + 7 * (n % 9), 20) for n in range(60)]


@pytest.fixture
def asked(tmp_path: Path) -> Asked:
    file = tiny_gguf(tmp_path / "tiny.gguf", "llama", "Q4_1")
    return asked_of(
        PROMPTS, 8, slots=4, decoder="labkit.optimize.fused:load_fused", model=str(file),
        weights="as-is", threads=1,
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


def test_nothing_is_lost_wrong_or_leaked(asked: Asked, folder: Path) -> None:
    found = soak(asked, folder, kills=2)
    assert found.faults == []
    ends = sum(found.counts[name] for name in ("length", "cancelled"))
    assert ends == len(PROMPTS)
    assert found.counts["answers kept"] > 0
    assert found.counts["blocks on disk"] > 0
    assert "nothing lost" in str(found)


def judged_after(asked: Asked, folder: Path, change) -> list[str]:
    """The faults of a run whose files were changed before it was judged."""
    soak(asked, folder, kills=0)
    change(folder)
    return soak(asked, folder, kills=0).faults


def rewritten(folder: Path, change) -> None:
    lines = [json.dumps(change(line)) for line in ended(folder)]
    (folder / JOURNAL).write_text("\n".join([*lines, ""]))


def test_a_wrong_answer_is_found(asked: Asked, folder: Path) -> None:
    def change(line):
        if line.get("number") == 7:
            line |= {"finish": "length", "tokens": []}
        return line

    assert judged_after(asked, folder, lambda at: rewritten(at, change)) == [
        "request 7: not the answer alone"
    ]


def test_an_answer_that_came_twice_is_found(asked: Asked, folder: Path) -> None:
    def twice(at: Path) -> None:
        lines = (at / JOURNAL).read_text().splitlines()
        line = next(line for line in lines if '"number": 3,' in line)
        (at / JOURNAL).write_text("\n".join([*lines, line, ""]))

    assert "request 3 ended 2 times" in judged_after(asked, folder, twice)


def test_a_damaged_block_is_found(asked: Asked, folder: Path) -> None:
    def damage(at: Path) -> None:
        for file in (at / BLOCKS).rglob("*.block"):
            file.write_bytes(file.read_bytes()[:-1])

    assert any("damaged" in fault for fault in judged_after(asked, folder, damage))


def test_a_damaged_file_of_answers_is_found(asked: Asked, folder: Path) -> None:
    def damage(at: Path) -> None:
        (at / ANSWERS).write_bytes(b"no database" * 1000)

    assert any("warned" in fault for fault in judged_after(asked, folder, damage))


def test_a_worker_that_fails_is_told(asked: Asked, folder: Path) -> None:
    broken = Asked(**(vars(asked) | {"model": "nowhere.gguf"}))
    with pytest.raises(LabkitError, match="the worker ended with 1"):
        soak(broken, folder, kills=0)
