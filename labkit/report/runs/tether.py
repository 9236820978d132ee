"""A process that ends with the one that started it, however that ends: by kill -9 too.

The parent holds the writing end of a pipe and never writes to it. When the parent ends, the system
closes that end, and the child, which waits for it, reads the end of the pipe. That works on every
POSIX system, without looking at the parent again and again while the child measures.
"""

from __future__ import annotations

import contextlib
import os
import runpy
import threading

FD = "LABKIT_TETHER"  # the environment variable with the number of the pipe's reading end
_ENDED = 1  # exit code


def follow(fd: int) -> None:
    """End this process, and all that it started, once nobody holds the other end of a pipe."""
    threading.Thread(target=_wait, args=(fd,), name="tether", daemon=True).start()


def _wait(fd: int) -> None:
    with contextlib.suppress(OSError):
        while os.read(fd, 1):
            pass
    _end_children()
    os._exit(_ENDED)


def _end_children() -> None:
    import psutil

    with contextlib.suppress(psutil.Error):
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                child.kill()


def main() -> None:
    """A Jupyter kernel that follows its parent: `python -m labkit.report.runs.tether -f FILE`."""
    if (fd := os.environ.pop(FD, "")).isdecimal():
        os.set_inheritable(int(fd), False)  # what the kernel starts follows the kernel
        follow(int(fd))
    runpy.run_module("ipykernel_launcher", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
