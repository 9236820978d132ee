"""The process that `soak` kills: an engine at the limit of its memory, with both disk caches.

`python -m labkit.engine.soak_worker FOLDER` serves the requests of FOLDER/asked.json that are not
in FOLDER/journal.jsonl yet, and cancels some. It appends a line to the journal for each that
ended, and for its own end. Every step is followed by a check of the memory.
"""

from __future__ import annotations

import json
import os
import pkgutil
import random
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from labkit.engine.batching import BatchEngine
from labkit.engine.disk_blocks import BreakEven, DiskBlocks
from labkit.engine.prefix import PrefixCache
from labkit.engine.prefix_key import PrefixKey
from labkit.engine.recall import Recall
from labkit.engine.responses import ResponseCache
from labkit.engine.scheduler import Budget
from labkit.engine.served import Finish, Handle, ServedRequest
from labkit.model.cache.paged import PagedCache
from labkit.model.cache.protocol import CacheError

ASKED, JOURNAL, ANSWERS, BLOCKS = "asked.json", "journal.jsonl", "answers.sqlite", "blocks"
ERRORS = "errors.txt"  # what workers told
WEIGHTS = "soak"  # stands for their hash: the folder is made for one run
_AHEAD = 8  # requests that wait beside those that run
_CANCEL = 0.02  # chance that a step cancels a request
_SAVED = 2  # blocks that each step writes to the disk
_WORTH_IT = BreakEven(kv_bytes=1, prefill_rate=1, read_rate=2)  # damage is looked for, not time


@dataclass(frozen=True)
class Asked:
    """What the worker serves. decoder: module:function that loads the model."""

    decoder: str
    model: str
    weights: str
    threads: int
    slots: int
    blocks: int
    new_tokens: int
    prompts: list[list[int]]

    def load(self) -> Any:
        """The decoder."""
        load = pkgutil.resolve_name(self.decoder)
        return load(self.model or None, weights=self.weights, threads=self.threads)

    def write(self, folder: Path) -> None:
        (folder / ASKED).write_text(json.dumps(asdict(self)))

    @staticmethod
    def read(folder: Path) -> Asked:
        return Asked(**json.loads((folder / ASKED).read_text()))


def disk_tier(folder: Path, layout: str) -> DiskBlocks:
    """The blocks of a run on disk."""
    return DiskBlocks(folder / BLOCKS, layout, _WORTH_IT)


def ended(folder: Path) -> list[dict[str, Any]]:
    """The whole lines of the journal; the last line of a killed worker may be cut off."""
    path = folder / JOURNAL
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    found = []
    for line in lines:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue  # cut off, and the next worker's first line behind it: asked again
    return found


class Worker:
    """Serves what is left of a run."""

    def __init__(self, folder: Path) -> None:
        self.asked = Asked.read(folder)
        self.rng = random.Random(os.getpid())
        done = {line["number"] for line in ended(folder) if "number" in line}
        self.left: Iterator[int] = iter(
            [n for n in range(len(self.asked.prompts)) if n not in done]
        )
        self.journal = os.open(folder / JOURNAL, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(self.journal, b"\n")  # ends what a killed worker left behind
        self.responses = ResponseCache(folder / ANSWERS)

        def prefixes(cache: PagedCache) -> PrefixCache:
            tier = disk_tier(folder, cache.store.layout)
            return PrefixCache(cache, PrefixKey("soak", WEIGHTS), tier)

        asked = self.asked
        self.engine = BatchEngine(
            asked.load(), asked.slots, asked.blocks, budget=Budget(rows=64), prefix=prefixes,
            recall=Recall(self.responses, WEIGHTS), records=1,
        )  # fmt: skip
        self.live: dict[int, tuple[int, Handle]] = {}  # by the engine's number

    def run(self) -> None:
        while self._submit() or not self.engine.idle:
            if self.live and self.rng.random() < _CANCEL:
                self.rng.choice(list(self.live.values()))[1].cancel()
            for event in self.engine.step():
                if event.finish is not None:
                    self._note(*self.live.pop(event.number))
            self.engine.prefix.save(_SAVED)  # type: ignore[union-attr]
            self._check()
        self.responses.close()
        self._check_idle()
        counts = self.engine.prefix.counts  # type: ignore[union-attr]
        self._write({"counts": {
            "tokens from memory": counts.from_memory, "tokens from disk": counts.from_disk,
            "blocks evicted": counts.evicted, "answers recalled": self.responses.hits,
        }})  # fmt: skip

    def _submit(self) -> bool:
        """Keep some requests waiting; whether one was submitted."""
        before = len(self.live)
        while len(self.live) < self.asked.slots + _AHEAD:
            if (number := next(self.left, None)) is None:
                break
            prompt = self.asked.prompts[number]
            handle = self.engine.submit(ServedRequest(prompt, self.asked.new_tokens))
            self.live[handle.number] = number, handle
        return len(self.live) > before

    def _note(self, number: int, handle: Handle) -> None:
        line = {"number": number, "finish": str(handle.finish), "tokens": handle.tokens,
                "preempted": handle.preempted, "recalled": handle.recalled}  # fmt: skip
        if handle.finish is Finish.FAILED:
            line["error"] = repr(handle.error)
        self._write(line)

    def _write(self, line: dict[str, Any]) -> None:
        os.write(self.journal, json.dumps(line).encode() + b"\n")  # whole, or cut off by the end

    def _check(self) -> None:
        self.engine.cache.check()
        self.engine.prefix.check()  # type: ignore[union-attr]

    def _check_idle(self) -> None:
        if held := self.engine.cache.book.held:
            raise CacheError(f"{held} blocks are held though no request is left.")


if __name__ == "__main__":
    Worker(Path(sys.argv[1])).run()
