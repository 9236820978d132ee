"""`kill -9` of what runs notebooks leaves no process at work: neither executor nor kernel."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.report.test_accidents import INTERRUPTED
from tests.run_helpers import IDENTITY, small_request, write

FOLLOWING = """
import subprocess, sys, time
from labkit.report.runs import tether
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
tether.follow(0)
time.sleep(600)
"""


def ended(pid: int, seconds: float = 60) -> bool:
    """Whether a process ends; a zombie, which nobody has waited for, has."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.05)
    return False


def wait_for(mark: Path) -> list[int]:
    """The process ids in a file, once it is whole."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        if mark.exists() and mark.read_text().endswith("\n"):
            return [int(pid) for pid in mark.read_text().split()]
        time.sleep(0.1)
    raise AssertionError("the notebook did not start")


def test_a_process_and_what_it_started_end_with_the_pipe() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", FOLLOWING], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    child = int(process.stdout.readline())
    assert process.poll() is None
    process.stdin.close()
    assert process.wait(60) == 1
    assert ended(child)


@pytest.mark.parametrize("which", ["reports", "executor"])
def test_kill_9_takes_executor_and_kernel_along(
    which: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request, mark = small_request(tmp_path, monkeypatch), tmp_path / "started"
    write(
        request.notebooks, "00_good",
        "import os, subprocess, sys, time, pathlib\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "family = f'{os.getppid()} {os.getpid()} {child.pid}\\n'\n"
        f"pathlib.Path({str(mark)!r}).write_text(family)",
        "time.sleep(600)",
    )  # fmt: skip
    script = INTERRUPTED.format(
        identity=IDENTITY, outputs=str(request.outputs), notebooks=str(request.notebooks)
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.DEVNULL)
    try:
        family = wait_for(mark)
        os.kill(process.pid if which == "reports" else family[0], signal.SIGKILL)
        assert all(map(ended, family))
        assert process.wait(60) == (-signal.SIGKILL if which == "reports" else 1)
    finally:
        process.kill()
        process.wait()
