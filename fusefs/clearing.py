"""Clearing: takes away what this device holds of its drive."""

import shutil

from cache.journal import journal_files
from fusefs.settings import Places


def clear(places: Places) -> None:
    """Removes everything that was kept of the drive, also what was not sent; nothing may have it open.

    Raises OSError when the state store cannot be removed.
    """
    for file in (places.tree_file, *journal_files(places.tree_file)):
        file.unlink(missing_ok=True)
    shutil.rmtree(places.stagings, ignore_errors=True)
    for entry in places.cache.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)
