"""The response cache: whole answers of identical requests, kept in a file across processes.

A request is identical where all that its answer follows from is: the weights, the adapter, the
sampler with its seed, every token of the prompt, the most new tokens, and where to stop. All of it
is compared, not a hash alone. Sampling without a seed is never kept: its next answer is another.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import struct
import warnings
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from labkit.base.database import Busy, Database
from labkit.base.fork import ForkedLock
from labkit.engine.fields import joined, text_bytes
from labkit.errors import ParameterError

_APPLICATION = 0x6C6B7201  # "lkr" and the version of the table and of the keys
_TABLE = (
    "CREATE TABLE answers (number INTEGER PRIMARY KEY, hash BLOB NOT NULL UNIQUE, "
    "key BLOB NOT NULL, answer BLOB NOT NULL, checksum BLOB NOT NULL)"
)
_INSERT = "INSERT OR IGNORE INTO answers (hash, key, answer, checksum) VALUES (?, ?, ?, ?)"
_OLDEST = "DELETE FROM answers WHERE number <= (SELECT max(number) FROM answers) - ?"
_Row = tuple[bytes, bytes, bytes, bytes]  # hash, key, answer, checksum
_MOST_PENDING = 10_000
_CLOSING = 100  # tries to write what is left, each as long as a statement waits


@dataclass(frozen=True)
class ResponseKey:
    """All that an answer follows from.

    weights: a hash of everything whose change changes an answer: the weights as they are computed
    with, and the decoder. adapter, salt: names of their own; a salt keeps users apart. seed: None
    where the sampling has none. stop_ids, stop_strings: in any order. Raises ParameterError.
    """

    weights: str
    tokens: tuple[int, ...]
    max_new_tokens: int
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int | None = None
    stop_ids: frozenset[int] = frozenset()
    stop_strings: frozenset[str] = frozenset()
    adapter: str = ""
    salt: str = ""

    def __post_init__(self) -> None:
        if not self.weights or not self.tokens or self.max_new_tokens < 1:
            raise ParameterError(
                f"a response needs the hash of its weights, tokens and new tokens: weights "
                f"{self.weights!r}, {len(self.tokens)} tokens, {self.max_new_tokens} new ones."
            )
        if not all(math.isfinite(value) for value in (self.temperature, self.top_p)):
            raise ParameterError(f"temperature {self.temperature}, top_p {self.top_p}.")

    @property
    def cacheable(self) -> bool:
        """Whether the same request has the same answer: it is greedy, or has a seed."""
        return self.temperature == 0 or self.seed is not None

    @cached_property
    def encoded(self) -> bytes:
        """All fields, each with its length before it, so that none runs into the next."""
        greedy = self.temperature == 0  # then neither the seed nor the rest changes anything
        sampler = (float(self.temperature), int(self.top_k), float(self.top_p), self.seed)
        texts = [self.weights, self.adapter, self.salt, repr("greedy" if greedy else sampler)]
        fields = [
            *map(text_bytes, texts),
            _numbers([self.max_new_tokens]),
            _numbers(sorted(self.stop_ids)),
            joined(map(text_bytes, sorted(self.stop_strings))),
            _numbers(self.tokens),
        ]
        return joined(fields)

    @cached_property
    def hash(self) -> bytes:
        """SHA-256 of all fields: where the answer is looked for."""
        return hashlib.sha256(self.encoded).digest()


def _numbers(values: Collection[int]) -> bytes:
    return np.array(list(values), dtype="<i8").tobytes()


@dataclass(frozen=True)
class StoredAnswer:
    """A whole answer: its new tokens, and why it ended ("stop" or "length", as the engine says)."""

    tokens: tuple[int, ...]
    finish: str

    def encoded(self) -> bytes:
        return joined([self.finish.encode(), _numbers(self.tokens)])

    @staticmethod
    def of(data: bytes) -> StoredAnswer:
        """From `encoded`; ValueError or struct.error where it is not whole."""
        (length,) = struct.unpack_from("<Q", data)
        (rest,) = struct.unpack_from("<Q", data, 8 + length)
        tokens = np.frombuffer(data[16 + length :], "<i8")
        if tokens.nbytes != rest:
            raise ValueError("the answer is cut off.")
        return StoredAnswer(tuple(tokens.tolist()), data[8 : 8 + length].decode())


class ResponseCache:
    """Answers in an SQLite file that several processes may use at once.

    most: so many answers are kept, the oldest go first. off: why nothing is kept or found any more
    (a full disk, say); empty while it works. What another process's writing holds up is kept in
    memory, found there, and written with the next answer, or by `close`.
    """

    def __init__(self, path: Path, most: int = 100_000) -> None:
        if most < 1:
            raise ParameterError(f"a cache of {most} answers: allowed are 1 and more.")
        self.most, self.hits, self.misses, self.damaged = most, 0, 0, 0
        self._database = Database(path, _APPLICATION, _TABLE)
        self._pending: dict[bytes, _Row] = {}  # by hash
        self._lock = ForkedLock()

    @property
    def off(self) -> str:
        return self._database.off

    @property
    def pending(self) -> int:
        """Answers that are not in the file yet."""
        return len(self._pending)

    def get(self, key: ResponseKey) -> StoredAnswer | None:
        """The answer to an identical request; None where there is none, or it is damaged."""
        with self._lock:
            found = self._found(key) if key.cacheable else None
            self.hits += found is not None
            self.misses += found is None
        return found

    def put(self, key: ResponseKey, answer: StoredAnswer) -> bool:
        """Keep a whole answer; False where it is not kept: sampled without a seed, off, or too many
        wait to be written.

        Raises ParameterError for an answer that is longer than the request allows.
        """
        if len(answer.tokens) > key.max_new_tokens:
            raise ParameterError(
                f"an answer of {len(answer.tokens)} tokens to a request for {key.max_new_tokens}."
            )
        if not key.cacheable or self.off:
            return False
        with self._lock:
            if len(self._pending) >= _MOST_PENDING:
                return False
            self._pending[key.hash] = _row(key, answer)
            return self._write()

    def count(self) -> int:
        """Answers in the file."""
        try:
            rows = self._database.run([("SELECT count(*) FROM answers", ())])
        except Busy:
            return 0
        return int(rows[0][0]) if rows else 0

    def close(self) -> None:
        """Write what is left and close the file; a warning tells what could not be written."""
        with self._lock:
            for _ in range(_CLOSING):
                if not self._pending or self.off:
                    break
                self._write()
            lost = 0 if self.off else self.pending
            self._pending.clear()
            self._database.close()
        if lost:
            message = f"{lost} answers were not written: another process holds the cache."
            warnings.warn(message, RuntimeWarning, stacklevel=2)

    def _write(self) -> bool:
        """Write all that is pending; True also where it stays pending."""
        statements = [(_INSERT, row) for row in self._pending.values()]
        try:
            self._database.run([*statements, (_OLDEST, (self.most,))])
        except Busy:
            return True
        self._pending.clear()
        return not self.off

    def _found(self, key: ResponseKey) -> StoredAnswer | None:
        if (waiting := self._pending.get(key.hash)) is not None and waiting[1] == key.encoded:
            return StoredAnswer.of(waiting[2])
        asked = ("SELECT key, answer, checksum FROM answers WHERE hash = ?", (key.hash,))
        try:
            rows = self._database.run([asked])
        except Busy:
            return None
        return self._whole(key, *rows[0]) if rows else None

    def _whole(
        self, key: ResponseKey, kept: Any, answer: Any, checksum: Any
    ) -> StoredAnswer | None:
        """A row's answer, if all of it is what was written; a damaged row is taken out."""
        are_bytes = isinstance(kept, bytes) and isinstance(answer, bytes)
        if are_bytes and checksum == _checksum(key.hash, kept, answer):
            return StoredAnswer.of(answer) if kept == key.encoded else None
        self.damaged += 1
        warnings.warn(f"a damaged answer was removed from {self._database.path}.", RuntimeWarning,
                      stacklevel=4)  # fmt: skip
        with contextlib.suppress(Busy):  # then it is found damaged again
            self._database.run([("DELETE FROM answers WHERE hash = ?", (key.hash,))])
        return None


def _row(key: ResponseKey, answer: StoredAnswer) -> _Row:
    encoded = answer.encoded()
    return key.hash, key.encoded, encoded, _checksum(key.hash, key.encoded, encoded)


def _checksum(place: bytes, key: bytes, answer: bytes) -> bytes:
    """Of a row: what SQLite does not notice, as a changed bit within a page, is noticed here."""
    return hashlib.sha256(joined([place, key, answer])).digest()[:16]
