"""Virtual: what the mount shows and no node is. Its inodes have numbers with the highest usable bit set.

A number is given when something is looked up or listed, and taken back when the kernel forgets it.
"""

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Any, Final, Generic, Protocol, TypeVar

from cache.errors import NoSuchNode
from fusefs.attributes import Attributes

PAST: Final = 1 << 62
SEARCHES: Final = PAST | 1 << 61
"""The first numbers of each kind."""

What = TypeVar("What", bound=Hashable)
About = TypeVar("About")


def is_virtual(inode: int) -> bool:
    """Whether no node has this number."""
    return inode >= PAST


@dataclass
class Inode(Generic[What, About]):
    """What a number stands for, and what was known about it when it was given."""

    what: What
    about: About
    lookups: int = 0


class Inodes(Generic[What, About]):
    """The numbers of one kind."""

    def __init__(self, first: int) -> None:
        self._next = first
        self._inodes: dict[int, Inode[What, About]] = {}
        self._numbers: dict[What, int] = {}

    def number(self, what: What, about: About) -> int:
        """The number of something, which it keeps for as long as the kernel knows it."""
        number = self._numbers.get(what)
        if number is None:
            number, self._next = self._next, self._next + 1
            self._numbers[what] = number
            self._inodes[number] = Inode(what, about)
        return number

    def find(self, inode: int) -> Inode[What, About]:
        """What a number stands for; raises NoSuchNode."""
        found = self._inodes.get(inode)
        if found is None:
            raise NoSuchNode(f"Nothing has the virtual inode {inode} any more.")
        return found

    def count(self, inode: int) -> None:
        """The kernel was told of the inode once more."""
        self.find(inode).lookups += 1

    def forget(self, inode: int, count: int) -> None:
        """The kernel has forgotten the inode so many times."""
        found = self._inodes.get(inode)
        if found is not None:
            found.lookups -= count
            if found.lookups <= 0:
                del self._inodes[inode]
                del self._numbers[found.what]

    def drop_unseen(self, inodes: Iterable[int]) -> None:
        """Takes numbers back that the kernel was never told."""
        for inode in inodes:
            self.forget(inode, 0)


class Virtual(Protocol):
    """One kind of them, as the kernel asks for it; all of it is read-only."""

    @property
    def inodes(self) -> Inodes[Any, Any]:  # Any: what a number stands for is its own matter
        """Its numbers."""

    async def lookup(self, inode: int, name: bytes) -> int:
        """The inode that a name leads to; raises NoEntry."""

    async def children(self, inode: int) -> list[tuple[bytes, int]]:
        """The names in a folder, with their inodes."""

    def attributes(self, inode: int) -> tuple[Attributes, float]:
        """What stat(2) shows, and for how many seconds the kernel may believe it."""

    def target(self, inode: int) -> bytes:
        """Where a symlink points."""

    def xattr(self, inode: int, name: bytes) -> bytes | None:
        """The value of an extended attribute; None when there is no such attribute."""

    def xattrs(self, inode: int) -> list[bytes]:
        """Names of the extended attributes."""
