"""One variant as a process that stays up: JSON lines in, JSON lines out.

    {"op": "load", "options": {...}, "prompt": [ids]}
        -> {"ok": true, "prepare_s", "load_s", "first_call_s", "weight_bytes", "weights_file",
            "kv_element_bytes", "version", "build", "link", "weights", "same_weights", "note"}
    {"op": "run", "prompt": [ids], "new_tokens": n}
        -> {"ok": true, "due": t0, "times": [t of each token], "tokens": [ids]}
    {"op": "many", "prompts": [[ids], ...], "new_tokens": n}
        -> {"ok": true, "due": t0, "times": [[t of each token] of each prompt], "tokens": alike}
    {"op": "logits", "tokens": [ids], "path": "x.npy"}
        -> {"ok": true, "shape": [tokens, vocabulary]}

or {"ok": false, "error": message}; every answer also has `cpu_start` and `cpu_end`, the
processor seconds of all threads before and after the request: they show a worker that spins while
others are measured. Times are time.monotonic(). The interpreter may be a peer's, which has nothing
of ours: this file uses the standard library, and a driver its engine and the files beside it.

A driver is a file with `prepare(options)` (slow, kept work: converting a model; optional) and a
class `Engine(options)`. That has `weight_bytes`, `kv_element_bytes` and `version`; `weights`, the
format as it is run, in words, and `same_weights`, whether these are the file's own values;
`run(prompt, new_tokens, emit)`, which forgets earlier prompts, calls emit(token) as soon as a token
is known, and returns the time at which it began; and `logits(tokens)`, (tokens, vocab) float32. It
may have `build` (what the engine says of its own build), `link` (the project's page; a peer's is in
pins.yaml), `check(prompt)`, which tests the engine's answers and returns a note, or None, and
`many(prompts, new_tokens, emit)`, which answers all of them at once: as `run`, with
emit(number of the prompt, token). The option `streams` says how many there may be.
"""

from __future__ import annotations

import importlib.util
import json
import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Request = dict[str, Any]
Answer = dict[str, Any]


def _show_ours() -> None:
    """Let a driver import the files beside it, also in an environment that has nothing of ours.

    No path of ours joins the engine's own: what lies beside the package stays unknown.
    """
    file = Path(__file__).resolve().parents[1] / "__init__.py"
    spec = importlib.util.spec_from_file_location(
        "labkit", file, submodule_search_locations=[str(file.parent)]
    )
    assert spec is not None
    sys.modules["labkit"] = importlib.util.module_from_spec(spec)


def load_driver(path: str) -> Any:
    """The driver file as a module."""
    spec = importlib.util.spec_from_file_location("labkit_driver", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _read_requests(lines: Iterable[str], requests: queue.Queue[str]) -> None:
    """Pass lines on. When the parent has gone, end the process, even in the middle of a token."""
    for line in lines:
        requests.put(line)
    os._exit(0)


class Session:
    """The state of a worker: its driver and, once loaded, its engine."""

    def __init__(self, driver_path: str) -> None:
        self.driver_path = driver_path
        self.engine: Any = None

    def load(self, request: Request) -> Answer:
        driver, options, prompt = (
            load_driver(self.driver_path),
            request["options"],
            request["prompt"],
        )
        start = time.monotonic()
        if hasattr(driver, "prepare"):
            driver.prepare(options)
        ready = time.monotonic()
        self.engine = driver.Engine(options)
        loaded = time.monotonic()
        self.engine.run(prompt, 2, lambda token: None)
        called = time.monotonic()
        return {
            "prepare_s": ready - start,
            "load_s": loaded - ready,
            "first_call_s": called - loaded,
            "weight_bytes": self.engine.weight_bytes,
            "weights_file": getattr(self.engine, "weights_file", None),
            "kv_element_bytes": self.engine.kv_element_bytes,
            "version": self.engine.version,
            "build": getattr(self.engine, "build", ""),
            "link": getattr(self.engine, "link", ""),
            "weights": self.engine.weights,
            "same_weights": self.engine.same_weights,
            "note": self.engine.check(prompt) if hasattr(self.engine, "check") else None,
        }

    def run(self, request: Request) -> Answer:
        times: list[float] = []
        tokens: list[int] = []

        def emit(token: int) -> None:
            times.append(time.monotonic())
            tokens.append(int(token))

        due = self.engine.run(request["prompt"], request["new_tokens"], emit)
        return {"due": due, "times": times, "tokens": tokens}

    def many(self, request: Request) -> Answer:
        if not hasattr(self.engine, "many"):
            raise RuntimeError("this engine answers one prompt at a time here")
        prompts = request["prompts"]
        times: list[list[float]] = [[] for _ in prompts]
        tokens: list[list[int]] = [[] for _ in prompts]

        def emit(number: int, token: int) -> None:
            times[number].append(time.monotonic())
            tokens[number].append(int(token))

        due = self.engine.many(prompts, request["new_tokens"], emit)
        return {"due": due, "times": times, "tokens": tokens}

    def logits(self, request: Request) -> Answer:
        import numpy as np

        logits = np.ascontiguousarray(self.engine.logits(request["tokens"]), dtype=np.float32)
        np.save(request["path"], logits)
        return {"shape": list(logits.shape)}

    def answer(self, line: str) -> Answer:
        """The answer to a line; never raises for what an engine does."""
        start = time.process_time()
        operations = {"load": self.load, "run": self.run, "many": self.many, "logits": self.logits}
        try:
            request = json.loads(line)
            result = {"ok": True, **operations[request["op"]](request)}
        except Exception as error:
            traceback.print_exc()
            said = " ".join(str(error).split())  # one line, for a row of a table
            result = {"ok": False, "error": f"{type(error).__name__}: {said}"}
        return {**result, "cpu_start": start, "cpu_end": time.process_time()}


def main() -> None:
    """Answer until the parent closes our input."""
    # Whatever a native library prints goes to stderr; only answers reach the real stdout.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    requests: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_read_requests, args=(sys.stdin, requests), daemon=True).start()
    _show_ours()
    session = Session(sys.argv[1])
    while True:
        answers.write(json.dumps(session.answer(requests.get())) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
