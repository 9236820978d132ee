"""The kernel that notebooks run in, and a client that does not hang on a lost wake-up."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from queue import Empty
from typing import Any

from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.channels import AsyncZMQSocketChannel
from jupyter_client.manager import AsyncKernelManager
from traitlets import Type

from labkit.report.runs import tether

LOOK_AGAIN = 1.0  # seconds


class PatientChannel(AsyncZMQSocketChannel):
    """A channel that looks at its socket once a second, even if nothing woke it.

    On a busy machine a wake-up can get lost: the answer is in the socket, but its file descriptor
    does not signal it, and a client without a time limit waits for ever. This happened in one of
    ten executed notebooks with two other busy processes, with pyzmq 27.3 and jupyter_client 8.10.
    """

    async def get_msg(  # type: ignore[override]
        self, timeout: float | None = None
    ) -> dict[str, Any]:
        """The next message; queue.Empty where none comes within `timeout` seconds."""
        while timeout is None:
            try:
                return await super().get_msg(LOOK_AGAIN)
            except Empty:
                continue
        return await super().get_msg(timeout)


class _Client(AsyncKernelClient):
    shell_channel_class = Type(PatientChannel)
    iopub_channel_class = Type(PatientChannel)


class PatientKernelManager(AsyncKernelManager):
    """Starts kernels whose clients use PatientChannel, and which end with this process."""

    client_factory = Type(_Client, klass=AsyncKernelClient)

    async def start_kernel(  # type: ignore[override]  # as AsyncKernelManager does
        self, **options: Any
    ) -> None:
        """Start the kernel with a pipe whose other end only this process has."""
        if os.name != "posix":  # there the kernel watches a handle of this process
            return await super().start_kernel(**options)
        end, self._held = os.pipe()
        given = options.pop("env", None) or os.environ
        try:
            await super().start_kernel(
                **options, env={**given, tether.FD: str(end)}, pass_fds=(end,)
            )
        finally:
            os.close(end)


def this_interpreter(folder: Path) -> str:
    """Describe this interpreter as a kernel in `folder`; returns the kernel's name.

    The folder becomes the first of JUPYTER_PATH of this process.
    """
    spec = folder / "kernels" / "labkit" / "kernel.json"
    spec.parent.mkdir(parents=True)
    argv = [sys.executable, "-m", tether.__name__, "-f", "{connection_file}"]
    described = {"argv": argv, "display_name": "labkit", "language": "python"}
    spec.write_text(json.dumps(described), encoding="utf-8")
    before = os.environ.get("JUPYTER_PATH")
    os.environ["JUPYTER_PATH"] = os.pathsep.join([str(folder), *([before] if before else [])])
    return "labkit"
