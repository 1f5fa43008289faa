"""What can go wrong in the cache, as sentences for a person; errnos belong to fusefs.errnos."""


class CacheError(Exception):
    """Something that this machine's own store could not do."""


class StoreDamaged(CacheError):
    """The local database cannot be read; the message names the file and what to do."""


class StoreInUse(CacheError):
    """Another process has this state directory open."""


class DiskFull(CacheError):
    """No room for new content: the disk is full, or everything left in the cache is pinned or not yet uploaded."""


class ContentUnavailable(CacheError):
    """These bytes are not on this machine and could not be fetched in time; nothing is known to be wrong with them."""


class ContentDamaged(CacheError):
    """Bytes that this machine held or fetched are not what they should be, and no good copy could be had."""


class ContentRefused(CacheError):
    """The server gives these bytes to nobody any more: a virus was found in them."""


class OpenHere(CacheError):
    """It cannot be sent while it is open here, for it was changed elsewhere meanwhile."""


class NoSuchNode(CacheError):
    """There is no node with this id here."""


class NoIdsLeft(CacheError):
    """Nothing new can be made before this device has reached its server: it has no node ids to give."""


class Contradiction(CacheError):
    """The server says of a node what cannot be true together with what is known of it here."""
