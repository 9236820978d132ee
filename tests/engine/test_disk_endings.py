"""The disk tier where its process ends, or goes elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from labkit.base.paths import project_root
from labkit.engine.responses import ResponseCache
from tests.engine.response_worker import answer_of, key_of
from tests.engine.test_disk_blocks import HISTORY, NAME, opened

LONG = 60  # seconds

DAEMON = """
import sys, threading, time
from pathlib import Path
from tests.engine.test_disk_blocks import HISTORY, opened
tier = opened(Path(sys.argv[1]))
keep = tier._keep
def write(name, history, content):
    time.sleep(0.02)
    keep(name, history, content)
tier.behind._write = write
def serve():
    for number in range(20):
        tier.put_soon(bytes([number]) * 32, HISTORY, bytes([number]) * 20000)
thread = threading.Thread(target=serve, daemon=True)
thread.start()
thread.join()
"""


def test_blocks_of_an_engine_in_a_daemon_are_written_at_the_end(tmp_path: Path) -> None:
    """A thread that a daemon starts is one too, and nobody waits for a daemon."""
    env = os.environ | {"PYTHONPATH": str(project_root())}
    subprocess.run([sys.executable, "-c", DAEMON, tmp_path], env=env, check=True, timeout=LONG)
    tier = opened(tmp_path)
    found = [tier.get(bytes([number]) * 32, HISTORY) for number in range(20)]
    assert found == [bytes([number]) * 20000 for number in range(20)]


def test_a_folder_of_its_own_stays_the_same_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A notebook may change the folder in which it works."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    tier, cache = opened(Path("blocks")), ResponseCache(Path("answers.sqlite"))
    tier.put(NAME, HISTORY, b"content")
    cache.put(key_of(1), answer_of(1))
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert tier.get(NAME, HISTORY) == b"content"
    tier.put(b"m" * 32, HISTORY, b"more")
    assert tier.off is None
    assert cache.get(key_of(1)) == answer_of(1)
    assert list((tmp_path / "elsewhere").iterdir()) == []
