"""Errnos: the one table from what happened to the number that the kernel hands to a program."""

import errno
from typing import Final

import trio

from cache.errors import CacheError, ContentDamaged, ContentRefused, ContentUnavailable, DiskFull, NoSuchNode
from fusefs import errors
from remote.protocol.errors import NotAllowed, QuotaExceeded, RemoteError

_NUMBERS: Final[dict[type[Exception], int]] = {
    errors.NoEntry: errno.ENOENT,
    errors.Exists: errno.EEXIST,
    errors.NotFolder: errno.ENOTDIR,
    errors.IsFolder: errno.EISDIR,
    errors.NotEmpty: errno.ENOTEMPTY,
    errors.NotPermitted: errno.EPERM,
    errors.ReadOnly: errno.EROFS,
    errors.Invalid: errno.EINVAL,
    errors.NameTooLong: errno.ENAMETOOLONG,
    errors.TooManyNames: errno.EMLINK,
    errors.NoAttribute: errno.ENODATA,
    errors.NoRoomForAttribute: errno.ENOSPC,
    errors.ServerAway: errno.ETIMEDOUT,
    errors.NotSupported: errno.EOPNOTSUPP,
    errors.TooLarge: errno.EFBIG,
    errors.NotSent: errno.EBUSY,
    errors.Overtaken: errno.EBUSY,
    errors.Mounted: errno.EBUSY,
    errors.OtherSpace: errno.EXDEV,
    errors.OverQuota: errno.EDQUOT,
    errors.VolumeError: errno.EIO,
    NoSuchNode: errno.ESTALE,
    DiskFull: errno.ENOSPC,
    ContentUnavailable: errno.EIO,
    ContentDamaged: errno.EIO,
    ContentRefused: errno.EACCES,
    CacheError: errno.EIO,
    NotAllowed: errno.EACCES,
    QuotaExceeded: errno.EDQUOT,
    RemoteError: errno.EIO,
    trio.TooSlowError: errno.ETIMEDOUT,
}


def errno_of(error: Exception) -> int | None:
    """The errno of an error of ours, None for one that is a fault in the program."""
    for family in type(error).__mro__:
        number = _NUMBERS.get(family)
        if number is not None:
            return number
    return error.errno if isinstance(error, OSError) else None
