"""What kill -9 does to a store: descriptors close, and nothing else happens."""

import os

from cache.store import Store


def abandon(store: Store) -> None:
    """Lets go of a store's files and keeps nothing more; a commit that a thread makes just then comes to its end."""
    if store._commit is not None and store._commit.is_running:
        store._commit.ended.wait()
    store._env.close()
    if store._journal is not None:
        store._journal.close()
    os.close(store._lock_fd)
