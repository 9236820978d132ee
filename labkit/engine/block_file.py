"""The file of a block on disk: a checksum, what the content follows from, and the content."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

from labkit.engine.fields import sized

_MAGIC = b"labkit block 2\n\0"
_CHECKSUM = 4  # bytes of a CRC-32
_HEAD = len(_MAGIC) + _CHECKSUM


def checksum(*parts: bytes | bytearray | memoryview) -> bytes:
    """The CRC-32 of all parts: against half files and flipped bits, not against who writes into the
    folder on purpose, who could write a SHA-256 as well. That one takes three times as long."""
    found = 0
    for part in parts:
        found = zlib.crc32(part, found)
    return found.to_bytes(_CHECKSUM, "little")


def head_of(layout: bytes, history: bytes, content: bytes | bytearray) -> bytes:
    """What comes before the content, which is not copied."""
    follows = _follows(layout, history)
    return b"".join((_MAGIC, checksum(follows, content), follows))


def holds(path: Path, layout: bytes, history: bytes, size: int) -> bool:
    """Whether a path has a file that tells this layout and history, and has room for a content of
    this size. The content is not read: what is damaged is found when it is."""
    begin = _follows(layout, history)
    try:
        with path.open("rb", buffering=0) as file:
            there = os.fstat(file.fileno()).st_size
            if there != _HEAD + len(begin) + size:
                return False
            found = file.read(_HEAD + len(begin))
    except FileNotFoundError:
        return False
    return found[: len(_MAGIC)] == _MAGIC and found[_HEAD:] == begin


def parsed(whole: bytes, layout: bytes) -> tuple[bytes, bytes] | None:
    """History and content of a file; None where it is damaged, or of another layout."""
    body = memoryview(whole)[_HEAD:]
    if whole[: len(_MAGIC)] != _MAGIC or whole[len(_MAGIC) : _HEAD] != checksum(body):
        return None
    own, rest = _split(body)
    if own != layout:
        return None
    history, content = _split(rest)
    return bytes(history), bytes(content)


def _follows(layout: bytes, history: bytes) -> bytes:
    return sized(layout) + sized(history)


def _split(body: memoryview) -> tuple[memoryview, memoryview]:
    """The field that `sized` made at the begin of a body, and the rest."""
    size = 8 + int.from_bytes(body[:8], "little")
    return body[8:size], body[size:]
