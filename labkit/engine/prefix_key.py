"""The names of blocks: a chain of hashes over everything that keys and values follow from."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from labkit.engine.fields import joined, sized, text_bytes
from labkit.errors import ParameterError
from labkit.model.cache.paged import BLOCK_SIZE

Digest = Callable[[bytes], bytes]


def sha256(content: bytes) -> bytes:
    """The hash that names blocks, 32 bytes."""
    return hashlib.sha256(content).digest()


@dataclass(frozen=True)
class PrefixKey:
    """What keys and values follow from beside the tokens.

    model: its name. weights: a hash of them. adapter: the name of one, if any. salt: requests with
    different salts share nothing, so that no one can find out by time what another asked. Raises
    ParameterError for what is no text.
    """

    model: str
    weights: str
    adapter: str = ""
    salt: str = ""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not isinstance(value, str):
                raise ParameterError(f"{name} {value!r:.60} of a prefix key: allowed is a text.")

    def encoded(self) -> bytes:
        """All fields, each after its length: no two keys give the same bytes."""
        parts = (self.model, self.weights, self.adapter, self.salt)
        return joined(map(text_bytes, parts))


class BlockName(NamedTuple):
    """name: the hash of the key, of the name of the block before, and of the block's tokens.

    key: as PrefixKey.encoded. tokens: of the block, 8 bytes each.
    """

    name: bytes
    key: bytes
    tokens: bytes


def block_names(
    tokens: Sequence[int], key: PrefixKey, digest: Digest = sha256
) -> Iterator[BlockName]:
    """The name of each whole block of `tokens`, from the first on."""
    encoded, before = key.encoded(), b""
    for start in range(0, len(tokens) - BLOCK_SIZE + 1, BLOCK_SIZE):
        block = array("q", tokens[start : start + BLOCK_SIZE]).tobytes()
        before = digest(b"".join((encoded, sized(before), block)))
        yield BlockName(before, encoded, block)
