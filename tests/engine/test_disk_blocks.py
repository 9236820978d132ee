"""The disk tier: restarts, damage, foreign files, full disks, and two processes in one folder."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import pytest

from labkit.base.paths import project_root
from labkit.engine.disk_blocks import BreakEven, DiskBlocks, read_rate
from labkit.errors import ParameterError

FASTER = BreakEven(kv_bytes=1000, prefill_rate=1000, read_rate=1e8)
NAME, HISTORY = b"n" * 32, b"key and tokens"


def opened(folder: Path, **more: Any) -> DiskBlocks:
    """A tier that must not warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return DiskBlocks(folder, "a layout", FASTER, **more)


def file_of(tier: DiskBlocks, name: bytes = NAME) -> Path:
    return tier.folder / f"{name.hex()}.block"


def test_what_was_put_is_there_after_a_restart(tmp_path: Path) -> None:
    opened(tmp_path).put(NAME, HISTORY, b"content")
    tier = opened(tmp_path)
    assert tier.get(NAME, HISTORY) == b"content"
    assert tier.get(b"m" * 32, HISTORY) is None
    assert tier.nbytes == file_of(tier).stat().st_size
    assert tier.off is None


def test_another_history_under_the_name_is_not_believed(tmp_path: Path) -> None:
    tier = opened(tmp_path)
    tier.put(NAME, HISTORY, b"content")
    assert tier.get(NAME, b"other tokens") is None
    tier.put(NAME, b"other tokens", b"other")
    assert tier.get(NAME, b"other tokens") == b"other"
    assert tier.get(NAME, HISTORY) is None


def test_another_layout_has_files_of_its_own(tmp_path: Path) -> None:
    opened(tmp_path).put(NAME, HISTORY, b"content")
    assert DiskBlocks(tmp_path, "another layout", FASTER).get(NAME, HISTORY) is None


def cut(whole: bytes) -> bytes:
    return whole[:-1]


def flipped(whole: bytes) -> bytes:
    return whole[:-3] + bytes([whole[-3] ^ 1]) + whole[-2:]


@pytest.mark.parametrize(
    "damage",
    [cut, flipped, lambda whole: b"", lambda whole: b"PK\3\4 a zip file", lambda whole: whole[:20],
     lambda whole: whole + b"0", lambda whole: whole[1:]],
)  # fmt: skip
def test_a_damaged_file_is_set_aside_and_made_again(tmp_path: Path, damage: Any) -> None:
    tier = opened(tmp_path)
    tier.put(NAME, HISTORY, b"content")
    file_of(tier).write_bytes(damage(file_of(tier).read_bytes()))
    with pytest.warns(RuntimeWarning, match="is damaged or no block of this cache: moved to"):
        assert tier.get(NAME, HISTORY) is None
    assert not file_of(tier).exists()
    assert (tier.folder / "set-aside" / file_of(tier).name).exists()
    tier.put(NAME, HISTORY, b"content")
    assert tier.get(NAME, HISTORY) == b"content"
    assert tier.off is None


def test_a_whole_file_of_another_layout_is_set_aside(tmp_path: Path) -> None:
    tier, other = opened(tmp_path), DiskBlocks(tmp_path, "another layout", FASTER)
    other.put(NAME, HISTORY, b"content")
    os.replace(file_of(other), file_of(tier))
    with pytest.warns(RuntimeWarning, match="no block of this cache"):
        assert tier.get(NAME, HISTORY) is None


def test_a_whole_file_under_another_name_gives_nothing(tmp_path: Path) -> None:
    tier = opened(tmp_path)
    tier.put(NAME, HISTORY, b"content")
    os.replace(file_of(tier), file_of(tier, b"m" * 32))
    assert tier.get(b"m" * 32, b"another history") is None


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_full_disk_turns_the_tier_off_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    tier = opened(tmp_path)
    tier.put(NAME, HISTORY, b"content")

    def full(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("labkit.engine.disk_blocks.os.replace", full)
    with pytest.warns(RuntimeWarning, match=f"is off: .* cannot be written .{os.strerror(code)}"):
        tier.put(b"m" * 32, HISTORY, b"more")
    assert tier.off is not None
    assert tier.get(NAME, HISTORY) is None
    tier.put(b"m" * 32, HISTORY, b"more")  # says nothing a second time
    monkeypatch.undo()
    assert opened(tmp_path).get(NAME, HISTORY) == b"content"
    assert len(list(tier.folder.glob("*"))) == 2  # the block and the folder for damaged ones


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_disk_that_is_full_while_a_file_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tier = opened(tmp_path)
    real = os.fdopen

    def onto_a_full_disk(handle: int, mode: str) -> Any:
        os.dup2(os.open("/dev/full", os.O_WRONLY), handle)
        return real(handle, mode)

    monkeypatch.setattr("labkit.engine.disk_blocks.os.fdopen", onto_a_full_disk)
    with pytest.warns(RuntimeWarning, match="No space left on device"):
        tier.put(NAME, HISTORY, b"content" * 10000)
    assert [path.name for path in tier.folder.glob("*")] == ["set-aside"]


def test_a_folder_that_cannot_be_made_is_no_reason_to_fail(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.warns(RuntimeWarning, match="cannot be used"):
        tier = DiskBlocks(tmp_path / "file" / "folder", "a layout", FASTER)
    tier.put(NAME, HISTORY, b"content")
    assert tier.get(NAME, HISTORY) is None


def test_the_break_even_is_told_before_the_tier_is_used(tmp_path: Path) -> None:
    even = BreakEven(kv_bytes=23_040, prefill_rate=1_500, read_rate=1e9)
    assert str(even) == (
        "A token has 23 kB of keys and values. A prefill computes 1,500 tokens a second. The disk, "
        "which reads 1 GB/s, gives 43,403 tokens a second, 29 times as many. It breaks even at "
        "34.6 MB/s."
    )
    slow = BreakEven(kv_bytes=23_040, prefill_rate=1_500, read_rate=3e7)
    with pytest.warns(RuntimeWarning, match="slower than computing. A token has 23 kB"):
        tier = DiskBlocks(tmp_path / "never", "a layout", slow)
    tier.put(NAME, HISTORY, b"content")
    assert not (tmp_path / "never").exists()


def test_a_disks_rate_is_measured_and_nothing_is_left(tmp_path: Path) -> None:
    assert read_rate(tmp_path, 2**20) > 0
    assert list(tmp_path.iterdir()) == []


def test_the_files_used_longest_ago_make_room(tmp_path: Path) -> None:
    tier = opened(tmp_path, limit=5000)
    names = [bytes([n]) * 32 for n in range(5)]
    for number, name in enumerate(names[:4]):
        tier.put(name, HISTORY, bytes(1000))
        os.utime(file_of(tier, name), (time.time() - 100 + number,) * 2)
    assert tier.get(names[0], HISTORY) is not None  # used now
    tier.put(names[4], HISTORY, bytes(1000))
    left = [name for name in names if file_of(tier, name).exists()]
    assert left == [names[0], *names[2:]]
    assert tier.nbytes == sum(file_of(tier, name).stat().st_size for name in left) <= 5000
    tier.put(b"x" * 32, HISTORY, bytes(6000))  # larger than all that may be
    assert not file_of(tier, b"x" * 32).exists()


def test_files_of_another_process_count_too(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("labkit.engine.disk_blocks._RESCAN", 1)
    one, other = opened(tmp_path, limit=5000), opened(tmp_path, limit=5000)
    for number in range(8):
        (one, other)[number % 2].put(bytes([number]) * 32, HISTORY, bytes(1000))
    assert sum(path.stat().st_size for path in one.folder.glob("*.block")) <= 5000


def test_halves_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    tier = opened(tmp_path)
    old, new = tier.folder / ".old", tier.folder / ".new"
    for path in (old, new):
        path.write_bytes(b"half a file")
    os.utime(old, (time.time() - 7200,) * 2)
    opened(tmp_path)
    assert (old.exists(), new.exists()) == (False, True)


PROCESS = """
import sys, warnings
warnings.simplefilter("error")
from pathlib import Path
from tests.engine.test_disk_blocks import HISTORY, opened
tier = opened(Path(sys.argv[1]), limit=int(sys.argv[2]))
for turn in range(150):
    name = bytes([turn % 30]) * 32
    content = bytes([turn % 30]) * 20000
    found = tier.get(name, HISTORY)
    assert found in (None, content)
    tier.put(name, HISTORY, content)
print(tier.off)
"""


def test_processes_that_share_a_folder_lose_nothing(tmp_path: Path) -> None:
    """Four write and read the same names at once, two of them with too little room for all."""
    env = os.environ | {"PYTHONPATH": str(project_root())}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, tmp_path, str(limit)],
            env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for limit in (10**9, 10**9, 300_000, 300_000)
    ]  # fmt: skip
    for process in started:
        out, err = process.communicate(timeout=120)
        assert (process.returncode, out.strip()) == (0, "None"), err[-2000:]
    tier = opened(tmp_path)
    for path in tier.folder.glob("*.block"):
        name = bytes.fromhex(path.stem)
        assert tier.get(name, HISTORY) == name[:1] * 20000
    assert not list(tier.folder.glob(".*"))


def test_a_process_that_is_killed_leaves_whole_files(tmp_path: Path) -> None:
    env = os.environ | {"PYTHONPATH": str(project_root())}
    endless = PROCESS.replace("range(150)", "range(10**9)")
    process = subprocess.Popen([sys.executable, "-c", endless, tmp_path, "1000000000"], env=env)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and len(list(tmp_path.glob("*/*.block"))) < 10:
        time.sleep(0.01)
    process.kill()
    process.wait()
    tier = opened(tmp_path)
    found = list(tier.folder.glob("*.block"))
    assert len(found) >= 10
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for path in found:
            assert tier.get(bytes.fromhex(path.stem), HISTORY) is not None


def test_a_folder_that_may_only_be_read_gives_its_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tier = opened(tmp_path)
    tier.put(NAME, HISTORY, b"content")

    def refused(*_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("labkit.engine.disk_blocks.os.utime", refused)
    assert tier.get(NAME, HISTORY) == b"content"
    assert tier.off is None


def test_a_damaged_file_is_made_again_though_the_folder_for_it_is_gone(tmp_path: Path) -> None:
    """It was found damaged again and again, and never written anew, without a word."""
    tier = opened(tmp_path)
    tier.put(NAME, HISTORY, b"content")
    file_of(tier).write_bytes(flipped(file_of(tier).read_bytes()))
    (tier.folder / "set-aside").rmdir()
    with pytest.warns(RuntimeWarning, match="is damaged or no block of this cache: moved to"):
        assert tier.get(NAME, HISTORY) is None
    tier.put(NAME, HISTORY, b"content")
    assert tier.get(NAME, HISTORY) == b"content"


@pytest.mark.parametrize("wrong", [(0.0, 1.0, 1.0), (1.0, 0.0, 1.0), (1.0, 1.0, float("nan"))])
def test_an_impossible_break_even_is_refused(wrong: tuple[float, float, float]) -> None:
    with pytest.raises(ParameterError, match="allowed are numbers above 0"):
        BreakEven(*wrong)
