"""Soak: thousands of requests with cancels at the limit of memory, and `kill -9` in the middle.

`python -m labkit.engine.soak` serves requests in a process of its own (soak_worker.py), with the
prefix cache on disk and the response cache. It kills that process at random moments and starts
another one, until every request has ended. Then each answer is compared with the answer alone: none
may be lost, doubled or wrong. No block may leak, and the files of both caches must be whole.
"""

from __future__ import annotations

import contextlib
import math
import random
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from labkit.base.command import clear_errors
from labkit.engine.generate import generate
from labkit.engine.one_hash import questions
from labkit.engine.responses import ResponseCache, ResponseKey
from labkit.engine.scheduler import blocks_of
from labkit.engine.served import Finish
from labkit.engine.soak_worker import ANSWERS, ERRORS, WEIGHTS, Asked, disk_tier, ended
from labkit.errors import LabkitError
from labkit.model.cache.paged import BLOCK_SIZE
from labkit.model.load import locate_described, tokenizer_of

_FUSED = "labkit.optimize.fused:load_fused"  # by name: it lies on a higher floor
_REPEATED = 4  # every fourth request is one that was asked before
_POLL = 0.05  # seconds
_COMPLETE = (Finish.LENGTH, Finish.STOP_ID)


@dataclass
class Soaked:
    """What a soak saw. faults: one line each; empty where all is well."""

    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        told = ", ".join(f"{name} {count:,}" for name, count in self.counts.items())
        return "\n".join([told, *(self.faults or ["nothing lost, doubled, wrong or leaked"])])


def asked_of(prompts: Sequence[Sequence[int]], new_tokens: int, slots: int, **how: Any) -> Asked:
    """Requests with a memory that holds a quarter of what all slots may want at once."""
    longest = blocks_of(max(map(len, prompts)) + new_tokens, BLOCK_SIZE)
    return Asked(
        prompts=[list(one) for one in prompts], new_tokens=new_tokens, slots=slots,
        blocks=max(longest, slots * longest // 4), **how,
    )  # fmt: skip


def soak(asked: Asked, folder: Path, kills: int, seed: int = 0) -> Soaked:
    """Serve all requests, killing the worker `kills` times on the way, and judge what is left.

    folder: empty. Raises LabkitError for a worker that ends with an error of its own.
    """
    asked.write(folder)
    found, rng = Soaked(), random.Random(seed)
    for left in range(kills, 0, -1):
        done = len(_numbers(folder))
        share = rng.random() * 2 / (left + 1)  # so that on average all parts are equal
        found.counts["kills"] += _serve(folder, done + int(share * (len(asked.prompts) - done)))
    _serve(folder)
    return judge(asked, folder, found)


def _numbers(folder: Path) -> list[int]:
    return [line["number"] for line in ended(folder) if "number" in line]


def _serve(folder: Path, until: float = math.inf) -> bool:
    """Run a worker to its end, or kill it once so many requests have ended; whether it was."""
    command = [sys.executable, "-m", "labkit.engine.soak_worker", str(folder)]
    with (folder / ERRORS).open("a") as errors:
        worker = subprocess.Popen(command, stderr=errors)
    try:
        while worker.poll() is None and len(_numbers(folder)) <= until:
            time.sleep(_POLL)
    finally:
        killed = worker.poll() is None
        worker.kill()
        code = worker.wait()
    if code not in (0, -signal.SIGKILL):
        told = (folder / ERRORS).read_text().strip().splitlines()
        raise LabkitError(f"the worker ended with {code}: {told[-1] if told else 'no reason'}.")
    return killed


def judge(asked: Asked, folder: Path, found: Soaked) -> Soaked:
    """Compare what a run left with the answers alone; adds counts and faults, and returns it."""
    alone = _Alone(asked)
    seen: Counter[int] = Counter()
    for line in ended(folder):
        if "counts" in line:
            found.counts.update(line["counts"])
            continue
        seen[line["number"]] += 1
        found.counts[line["finish"]] += 1
        found.counts["preempted"] += line["preempted"]
        found.faults += alone.faults(line)
    lost = [number for number in range(len(asked.prompts)) if number not in seen]
    if lost:
        found.faults.append(f"{len(lost)} requests were lost, request {lost[0]} first")
    found.faults += [f"request {n} ended {times} times" for n, times in seen.items() if times > 1]
    found.faults += _of_the_caches(asked, folder, alone, found.counts)
    return found


class _Alone:
    """What every request gets alone."""

    def __init__(self, asked: Asked) -> None:
        self.asked, self.decoder = asked, asked.load()
        self._known: dict[tuple[int, ...], list[int]] = {}

    def tokens(self, prompt: tuple[int, ...]) -> list[int]:
        if prompt not in self._known:
            found = generate(self.decoder, list(prompt), self.asked.new_tokens)
            self._known[prompt] = list(found)
        return self._known[prompt]

    def faults(self, line: dict[str, Any]) -> Iterator[str]:
        """What is wrong with an answer of the journal."""
        number, given = line["number"], line["tokens"]
        whole = self.tokens(tuple(self.asked.prompts[number]))
        if line["finish"] == Finish.FAILED:
            yield f"request {number} failed: {line['error']}"
        elif line["finish"] in _COMPLETE and given != whole:
            yield f"request {number}: not the answer alone"
        elif given != whole[: len(given)]:
            yield f"request {number}, cancelled: its tokens are not those of the answer alone"


def _of_the_caches(
    asked: Asked, folder: Path, alone: _Alone, counts: Counter[str]
) -> Iterator[str]:
    """Faults of what the caches left on disk."""
    layout = alone.decoder.new_paged_cache(1, 1).store.layout
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        yield from _of_the_answers(asked, folder, alone, counts)
        tier = disk_tier(folder, layout)
    counts["blocks on disk"] = len(list(tier.folder.glob("*.block")))
    yield from (f"warned: {one.message}" for one in told)
    yield from (f"{path.name} is damaged" for path in tier.damaged())
    yield from (
        f"warned: {line.strip()}"
        for line in (folder / ERRORS).read_text().splitlines()
        if "RuntimeWarning" in line
    )


def _of_the_answers(
    asked: Asked, folder: Path, alone: _Alone, counts: Counter[str]
) -> Iterator[str]:
    cache = ResponseCache(folder / ANSWERS)
    with contextlib.closing(cache):
        for prompt in dict.fromkeys(tuple(one) for one in asked.prompts):
            stored = cache.get(ResponseKey(WEIGHTS, prompt, asked.new_tokens))
            counts["answers kept"] += stored is not None
            if stored is not None and list(stored.tokens) != alone.tokens(prompt):
                yield f"the response cache has a wrong answer, to a prompt of {len(prompt)} tokens"


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--requests", default=2000, show_default=True, type=click.IntRange(1))
@click.option("--prompt-tokens", default=96, show_default=True, type=click.IntRange(1))
@click.option("--new-tokens", default=16, show_default=True, type=click.IntRange(1))
@click.option("--slots", default=16, show_default=True, type=click.IntRange(1))
@click.option("--kills", default=3, show_default=True, type=click.IntRange(0))
@click.option("--seed", default=0, show_default=True)
@click.option("--model", default="", help="directory, GGUF file or hub id; default: the built-in")
@click.option("--weights", default="as-is", show_default=True, help="their format")
@click.option("--threads", default=2, show_default=True, type=click.IntRange(1))
@click.option("--decoder", default=_FUSED, show_default=True, help="module:function that loads it")
@clear_errors
def main(
    requests: int, prompt_tokens: int, new_tokens: int, slots: int, kills: int, seed: int,
    **how: Any,
) -> int:  # fmt: skip
    """Serve requests, cancel and kill, and tell whether anything was lost, wrong or leaked.

    The exit code is 1 where something was.
    """
    tokenizer = tokenizer_of(locate_described(how["model"])[1])
    prompts = questions(tokenizer, requests, prompt_tokens)
    for number in range(_REPEATED, requests, _REPEATED):
        prompts[number] = prompts[number // 2]
    with tempfile.TemporaryDirectory() as folder:
        found = soak(asked_of(prompts, new_tokens, slots, **how), Path(folder), kills, seed)
    click.echo(str(found))
    return int(bool(found.faults))


if __name__ == "__main__":
    main()
