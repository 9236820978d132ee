"""The prefix cache: blocks of requests that were served, found again by the tokens they hold.

Requests whose prompts begin alike compute the beginning once (SGLang's RadixAttention, Zheng et
al., 2312.07104; here with hashes of whole blocks, as in vLLM). The hash alone is not believed: the
tokens of the block, and of all blocks before it, are compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from labkit.engine.prefix_key import BlockName, Digest, PrefixKey, block_names, sha256
from labkit.model.cache.blocks import NoBlocks
from labkit.model.cache.paged import BLOCK_SIZE, PagedCache
from labkit.model.cache.protocol import CacheError

__all__ = ["Counts", "DiskTier", "PrefixCache", "PrefixKey"]


class DiskTier(Protocol):
    """Blocks that outlive the process (disk_blocks.py).

    history: what a block's content follows from, the key and all tokens up to its end. Under one
    name, which is a hash of that, there may be blocks of different histories.
    """

    def get(self, name: bytes, history: bytes) -> bytes | None:
        """The content that was put under this name with this history; None where there is none."""

    def put(self, name: bytes, history: bytes, content: bytes | bytearray) -> None:
        """Keep a content: it is kept when this returns. A tier that cannot does nothing."""

    def buffer(self, nbytes: int) -> bytearray:
        """Memory for a content that a put gets, which it belongs to from then on."""

    def put_soon(self, name: bytes, history: bytes, content: bytes | bytearray) -> None:
        """Keep a content in the background; `get` finds it from now on. It may be lost."""

    def flush(self) -> None:
        """Return when what was put is kept."""


@dataclass(eq=False)
class Node:
    """A published block, and the one before it (None: it is the first)."""

    named: BlockName
    block: int
    parent: Node | None
    children: set[bytes] = field(default_factory=set)


@dataclass
class Counts:
    """asked: tokens of all prompts that were looked up. from_memory, from_disk: those that were
    found. evicted: blocks."""

    asked: int = 0
    from_memory: int = 0
    from_disk: int = 0
    evicted: int = 0

    @property
    def hit_rate(self) -> float:
        """Tokens found over tokens asked for; 0 before the first question."""
        return (self.from_memory + self.from_disk) / self.asked if self.asked else 0.0


class PrefixCache:
    """Finds the blocks of a paged cache that hold the beginning of a prompt.

    A block stays published while a request holds it, and after that until its memory is needed:
    then the blocks that were released first go first, and a block only after all that follow it. A
    block in use is never taken. It holds blocks of token rows only: a request with embeddings, or
    with rows that see each other, must not be published.

    key: of requests that give none. disk: where evicted blocks go, and are found again. digest: the
    hash, which tests replace.
    """

    def __init__(
        self,
        cache: PagedCache,
        key: PrefixKey,
        disk: DiskTier | None = None,
        digest: Digest = sha256,
    ) -> None:
        if cache.reclaim is not None:
            raise CacheError("this paged cache has a prefix cache; it takes one.")
        self.cache, self.key, self.disk = cache, key, disk
        self.counts = Counts()
        self._digest = digest
        self._nodes: dict[bytes, Node] = {}
        self._of_block: dict[int, Node] = {}
        self._unsaved: dict[bytes, Node] = {}
        cache.reclaim = self._reclaim

    def __len__(self) -> int:
        """Published blocks."""
        return len(self._nodes)

    def match(self, tokens: Sequence[int], key: PrefixKey | None = None) -> list[int]:
        """The blocks that hold the beginning of a prompt, for `PagedCache.adopt`.

        Never the whole prompt: its last token is left, because a request needs one row to ask for
        the next token. Blocks on disk are read into free or cached blocks. Adopt the blocks before
        anything else takes some.
        """
        book = self.cache.book
        found: list[Node] = []
        before = self.counts.from_disk
        self.counts.asked += len(tokens)
        try:
            for named in self._names(tokens[: len(tokens) - 1], key):
                parent = found[-1] if found else None
                node = self._known(named, parent) or self._from_disk(named, parent)
                if node is None:
                    break
                book.hold(node.block)  # so that no later one is read into it
                found.append(node)
        finally:
            for node in reversed(found):
                book.release(node.block)
        self.counts.from_memory += len(found) * BLOCK_SIZE - (self.counts.from_disk - before)
        return [node.block for node in found]

    def known(self, tokens: Sequence[int], key: PrefixKey | None = None) -> list[int]:
        """The blocks in memory that `match` would find now. It counts, reads and changes nothing:
        for plans that may not be carried out."""
        found: list[int] = []
        parent: Node | None = None
        for named in self._names(tokens[: len(tokens) - 1], key):
            parent = self._known(named, parent)
            if parent is None:
                break
            found.append(parent.block)
        return found

    def publish(self, slot: int, tokens: Sequence[int], key: PrefixKey | None = None) -> int:
        """Let others find the whole blocks of a slot that hold the first of `tokens`.

        tokens: of the slot, from its first position on; those beyond its length are ignored. Where
        an equal block is published already, the slot takes that one in place of its own. Call it
        after a pass, never between `reserve` and the pass. It names all blocks anew, some
        microseconds each. Returns how many were new.
        """
        whole = min(len(tokens), self.cache.length(slot)) // BLOCK_SIZE * BLOCK_SIZE
        blocks = self.cache.blocks(slot)
        parent: Node | None = None
        new = 0
        for index, named in enumerate(self._names(tokens[:whole], key)):
            node, block = self._known(named, parent), blocks[index]
            if node is None:
                if named.name in self._nodes or block in self._of_block:
                    break  # another content has this name, or this block another name
                node = self._add(Node(named, block, parent), saved=False)
                new += 1
            elif node.block != block:
                self.cache.replace(slot, index, node.block)
            parent = node
        return new

    def save(self, most: int | None = None) -> int:
        """Write so many blocks that are not on disk yet, or all; returns how many.

        For quiet moments and the end: it returns when they are written. Evicted blocks are
        written in the background.
        """
        nodes = list(self._unsaved.values())[:most]
        for node in nodes:
            self._save(node)
        return len(nodes)

    def flush(self) -> None:
        """Return when no evicted block waits to be written any more."""
        if self.disk is not None:
            self.disk.flush()

    def clear(self) -> None:
        """Forget all blocks. Those in use stay with the requests that hold them."""
        for node in [node for node in self._nodes.values() if node.parent is None]:
            self._drop(node)

    def check(self) -> None:
        """CacheError that names the first fault: a block that is published in one place only, or
        one that follows an evicted one."""
        book = self.cache.book
        for node in self._nodes.values():
            if not book.published(node.block) or self._of_block.get(node.block) is not node:
                raise CacheError(f"block {node.block} is in the prefix cache, but not published.")
            parent = node.parent
            if parent is not None and self._nodes.get(parent.named.name) is not parent:
                raise CacheError(f"block {node.block} follows one that was evicted.")
            if parent is not None and node.named.name not in parent.children:
                raise CacheError(f"block {node.block} is not known to the one before it.")
        published = sum(book.published(block) for block in range(book.total))
        if not published == len(self._nodes) == len(self._of_block):
            raise CacheError(
                f"{published} blocks are published; the prefix cache has {len(self._nodes)}."
            )

    def _names(self, tokens: Sequence[int], key: PrefixKey | None) -> Iterator[BlockName]:
        return block_names(tokens, key or self.key, self._digest)

    def _known(self, named: BlockName, parent: Node | None) -> Node | None:
        """The node of this name, if it also has this key and tokens, and follows this node."""
        node = self._nodes.get(named.name)
        same = node is not None and node.named == named and node.parent is parent
        return node if same else None

    def _add(self, node: Node, saved: bool) -> Node:
        self.cache.book.publish(node.block)
        self._nodes[node.named.name] = self._of_block[node.block] = node
        if node.parent is not None:
            node.parent.children.add(node.named.name)
        if self.disk is not None and not saved:
            self._unsaved[node.named.name] = node
        return node

    def _from_disk(self, named: BlockName, parent: Node | None) -> Node | None:
        """A block read from disk, as a cached node; None where that cannot be."""
        if self.disk is None or named.name in self._nodes or not self.cache.room:
            return None
        content = self.disk.get(named.name, _history(named, parent))
        if content is None or len(content) != self.cache.store.block_nbytes:
            return None
        book = self.cache.book
        try:
            (block,) = book.allocate(1, None if parent is None else parent.block)
        except NoBlocks:
            return None
        try:
            self.cache.store.write_block(block, content)
            node = self._add(Node(named, block, parent), saved=True)
        finally:
            book.release(block)
        self.counts.from_disk += BLOCK_SIZE
        return node

    def _reclaim(self, count: int) -> int:
        """Evict `count` cached blocks, or as many as there are."""
        freed, book = 0, self.cache.book
        while freed < count and book.cached:
            before = book.free
            self._drop(self._next_evicted())
            freed += book.free - before
        self.counts.evicted += freed
        return freed

    def _next_evicted(self) -> Node:
        """The oldest cached leaf.

        The oldest cached block is one, because a slot releases its last block first. Only a fork
        may hold a block without the published one before it: then there may be no leaf at all.
        """
        oldest = [self._of_block[block] for block in self._oldest()]
        return next((node for node in oldest if not node.children), oldest[0])

    def _oldest(self) -> Iterator[int]:
        """The oldest cached block; where it is no leaf, all others after it."""
        cached = self.cache.book.oldest()
        first = next(cached)
        yield first
        if self._of_block[first].children:
            yield from cached

    def _drop(self, node: Node) -> None:
        """Forget a node and all after it. Blocks in use become free when they are released."""
        nodes = [node]
        for one in nodes:  # grows as it goes
            nodes += [self._nodes[name] for name in one.children]
        for one in reversed(nodes):
            if one.named.name in self._unsaved:
                self._save(one, soon=True)
            del self._nodes[one.named.name], self._of_block[one.block]
            if one.parent is not None:
                one.parent.children.discard(one.named.name)
            self.cache.book.withdraw(one.block)

    def _save(self, node: Node, soon: bool = False) -> None:
        del self._unsaved[node.named.name]
        if self.disk is None:
            return
        content = self.disk.buffer(self.cache.store.block_nbytes)
        self.cache.store.read_block_into(node.block, content)  # a copy: the block is written to
        put = self.disk.put_soon if soon else self.disk.put
        put(node.named.name, _history(node.named, node.parent), content)


def _history(named: BlockName, parent: Node | None) -> bytes:
    """As DiskTier has it."""
    tokens = [named.tokens]
    while parent is not None:
        tokens.append(parent.named.tokens)
        parent = parent.parent
    return b"".join((named.key, *reversed(tokens)))
