"""A tiny model in the fused decoder, which gives a row the same bits whatever shares its pass."""

from __future__ import annotations

import threading

import pytest

from labkit.optimize.fused import FusedDecoder, load_fused
from tests.engine.served_helpers import Judge
from tests.fused_helpers import tiny_gguf


@pytest.fixture(scope="session")
def tiny_fused(tmp_path_factory: pytest.TempPathFactory) -> FusedDecoder:
    file = tiny_gguf(tmp_path_factory.mktemp("served") / "llama.gguf", "llama", "Q4_1")
    return load_fused(file, threads=1)


@pytest.fixture(scope="session")
def judge(tiny_fused: FusedDecoder) -> Judge:
    return Judge(tiny_fused)


@pytest.fixture
def no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system gives no thread."""

    def none(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", none)
