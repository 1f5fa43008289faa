"""Past: a bounded place for answers that never change: listings as of a rev, pages of history. The only diskcache.

Bytes under bytes, never anything pickled: whoever can write into the cache directory must not gain a program's rights
(CVE-2025-69872). Everything here can be asked again; damage costs a request.
"""

import logging
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Final, NoReturn, TypeVar

import diskcache
import trio
import xxhash

log = logging.getLogger(__name__)

LIMIT_BYTES: Final = 64 << 20
ANSWER_MAX: Final = 8 << 20
"""Bytes of one answer worth keeping."""
_SUM: Final = 8

_T = TypeVar("_T")


class Refused(Exception):
    """Something other than plain bytes was to be written, or was found."""


class BytesDisk(diskcache.Disk):  # type: ignore[misc]  # diskcache has no types
    """Keeps bytes in rows of the database; refuses everything else in both directions, and has no files."""

    def put(self, key: object) -> tuple[object, bool]:
        """The key as it stands in the database."""
        if type(key) is not bytes:
            raise Refused(f"a key of type {type(key).__name__}")
        return sqlite3.Binary(key), True

    def get(self, key: object, raw: object) -> bytes:
        """The key from the database."""
        if not raw or type(key) is not bytes:
            raise Refused("a key that is not plain bytes")
        return key

    def store(self, value: object, read: object, key: object = None) -> tuple[int, int, None, object]:
        """Size, mode, file name and value for a row."""
        if read or type(value) is not bytes:
            raise Refused(f"a value of type {type(value).__name__}")
        return 0, diskcache.core.MODE_RAW, None, sqlite3.Binary(value)

    def fetch(self, mode: object, filename: object, value: object, read: object) -> bytes:
        """The value of a row."""
        if mode != diskcache.core.MODE_RAW or filename is not None or read or type(value) is not bytes:
            raise Refused(f"a value of mode {mode!r}")
        return value

    def filename(self, key: object = None, value: object = None) -> NoReturn:
        """There are no files."""
        raise Refused("a value in a file of its own")

    def remove(self, file_path: object) -> NoReturn:
        """There are no files: a name of one was put there by somebody else."""
        raise Refused("a value in a file of its own")


class Past:
    """Answers by key, the oldest dropped when they take more than the limit."""

    def __init__(self, directory: Path, limit_bytes: int = LIMIT_BYTES) -> None:
        """Opens nothing before the first use."""
        self._directory = directory
        self._limit_bytes = limit_bytes
        self._cache: diskcache.Cache | None = None
        # One thread at a time: then no lock of the database is ever waited for.
        self._limiter = trio.CapacityLimiter(1)

    async def get(self, key: bytes) -> bytes | None:
        """The answer, or None."""
        value = await self._in_thread(lambda cache: cache.get(key))
        if type(value) is not bytes or len(value) < _SUM:
            return None
        answer = value[_SUM:]
        if xxhash.xxh3_64_digest(answer) != value[:_SUM]:
            log.warning("A kept answer about the past was changed on disk; it is asked for again.")
            return None
        return answer

    async def put(self, key: bytes, data: bytes) -> None:
        """Keeps an answer, if it can be kept."""
        if len(data) <= min(ANSWER_MAX, self._limit_bytes // 4):
            value = xxhash.xxh3_64_digest(data) + data
            await self._in_thread(lambda cache: cache.set(key, value))

    async def limit(self, limit_bytes: int) -> None:
        """Holds it to another limit; what is over it is dropped."""
        self._limit_bytes = limit_bytes

        def hold(cache: diskcache.Cache) -> None:
            cache.reset("size_limit", limit_bytes)
            cache.cull()

        await self._in_thread(hold, is_needed=False)

    async def clear(self) -> None:
        """Drops all answers: some of the past is purged."""
        await self._in_thread(lambda cache: cache.clear())

    async def close(self) -> None:
        """Lets go of the database; it is opened again when used again."""
        await self._in_thread(lambda cache: cache.close(), is_needed=False)
        self._cache = None

    async def _in_thread(self, job: Callable[[diskcache.Cache], _T], *, is_needed: bool = True) -> _T | None:
        if self._cache is None and not is_needed:
            return None
        return await trio.to_thread.run_sync(self._try, job, limiter=self._limiter)

    def _try(self, job: Callable[[diskcache.Cache], _T]) -> _T | None:
        """The job's result; what is damaged or foreign is wiped, and None answered when that does not help."""
        for is_last in (False, True):
            try:
                return self._run(job)
            except sqlite3.OperationalError as error:
                if "full" in str(error) or is_last:
                    log.warning("Answers about the past cannot be kept in %s: %s.", self._directory, error)
                    return None
            except (sqlite3.Error, diskcache.Timeout, Refused, OSError, TypeError, ValueError, AttributeError) as error:
                # The last three come from inside diskcache, when its tables hold what it never wrote.
                if is_last:
                    log.warning("Answers about the past cannot be kept in %s: %s.", self._directory, error)
                    return None
                log.warning("%s is damaged or not ours (%s): it is emptied.", self._directory, error)
            self._wipe()
        return None

    def _run(self, job: Callable[[diskcache.Cache], _T]) -> _T:
        if self._cache is None or not self._directory.is_dir():
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._directory.chmod(0o700)
            self._cache = diskcache.Cache(
                str(self._directory),
                disk=BytesDisk,
                size_limit=self._limit_bytes,
                eviction_policy="least-recently-stored",
                statistics=0,
                tag_index=0,
            )
        try:
            return job(self._cache)
        finally:
            # The connection belongs to this thread, and the next call may come from another.
            self._cache.close()

    def _wipe(self) -> None:
        self._cache = None
        shutil.rmtree(self._directory, ignore_errors=True)
