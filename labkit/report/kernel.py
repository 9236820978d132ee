"""The kernel that notebooks run in, and a client that does not wait for ever for its answers."""

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

LOOK_AGAIN = 1.0  # seconds


class PatientChannel(AsyncZMQSocketChannel):
    """A channel that looks at its socket now and then, whether or not it was woken.

    On a busy machine a wake-up is lost now and then (pyzmq 27.3, jupyter_client 8.10: one run of a
    notebook in ten, beside two busy processes): the answer lies in the socket, its descriptor stays
    silent, and a client that waits without a limit waits for ever beside an idle kernel.
    """

    async def get_msg(  # type: ignore[override]
        self, timeout: float | None = None
    ) -> dict[str, Any]:
        """The next message; queue.Empty where none comes within `timeout` seconds, if given."""
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
    """Starts kernels whose clients have patient channels."""

    client_factory = Type(_Client, klass=AsyncKernelClient)


def this_interpreter(folder: Path) -> str:
    """Make a kernel of this interpreter, first on Jupyter's path; returns its name."""
    spec = folder / "kernels" / "labkit" / "kernel.json"
    spec.parent.mkdir(parents=True)
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    described = {"argv": argv, "display_name": "labkit", "language": "python"}
    spec.write_text(json.dumps(described), encoding="utf-8")
    before = os.environ.get("JUPYTER_PATH")
    os.environ["JUPYTER_PATH"] = os.pathsep.join([str(folder), *([before] if before else [])])
    return "labkit"
