"""Who owns which block of a paged cache: pure bookkeeping, no memory.

Block numbers and reference counts as in vLLM (Kwon et al., 2309.06180, section 4.2). A block is in
one of three states. *Free*: it holds nothing. *Held*: so many tables, its count, point to it.
*Cached*: no table points to it, but it was published, so its contents may be wanted again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator

from labkit.model.cache.protocol import CacheError

# Blocks that the fused kernel reads at once where their numbers are consecutive: 128 positions.
GROUP = 8


class NoBlocks(CacheError):
    """Fewer blocks can be had than are needed. Nothing was changed."""


class Blocks:
    """`total` blocks, numbered from 0.

    reclaim: asked for room where the free blocks are too few. It turns cached blocks into free
    ones, by `withdraw`, at least as many as it is asked for if there are so many cached ones, and
    returns how many it freed. None: cached blocks stay.
    """

    def __init__(self, total: int) -> None:
        if total < 1:
            raise CacheError(f"a paged cache needs at least one block; {total} given.")
        self.total = total
        self.reclaim: Callable[[int], int] | None = None
        self._counts = [0] * total
        self._published = bytearray(total)
        self._cached: OrderedDict[int, None] = OrderedDict()  # in the order of their release
        # The last is taken first, so that memory in use stays small and near.
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(reversed(range(total)))
        groups = -(-total // GROUP)
        self._free_in = [self._size(group) for group in range(groups)]
        self._whole: OrderedDict[int, None] = OrderedDict.fromkeys(reversed(range(groups)))

    @property
    def free(self) -> int:
        """How many blocks are free."""
        return len(self._free)

    @property
    def cached(self) -> int:
        """How many blocks are cached."""
        return len(self._cached)

    @property
    def held(self) -> int:
        """How many blocks are held."""
        return self.total - self.free - self.cached

    @property
    def room(self) -> int:
        """How many blocks `allocate` can give: the free ones and those that can be reclaimed."""
        return self.free + (self.cached if self.reclaim is not None else 0)

    def count(self, block: int) -> int:
        """How many tables point to a block."""
        self._check_number(block)
        return self._counts[block]

    def published(self, block: int) -> bool:
        """Whether a block is published: it is cached now, or will be when nobody holds it."""
        self._check_number(block)
        return bool(self._published[block])

    def sole(self, block: int) -> bool:
        """Whether a block may be written: one table points to it, and it is not published."""
        return self._counts[block] == 1 and not self._published[block]

    def oldest(self) -> Iterator[int]:
        """Cached blocks, the one that was released first comes first."""
        return iter(self._cached)

    def allocate(self, count: int, after: int | None = None) -> list[int]:
        """`count` free blocks, each with a count of 1; consecutive numbers where it can be.

        after: the block that the new ones follow in their table. Raises NoBlocks if the room is
        smaller.
        """
        if count < 0:
            raise CacheError(f"{count} blocks cannot be allocated.")
        self.make_free(count)
        taken: list[int] = []
        for _ in range(count):
            after = self._next(after)
            self._take(after)
            taken.append(after)
        return taken

    def make_free(self, count: int) -> None:
        """Reclaim until `count` blocks are free, where they are not yet; or raise NoBlocks."""
        if self.free < count <= self.room and self.reclaim is not None:
            self.reclaim(count - self.free)
        if count > self.free:
            raise NoBlocks(
                f"{count} blocks are needed; {self.free} of {self.total} are free and "
                f"{self.cached} cached: wait until a request ends, or make the cache larger."
            )

    def hold(self, block: int) -> None:
        """Let one more table point to a block that is held or cached."""
        self._check_number(block)
        if self._counts[block] == 0 and block not in self._cached:
            raise CacheError(f"block {block} is free and holds nothing: allocate it instead.")
        self._cached.pop(block, None)
        self._counts[block] += 1

    def release(self, block: int) -> None:
        """Let one table less point to a block. With none it is free, or cached if published."""
        self._check_number(block)
        if self._counts[block] == 0:
            raise CacheError(f"block {block} is not held: it cannot be released.")
        self._counts[block] -= 1
        if self._counts[block] == 0:
            if self._published[block]:
                self._cached[block] = None
            else:
                self._give(block)

    def publish(self, block: int) -> None:
        """Mark a held block: its contents are final, and others may be given it."""
        self._check_number(block)
        if self._counts[block] == 0:
            raise CacheError(f"block {block} is not held: it cannot be published.")
        self._published[block] = 1

    def withdraw(self, block: int) -> None:
        """Take back `publish`. A cached block becomes free, a held one stays held."""
        self._check_number(block)
        if not self._published[block]:
            raise CacheError(f"block {block} is not published: it cannot be withdrawn.")
        self._published[block] = 0
        if block in self._cached:
            del self._cached[block]
            self._give(block)

    def check(self) -> None:
        """CacheError that names the first fault: a block in no state, or in two."""
        for block in range(self.total):
            held, free, cached = self._counts[block] > 0, block in self._free, block in self._cached
            if held + free + cached != 1:
                raise CacheError(f"block {block}: held {held}, free {free}, cached {cached}.")
            if self._counts[block] < 0 or (free and self._published[block]):
                raise CacheError(f"block {block}: count {self._counts[block]}, free, published.")
            if cached and not self._published[block]:
                raise CacheError(f"block {block} is cached but not published.")
        if self.free + self.cached + sum(count > 0 for count in self._counts) != self.total:
            raise CacheError(f"{self.free} free and {self.cached} cached of {self.total} blocks.")
        self._check_groups()

    def _check_groups(self) -> None:
        for group, counted in enumerate(self._free_in):
            begin = group * GROUP
            found = sum(block in self._free for block in range(begin, begin + self._size(group)))
            if found != counted or (group in self._whole) != (found == self._size(group)):
                raise CacheError(f"group {group} has {found} free blocks; {counted} were counted.")

    def _check_number(self, block: int) -> None:
        if not 0 <= block < self.total:
            raise CacheError(f"block {block} does not exist; there are 0..{self.total - 1}.")

    def _size(self, group: int) -> int:
        """How many blocks a group has: the last may have fewer."""
        return min(GROUP, self.total - group * GROUP)

    def _next(self, after: int | None) -> int:
        """The best free block: the one after `after`; else the first of a group that is free as a
        whole, so that the table can go on there; else any."""
        if after is not None and after + 1 in self._free:
            return after + 1
        if self._whole:
            return next(reversed(self._whole)) * GROUP
        return next(reversed(self._free))

    def _take(self, block: int) -> None:
        group = block // GROUP
        del self._free[block]
        self._free_in[group] -= 1
        self._whole.pop(group, None)
        self._counts[block] = 1

    def _give(self, block: int) -> None:
        group = block // GROUP
        self._free[block] = None
        self._free_in[group] += 1
        if self._free_in[group] == self._size(group):
            self._whole[group] = None
