"""A process that writes answers, for the tests of the response cache: they start it, and kill it.

    python -m tests.engine.response_worker FILE FIRST COUNT [--most-bytes N]

It prints a line "N" as soon as answer N is kept, and at the end what it could not write.
"""

from __future__ import annotations

import argparse
import resource
import signal
import warnings
from pathlib import Path

from labkit.engine.responses import ResponseCache, ResponseKey, StoredAnswer


def key_of(number: int) -> ResponseKey:
    return ResponseKey("weights", (number, number + 1, number + 2), 64)


def answer_of(number: int) -> StoredAnswer:
    return StoredAnswer(tuple(range(number, number + 1 + number % 60)), "length")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("file", type=Path)
    parser.add_argument("first", type=int)
    parser.add_argument("count", type=int)
    parser.add_argument("--most-bytes", type=int, default=0)
    given = parser.parse_args()
    if given.most_bytes:  # as on a full disk: the system refuses what goes beyond
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (given.most_bytes, given.most_bytes))
    warnings.simplefilter("always")
    cache = ResponseCache(given.file)
    for number in range(given.first, given.first + given.count):
        cache.put(key_of(number), answer_of(number))
        if not cache.pending and not cache.off:
            print(number, flush=True)
    cache.close()
    print("off" if cache.off else "whole", flush=True)


if __name__ == "__main__":
    main()
