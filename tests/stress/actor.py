"""Actor: a program that does system calls as it is told, one JSON line each, and answers with all that it sees of them.

    python -m tests.stress.actor TOP UID

It makes TOP its root, so that no path leads out of it, and acts as this user; see twins.py, which tells it.
"""

import ctypes
import errno
import fcntl
import hashlib
import json
import mmap
import os
import stat
import sys
import time
from pathlib import Path
from typing import Any, Final

AT_FDCWD: Final = -100
AT_EMPTY_PATH: Final = 0x1000
GROUP: Final = 4800
"""A group besides their own of all users but root."""
CLOCK_REALTIME_COARSE: Final = 5
_LIBC: Final = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Acts until nobody tells it anything any more."""
    top, uid = Path(sys.argv[1]), int(sys.argv[2])
    os.chroot(top)
    os.chdir("/")
    os.umask(0o022)
    if uid:
        os.setgroups([GROUP])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    actor = Actor()
    for line in sys.stdin:
        call, args, watched = json.loads(line)
        print(json.dumps(actor.act(call, args, watched)), flush=True)


# JSON in, JSON out: each call knows what its arguments are.
class Actor:
    """What one program has open, and what it can do."""

    def __init__(self) -> None:
        self._fds: dict[int, int] = {}

    def act(self, call: str, args: list[Any], watched: list[str | int]) -> list[Any]:
        """What comes of a call, and which times of `watched` (paths, or what is open) moved by it."""
        before = [self._stat(one) for one in watched]
        if watched:
            _tick()
        try:
            result = getattr(self, f"do_{call}")(*args)
        except OSError as error:
            result = errno.errorcode.get(error.errno or 0, str(error))
        except KeyError:
            result = "not open"
        after = [self._stat(one) for one in watched]
        return [result, [_moved(call, one, other) for one, other in zip(before, after, strict=True)]]

    def _stat(self, what: str | int) -> os.stat_result | None:
        try:
            return os.lstat(what) if isinstance(what, str) else os.fstat(self._fds[what])
        except (OSError, KeyError):
            return None

    # Open files

    def do_open(self, slot: int, path: str, flags: int, mode: int) -> object:
        fd = os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY, mode)
        self.do_close(slot)
        self._fds[slot] = fd
        return "opened"

    def do_close(self, slot: int) -> object:
        fd = self._fds.pop(slot, None)
        return os.close(fd) if fd is not None else "not open"

    def do_read(self, slot: int, length: int) -> object:
        return _digest(os.read(self._fds[slot], length))

    def do_pread(self, slot: int, length: int, offset: int) -> object:
        return _digest(os.pread(self._fds[slot], length, offset))

    def do_write(self, slot: int, byte: int, length: int) -> object:
        return os.write(self._fds[slot], bytes([byte]) * length)

    def do_pwrite(self, slot: int, byte: int, length: int, offset: int) -> object:
        return os.pwrite(self._fds[slot], bytes([byte]) * length, offset)

    def do_seek(self, slot: int, offset: int, whence: int) -> object:
        fd = self._fds[slot]
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            return "offsets in folders mean nothing to others"
        return os.lseek(fd, offset, whence)

    def do_map(self, slot: int, byte: int, offset: int, length: int) -> object:
        fd = self._fds[slot]
        found = os.fstat(fd)
        size = found.st_size if stat.S_ISREG(found.st_mode) else 0
        if not size:
            return "nothing to map"
        offset %= size
        with mmap.mmap(fd, size) as mapped:
            mapped[offset : offset + length] = bytes([byte]) * len(mapped[offset : offset + length])
            return _digest(mapped[:])

    def do_ftruncate(self, slot: int, size: int) -> object:
        return os.ftruncate(self._fds[slot], size)

    def do_allocate(self, slot: int, offset: int, length: int) -> object:
        fd = self._fds[slot]
        flags = fcntl.fcntl(fd, fcntl.F_GETFL)
        if flags & os.O_ACCMODE != os.O_RDWR or flags & (os.O_APPEND | os.O_PATH):
            return "glibc writes for those who cannot read, or at the end, otherwise than a disk allocates"
        return os.posix_fallocate(fd, offset, length)

    def do_sync(self, slot: int, is_data: bool) -> object:
        return os.fdatasync(self._fds[slot]) if is_data else os.fsync(self._fds[slot])

    def do_copy(self, source: int, target: int, offset: int, length: int) -> object:
        return os.copy_file_range(self._fds[source], self._fds[target], length, offset, 0)

    def do_send(self, source: int, target: int, offset: int, length: int) -> object:
        return os.sendfile(self._fds[target], self._fds[source], offset, length)

    def do_dup(self, slot: int, other: int) -> object:
        fd = os.dup(self._fds[slot])
        self.do_close(other)
        self._fds[other] = fd
        return "duplicated"

    def do_flock(self, slot: int, kind: int) -> object:
        return fcntl.flock(self._fds[slot], _not_waiting(kind))

    def do_lock(self, slot: int, kind: int, length: int, start: int) -> object:
        return fcntl.lockf(self._fds[slot], _not_waiting(kind), length, start)

    def do_fstat(self, slot: int) -> object:
        return _seen(os.fstat(self._fds[slot]))

    def do_fchmod(self, slot: int, mode: int) -> object:
        return _chmod(self._fds[slot], mode)

    def do_fchown(self, slot: int, uid: int, gid: int) -> object:
        return _chown(self._fds[slot], uid, gid)

    def do_futime(self, slot: int, times: list[int] | None) -> object:
        return _set_times(self._fds[slot], times)

    def do_flist(self, slot: int) -> object:
        return sorted(os.listdir(self._fds[slot]))

    def do_fchdir(self, slot: int) -> object:
        return os.fchdir(self._fds[slot])

    def do_name(self, slot: int, path: str) -> object:
        if os.geteuid():
            return "a right of root, and since Linux 6.10 of who opened it"
        return _checked(_LIBC.linkat(self._fds[slot], b"", AT_FDCWD, os.fsencode(path), AT_EMPTY_PATH))

    def do_is_same(self, slot: int, path: str) -> object:
        return os.path.samestat(os.fstat(self._fds[slot]), os.stat(path))

    def do_openat(self, folder: int, slot: int, path: str, flags: int, mode: int) -> object:
        fd = os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY, mode, dir_fd=self._fds[folder])
        self.do_close(slot)
        self._fds[slot] = fd
        return "opened"

    # Names

    def do_stat(self, path: str) -> object:
        return _seen(os.stat(path))

    def do_lstat(self, path: str) -> object:
        return _seen(os.lstat(path))

    def do_access(self, path: str, mode: int) -> object:
        return os.access(path, mode)

    def do_list(self, path: str) -> object:
        with os.scandir(path) as entries:
            return sorted([entry.name, stat.S_IFMT(entry.stat(follow_symlinks=False).st_mode)] for entry in entries)

    def do_mkdir(self, path: str, mode: int) -> object:
        return os.mkdir(path, mode)

    def do_mknod(self, path: str, mode: int) -> object:
        return os.mknod(path, mode, 0)

    def do_rmdir(self, path: str) -> object:
        return os.rmdir(path)

    def do_unlink(self, path: str) -> object:
        return os.unlink(path)

    def do_link(self, path: str, new: str, is_following: bool) -> object:
        return os.link(path, new, follow_symlinks=is_following)

    def do_symlink(self, target: str, path: str) -> object:
        return os.symlink(target, path)

    def do_readlink(self, path: str) -> object:
        return os.readlink(path)

    def do_rename(self, path: str, new: str, flags: int) -> object:
        return _checked(_LIBC.renameat2(AT_FDCWD, os.fsencode(path), AT_FDCWD, os.fsencode(new), flags))

    def do_truncate(self, path: str, size: int) -> object:
        return os.truncate(path, size)

    def do_chmod(self, path: str, mode: int) -> object:
        return _chmod(path, mode)

    def do_chown(self, path: str, uid: int, gid: int, is_following: bool) -> object:
        return _chown(path, uid, gid, is_following=is_following)

    def do_utime(self, path: str, times: list[int] | None, is_following: bool) -> object:
        return _set_times(path, times, is_following=is_following)

    def do_chdir(self, path: str) -> object:
        return os.chdir(path)

    def do_getcwd(self) -> object:
        return os.getcwd()

    def do_umask(self, mask: int) -> object:
        return os.umask(mask)

    def do_setxattr(self, path: str, name: str, value: str, flags: int, is_following: bool) -> object:
        return os.setxattr(path, name, bytes.fromhex(value), flags, follow_symlinks=is_following)

    def do_getxattr(self, path: str, name: str, is_following: bool) -> object:
        return os.getxattr(path, name, follow_symlinks=is_following).hex()

    def do_listxattr(self, path: str, is_following: bool) -> object:
        return sorted(os.listxattr(path, follow_symlinks=is_following))

    def do_removexattr(self, path: str, name: str, is_following: bool) -> object:
        return os.removexattr(path, name, follow_symlinks=is_following)

    # All of it

    def do_walk(self, times_shown: int) -> object:
        """Everything below the root, by path, with so many of its times; links are named by the first of them."""
        os.chdir("/")
        found: dict[str, object] = {}
        first: dict[int, str] = {}
        folders = ["/"]
        while folders:
            folder = folders.pop()
            for name in sorted(os.listdir(folder)):
                path = os.path.join(folder, name)
                state = os.lstat(path)
                if stat.S_ISDIR(state.st_mode):
                    folders.append(path)
                content = ""
                if stat.S_ISREG(state.st_mode):
                    content = _digest(Path(path).read_bytes())
                elif stat.S_ISLNK(state.st_mode):
                    content = os.readlink(path)
                xattrs = {key: os.getxattr(path, key, follow_symlinks=False).hex() for key in _xattrs(path)}
                times = (state.st_mtime_ns, state.st_ctime_ns)[:times_shown]
                found[path] = (_seen(state), first.setdefault(state.st_ino, path), content, xattrs, times)
        return found


def _not_waiting(kind: int) -> int:
    return kind if kind == fcntl.LOCK_UN else kind | fcntl.LOCK_NB


def _xattrs(path: str) -> list[str]:
    return sorted(os.listxattr(path, follow_symlinks=False))


def _seen(found: os.stat_result) -> dict[str, int]:
    """What stat tells, but for what is each disk's own matter: numbers, blocks, the size of a folder."""
    size = 0 if stat.S_ISDIR(found.st_mode) else found.st_size
    return {
        "mode": found.st_mode,
        "links": found.st_nlink,
        "uid": found.st_uid,
        "gid": found.st_gid,
        "size": size,
        "rdev": found.st_rdev,
    }


SO: Final = "it is so: then the drive does nothing, and a disk moves the ctime"


def _chmod(what: str | int, mode: int) -> object:
    found = os.stat(what)
    is_taken_back = os.geteuid() and mode & stat.S_ISGID and found.st_gid not in (os.getegid(), *os.getgroups())
    return SO if is_taken_back or stat.S_IMODE(found.st_mode) == mode else os.chmod(what, mode)


def _chown(what: str | int, uid: int, gid: int, *, is_following: bool = True) -> object:
    found = _found(what, is_following=is_following)
    if uid not in (-1, found.st_uid) or gid not in (-1, found.st_gid):
        # Without real owners the drive may show another than it was given to: no answer tells whether this was done.
        os.chown(what, uid, gid, **_following(what, is_following=is_following))
    return None


def _set_times(what: str | int, times: list[int] | None, *, is_following: bool = True) -> object:
    found = _found(what, is_following=is_following)
    if times == [found.st_atime_ns, found.st_mtime_ns]:
        return SO
    ns: dict[str, Any] = {"ns": tuple(times)} if times is not None else {}
    os.utime(what, **ns, **_following(what, is_following=is_following))
    found = _found(what, is_following=is_following)
    return [found.st_atime_ns, found.st_mtime_ns] if times is not None else None


def _found(what: str | int, *, is_following: bool) -> os.stat_result:
    return os.stat(what, **_following(what, is_following=is_following))


def _following(what: str | int, *, is_following: bool) -> dict[str, Any]:
    return {"follow_symlinks": is_following} if isinstance(what, str) else {}


def _moved(call: str, before: os.stat_result | None, after: os.stat_result | None) -> str:
    """Which times moved; none when bytes went through a pipe."""
    if before is None or after is None:
        return f"{'is' if after else 'is not'} there"
    is_modified = before.st_mtime_ns != after.st_mtime_ns
    if call == "write" and stat.S_ISFIFO(after.st_mode):
        return ""
    return f"{'modified ' if is_modified else ''}{'changed' if before.st_ctime_ns != after.st_ctime_ns else ''}"


def _digest(data: bytes) -> str:
    return f"{len(data)}:{hashlib.sha256(data).hexdigest()[:12]}"


def _tick() -> None:
    """Returns when the clock of the kernel's own times has moved."""
    began = time.clock_gettime_ns(CLOCK_REALTIME_COARSE)
    while time.clock_gettime_ns(CLOCK_REALTIME_COARSE) == began:
        pass


def _checked(result: int) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


if __name__ == "__main__":
    main()
