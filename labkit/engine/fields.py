"""Fields as bytes, each after its length: no two lists of fields give the same bytes."""

from __future__ import annotations

from collections.abc import Iterable


def sized(field: bytes) -> bytes:
    """A field after its length, which takes 8 bytes, the lowest first."""
    return len(field).to_bytes(8, "little") + field


def joined(fields: Iterable[bytes]) -> bytes:
    """All fields, each after its length."""
    return b"".join(map(sized, fields))


def text_bytes(text: str) -> bytes:
    """A text as a field: no two texts give the same bytes. JSON may hold half a surrogate pair,
    which is no character, and must stop nobody."""
    return text.encode("utf-8", "surrogatepass")
