"""Listings: what was told of folders, remembered until an entry changes. What an entry is, is the mount's matter."""

from collections.abc import Iterable
from typing import Final, Generic, TypeVar

from remote.protocol.ids import NodeId

ENTRIES_MAX: Final = 8_192
"""Of all listings together; the oldest ones go."""

T = TypeVar("T")


class Listings(Generic[T]):
    """A bounded number of entries, by folder; they may be filled in later, as long as the listing `is_kept`."""

    def __init__(self) -> None:
        self._kept: dict[NodeId, list[T]] = {}
        self._entries = 0

    def __bool__(self) -> bool:
        return bool(self._kept)

    def get(self, folder: NodeId) -> list[T] | None:
        """The entries of a folder, if nothing of them changed since they were kept."""
        return self._kept.get(folder)

    def is_kept(self, folder: NodeId, entries: list[T]) -> bool:
        """Whether these very entries are still what there is to be told of the folder."""
        return self._kept.get(folder) is entries

    def keep(self, folder: NodeId, entries: list[T]) -> None:
        """Remembers a listing, which is how things are now."""
        self.drop((folder,))
        if len(entries) > ENTRIES_MAX:
            return
        self._kept[folder] = entries
        self._entries += len(entries)
        while self._entries > ENTRIES_MAX:
            self.drop((next(iter(self._kept)),))

    def drop(self, folders: Iterable[NodeId]) -> None:
        """Forgets those of these folders: something in them changed."""
        for folder in folders:
            entries = self._kept.pop(folder, None)
            if entries is not None:
                self._entries -= len(entries)

    def clear(self) -> None:
        """Forgets all."""
        self._kept.clear()
        self._entries = 0
