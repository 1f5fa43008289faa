"""The opened keys of spaces, so that a request needs not unwrap one again."""

from functools import lru_cache

from remote.server.database.spaces import SpaceRow
from remote.server.keys import MasterKey, SpaceKey

REMEMBERED_MAX = 10_000


class Keyring:
    """Opens the wrapped keys of spaces."""

    def __init__(self, master: MasterKey) -> None:
        self._unwrap = lru_cache(REMEMBERED_MAX)(lambda wrapped: SpaceKey(master.unwrap(wrapped)))

    def key(self, row: SpaceRow) -> SpaceKey:
        """The key of this space."""
        return self._unwrap(row.wrapped_key)
