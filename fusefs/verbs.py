"""Verbs: the daemon's answers to the commands of its user, on a Unix socket; see `control` for the words."""

import json
import logging
import math
import os
import socket
import stat
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path
from typing import Final

import trio

from cache.errors import CacheError
from fusefs import mounts
from fusefs.conflicts import Open, Unsent, is_below
from fusefs.control import CREDENTIALS, REQUEST_MAX, Exit, Refused, short_path
from fusefs.drive import Drive
from fusefs.errors import NoEntry, NotFolder, NotSent, VolumeError
from fusefs.guard_verbs import GuardVerbs
from fusefs.mounts import Busy
from fusefs.past_verbs import PastVerbs, told_version
from fusefs.sending import Sending
from fusefs.settings import Account
from fusefs.sights import Fields
from fusefs.status import Status
from remote.protocol.errors import BadRequest, Disabled, NotSignedIn, RemoteError, Unreachable, Wiped
from remote.protocol.ids import ROOT, NodeId, Rev
from remote.protocol.messages import Version
from remote.protocol.nodes import Name

log = logging.getLogger(__name__)

PATHS_SHOWN: Final = 10
FILES_MAX: Final = 1_000
_CONNECTIONS: Final = 64
_REQUEST_SECONDS: Final = 10.0
_LEAST_SECONDS: Final = 1.0
_TAKEN: Final = "All of it is taken, but not on the server yet."
_AWAY: Final = (Unreachable, TimeoutError, trio.TooSlowError)


def listen(path: Path) -> trio.SocketListener:
    """A socket that only this user can connect to; what a killed daemon left there goes."""
    path.unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with short_path(path) as short:
        listening.bind(short)
        os.chmod(short, stat.S_IRUSR | stat.S_IWUSR)
    listening.listen(_CONNECTIONS)
    return trio.SocketListener(trio.socket.from_stdlib_socket(listening))


class Verbs:
    """Answers for one mounted drive."""

    def __init__(self, drive: Drive, account: Account, point: str, end: Callable[[], None]) -> None:
        """`end` ends the daemon although programs may still use the mount."""
        self._drive = drive
        self._account = account
        self._point = point
        self._end = end
        self.sending = Sending(drive, point)
        self._told = Status(drive, account, point)
        self._slots = trio.CapacityLimiter(_CONNECTIONS)
        self._verbs: dict[str, Callable[[Fields], Awaitable[object]]] = {
            "ping": self._ping,
            "status": self._status,
            "status-of": self._status_of,
            "where": self._where,
            "stats": self._stats,
            "wait": self._wait,
            "sent": self._sent,
            "conflicts": self._conflicts,
            "resolve": self._resolve,
            "pin": self._pin,
            "unpin": self._unpin,
            "pins": self._pins,
            "cache": self._cache,
            "cache-trim": self._cache_trim,
            "cache-limit": self._cache_limit,
            "limit": self._limit,
            "pause": self._pause,
            "resume": self._resume,
            "backups": self._backups,
            "backup-add": self._backup_add,
            "backup-remove": self._backup_remove,
            "backup-now": self._backup_now,
            "stop": self._stop,
            **PastVerbs(drive, self.sending, self._lookup).verbs,
            **GuardVerbs(drive, self.sending).verbs,
        }

    async def serve(self, listener: trio.SocketListener) -> None:
        """Answers until cancelled."""
        await trio.serve_listeners(self._connected, [listener])

    async def _connected(self, stream: trio.SocketStream) -> None:
        """One request and its answer; nothing that an asker does ends the daemon."""
        async with stream:
            if _peer_uid(stream) not in (os.getuid(), 0):
                return
            try:
                self._slots.acquire_nowait()
            except trio.WouldBlock:
                return
            try:
                answer = await self._answered(stream)
                if answer is not None:
                    # Also while the daemon stops: who asked for that wants to hear of it.
                    with trio.CancelScope(shield=True), trio.move_on_after(_REQUEST_SECONDS):
                        await stream.send_all(json.dumps(answer).encode() + b"\n")
            except trio.BrokenResourceError:
                return
            finally:
                self._slots.release()

    async def _answered(self, stream: trio.SocketStream) -> Fields | None:
        """The answer, None when the asker has gone."""
        line = None
        with trio.move_on_after(_REQUEST_SECONDS):
            line = await _line(stream)
        if line is None:
            return None
        answer: Fields | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_watch_for_end, stream, nursery.cancel_scope)
            answer = await self._answer(line)
            nursery.cancel_scope.cancel()
        return answer

    async def _answer(self, line: bytes) -> Fields:
        try:
            request = json.loads(line)
            verb = self._verbs.get(request["verb"])
            if verb is None:
                raise Refused(
                    f"The daemon does not know {request['verb']!r}: it is of another version. Mount again.", Exit.USAGE
                )
            return {"ok": await verb(request)}
        except (ValueError, KeyError, TypeError, RecursionError):
            return _problem("The daemon did not understand the request.", Exit.USAGE)
        except Refused as refused:
            return _problem(str(refused), refused.code)
        except NotSent as error:
            return _problem(str(error), Exit.PENDING)
        except (Wiped, Disabled) as error:
            return _problem(str(error), Exit.SIGN_IN)
        except NotSignedIn as error:
            return _problem(f"{error} What is not sent stays on this machine; what to do: satchel doctor", Exit.SIGN_IN)
        except _AWAY as error:
            return _problem(f"The server could not be asked: {_why(error)} Try again later.", Exit.UNREACHABLE)
        except (RemoteError, CacheError, VolumeError, OSError) as error:
            return _problem(str(error), Exit.USAGE if isinstance(error, BadRequest) else Exit.FAILURE)
        except Exception as error:
            # The outermost loop: no question of a person may take their drive away.
            log.exception("a request of a command failed")
            return _problem(f"The daemon failed at this ({error!r}) and goes on. Its log says more.", Exit.FAILURE)

    # Verbs

    async def _ping(self, _: Fields) -> object:
        await trio.lowlevel.checkpoint()
        return {"mount": self._point, "pid": os.getpid(), "url": self._account.url}

    async def _status(self, fields: Fields) -> object:
        return await self._told.whole(min(int(fields.get("files", PATHS_SHOWN)), FILES_MAX))

    async def _status_of(self, fields: Fields) -> object:
        path = os.fsencode(str(fields["path"]))
        return await self._told.of_path(path, await self._node(path))

    async def _where(self, fields: Fields) -> object:
        """The space that a path is in, and the node there: of a folder that mounts one, the top of that space."""
        node = await self._node(os.fsencode(str(fields["path"])))
        sight = self._drive.sights.below(node)
        return {"space": sight.space, "node": ROOT if node == sight.top else node}

    def _pending_paths(self, top: NodeId) -> list[str]:
        tree = self._drive.tree
        prefix = tree.path_of(top)
        found: list[str] = []
        for node, _ in tree.dirty(limit=1_000):
            path = tree.path_of(node)
            if is_below(path, prefix):
                found.append(os.fsdecode(path) or self._point)
            if len(found) == PATHS_SHOWN:
                return found
        found += [f"{os.fsdecode(one.path)} (an older edit)" for one in self._drive.conflicts.unsent(prefix)]
        return found[:PATHS_SHOWN]

    async def _stats(self, _: Fields) -> object:
        await trio.lowlevel.checkpoint()
        drive = self._drive
        return {
            **drive.counting.told(),
            "cache_bytes": drive.budget.used_bytes,
            "cache_limit_bytes": drive.budget.limit_bytes,
            "pending_bytes": drive.stagings.total_bytes,
        }

    async def _wait(self, fields: Fields) -> object:
        """Whether the server has everything below a path before the timeout, and what it does not have."""
        drive = self._drive
        timeout = fields.get("timeout")
        # Whoever waits has reason to think that the server is there.
        drive.sync.retry_now()
        node: NodeId | None = None
        # Who waits for no time is told of what is written by now, too: to take that in needs a moment.
        seconds = math.inf if timeout is None else max(_LEAST_SECONDS, float(timeout))
        with trio.move_on_after(seconds):
            await self.sending.flush()
            path = os.fsencode(str(fields.get("path", "")))
            node = await self._node(path) if path else None
            await drive.sync.sent(node)
            if node is not None:
                self._check_not_ignored(node, path)
            return {"sent": True}
        paths = self._pending_paths(node or ROOT)
        # Counted for the whole drive: below one path that would name others' work.
        count = drive.sync.standing().pending_nodes if not node or node == ROOT else len(paths)
        return {"sent": False, "count": count, "paths": paths, "reason": self.sending.in_the_way(node or ROOT)}

    def _check_not_ignored(self, node: NodeId, path: bytes) -> None:
        if rule := self._drive.sync.rule_for(node):
            raise Refused(
                f"{os.fsdecode(path)} is ignored (by {rule}) and stays on this machine: the server never gets it.",
                Exit.PENDING,
            )

    async def _sent(self, fields: Fields) -> object:
        """Answers when the server has everything below a path, so that others can see it; see Sending for the rest."""
        path = os.fsencode(str(fields["path"]))
        node = await self._node(path)
        otherwise = f"The server does not have {os.fsdecode(path)} yet, so nobody could see it."
        await self.sending.all_of(node, float(fields["within"]), otherwise)
        self._check_not_ignored(node, path)
        return {}

    async def _node(self, path: bytes) -> NodeId:
        try:
            return await self._lookup(path)
        except (NoEntry, NotFolder):
            raise Refused(f"There is no {os.fsdecode(path)} in {self._point}.") from None

    async def _lookup(self, path: bytes) -> NodeId:
        """The node that a path leads to, the top for an empty one; raises NoEntry."""
        node = ROOT
        for part in path.split(b"/") if path else ():
            node = await self._drive.volume.lookup(node, part)
        return node

    async def _conflicts(self, fields: Fields) -> object:
        """Those that the server has, and this device's that it has yet to get: without the server only these."""
        path = os.fsencode(str(fields["path"]))
        unsent = self._drive.conflicts.unsent(path)
        found: list[Open] = []
        trouble = ""
        try:
            for sight in self._drive.sights.all():
                found += await sight.conflicts.below(path)
        except _AWAY as error:
            if not unsent:
                raise
            trouble = f"These are of this device only: the server's list cannot be had now. {_why(error)}"
        told = [
            {
                "path": os.fsdecode(one.path),
                "current": told_version(one.current),
                "lost": told_version(one.lost),
                "version": os.fsdecode(one.version_path),
                "is_sent": True,
            }
            for one in found
        ]
        if not found and not unsent:
            await self._node(path)
        # The server may have one already whose answer did not come.
        known = {(one.node, one.lost.edited_ns) for one in found}
        told += [self._told_unsent(one) for one in unsent if (one.node, one.lost.edited_ns) not in known]
        return {"conflicts": sorted(told, key=lambda one: str(one["path"])), "trouble": trouble}

    def _told_unsent(self, one: Unsent) -> Fields:
        edited_ns, account = one.lost.edited_ns, self._account
        lost = Version(Rev(0), edited_ns, edited_ns, account.user_name, account.device_name, one.lost.state, True)
        return {
            "path": os.fsdecode(one.path),
            "current": None,
            "lost": {**told_version(lost), "size_bytes": one.size},
            "version": "",
            "is_sent": False,
        }

    async def _resolve(self, fields: Fields) -> object:
        """Settles the conflicts of a path; first the server must have what it is now, and then what it is to be."""
        drive = self._drive
        path = os.fsencode(str(fields["path"]))
        node = await self._node(path)
        folder, _, name = path.rpartition(b"/")
        place = Name(await self._node(folder), name)
        await self.sending.flush()
        standing = drive.sync.standing()
        if drive.tree.has_lost(node) and (standing.held or not standing.is_online):
            if fields["keep"] == "mine" and drive.conflicts.take_back(node, name):
                return {"settled": 1, "changed": [os.fsdecode(path)]}
            raise Refused(
                "An edit of it that lost is on this machine only: --keep mine has it back at once, for others it must "
                "be sent first. "
                f"{standing.held or f'The server is away: {standing.trouble}'}",
                Exit.PENDING,
            )
        conflicts = drive.sights.of(node).conflicts
        otherwise = "It is not all on the server yet: say this again when it is."
        await self.sending.all_of(node, otherwise=otherwise)
        kept = await conflicts.keep(node, place, str(fields["keep"]))
        for one in kept.nodes:
            await self.sending.all_of(one, otherwise=otherwise)
        await conflicts.settle(kept)
        return {"settled": len(kept.marks), "changed": [os.fsdecode(drive.tree.path_of(one)) for one in kept.nodes]}

    async def _pin(self, fields: Fields) -> object:
        path = os.fsencode(str(fields["path"]))
        self._drive.pins.pin(await self._node(path))
        return {"pinned": self._pinned_paths(), "online": self._drive.sync.standing().is_online}

    async def _unpin(self, fields: Fields) -> object:
        path = os.fsencode(str(fields["path"]))
        was_pinned = self._drive.pins.unpin(await self._node(path))
        self._drive.budget.notice()
        return {"was_pinned": was_pinned, "pinned": self._pinned_paths()}

    async def _pins(self, _: Fields) -> object:
        kept = await self._drive.pins.kept_below()
        return [
            {"path": os.fsdecode(self._drive.tree.path_of(node)) or self._point, **asdict(one)}
            for node, one in sorted(kept.items())
        ]

    async def _cache(self, _: Fields) -> object:
        await trio.lowlevel.checkpoint()
        return self._drive.keeping.told()

    async def _cache_trim(self, fields: Fields) -> object:
        return await self._drive.keeping.trim(int(fields["to"]))

    async def _cache_limit(self, fields: Fields) -> object:
        return await self._drive.keeping.limit(int(fields["bytes"]))

    async def _limit(self, fields: Fields) -> object:
        await trio.lowlevel.checkpoint()
        up, down = fields.get("up"), fields.get("down")
        self._drive.flow.limit(None if up is None else int(up), None if down is None else int(down))
        return self._drive.flow.told()

    async def _pause(self, fields: Fields) -> object:
        await trio.lowlevel.checkpoint()
        duration = fields.get("duration")
        self._drive.flow.pause(None if duration is None else float(duration))
        return self._drive.flow.told()

    async def _resume(self, _: Fields) -> object:
        await trio.lowlevel.checkpoint()
        self._drive.flow.resume()
        return self._drive.flow.told()

    async def _backups(self, _: Fields) -> object:
        return await self._drive.backups.told()

    async def _backup_add(self, fields: Fields) -> object:
        folder, to, name = (str(fields[word]) for word in ("folder", "to", "name"))
        return await self._drive.backups.add(folder, to, name, is_into=bool(fields["into"]))

    async def _backup_remove(self, fields: Fields) -> object:
        return await self._drive.backups.remove(str(fields["folder"]))

    async def _backup_now(self, fields: Fields) -> object:
        return await self._drive.backups.now(str(fields["folder"]), self._taken, is_confirmed=bool(fields["yes"]))

    async def _taken(self, node: NodeId) -> None:
        """Returns when the server has what a backup took; raises Refused."""
        try:
            await self.sending.all_of(node, math.inf, _TAKEN)
        except Unreachable as error:
            raise Refused(f"{_TAKEN} {_why(error)}", Exit.PENDING) from None

    def _pinned_paths(self) -> list[str]:
        return [os.fsdecode(self._drive.tree.path_of(node)) or self._point for node in self._drive.pins.pinned()]

    async def _stop(self, fields: Fields) -> object:
        """Unmounts, which ends the daemon; raises Refused when programs use the mount and `lazy` is not said."""
        is_lazy = bool(fields.get("lazy"))
        if not is_lazy:
            await self.sending.flush()
        try:
            await trio.to_thread.run_sync(self._unmount, is_lazy)
        except Busy:
            raise Refused(
                f"{self._point} is in use. Close what uses it, or take it away at once: satchel umount --lazy "
                f"{self._point}"
            ) from None
        # By itself it would end with the last program that has a file open, in this mount namespace or another.
        self._end()
        return {"unmounted": True}

    def _unmount(self, is_lazy: bool) -> None:
        with self._drive.repeater.quiet():
            mounts.unmount(self._point, is_lazy=is_lazy)


def _why(error: Exception) -> str:
    """A sentence of what is in the way of the server, of one of `_AWAY`."""
    return (error.strerror if isinstance(error, OSError) else str(error)) or "it did not answer in time."


def _problem(sentence: str, code: int) -> Fields:
    return {"error": sentence, "code": int(code)}


def _peer_uid(stream: trio.SocketStream) -> int:
    packed = stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
    return int(CREDENTIALS.unpack(packed)[1])


async def _line(stream: trio.SocketStream) -> bytes | None:
    """One line; None when the asker goes before its end, or sends too much."""
    line = b""
    while not line.endswith(b"\n"):
        part = await stream.receive_some(REQUEST_MAX)
        line += part
        if not part or len(line) > REQUEST_MAX:
            return None
    return line


async def _watch_for_end(stream: trio.SocketStream, scope: trio.CancelScope) -> None:
    """Nobody waits for an answer any more when the asker has gone."""
    try:
        while await stream.receive_some(1):
            pass
    except trio.BrokenResourceError:
        pass
    scope.cancel()
