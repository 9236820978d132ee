"""What is made anew in a forked child, which has the thread that forked and no other one.

What another thread was doing there is never done, and what it held is never free again (fork(2)).
"""

from __future__ import annotations

import os
import threading
import weakref
from types import TracebackType
from typing import Protocol


class Renewed(Protocol):
    """Something that threads share."""

    def renew(self) -> None:
        """Be as new, in a child that has just been forked."""


_KNOWN: weakref.WeakSet[Renewed] = weakref.WeakSet()


def renew_in_children(one: Renewed) -> None:
    """Have something renewed in every child that is forked from now on, while it lives."""
    _KNOWN.add(one)


def _renew_all() -> None:
    for one in list(_KNOWN):
        one.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_all)


class ForkedLock:
    """A re-entrant lock that is free in a child, whichever thread of the parent held it."""

    def __init__(self) -> None:
        self.renew()
        renew_in_children(self)

    def renew(self) -> None:
        """As Renewed.renew."""
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._lock.release()
