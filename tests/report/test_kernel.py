"""A client gets its answer even if its wake-up is lost."""

from __future__ import annotations

import asyncio
import queue
import time

import pytest
import zmq
import zmq.asyncio
from jupyter_client.channels import AsyncZMQSocketChannel
from jupyter_client.session import Session

from labkit.report.runs.kernel import PatientChannel, PatientKernelManager


async def _answer_without_waking(kind: type[AsyncZMQSocketChannel], patience: float) -> str:
    """Wait for a message on a channel whose wake-up is taken away."""
    with zmq.asyncio.Context() as context:
        ours, other = context.socket(zmq.PAIR), zmq.Socket.shadow(context.socket(zmq.PAIR))
        port = ours.bind_to_random_port("tcp://127.0.0.1")
        other.connect(f"tcp://127.0.0.1:{port}")
        session = Session(key=b"x")
        channel = kind(ours, session)
        waiting = asyncio.ensure_future(channel.get_msg())
        await asyncio.sleep(0.2)
        session.send(other, "answer")
        time.sleep(0.2)  # the message arrives while the loop does not run
        zmq.Socket.shadow(ours.underlying).get(
            zmq.EVENTS
        )  # after this the descriptor signals nothing
        try:
            return str((await asyncio.wait_for(waiting, patience))["msg_type"])
        finally:
            ours.close(0)
            other.close(0)


def test_a_lost_wake_up_does_not_stop_a_notebook():
    assert asyncio.run(_answer_without_waking(PatientChannel, 30)) == "answer"
    with pytest.raises(asyncio.TimeoutError):  # else this test shows nothing
        asyncio.run(_answer_without_waking(AsyncZMQSocketChannel, 2))


def test_a_wait_with_a_limit_ends_there():
    async def ask():
        with zmq.asyncio.Context() as context, context.socket(zmq.PAIR) as ours:
            ours.bind_to_random_port("tcp://127.0.0.1")
            await PatientChannel(ours, Session(key=b"x")).get_msg(0.1)

    with pytest.raises(queue.Empty):
        asyncio.run(ask())


def test_the_kernel_s_clients_are_patient():
    client = PatientKernelManager().client()
    assert client.shell_channel_class is client.iopub_channel_class is PatientChannel
