"""Options: the sets of mount options with which everything is tried."""

from typing import Final

OPTION_SETS: Final = {
    "plain": (),
    # Little enough for eviction, and for writers to wait for uploads.
    "small cache": ("-o", "cache_size=16M"),
    "allow_other": ("-o", "allow_other"),
    # Others are let in, or there would be nothing to check.
    "owners=real": ("-o", "owners=real,allow_other"),
    "sync=remote": ("-o", "sync=remote"),
}
