"""Layer: changes on top of a store's file, in memory, in the order in which their keys sort."""

from bisect import bisect_left, insort
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Final

_FEW: Final = 64
"""New keys up to which putting each into its place beats sorting all."""

Puts = dict[int, dict[bytes, bytes | None]]
"""By table and key: the new value, or None for a removal."""


class Layer:
    """What was put into each table; a removal is kept as None, so that it hides what lies below."""

    def __init__(self, tables: int) -> None:
        self.tables: Final[list[dict[bytes, bytes | None]]] = [{} for _ in range(tables)]
        self._keys: Final[list[list[bytes]]] = [[] for _ in range(tables)]
        self.puts = 0
        """How many were made, those of one key counted each time."""
        self.size_bytes = 0
        """About what they take."""
        self.sequence = 0
        """Of the last change in it."""

    def apply(self, puts: Puts, size_bytes: int, sequence: int) -> None:
        """Takes a change in."""
        for table, values in puts.items():
            self.tables[table].update(values)
            self.puts += len(values)
        self.size_bytes += size_bytes
        self.sequence = sequence

    def between(self, table: int, first: bytes, prefix: bytes) -> dict[bytes, bytes | None]:
        """What it has from the first key >= `first` on, while keys begin with `prefix`; in order."""
        values = self.tables[table]
        found: dict[bytes, bytes | None] = {}
        if values:
            keys = self._sorted(table)
            for at in range(bisect_left(keys, first), len(keys)):
                key = keys[at]
                if not key.startswith(prefix):
                    break
                found[key] = values[key]
        return found

    def in_order(self, table: int) -> tuple[list[bytes], Mapping[bytes, bytes | None]]:
        """All keys of a table, sorted, and their values."""
        return self._sorted(table), self.tables[table]

    def _sorted(self, table: int) -> list[bytes]:
        """The keys of a table in order; no key ever leaves, and a dict remembers which came last."""
        keys, values = self._keys[table], self.tables[table]
        fresh = len(values) - len(keys)
        if not fresh:
            return keys
        newest: Iterator[bytes] = islice(reversed(values), fresh)
        if fresh <= _FEW:
            for key in newest:
                insort(keys, key)
        else:
            keys += newest
            keys.sort()
        return keys
