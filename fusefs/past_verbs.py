"""Verbs about the past: versions, restoring, what differs, rewinding and undoing; see `verbs` for the others."""

import os
import re
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

import trio
from msgspec.structs import asdict, replace

from fusefs import moments
from fusefs.control import Exit, Refused
from fusefs.drive import Drive
from fusefs.errors import Invalid, NoEntry
from fusefs.history import Old
from remote.protocol.history import DIFFERENCES_MAX, TRASH_MAX, Difference, Differences, Done, Removed
from remote.protocol.ids import NOW, ROOT, NodeId, Rev
from remote.protocol.messages import Moment, Version
from remote.protocol.nodes import Kind

BEFORE_SECONDS: Final = 60.0
"""How long what is here may take to be sent, before anything is made of it by the server."""
_SHOWN_SECONDS: Final = 60.0
_LOOKED_SECONDS: Final = 0.02
_CLOCKS_DIFFER_NS: Final = 60_000_000_000
_LISTED_MAX: Final = 1_000
_TRASH_NOTE: Final = re.compile(rb"\.Trash(-\d+|/\d+)/info/")
_REMOVED_MAX: Final = 10_000
"""Removed things that one command looks at."""

Fields = dict[str, Any]  # a request's JSON: each verb checks what it uses


class PastVerbs:
    """Answers for one mounted drive."""

    def __init__(
        self, drive: Drive, flush: Callable[[], Awaitable[None]], lookup: Callable[[bytes], Awaitable[NodeId]]
    ) -> None:
        """`flush` takes in what the kernel holds back; `lookup` finds the node of a path, or raises NoEntry."""
        self._drive = drive
        self._flush = flush
        self._lookup = lookup
        self.verbs: dict[str, Callable[[Fields], Awaitable[object]]] = {
            "versions": self._versions,
            "restore": self._restore,
            "diff": self._diff,
            "rewind": self._rewind,
            "undo": self._undo,
            "trash": self._trash,
            "trash-restore": self._trash_restore,
            "trash-purge": self._trash_purge,
            "purge": self._purge,
            "retention": self._retention,
        }

    async def _versions(self, fields: Fields) -> object:
        path = os.fsencode(str(fields["path"]))
        found = await self._drive.history.of_path(path)
        is_folder = any(old.version.state is not None and old.version.state.kind is Kind.FOLDER for old in found)
        shown = [told(old) for old in found]
        if is_folder or not path:
            # A folder is what is in it: each moment at which anything below it changed is one to go back to.
            own = {one["rev"] for one in shown}
            others = await self._drive.history.moments(path)
            shown += [_told_moment(one) for one in others if one.rev not in own]
            shown.sort(key=lambda one: int(one["rev"]), reverse=True)
        return shown

    async def _restore(self, fields: Fields) -> object:
        """Brings a path back; first the server must have what it is now, so that nothing is lost by it."""
        path = os.fsencode(str(fields["path"]))
        at, is_copy = fields.get("at"), bool(fields.get("copy"))
        if at is None and is_copy:
            raise Refused("Say which version the copy is to be of: --at TIME or --at REV.", Exit.USAGE)
        rev = await self.rev(str(at)) if at is not None else None
        with suppress(NoEntry):
            await self._sent(await self._lookup(path))
        if rev is None:
            rev = await self._before_removal(path)
        restored = await self._drive.restore.path(path, rev, is_copy=is_copy)
        return {"rev": restored.rev, "nodes": restored.nodes, "path": os.fsdecode(restored.path)}

    async def _before_removal(self, path: bytes) -> Rev:
        """The last rev at which something that is removed was there."""
        with suppress(NoEntry):
            await self._lookup(path)
            raise Refused(f"{os.fsdecode(path)} is there: say what to make it again, by --at TIME or --at REV.")
        found = await self._drive.history.of_path(path)
        if not found or found[0].version.state is not None:
            raise Refused(f"It is not known when {os.fsdecode(path)} was removed: say --at TIME.")
        return Rev(found[0].version.rev - 1)

    async def _diff(self, fields: Fields) -> object:
        path = os.fsencode(str(fields["path"]))
        await self._flush()
        node = await self._drive.history.find(path)
        since = await self.rev(str(fields["from"]))
        to = await self.rev(str(fields["to"])) if fields.get("to") else Rev(self._drive.sync.standing().cursor)
        if to < since:
            raise Refused(f"From rev {since} to rev {to} is backwards: give the older one as --from.", Exit.USAGE)
        sides = [await self._drive.versions.state_at(node, rev) for rev in (since, to)]
        known = [state for state in sides if state is not None]
        if not known:
            raise Refused(f"{os.fsdecode(path)} existed neither at rev {since} nor at rev {to}.")
        if known[0].kind is Kind.FOLDER:
            return await self._diff_folder(node, since, to)
        paths = [await self._drive.history.path_at(node, rev) for rev in (since, to)]
        return {
            "from": since,
            "to": to,
            "kind": known[0].kind.name.lower(),
            "files": [
                # Where each side can be read, from the top of the mount.
                None if at is None else os.fsdecode(b".versions/rev-%d/%s" % (rev, at))
                for at, rev in zip(paths, (since, to), strict=True)
            ],
        }

    async def _diff_folder(self, node: NodeId, since: Rev, to: Rev) -> Fields:
        answer = await self._drive.acts.diff(self._drive.space, node, since, to, DIFFERENCES_MAX)
        return {"kind": "folder", **_told_differences(answer), "from": since, "to": to}

    async def _rewind(self, fields: Fields) -> object:
        """A folder as it was; first the server must have what it is now, so that this can be undone."""
        path, is_dry_run = os.fsencode(str(fields["path"])), bool(fields.get("dry_run"))
        to = await self.rev(str(fields["to"]))
        node = ROOT
        with suppress(NoEntry):
            node = await self._lookup(path)
        await self._sent(node)
        if path and node == ROOT:
            node = await self._drive.history.find(path)
        done = await self._drive.acts.rewind(self._drive.space, node, to, is_dry_run=is_dry_run, limit=_LISTED_MAX)
        return await self._told_done(done)

    async def _undo(self, fields: Fields) -> object:
        rev = Rev(int(fields.get("rev") or NOW))
        await self._sent(ROOT)
        is_dry_run = bool(fields.get("dry_run"))
        event, keeps_new = int(fields.get("event") or 0), bool(fields.get("keep_new"))
        done = await self._drive.acts.undo(
            self._drive.space, rev, is_dry_run=is_dry_run, limit=_LISTED_MAX, event=event, keeps_new=keeps_new
        )
        return await self._told_done(done)

    async def _trash(self, fields: Fields) -> object:
        """What was removed, newest first, and whether there is more."""
        limit = min(max(1, int(fields.get("limit", 100))), _REMOVED_MAX)
        await self._sent(ROOT)
        found, before = await self._removed(limit)
        return {"removed": [_told_removed(one) for one in found], "more": before != NOW}

    async def _removed(self, limit: int, path: bytes | None = None) -> tuple[list[Removed], Rev]:
        """At most so many (a rev is never parted), or until one of this path is among them; and where more begins."""
        found: list[Removed] = []
        before = NOW
        while len(found) < limit:
            answer = await self._drive.acts.trash(self._drive.space, before, min(limit - len(found), TRASH_MAX))
            # What file managers noted of things in their own trash means nothing by itself.
            found += [one for one in answer.removed if not _TRASH_NOTE.match(one.path)]
            before = answer.next
            if before == NOW or (path is not None and any(one.path == path for one in answer.removed)):
                break
        return found, before

    async def _trash_restore(self, fields: Fields) -> object:
        """The newest of each of these paths, there again."""
        await self._sent(ROOT)
        nodes = [(await self.removed_at(os.fsencode(str(path)))).node for path in fields["paths"]]
        return await self._told_done(await self._drive.acts.put_back(self._drive.space, nodes, limit=_LISTED_MAX))

    async def _trash_purge(self, fields: Fields) -> object:
        """Forgets what was removed: the newest of each of these paths, or all that was before a time or rev."""
        await self._sent(ROOT)
        nodes = [(await self.removed_at(os.fsencode(str(path)))).node for path in fields["paths"]]
        before = NOW
        if not nodes and fields.get("before") is not None:
            before = Rev(await self.rev(str(fields["before"])) + 1)
        return await self._purged(nodes, before, fields)

    async def _purge(self, fields: Fields) -> object:
        """Forgets what a path, and all below it, was before now."""
        node = await self._lookup_or_refuse(os.fsencode(str(fields["path"])))
        await self._sent(node)
        return await self._purged([node], NOW, fields)

    async def _purged(self, nodes: list[NodeId], before: Rev, fields: Fields) -> Fields:
        is_dry_run = bool(fields.get("dry_run"))
        found = await self._drive.acts.purge(self._drive.space, nodes, before, is_dry_run=is_dry_run)
        if not is_dry_run:
            await self._drive.past.clear()
        return {"versions": found.versions, "nodes": found.nodes, "size_bytes": found.size}

    async def _lookup_or_refuse(self, path: bytes) -> NodeId:
        try:
            return await self._lookup(path)
        except NoEntry:
            raise Refused(f"There is no {os.fsdecode(path)}; of what is removed: satchel trash purge.") from None

    async def _retention(self, fields: Fields) -> object:
        """What the space keeps of its past, and sets what is said of it."""
        now = await self._drive.acts.retention(self._drive.space)
        said = {name: fields[name] for name in now.__struct_fields__ if fields.get(name) is not None}
        if said:
            now = await self._drive.acts.retention(self._drive.space, replace(now, **said))
        return asdict(now)

    async def removed_at(self, path: bytes) -> Removed:
        """What was removed last under this path; raises Refused."""
        for one in (await self._removed(_REMOVED_MAX, path))[0]:
            if one.path == path:
                return one
        raise Refused(f"Nothing in the trash was called {os.fsdecode(path)}: satchel trash list shows what there is.")

    async def _sent(self, node: NodeId) -> None:
        """Returns when the server has what is here; raises Refused."""
        await self._flush()
        with trio.move_on_after(BEFORE_SECONDS) as scope:
            await self._drive.sync.sent(node)
        if scope.cancelled_caught:
            raise Refused(
                "Not all that was changed here is on the server yet, where this is done. satchel status says why; try "
                "again when that is sent.",
                Exit.PENDING,
            )

    async def _told_done(self, done: Done) -> Fields:
        """What was done, when this device shows it."""
        is_shown = await self.shown(done.rev)
        return {"rev": done.rev, "of": done.of, "kept": done.kept, "shown": is_shown, **_told_differences(done.did)}

    async def shown(self, rev: Rev) -> bool:
        """Whether this device comes to show a rev within a minute."""
        with trio.move_on_after(_SHOWN_SECONDS):
            # The kernel believes the old size of a file until it is told: a read between would be cut at it.
            while self._drive.tree.cursor < rev or not self._drive.announcer.has_told:  # noqa: ASYNC110 - from a thread
                await trio.sleep(_LOOKED_SECONDS)
            return True
        return False

    async def rev(self, at: str) -> Rev:
        """The rev that a person means by a number or a time."""
        if at.isdecimal() and len(at) != len("20261121"):
            if not int(at):
                raise Refused("Revs begin with 1: before that nothing existed.", Exit.USAGE)
            return Rev(int(at))
        try:
            first_ns, _ = moments.span(at)
        except Invalid as error:
            raise Refused(str(error), Exit.USAGE) from None
        now_ns = time.time_ns()
        if first_ns > now_ns + _CLOCKS_DIFFER_NS:
            raise Refused(
                f"{at} is still to come: it is {moments.iso(now_ns)} now. Times are UTC unless they say otherwise, "
                "such as 2026-11-21T10:15+02:00.",
                Exit.USAGE,
            )
        return await self._drive.versions.rev_at(moments.parse(at))


def told(old: Old) -> Fields:
    """A version, as JSON."""
    version = old.version
    state = version.state
    return {
        "rev": version.rev,
        "time_ns": version.time_ns,
        "time": moments.iso(version.time_ns),
        "edited_ns": version.edited_ns,
        "user": version.user_name,
        "device": version.device_name,
        "kind": state.kind.name.lower() if state is not None else None,
        "name": os.fsdecode(old.name),
        "size_bytes": state.content.size if state is not None and state.content is not None else 0,
        "is_conflict": version.is_conflict,
    }


def told_version(version: Version) -> Fields:
    """A version without its name, as JSON."""
    return told(Old(b"", version))


def _told_moment(moment: Moment) -> Fields:
    return {
        "rev": moment.rev,
        "time_ns": moment.time_ns,
        "time": moments.iso(moment.time_ns),
        "edited_ns": moment.time_ns,
        "user": moment.user_name,
        "device": moment.device_name,
        "kind": "folder",
        "name": "",
        "size_bytes": 0,
        "is_conflict": False,
    }


def _told_differences(found: Differences) -> Fields:
    return {
        "added": found.added,
        "removed": found.removed,
        "changed": found.changed,
        "moved": found.moved,
        "attributes": found.attributes,
        "differences": [_told_difference(one) for one in found.differences],
    }


def _told_difference(one: Difference) -> Fields:
    return {
        "what": one.what,
        "kind": one.kind,
        "path": os.fsdecode(one.path),
        "was_path": os.fsdecode(one.was_path),
        "size_bytes": one.size,
        "was_size_bytes": one.was_size,
    }


def _told_removed(one: Removed) -> Fields:
    return {
        "path": os.fsdecode(one.path),
        "kind": one.kind,
        "rev": one.rev,
        "time_ns": one.time_ns,
        "time": moments.iso(one.time_ns),
        "user": one.user_name,
        "device": one.device_name,
        "count": one.nodes,
        "size_bytes": one.size,
    }
