"""Our side of a worker: start it, send it requests, and never wait without an end."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import queue
import signal
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np

from labkit.base.paths import cache_dir, project_root
from labkit.bench.gguf_bytes import gguf_format, gguf_read_bytes
from labkit.bench.install import built, link_of
from labkit.bench.variants import Variant
from labkit.errors import LabkitError
from labkit.model.load import convert_once, locate_described

_WORKER = Path(__file__).with_name("worker.py")
LOAD_TIMEOUT = 900.0  # seconds; converting a model is part of it
RUN_TIMEOUT, MANY_TIMEOUT = 300.0, 900.0


class WorkerError(LabkitError):
    """A variant that crashed, hung, or did not answer as it should."""


@dataclass(frozen=True)
class Source:
    """The model that every variant runs, in the forms that they read.

    model: as the user named it; described: a folder with its config and its tokenizer; gguf: the
    file it came from.
    """

    model: str
    described: Path
    gguf: Path | None

    @property
    def directory(self) -> Path:
        """The model in Hugging Face's format; a GGUF file is converted on first use."""
        return convert_once(self.gguf) if self.gguf else self.described

    @property
    def store(self) -> Path:
        """The folder for what peers convert this model into."""
        path = self.gguf or self.described
        files = [path] if path.is_file() else sorted(path.glob("*.safetensors"))
        stamps = [(file.stat().st_size, file.stat().st_mtime_ns) for file in files]
        key = hashlib.sha256(f"{path.resolve()}|{stamps}".encode()).hexdigest()[:12]
        return cache_dir() / "peers" / f"{path.stem}-{key}"


def locate(model: str | None) -> Source:
    """Find a model as `labkit.model.load.load` does."""
    name, described, gguf = locate_described(model)
    return Source(str(model or name), described, gguf)


@dataclass(frozen=True)
class Sample:
    """One run of a variant: monotonic seconds and tokens, and CPU seconds spent while idle."""

    due: float
    times: list[float]
    tokens: list[int]
    idle_cpu_s: float


@dataclass(frozen=True)
class Loaded:
    """What a worker answers once it has loaded.

    Seconds of its start, and the bytes that a decode step reads. build: how the engine was built.
    link: its project's page. weights: the format as it is run, in words. same_weights: whether they
    are the file's own values, so that answers differ by arithmetic alone.
    """

    prepare_s: float
    load_s: float
    first_call_s: float
    weight_bytes: int | None
    kv_element_bytes: float
    version: str
    build: str
    link: str
    weights: str
    same_weights: bool
    note: str | None = None


def _environment(variant: Variant, threads: int) -> dict[str, str]:
    changed = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if variant.peer is None:
        changed["PYTHONPATH"] = str(project_root())
    changed |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    return changed | {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}


class Worker:
    """A variant in its own process. A context manager: leaving it ends the process."""

    def __init__(self, variant: Variant, command: Sequence[str], env: dict[str, str]) -> None:
        self.variant = variant
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._cpu_end: float | None = None
        self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the worker
        try:
            # A session of its own: Ctrl-C reaches us alone, and we end it with all its children.
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                env=env,
                text=True,
                encoding="utf-8",
                errors="replace",
                start_new_session=True,
            )
        except OSError as error:
            self._stderr.close()
            raise WorkerError(f"{variant.name} could not be started: {error}") from error
        threading.Thread(target=self._collect, daemon=True).start()

    @classmethod
    def start(cls, variant: Variant, threads: int) -> Worker:
        """Start a variant; WorkerError when it is not installed."""
        if reason := variant.missing():
            raise WorkerError(reason)
        command = [str(variant.python), "-P", str(_WORKER), str(variant.driver_path)]
        return cls(variant, command, _environment(variant, threads))

    def _collect(self) -> None:
        assert self._process.stdout is not None
        with contextlib.suppress(ValueError, OSError):
            for line in self._process.stdout:
                self._lines.put(line)
        self._lines.put(None)

    def last_message(self) -> str:
        """The last line that it wrote to stderr."""
        self._stderr.seek(0)
        text = self._stderr.read().decode("utf-8", errors="replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return lines[-1][:500] if lines else "it said nothing"

    def _fail(self, reason: str) -> WorkerError:
        self._kill()
        return WorkerError(f"{reason} (last message: {self.last_message()})")

    def ask(self, request: dict[str, Any], timeout: float) -> dict[str, Any]:
        """Send a request and wait for its answer; WorkerError when none comes."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._lines.get(timeout=timeout)
        except (OSError, ValueError):
            line = None
        except queue.Empty:
            operation = request["op"]
            raise self._fail(f"no answer to {operation!r} within {timeout:.0f} s") from None
        if line is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(5)
            raise self._fail(f"it ended with code {self._process.poll()}")
        return self._understand(line)

    def _understand(self, line: str) -> dict[str, Any]:
        try:
            answer = json.loads(line)
        except ValueError:
            answer = None
        if not isinstance(answer, dict) or not isinstance(answer.get("ok"), bool):
            raise self._fail(f"its answer is no answer: {line.strip()[:200]!r}")
        if not answer["ok"]:
            raise WorkerError(str(answer.get("error", "it failed without a reason")))
        return answer

    def load(
        self, options: dict[str, Any], prompt: Sequence[int], timeout: float = LOAD_TIMEOUT
    ) -> Loaded:
        """Load the model, convert it first if needed, and make a first call with `prompt`."""
        request = {"op": "load", "options": options, "prompt": list(prompt)}
        answer = self.ask(request, timeout)
        file = answer.get("weights_file")
        if answer.get("weight_bytes") is None and file:
            answer["weight_bytes"] = gguf_read_bytes(Path(file))
        self._cpu_end = answer.get("cpu_end")
        if peer := self.variant.peer:
            answer |= {"build": built(peer, answer.get("build", "")), "link": link_of(peer)}
        try:
            return Loaded(**{name: answer[name] for name in Loaded.__dataclass_fields__})
        except KeyError as error:
            raise self._fail(f"its answer lacks something: {error}") from error

    def run(self, prompt: Sequence[int], new_tokens: int, timeout: float = RUN_TIMEOUT) -> Sample:
        """Greedy tokens after a prompt, each with its time."""
        request = {"op": "run", "prompt": list(prompt), "new_tokens": new_tokens}
        answer = self.ask(request, timeout)
        times, tokens = answer.get("times", []), answer.get("tokens", [])
        if not len(times) == len(tokens) == new_tokens:
            raise self._fail(f"{len(tokens)} tokens came instead of {new_tokens}")
        return Sample(float(answer["due"]), times, tokens, self._idle(answer))

    def many(
        self, prompts: Sequence[Sequence[int]], new_tokens: int, timeout: float = MANY_TIMEOUT
    ) -> list[Sample]:
        """Greedy tokens after several prompts, all asked at the same moment."""
        request = {"op": "many", "prompts": [list(p) for p in prompts], "new_tokens": new_tokens}
        answer = self.ask(request, timeout)
        times, tokens = answer.get("times", []), answer.get("tokens", [])
        if not [new_tokens] * len(prompts) == [*map(len, times)] == [*map(len, tokens)]:
            came = sum(map(len, tokens))
            raise self._fail(f"{came} tokens came instead of {len(prompts)} times {new_tokens}")
        due, idle = float(answer["due"]), self._idle(answer)
        return [Sample(due, *one, idle) for one in zip(times, tokens, strict=True)]

    def _idle(self, answer: dict[str, Any]) -> float:
        """CPU seconds that it spent between this request and the one before."""
        start, before = answer.get("cpu_start", 0.0), self._cpu_end
        self._cpu_end = answer.get("cpu_end")
        return 0.0 if before is None else max(0.0, start - before)

    def logits(self, tokens: Sequence[int], timeout: float = RUN_TIMEOUT) -> np.ndarray:
        """Teacher-forced logits of every position, float32 (tokens, vocabulary)."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "logits.npy"
            request = {"op": "logits", "tokens": list(tokens), "path": str(path)}
            self.ask(request, timeout)
            return np.asarray(np.load(path))

    def _kill(self) -> None:
        with contextlib.suppress(OSError):
            if hasattr(os, "killpg"):
                os.killpg(self._process.pid, signal.SIGKILL)
            else:
                self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(10)

    def close(self) -> None:
        """End the process and everything it started."""
        self._kill()
        for stream in (self._process.stdin, self._process.stdout, self._stderr):
            with contextlib.suppress(OSError, ValueError):
                if stream is not None:
                    stream.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def load_options(
    variant: Variant, source: Source, threads: int, context: int, device: str, dtype: str,
    streams: int = 1,
) -> dict[str, Any]:  # fmt: skip
    """The options for a driver, the variant's own last; WorkerError for what it cannot run.

    context: tokens of a sequence. streams: sequences at the same time, at most.
    """
    if variant.peer and device not in ("cpu", "auto"):
        raise WorkerError(f"{variant.peer} runs on the CPU only here, not on {device!r}.")
    if variant.needs_gguf and source.gguf is None:
        raise WorkerError(f"{variant.peer} reads GGUF files only; {source.model} is none.")
    # An engine that reads the file itself does not need its conversion, which takes gigabytes.
    reads_file = variant.needs_gguf or variant.options.get("weights") == "as-is"
    return {
        "model": source.model,
        "directory": str(source.described if source.gguf and reads_file else source.directory),
        "gguf": str(source.gguf) if source.gguf else None,
        "store": str(source.store),
        "threads": threads,
        "context": context,
        "streams": streams,
        "device": device,
        "dtype": dtype,
        "file_format": gguf_format(source.gguf) if source.gguf else None,
        **variant.options,
    }
