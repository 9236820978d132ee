"""The soak on a tiny model: nothing lost, doubled, wrong or leaked; and what it would find."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from labkit.engine.soak import Soaked, asked_of, judge, soak
from labkit.engine.soak_worker import ANSWERS, BLOCKS, JOURNAL, Asked, ended
from labkit.errors import LabkitError
from tests.engine.served_helpers import prompt
from tests.fused_helpers import tiny_gguf

PROMPTS = [prompt(n % 5, 3 + 7 * (n % 9), 20) for n in range(60)]


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Asked:
    file = tiny_gguf(tmp_path_factory.mktemp("model") / "tiny.gguf", "llama", "Q4_1")
    return asked_of(
        PROMPTS, 8, slots=4, decoder="labkit.optimize.fused:load_fused", model=str(file),
        weights="as-is", threads=1,
    )  # fmt: skip


@pytest.fixture(scope="module")
def soaked(asked: Asked, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Soaked]:
    """A run whose worker was killed once, and what was found in it."""
    folder = tmp_path_factory.mktemp("run")
    return folder, soak(asked, folder, kills=1)


def test_nothing_is_lost_wrong_or_leaked(soaked: tuple[Path, Soaked]) -> None:
    _, found = soaked
    assert found.faults == []
    ends = sum(found.counts[name] for name in ("length", "cancelled"))
    assert ends == len(PROMPTS)
    assert found.counts["answers kept"] > 0
    assert found.counts["blocks on disk"] > 0
    assert "nothing lost" in str(found)


@pytest.fixture
def folder(soaked: tuple[Path, Soaked], tmp_path: Path) -> Path:
    """A copy of the run's folder, to be damaged."""
    return Path(shutil.copytree(soaked[0], tmp_path / "run"))


def faults_after(asked: Asked, folder: Path, change: Callable[[Path], None]) -> list[str]:
    """The faults of a run whose files were changed before it was judged."""
    change(folder)
    return judge(asked, folder, Soaked()).faults


def rewritten(folder: Path, change) -> None:
    lines = [json.dumps(change(line)) for line in ended(folder)]
    (folder / JOURNAL).write_text("\n".join([*lines, ""]))


def test_a_wrong_answer_is_found(asked: Asked, folder: Path) -> None:
    def change(line):
        if line.get("number") == 7:
            line |= {"finish": "length", "tokens": []}
        return line

    assert faults_after(asked, folder, lambda at: rewritten(at, change)) == [
        "request 7: not the answer alone"
    ]


def test_an_answer_that_came_twice_is_found(asked: Asked, folder: Path) -> None:
    def twice(at: Path) -> None:
        lines = (at / JOURNAL).read_text().splitlines()
        line = next(line for line in lines if '"number": 3,' in line)
        (at / JOURNAL).write_text("\n".join([*lines, line, ""]))

    assert "request 3 ended 2 times" in faults_after(asked, folder, twice)


def test_a_damaged_block_is_found(asked: Asked, folder: Path) -> None:
    def damage(at: Path) -> None:
        for file in (at / BLOCKS).rglob("*.block"):
            file.write_bytes(file.read_bytes()[:-1])

    assert any("damaged" in fault for fault in faults_after(asked, folder, damage))


def test_a_damaged_file_of_answers_is_found(asked: Asked, folder: Path) -> None:
    def damage(at: Path) -> None:
        (at / ANSWERS).write_bytes(b"no database" * 1000)

    assert any("warned" in fault for fault in faults_after(asked, folder, damage))


def test_a_worker_that_fails_is_told(asked: Asked, tmp_path: Path) -> None:
    broken = Asked(**(vars(asked) | {"model": "nowhere.gguf"}))
    with pytest.raises(LabkitError, match="the worker ended with 1"):
        soak(broken, tmp_path, kills=0)
