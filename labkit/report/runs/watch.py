"""Start the process that executes a notebook, wait for it, and say how it ended."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import psutil

from labkit.report.runs.execute import FOLLOW, KERNEL_DIED, NOT_WRITTEN
from labkit.report.runs.notebooks import is_notebook


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and its kernel: SIGTERM, and SIGKILL after three seconds."""
    try:
        family = [
            psutil.Process(process.pid),
            *psutil.Process(process.pid).children(recursive=True),
        ]
    except psutil.NoSuchProcess:
        return
    for member in reversed(family):
        try:
            member.terminate()
        except psutil.NoSuchProcess:
            continue
    _, alive = psutil.wait_procs(family, timeout=3)
    for member in alive:
        member.kill()
    process.wait()


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else ""


def run_notebook(source: Path, run: Path, parameters: dict[str, Any]) -> str | None:
    """Execute a notebook into the folder `notebooks` of a run.

    Returns None, or a line that says what went wrong. The executed file appears there once the
    execution has ended, well or not. Ctrl-C ends the kernel and is raised again.
    """
    target = run / "notebooks" / source.name
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{source.stem}.part.ipynb")
    command = [sys.executable, "-m", "labkit.report.runs.execute", str(source), str(partial)]
    given = os.environ | {
        "MPLBACKEND": "agg",  # whatever the user has set: figures are drawn without a screen
        "LABKIT_RUN_DIR": str(run.resolve()),
        "LABKIT_HEADLESS": "1",
    }
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        errors = None if sys.stderr.isatty() else open(log, "wb")  # noqa: SIM115
        process = subprocess.Popen(
            [*command, json.dumps(parameters), FOLLOW],
            env=given,
            stdin=subprocess.PIPE,  # held open: the process ends when this one does
            stderr=errors,
            start_new_session=True,
        )
        try:
            code = process.wait()
        except BaseException:
            _end(process)
            partial.unlink(missing_ok=True)
            raise
        finally:
            if process.stdin:
                process.stdin.close()
            if errors:
                errors.close()
        if is_notebook(partial):
            partial.replace(target)
        else:
            partial.unlink(missing_ok=True)
        if code == 0:
            return None
        return _reason(code, target, "" if errors is None else _last_line(log))


def _reason(code: int, executed: Path, last: str) -> str:
    """Why a notebook failed, in a line: its own error where it has one."""
    import nbformat

    from labkit.report.pages.html import error_of

    if code == KERNEL_DIED:
        return "the kernel died, often because memory ran out"
    if code == NOT_WRITTEN:
        return f"it could not be written: {last or 'the disk may be full'}"
    if code < 0:
        return f"its process was killed by signal {-code}"
    own = error_of(nbformat.read(executed, as_version=4)) if executed.exists() else None
    return own or last or f"its process ended with code {code}"
