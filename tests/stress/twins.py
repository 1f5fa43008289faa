"""Twins: random system calls of two programs, done in a drive and in a folder of the local disk, must come to the same.

The same seed does the same again. Compared is what each call returns or fails with, which times it moves, and again and
again all that is there; at the end once more after a cold mount. What SEMANTICS.md says is different is not asked for.
"""

import fcntl
import json
import os
import random
import stat
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from tests.mounted.conftest import Device
from tests.stress.exerciser import Mismatch

NAMES: Final = ("a", "b", "c", "d", "e")
ODD: Final = ("", ".", "..", "x" * 255, "x" * 256, "\udcff\n", "A", "ä")
USER: Final = 4711
_SLOTS: Final = 6
_KEPT: Final = 80
_WALK_EVERY: Final = 60
_SHOWN: Final = 700
_TIMES: Final = (0, 1, -1, 10**18 + 123_456_789, 4 * 10**18 + 1, -(10**18) - 7, 1_700_000_000 * 10**9)
_CAPABILITY: Final = "0100000200040000000000000000000000000000"
_SYNC: Final = os.O_SYNC | os.O_DSYNC

# A call: its name, its arguments, and whose times are looked at.
Call = tuple[str, list[Any], list[str | int]]


class Program:
    """One actor, in the drive or beside it."""

    def __init__(self, top: Path, uid: int) -> None:
        command = [sys.executable, "-m", "tests.stress.actor", top, str(uid)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        )

    def told(self, call: Call) -> list[Any]:
        """What comes of a call."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(call) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, f"the program ended with {self._process.wait()}"
        answer: list[Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """Ends it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


class Twins:
    """A drive, a local folder, and what two programs do in both."""

    def __init__(
        self, device: Device, local: Path, seed: int, *, has_owners: bool, other: Device | None = None
    ) -> None:
        """`local` is an empty folder; `other` a second device with the same options, which must see the same."""
        self.seed = seed
        self.steps = 0
        self._device = device
        self._local = local
        self._has_owners = has_owners
        self._other = other
        self._random = random.Random(seed)
        self._done: deque[str] = deque(maxlen=_KEPT)
        rare, some, usual, often = 0.4, 1.0, 2.0, 4.0
        calls: dict[Callable[[], Call], float] = {
            self._open: 10,
            self._openat: some,
            self._close: usual,
            self._read: usual,
            self._write: often,
            self._seek: some,
            self._map: some,
            self._ftruncate: some,
            self._allocate: rare,
            self._sync: some,
            self._copy: some,
            self._dup: rare,
            self._lock: some,
            self._of_open: often,
            self._look: often,
            self._list: some,
            self._make: often,
            self._remove: often,
            self._link: usual,
            self._symlink: usual,
            self._rename: often,
            self._truncate: some,
            self._chmod: usual,
            self._chown: some,
            self._utime: some,
            self._move_about: some,
            self._xattr: usual,
        }
        self._calls, self._weights = list(calls), list(calls.values())

    def run(self, steps: int) -> None:
        """Does so many steps; raises Mismatch."""
        with self._programs() as pairs:
            for call in self._random.choices(self._calls, self._weights, k=steps):
                who = self._random.randrange(len(pairs))
                self._compare(who, call(), *pairs[who])
                self.steps += 1
                if self.steps % _WALK_EVERY == 0:
                    self._compare(0, ("walk", [0], []), *pairs[0])
        if self._other is not None:
            self._device.in_step(self._other)
            # The ctime of a file that was changed elsewhere is when this machine heard of it.
            shown, there = (_walked(one.path, times_shown=1) for one in (self._device, self._other))
            self._same("seen by another device", shown, there)
        self._device.wait()
        # Whom something was given to is not shown but with real owners, nor whether it belonged to them already.
        times_shown = 2 if self._has_owners else 1
        shown = _walked(self._device.path, times_shown=times_shown)
        self._device.umount()
        self._device.forget_cache()
        self._device.mount(*self._device.options)
        self._same("after a cold mount", shown, _walked(self._device.path, times_shown=times_shown))

    @contextmanager
    def _programs(self) -> Iterator[list[tuple[Program, Program]]]:
        users = (0, USER) if self._has_owners else (0, 0)
        for top in (self._device.path, self._local):
            top.chmod(0o777)
            os.chown(top, 0, 0)
        with ExitStack() as ending:
            yield [
                tuple(self._started(ending, top, uid) for top in (self._device.path, self._local))  # type: ignore[misc]
                for uid in users
            ]

    @staticmethod
    def _started(ending: ExitStack, top: Path, uid: int) -> Program:
        program = Program(top, uid)
        ending.callback(program.close)
        return program

    def _compare(self, who: int, call: Call, there: Program, beside: Program) -> None:
        wanted = beside.told(call)
        told = "" if call[0] == "walk" else f" -> {json.dumps(wanted)[:100]}"
        self._done.append(f"{self.steps}: {'AB'[who]} {call[0]} {json.dumps(call[1])[:100]}{told}")
        self._same("in the drive, unlike beside it", wanted, there.told(call))

    def _same(self, what: str, wanted: object, found: object) -> None:
        wanted, found = self._comparable(wanted), self._comparable(found)
        if wanted == found:
            return
        if isinstance(wanted, list) and isinstance(wanted[0], dict) and isinstance(found, list):
            wanted, found = wanted[0], found[0]
        if isinstance(wanted, dict) and isinstance(found, dict):
            keys = [key for key in {**wanted, **found} if wanted.get(key) != found.get(key)]
            wanted, found = ({key: one.get(key) for key in keys} for one in (wanted, found))
        steps = "\n  ".join(self._done)
        raise Mismatch(
            f"seed {self.seed}, step {self.steps}, {what}: {str(found)[:_SHOWN]}\ninstead of {str(wanted)[:_SHOWN]}\n"
            f"last steps (two programs, A and B):\n  {steps}"
        )

    def _comparable(self, what: object) -> object:
        """Without owners where the mount shows all as its user's, and the links of folders, which may not be known."""
        if isinstance(what, list):
            return [self._comparable(one) for one in what]
        if not isinstance(what, dict):
            return what
        if "links" not in what:
            return {key: self._comparable(one) for key, one in what.items()}
        left_out = set() if self._has_owners else {"uid", "gid"}
        if stat.S_ISDIR(what["mode"]) and what["links"]:
            left_out.add("links")
        return {key: one for key, one in what.items() if key not in left_out}

    # What programs do

    def _path(self) -> str:
        depth = self._random.choices((1, 2, 3), (5, 3, 1))[0]
        parts = [self._random.choice(NAMES) for _ in range(depth)]
        if self._random.random() < 0.06:
            parts[self._random.randrange(depth)] = self._random.choice(ODD)
        path = "/".join(parts)
        if self._random.random() < 0.4:
            path = f"/{path}"
        return f"{path}/" if self._random.random() < 0.04 else path

    def _slot(self) -> int:
        return self._random.randrange(_SLOTS)

    def _byte(self) -> int:
        return self._random.randrange(1, 256)

    def _length(self) -> int:
        return self._random.randint(0, self._random.choice((10, 5_000, 70_000)))

    def _offset(self) -> int:
        return self._random.randint(0, self._random.choice((10, 5_000, 150_000)))

    def _mode(self) -> int:
        usual = (0o644, 0o600, 0o755, 0o777, 0o444, 0o000, 0o4755, 0o2755, 0o1777, 0o6777, 0o2644)
        return self._random.choice(usual)

    def _is(self, share: float = 0.5) -> bool:
        return self._random.random() < share

    def _flags(self) -> int:
        flags = self._random.choice((os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_RDWR))
        shares = {
            os.O_CREAT: 0.5,
            os.O_EXCL: 0.1,
            os.O_TRUNC: 0.15,
            os.O_APPEND: 0.1,
            os.O_DIRECTORY: 0.05,
            os.O_NOFOLLOW: 0.1,
            os.O_PATH: 0.05,
            _SYNC: 0.03,
        }
        for flag, share in shares.items():
            flags |= flag if self._is(share) else 0
        return flags

    def _open(self) -> Call:
        path = self._path()
        return "open", [self._slot(), path, self._flags(), self._mode()], [path, os.path.dirname(path) or "."]

    def _openat(self) -> Call:
        return "openat", [self._slot(), self._slot(), self._path(), self._flags(), self._mode()], []

    def _close(self) -> Call:
        return "close", [self._slot()], []

    def _read(self) -> Call:
        slot = self._slot()
        if self._is():
            return "read", [slot, self._length()], []
        return "pread", [slot, self._length(), self._offset()], []

    def _write(self) -> Call:
        slot = self._slot()
        if self._is():
            return "write", [slot, self._byte(), self._length()], [slot]
        return "pwrite", [slot, self._byte(), self._length(), self._offset()], [slot]

    def _seek(self) -> Call:
        return "seek", [self._slot(), self._random.randint(-10, 100_000), self._random.randrange(3)], []

    def _map(self) -> Call:
        return "map", [self._slot(), self._byte(), self._offset(), self._length()], []

    def _ftruncate(self) -> Call:
        slot = self._slot()
        return "ftruncate", [slot, self._random.choice((0, 1, -1, self._offset()))], [slot]

    def _allocate(self) -> Call:
        return "allocate", [self._slot(), self._offset(), self._length()], []

    def _sync(self) -> Call:
        slot = self._slot()
        return "sync", [slot, self._is()], [slot]

    def _copy(self) -> Call:
        kind = self._random.choice(("copy", "send"))
        return kind, [self._slot(), self._slot(), self._offset(), self._length()], []

    def _dup(self) -> Call:
        return "dup", [self._slot(), self._slot()], []

    def _lock(self) -> Call:
        kind = self._random.choice((fcntl.LOCK_SH, fcntl.LOCK_EX, fcntl.LOCK_UN))
        if self._is():
            return "flock", [self._slot(), kind], []
        return "lock", [self._slot(), kind, self._random.randrange(5), self._random.randrange(5)], []

    def _of_open(self) -> Call:
        slot = self._slot()
        kind = self._random.choice(
            ("fstat", "fstat", "fchmod", "fchown", "futime", "flist", "fchdir", "name", "is_same")
        )
        arguments: dict[str, Callable[[], list[Any]]] = {
            "fchmod": lambda: [self._mode()],
            "fchown": self._owner,
            "futime": lambda: [self._new_times()],
            "name": lambda: [self._path()],
            "is_same": lambda: [self._path()],
        }
        # Whom a thing was given to is not shown but with real owners.
        watched: list[str | int] = [] if kind == "fchown" and not self._has_owners else [slot]
        return kind, [slot, *arguments.get(kind, list)()], watched

    def _owner(self) -> list[int]:
        return [self._random.choice((-1, -1, 0, USER)), self._random.choice((-1, 0, USER, 4800))]

    def _new_times(self) -> list[int] | None:
        return None if self._is(0.3) else [self._random.choice(_TIMES), self._random.choice(_TIMES)]

    def _look(self) -> Call:
        kind = self._random.choice(("stat", "lstat", "access", "readlink"))
        return kind, [self._path(), *([self._random.randrange(8)] if kind == "access" else [])], []

    def _list(self) -> Call:
        return "list", [self._random.choice(("/", ".", "..", self._path()))], []

    def _make(self) -> Call:
        path = self._path()
        watched: list[str | int] = [path, os.path.dirname(path) or "."]
        if self._is(0.6):
            return "mkdir", [path, self._mode()], watched
        kind = self._random.choice((stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFREG))
        return "mknod", [path, kind | self._mode()], watched

    def _remove(self) -> Call:
        path = self._path()
        return self._random.choice(("unlink", "rmdir")), [path], [path, os.path.dirname(path) or ".", self._slot()]

    def _link(self) -> Call:
        path, new = self._path(), self._path()
        return "link", [path, new, self._is()], [path, new, os.path.dirname(new) or "."]

    def _symlink(self) -> Call:
        path = self._path()
        target = self._random.choice((self._path(), self._path(), f"../{self._path()}", "y" * 4_095, "y" * 300))
        return "symlink", [target, path], [path, os.path.dirname(path) or "."]

    def _rename(self) -> Call:
        path, new = self._path(), self._path()
        flags = self._random.choices((0, 1, 2, 3), (8, 1, 1, 0.2))[0]
        folders = [os.path.dirname(one) or "." for one in (path, new)]
        return "rename", [path, new, flags], [path, new, *folders, self._slot()]

    def _truncate(self) -> Call:
        path = self._path()
        return "truncate", [path, self._random.choice((0, 1, self._offset()))], []

    def _chmod(self) -> Call:
        path = self._path()
        return "chmod", [path, self._mode()], [path]

    def _chown(self) -> Call:
        path = self._path()
        return "chown", [path, *self._owner(), self._is()], [path] if self._has_owners else []

    def _utime(self) -> Call:
        path = self._path()
        return "utime", [path, self._new_times(), self._is()], [path]

    def _move_about(self) -> Call:
        kind = self._random.choice(("chdir", "chdir", "getcwd", "umask"))
        if kind == "umask":
            return kind, [self._random.choice((0, 0o022, 0o077))], []
        return kind, [self._random.choice(("/", "..", self._path()))] if kind == "chdir" else [], []

    def _xattr(self) -> Call:
        path = self._path()
        names = ("user.x", "user.y", "user.", "trusted.t", "security.s", "security.capability", "foo", "foo.x")
        name = self._random.choice(names)
        value = _CAPABILITY if name == "security.capability" else "00" * self._random.choice((0, 1, 100))
        kind = self._random.choice(("setxattr", "setxattr", "getxattr", "listxattr", "removexattr"))
        arguments: list[Any] = [path] if kind == "listxattr" else [path, name]
        if kind == "setxattr":
            arguments += [value, self._random.choice((0, 0, os.XATTR_CREATE, os.XATTR_REPLACE))]
        return kind, [*arguments, self._is()], [path]


def _walked(top: Path, *, times_shown: int) -> object:
    program = Program(top, 0)
    try:
        return program.told(("walk", [times_shown], []))[0]
    finally:
        program.close()
