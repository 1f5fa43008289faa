"""Verbs about the past: versions, restoring, what differs, rewinding and undoing; see `verbs` for the others."""

import os
import re
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from typing import Final

import trio

from fusefs import moments
from fusefs.across import Elsewhere
from fusefs.conflicts import is_below
from fusefs.control import Exit, Refused
from fusefs.drive import Drive
from fusefs.errors import Invalid, NoEntry, NotFolder
from fusefs.history import Old
from fusefs.restore import Restored, Way
from fusefs.sending import Sending
from fusefs.sights import Fields, Sight
from remote.protocol.errors import NotFound
from remote.protocol.history import DIFFERENCES_MAX, TRASH_MAX, Difference, Differences, Done, Removed
from remote.protocol.ids import NO_SPACE, NOW, NOWHERE, ROOT, NodeId, Rev
from remote.protocol.messages import Moment, Version
from remote.protocol.nodes import Kind, Name, NodeState

_SHOWN_SECONDS: Final = 60.0
_LOOKED_SECONDS: Final = 0.02
_CLOCKS_DIFFER_NS: Final = 60_000_000_000
_LISTED_MAX: Final = 1_000
_TRASH_NOTE: Final = re.compile(rb"\.Trash(-\d+|/\d+)/info/")
_ELSEWHERE: Final = re.compile(r"(home|shared\d{1,5}):([1-9]\d{0,17})")
"""A rev of another space, as `versions` shows it."""
_REMOVED_MAX: Final = 10_000
_SHARED_SHOWN: Final = 10
_FOLDER_LEFT: Final = (
    "What was in this folder before it was shared, or while it was, stays: satchel purge FILE forgets that, too, "
    "of each file."
)
"""Removed things that one command looks at."""


class PastVerbs:
    """Answers for one mounted drive."""

    def __init__(self, drive: Drive, sending: Sending, lookup: Callable[[bytes], Awaitable[NodeId]]) -> None:
        """`lookup` finds the node of a path, or raises NoEntry."""
        self._drive = drive
        self._sending = sending
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
        asked = os.fsencode(str(fields["path"]))
        sight, path = self._drive.sights.of_path(asked)
        try:
            found = await sight.history.of_path(path)
        except NotFound as error:
            raise await self._never_sent(asked) from error
        is_folder = any(old.version.state is not None and old.version.state.kind is Kind.FOLDER for old in found)
        shown = [told(old) for old in found]
        if is_folder or not path:
            # A folder is what is in it: each moment at which anything below it changed is one to go back to.
            own = {one["rev"] for one in shown}
            others = await sight.history.moments(path)
            shown += [_told_moment(one) for one in others if one.rev not in own]
            shown.sort(key=lambda one: int(one["rev"]), reverse=True)
        for one in await self._drive.across.of_path(sight, path):
            shown = [told for told in shown if told["rev"] not in one.left or told["space"]]
            shown += [told(old, one) for old in one.versions]
            shown += [_told_moment(moment, one) for moment in one.moments]
            shown.sort(key=lambda one: int(one["time_ns"]), reverse=True)
        return shown

    async def _never_sent(self, path: bytes) -> Refused:
        """What to say of a path of which the server does not know anything, by what is there or above it."""
        name, node = os.fsdecode(path), ROOT
        while path:
            try:
                node = await self._lookup(path)
                break
            except (NoEntry, NotFolder):
                path = path.rpartition(b"/")[0]
        if rule := self._drive.sync.rule_for(node):
            return Refused(
                f"The server has no version of {name} as it is now: it is ignored (by {rule}) and stays here."
            )
        why = self._sending.in_the_way(node)
        return Refused(f"The server has no version of {name} as it is now. {why}".rstrip())

    async def _restore(self, fields: Fields) -> object:
        """Brings a path back; first the server must have what it is now, so that nothing is lost by it."""
        path = os.fsencode(str(fields["path"]))
        at, is_copy = fields.get("at"), bool(fields.get("copy"))
        if at is None and is_copy:
            raise Refused("Say which version the copy is to be of: --at TIME or --at REV.", Exit.USAGE)
        if at is None:
            return await self._restore_removed(path)
        sight, below = self._drive.sights.of_path(path)
        elsewhere = _ELSEWHERE.fullmatch(str(at))
        rev = Rev(int(elsewhere[2])) if elsewhere is not None else await self.rev(str(at), sight)
        with suppress(NoEntry):
            await self._sending.all_of(await self._lookup(path))
        if elsewhere is not None:
            restored, prefix = await self._restore_from(path, elsewhere[1], rev, is_copy=is_copy)
        else:
            prefix = self._drive.sights.prefix(sight)
            restored = await sight.restore.path(below, rev, is_copy=is_copy)
        return {
            "rev": restored.rev,
            "nodes": restored.nodes,
            "path": os.fsdecode((prefix + restored.path).rstrip(b"/")),
            "left": [os.fsdecode(name) for name in restored.left],
        }

    async def _restore_from(self, path: bytes, word: str, rev: Rev, *, is_copy: bool) -> tuple[Restored, bytes]:
        """What a path was in another space, and what stands before the path of it; raises Refused."""
        sight, below = self._drive.sights.of_path(path)
        name = os.fsdecode(path)
        for one in await self._drive.across.of_path(sight, below):
            old = next((old for old in one.versions if old.version.rev <= rev), None)
            if one.word == word and old is not None:
                folder, _, last = path.rstrip(b"/").rpartition(b"/")
                at = Name(await self._lookup(folder), last)
                return await one.restore.node(old.node, rev, at, is_copy=is_copy), folder + b"/" if folder else b""
        raise Refused(f"{name} has no version {word}:{rev}. Nothing was done: satchel versions lists those it has.")

    async def _restore_removed(self, path: bytes) -> Fields:
        """Brings back what is removed, with all that went with it; raises Refused for what is not."""
        with suppress(NoEntry):
            await self._lookup(path)
            raise Refused(f"{os.fsdecode(path)} is there: say what to make it again, by --at TIME or --at REV.")
        await self._sending.what_goes()
        sight, below = self._drive.sights.of_path(path)
        found = await sight.history.of_path(below)
        if not found or found[0].version.state is not None:
            raise Refused(f"It is not known when {os.fsdecode(path)} was removed: say --at TIME.")
        # By what it was a moment before, what a program removed first would be missing: that is in an older commit.
        done = await sight.acts.put_back(sight.space, [found[0].node], limit=_LISTED_MAX)
        told = await self._told_done(done, sight)
        return {"rev": found[0].version.rev - 1, "nodes": told["added"], "path": os.fsdecode(path), "left": []}

    async def _diff(self, fields: Fields) -> object:
        path = os.fsencode(str(fields["path"]))
        await self._sending.flush()
        sight, below = self._drive.sights.of_path(path)
        node = await sight.history.find(below)
        since = await self.rev(str(fields["from"]), sight)
        to = await self.rev(str(fields["to"]), sight) if fields.get("to") else sight.cursor
        if to < since and not fields.get("to"):
            raise Refused(f"There is no rev {since} yet: it is at rev {to}.")
        if to < since:
            raise Refused(f"From rev {since} to rev {to} is backwards: give the older one as --from.", Exit.USAGE)
        sides = [await sight.lookback.state_at(node, rev) for rev in (since, to)]
        known = [state for state in sides if state is not None]
        if not known:
            raise Refused(f"{os.fsdecode(path)} existed neither at rev {since} nor at rev {to}.")
        if known[0].kind is Kind.FOLDER:
            return await self._diff_folder(sight, node, since, to)
        paths = [await sight.history.path_at(node, rev) for rev in (since, to)]
        prefix = self._drive.sights.prefix(sight)
        return {
            "from": since,
            "to": to,
            "kind": known[0].kind.name.lower(),
            "files": [
                # Where each side can be read, from the top of the mount.
                None if at is None else os.fsdecode(b"%s.versions/rev-%d/%s" % (prefix, rev, at))
                for at, rev in zip(paths, (since, to), strict=True)
            ],
        }

    async def _diff_folder(self, sight: Sight, node: NodeId, since: Rev, to: Rev) -> Fields:
        answer = await sight.acts.diff(sight.space, node, since, to, DIFFERENCES_MAX)
        return {"kind": "folder", **_told_differences(answer), "from": since, "to": to}

    async def _rewind(self, fields: Fields) -> object:
        """A folder as it was; first the server must have what it is now, so that this can be undone."""
        path, is_dry_run = os.fsencode(str(fields["path"])), bool(fields.get("dry_run"))
        sight, below = self._drive.sights.of_path(path)
        to = await self.rev(str(fields["to"]), sight)
        node = ROOT
        with suppress(NoEntry):
            node = await self._lookup(path)
        await self._sending.all_of(node)
        if path and node == ROOT:
            node = await sight.history.find(below)
        try:
            done = await sight.acts.rewind(sight.space, node, to, is_dry_run=is_dry_run, limit=_LISTED_MAX)
        except NotFound as error:
            if to > sight.cursor:
                raise
            name = os.fsdecode(path)
            raise Refused(f"{name} did not exist at rev {to}: satchel versions shows when it did.") from error
        return await self._told_done(done, sight)

    async def _undo(self, fields: Fields) -> object:
        rev = Rev(int(fields.get("rev") or NOW))
        await self._sending.all_of(ROOT)
        is_dry_run = bool(fields.get("dry_run"))
        event, keeps_new = int(fields.get("event") or 0), bool(fields.get("keep_new"))
        sight = self._drive.sights.named(fields)
        done = await sight.acts.undo(
            sight.space,
            rev,
            is_dry_run=is_dry_run,
            limit=_LISTED_MAX,
            event=event,
            keeps_new=keeps_new,
            passing=self._drive.backups.tops(),
        )
        return await self._told_done(done, sight, self._drive.sights.prefix(sight))

    async def _trash(self, fields: Fields) -> object:
        """What was removed, newest first, and whether there is more."""
        limit = min(max(1, int(fields.get("limit", 100))), _REMOVED_MAX)
        await self._sending.what_goes()
        told: list[Fields] = []
        is_more = False
        for sight in self._drive.sights.all():
            found, before = await self._removed(sight, limit)
            prefix = self._drive.sights.prefix(sight)
            told += [_told_removed(one, prefix) for one in found]
            is_more = is_more or before != NOW
        told.sort(key=lambda one: -int(one["time_ns"]))
        return {"removed": told[:limit], "more": is_more or len(told) > limit}

    async def _removed(self, sight: Sight, limit: int, path: bytes | None = None) -> tuple[list[Removed], Rev]:
        """At most so many (a rev is never parted), or until one of this path is among them; and where more begins."""
        found: list[Removed] = []
        before = NOW
        while len(found) < limit:
            answer = await sight.acts.trash(sight.space, before, min(limit - len(found), TRASH_MAX))
            # What file managers noted of things in their own trash means nothing by itself.
            found += [one for one in answer.removed if not _TRASH_NOTE.match(one.path)]
            before = answer.next
            if before == NOW or (path is not None and any(one.path == path for one in answer.removed)):
                break
        return found, before

    async def _trash_restore(self, fields: Fields) -> object:
        """The newest of each of these paths, there again."""
        await self._sending.what_goes()
        sight, removed = await self._removed_together(fields)
        places = {one.node: await self._place_now(sight, one) for one in removed}
        below = {node: self._drive.sights.below(place[0].parent) for node, place in places.items()}
        over = [one for one in removed if below[one.node].space != sight.space]
        nodes = [one.node for one in removed if one not in over]
        told: Fields = {"added": 0, "differences": []}
        if nodes:
            done = await sight.acts.put_back(sight.space, nodes, limit=_LISTED_MAX)
            told = await self._told_done(done, sight, self._drive.sights.prefix(sight))
        for one in over:
            restored = await self._put_over(sight, one, *places[one.node])
            told["added"] += restored.nodes
            told["in"] = os.fsdecode(self._drive.sights.prefix(below[one.node]).rstrip(b"/"))
            told["differences"].append({"what": "added", "kind": one.kind, "path": os.fsdecode(restored.path)})
        return told

    async def _place_now(self, sight: Sight, one: Removed) -> tuple[Name, Way]:
        """Where something removed belongs: its name in the nearest folder that is there still, and those between."""
        way: list[tuple[bytes, NodeState]] = []
        node, rev = one.node, Rev(one.rev - 1)
        while True:
            state = await sight.lookback.state_at(node, rev)
            if state is None or not state.names:
                raise Refused(f"What {os.fsdecode(one.path)} was is not known any more.")
            way.append((state.names[0].name, state))
            node = state.names[0].parent
            record = self._drive.tree.record(node)
            if node in {ROOT, sight.top} or (record is not None and record.local is not None):
                way.reverse()
                return Name(node, way[-1][0]), way[:-1]

    async def _put_over(self, sight: Sight, one: Removed, at: Name, way: Way) -> Restored:
        """Brings back into a shared folder what was removed before that was shared."""
        live: NodeId | None = at.parent
        for part in [*(part for part, _ in way), at.name]:
            live = await self._drive.volume.find(live, part) if live is not None else None
        restored = await sight.restore.node(one.node, Rev(one.rev - 1), at, way=way, is_copy=live is not None)
        path = self._drive.tree.path_of(at.parent) + b"/" + restored.path
        await self._sending.all_of(await self._lookup(path))
        return replace(restored, path=path)

    async def _trash_purge(self, fields: Fields) -> object:
        """Forgets what was removed: the newest of each of these paths, or all that was before a time or rev."""
        await self._sending.what_goes()
        sight, removed = await self._removed_together(fields)
        nodes = [one.node for one in removed]
        before = NOW
        if not nodes and fields.get("before") is not None:
            before = Rev(await self.rev(str(fields["before"]), sight) + 1)
        told = await self._purged(sight, nodes, before, fields)
        if not nodes and (shared := self._shared_below(b"")):
            told["left"] = [
                f"What was removed from shared folders stays ({shared}): satchel trash purge PATH forgets that."
            ]
        return told

    async def _removed_together(self, fields: Fields) -> tuple[Sight, list[Removed]]:
        """The newest that were removed under these paths, all of one space; raises Refused."""
        found = [await self._removed_from(os.fsencode(str(path))) for path in fields["paths"]]
        if len({id(sight) for sight, _ in found}) > 1:
            raise Refused("These are of different spaces: ask for those of each shared folder by itself.")
        return found[0][0] if found else self._drive.sights.home, [one for _, one in found]

    async def _removed_from(self, path: bytes) -> tuple[Sight, Removed]:
        """What was removed last under a path, and from which space: of a shared folder, else before it was shared."""
        home = self._drive.sights.home
        sight, below = self._drive.sights.of_path(path)
        try:
            return sight, await self.removed_at(below, sight)
        except Refused as refused:
            if sight is home:
                raise
            with suppress(Refused):
                return home, await self.removed_at(path, home)
            raise refused from None

    async def _purge(self, fields: Fields) -> object:
        """Forgets what a path, and all below it, was before now."""
        path = os.fsencode(str(fields["path"]))
        node = await self._lookup_or_refuse(path)
        await self._sending.all_of(node)
        sight, below = self._drive.sights.of_path(path)
        try:
            there = await self._drive.across.of_path(sight, below)
        except NotFound as error:
            raise await self._never_sent(path) from error
        told = await self._purged(sight, [node], NOW, fields)
        if shared := self._shared_below(path):
            told["left"].append(
                f"What was in shared folders below it stays ({shared}): satchel purge PATH forgets that."
            )
        for one in there:
            states = [old.version.state for old in one.versions]
            if any(state is not None and state.kind is Kind.FOLDER for state in states):
                told["left"].append(_FOLDER_LEFT)
                break
            nodes = list({old.node for old in one.versions if old.version.state and old.version.state.content})
            if nodes:
                is_dry_run = bool(fields.get("dry_run"))
                found = await sight.acts.purge(one.space, nodes, NOW, is_dry_run=is_dry_run)
                told["versions"] += found.versions
                told["size_bytes"] += found.size
        return told

    def _shared_below(self, path: bytes) -> str:
        """The paths of shared folders below a folder; the first _SHARED_SHOWN of them by name."""
        sights = self._drive.sights
        paths = [sights.prefix(sight).rstrip(b"/") for sight in sights.all()[1:]]
        found = [os.fsdecode(one) for one in paths if is_below(one, path) and one != path]
        more = f" and {len(found) - _SHARED_SHOWN} more" if len(found) > _SHARED_SHOWN else ""
        return ", ".join(found[:_SHARED_SHOWN]) + more

    async def _purged(self, sight: Sight, nodes: list[NodeId], before: Rev, fields: Fields) -> Fields:
        is_dry_run = bool(fields.get("dry_run"))
        found = await sight.acts.purge(sight.space, nodes, before, is_dry_run=is_dry_run)
        if not is_dry_run:
            await self._drive.past.clear()
        return {"versions": found.versions, "nodes": found.nodes, "size_bytes": found.size, "left": []}

    async def _lookup_or_refuse(self, path: bytes) -> NodeId:
        try:
            return await self._lookup(path)
        except NoEntry:
            raise Refused(f"There is no {os.fsdecode(path)}; of what is removed: satchel trash purge.") from None

    async def _retention(self, fields: Fields) -> object:
        """What the space keeps of its past, and sets what is said of it."""
        return await self._drive.sights.choices(fields, lambda sight, to: sight.acts.retention(sight.space, to))

    async def removed_at(self, path: bytes, sight: Sight) -> Removed:
        """What was removed last under this path of a space; raises Refused."""
        for one in (await self._removed(sight, _REMOVED_MAX, path))[0]:
            if one.path == path:
                return one
        why = self._sending.in_the_way(ROOT) or "satchel trash list shows what there is."
        name = os.fsdecode(self._drive.sights.prefix(sight) + path)
        raise Refused(f"Nothing in the trash on the server is called {name}. {why}")

    async def _told_done(self, done: Done, sight: Sight, prefix: bytes = b"") -> Fields:
        """What was done, when this device shows it; `prefix`: what stands before its paths."""
        is_shown = await self.shown(done.rev, sight)
        told = _told_differences(done.did, prefix)
        where = os.fsdecode(self._drive.sights.prefix(sight).rstrip(b"/"))
        stays = [{"path": os.fsdecode(prefix + one.path), "rev": one.rev} for one in done.stays]
        return {
            "rev": done.rev,
            "of": done.of,
            "in": where,
            "kept": done.kept,
            "stays": stays,
            "shown": is_shown,
            **told,
        }

    async def shown(self, rev: Rev, sight: Sight) -> bool:
        """Whether this device comes to show a rev of a space within a minute."""
        with trio.move_on_after(_SHOWN_SECONDS):
            # The kernel believes the old size of a file until it is told: a read between would be cut at it.
            while sight.cursor < rev or not self._drive.announcer.has_told:  # noqa: ASYNC110 - from a thread
                await trio.sleep(_LOOKED_SECONDS)
            return True
        return False

    async def rev(self, at: str, sight: Sight) -> Rev:
        """The rev of a space that a person means by a number or a time."""
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
        try:
            return await sight.lookback.rev_at(moments.parse(at))
        except NoEntry:
            if sight is self._drive.sights.home:
                raise
            raise await self._before_sharing(moments.parse(at), sight) from None

    async def _before_sharing(self, time_ns: int, sight: Sight) -> Refused:
        """What to say of a time before a folder was shared: a space's history begins with that."""
        home = self._drive.sights.home
        name = os.fsdecode(self._drive.sights.prefix(sight).rstrip(b"/"))
        since = f"{name} was not shared"
        oldest = (await sight.history.moments(b""))[-1:]
        # Of a long history only the newest are listed: the first rev alone is known to be the first.
        if oldest and oldest[0].rev == 1:
            since += f" until {moments.iso(oldest[0].time_ns)}"
        path: bytes | None = None
        with suppress(NoEntry):
            rev = await home.lookback.rev_at(time_ns)
            was = await home.lookback.state_at(sight.top, rev)
            path = await home.history.path_at(sight.top, rev) if was is not None and not was.mounts else None
        if path is None:
            return Refused(f"{since}: what was in it at that time is with the drive of who shared it.")
        there = self._sending.shown(os.path.join(".versions", moments.name(time_ns), os.fsdecode(path)))
        return Refused(f"{since}. What was in it at that time can be copied from {there}")


def told(old: Old, there: Elsewhere | None = None) -> Fields:
    """A version, as JSON; `there`: of another space."""
    version = old.version
    state = version.state
    return {
        "rev": version.rev,
        "space": there.space if there is not None else NO_SPACE,
        "at": _at(version.rev, there),
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
    return told(Old(b"", version, NOWHERE))


def _at(rev: Rev, there: Elsewhere | None) -> str:
    """What `restore --at` takes for a version."""
    return f"{there.word}:{rev}" if there is not None else str(rev)


def _told_moment(moment: Moment, there: Elsewhere | None = None) -> Fields:
    return {
        "rev": moment.rev,
        "space": there.space if there is not None else NO_SPACE,
        "at": _at(moment.rev, there),
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


def _told_differences(found: Differences, prefix: bytes = b"") -> Fields:
    return {
        "added": found.added,
        "removed": found.removed,
        "changed": found.changed,
        "moved": found.moved,
        "attributes": found.attributes,
        "differences": [_told_difference(one, prefix) for one in found.differences],
    }


def _told_difference(one: Difference, prefix: bytes) -> Fields:
    return {
        "what": one.what,
        "kind": one.kind,
        "path": os.fsdecode(prefix + one.path),
        "was_path": os.fsdecode(prefix + one.was_path) if one.was_path else "",
        "size_bytes": one.size,
        "was_size_bytes": one.was_size,
    }


def _told_removed(one: Removed, prefix: bytes) -> Fields:
    return {
        "path": os.fsdecode(prefix + one.path),
        "kind": one.kind,
        "rev": one.rev,
        "time_ns": one.time_ns,
        "time": moments.iso(one.time_ns),
        "user": one.user_name,
        "device": one.device_name,
        "count": one.nodes,
        "size_bytes": one.size,
    }
