"""News: takes what the server says of nodes into the tree, as one edit, and settles names that clash.

Applying the same news twice gives the same tree: states are compared by rev. Names are judged in the order of the
journal, so whoever brings states that are ahead of the cursor catches up first (see Pull).
"""

from collections.abc import Callable, Sequence

from msgspec.structs import replace

from cache.edit import Edit
from cache.merge import ASIDE, free_name, labelled, settle
from cache.records import LostEdit, Record
from remote.protocol.ids import ROOT, NodeId
from remote.protocol.nodes import Kind, Name, NodeState, NodeVersion


class News:
    """One batch of news on its way into an edit.

    `is_busy(node)`: a program has the file open for writing; what concerns its content waits until it is closed.
    `correction_ns`: what to add to this machine's clock to get the server's. `is_behind`: more news of these nodes may
    be about to come. A name that one of them had for a while is no reason to make it one with what has it here, nor to
    bring a folder back that was removed here: what would touch unsent edits of others waits. `is_ignored`: a node
    stays on this machine, so it does not become one with another, but has another name from then on. `is_own`: a node
    is of the space of which this is news, all below `top`.
    """

    def __init__(
        self,
        edit: Edit,
        is_busy: Callable[[NodeId], bool],
        correction_ns: int,
        *,
        is_behind: bool = False,
        is_ignored: Callable[[NodeId, Record | None], bool] = lambda node, record: False,
        is_own: Callable[[NodeId], bool] = lambda node: True,
        top: NodeId = ROOT,
    ) -> None:
        self._edit = edit
        self._is_busy = is_busy
        self._correction_ns = correction_ns
        self._is_behind = is_behind
        self._is_ignored = is_ignored
        self._is_own = is_own
        self._top = top
        self.is_deferred = False
        """Whether some of it waits because more may be about to come."""
        self.unlisted: set[NodeId] = set()
        """Folders for which some of it waits: they are to become one with others, and must be listed for that."""

    def take(self, versions: Sequence[NodeVersion], *, are_in_the_way: bool = False) -> None:
        """Takes these states in; those that concern nothing known here are passed over.

        `are_in_the_way`: of what we want, so that they concern us also in a folder that is not listed.
        """
        # Known folders may be among the news: what is in them is judged by the tree as it was.
        alive: list[NodeVersion] = []
        removed: list[NodeVersion] = []
        known: list[NodeVersion] = []
        for version in versions:
            record, waiting = self._edit.record(version.node), self._edit.news_of(version.node)
            if version.rev <= (record.rev if record is not None else 0) or (waiting and version.rev < waiting.rev):
                continue
            if version.state is None:
                removed.append(version)
            elif record is not None or self._concerns(version.state, are_in_the_way or waiting is not None):
                alive.append(version)
            else:
                # What waited to come in here has gone to a folder that is not known.
                self._edit.forget_news(version.node)
                continue
            if record is not None:
                known.append(version)
        for version in sorted(known, key=lambda version: version.state is None):
            self._free_names(version)
        folders = [version for version in removed if self._is_folder(version.node)]
        for version in removed:
            if not self._is_folder(version.node):
                self._take_one(version)
        # Folders before what is in them, so that a folder removed here is alive again when something comes into it.
        for version in sorted(
            alive, key=lambda version: version.state is None or version.state.kind is not Kind.FOLDER
        ):
            self._take_one(version)
        for version in sorted(folders, key=lambda version: -self._depth(version.node)):
            self._take_one(version)

    def _concerns(self, state: NodeState, is_in_the_way: bool) -> bool:
        """Whether what is not known here comes into a folder that is; what waits is in the way of something here."""
        # What is known may have a name in a folder that is not: it went there.
        if is_in_the_way and any(
            self._edit.record(name.parent) is not None or self._edit.holder(name) is not None for name in state.names
        ):
            return True
        return any(self._is_known_folder(name.parent) for name in state.names)

    def _is_known_folder(self, folder: NodeId) -> bool:
        record = self._edit.record(folder)
        # What is in a folder that was removed here keeps it from being removed.
        return record is not None and (record.is_listed or record.is_listing or record.local is None)

    def _is_folder(self, node: NodeId) -> bool:
        record = self._edit.record(node)
        state = (record.local or record.agreed) if record is not None else None
        return state is not None and state.kind is Kind.FOLDER

    def _depth(self, node: NodeId) -> int:
        depth = 0
        record = self._edit.record(node)
        while record is not None and node != ROOT and depth < 4_096:
            state = record.local or record.agreed
            if state is None or not state.names:
                break
            node = state.names[0].parent
            record = self._edit.record(node)
            depth += 1
        return depth

    def _free_names(self, version: NodeVersion) -> None:
        """Frees the names that this version takes from its node: others of the same commit may have them now."""
        node = version.node
        record = self._edit.record(node)
        if record is None or record.local is None or node == ROOT:
            return
        if self._must_wait(record, version):
            # Noted now already: who takes its name within this commit sees that it has no claim to it.
            self._edit.keep_news(version)
            return
        settled = settle(record, version, self._edited_ns(node), is_kept_alive=self._is_folder(node)).record
        kept = set(settled.local.names if settled is not None and settled.local is not None else ())
        if version.state is None and record.agreed is not None:
            # What lives on here has no claim to names that it had there; one that it got here goes with its folder.
            kept.difference_update(record.agreed.names)
        lost = set(record.local.names) - kept
        if lost:
            self._edit.unindex(node, lost)

    def _edited_ns(self, node: NodeId) -> int:
        """When a node was last edited here, by the server's clock; 0 for one that is clean."""
        edited_ns = self._edit.edited_ns(node)
        return max(edited_ns + self._correction_ns, 1) if edited_ns else 0

    def _take_one(self, version: NodeVersion) -> None:
        node = version.node
        before = self._edit.record(node)
        if before is not None and version.rev <= before.rev:
            return
        if before is None and version.state is not None and self._is_plain(version.state):
            # As all that follows would have it, many times faster: so is most of what a listing brings.
            self._edit.forget_news(node)
            self._edit.put(node, Record(rev=version.rev, local=version.state))
            return
        if self._must_wait(before, version):
            self._edit.keep_news(version)
            self._index_again(node, before)
            return
        self._edit.forget_news(node)
        if before is None and version.state is None:
            self._bring_out(node)
        edited_ns = self._edited_ns(node)
        is_kept_alive = self._is_folder(node) and self._edit.has_children(node)
        settled = settle(before, version, edited_ns, is_kept_alive)
        if settled.record is not None and settled.record.local is not None:
            # Before any holder is looked at: a folder that comes back may take another name of this very node;
            # and a folder that comes back may become one with another in which the node is.
            while any(self._revive_folder(name.parent) for name in settled.record.local.names):
                pass
            present = self._edit.record(node)
            if present is not before:
                # or become one with a folder in which the node is.
                before, settled = present, settle(present, version, edited_ns, is_kept_alive)
        if settled.is_local_lost and before is not None and before.local is not None:
            lost = before.local
            if not lost.names and version.state is not None:
                # Its names were another's already.
                lost = replace(lost, names=version.state.names)
            self._edit.keep_lost(node, LostEdit(lost, edited_ns, before.staged))
        if settled.record is not None:
            self._keep(settled.record, version)
        elif before is not None:
            self._edit.drop(node)

    def _is_plain(self, state: NodeState) -> bool:
        """Whether something new comes in under names that nobody has, in folders that are not removed; no folder."""
        if state.kind is Kind.FOLDER:
            return False
        for name in state.names:
            folder = self._edit.record(name.parent)
            if (folder is not None and folder.local is None) or self._edit.holder(name) is not None:
                return False
        return True

    def _bring_out(self, folder: NodeId) -> None:
        """What lives on here in a folder that is removed, and was never known here, goes to the top."""
        for child in self._edit.children(folder):
            local = self._edit.get(child.node).local
            own, name = Name(folder, child.name), Name(self._top, child.name)
            if local is None or not self._edit.get(child.node).is_dirty or not self._is_own(child.node):
                continue
            free = self._free_name(name) if self._edit.holder(name) is not None else name.name
            kept = _without(local, own) if len(local.names) > 1 else _renamed(local, own, free, self._top)
            self._edit.set_local(child.node, kept, self._edit.edited_ns(child.node))

    def _index_again(self, node: NodeId, record: Record | None) -> None:
        """Gives a node whose news must wait the names back that were freed for others, but those that were taken.

        Until its news can be merged, it is like a file that was removed while it is open.
        """
        state = record.local if record is not None else None
        if record is None or state is None or all(self._edit.holder(name) == node for name in state.names):
            return
        present = self._present(node)
        if present is record:
            self._edit.put(node, record)
        else:
            self._put(node, present, 0)

    def _keep(self, record: Record, version: NodeVersion) -> None:
        node = version.node
        given = version.state.names if version.state is not None else ()
        local = record.local
        names = local.names if local is not None else ()
        for name in names:
            holder = self._edit.holder(name)
            if holder is None or holder == node:
                continue
            if name in given:
                record = self._yield(holder, name, node, record, name, version.edited_ns)
                local = record.local
            elif local is not None:
                # It was given to another meanwhile, and is not the server's for this node.
                if version.state is None and len(local.names) == 1 and self._give_to(holder, node, record):
                    self._edit.drop(node)
                    return
                is_one_of_many = len(local.names) > 1
                local = _without(local, name) if is_one_of_many else _renamed(local, name, self._free_name(name))
                record = replace(record, local=local)
        self._put(node, record, version.edited_ns - self._correction_ns)
        if record.local is not None and record.local.kind is Kind.FOLDER:
            self._undo_cycles(node)

    def _give_to(self, holder: NodeId, node: NodeId, record: Record) -> bool:
        """Gives what is left of a node that was removed elsewhere to the one that has its name now, if that can be."""
        other = self._edit.get(holder)
        if record.local is None or other.local is None or not _can_be_one(record.local, other.local):
            return False
        if record.local.kind is Kind.FOLDER:
            self._move_children(node, holder)
            return True
        self._put(holder, self._join(node, record, holder, other, 0), 0)
        return True

    def _put(self, node: NodeId, record: Record, edited_ns: int) -> None:
        self._edit.put(node, record)
        if record.is_dirty:
            self._edit.mark_dirty(node, self._edit.edited_ns(node) or edited_ns)
        else:
            self._edit.mark_clean(node)

    def _must_wait(self, before: Record | None, version: NodeVersion) -> bool:
        state = version.state
        is_busy = before is not None and before.local is not None and self._is_busy(version.node)
        if is_busy and (state is None or state.content != (before and before.agreed and before.agreed.content)):
            return True
        if state is None:
            return self._is_folder(version.node) and self._is_folder_waited_for(version.node)
        clashes = self._clashes(version.node, state)
        if self._is_behind and (
            any(self._is_unsettled(holder) for holder, _ in clashes)
            or any(self._is_removed_here(name.parent) for name in state.names)
        ):
            self.is_deferred = True
            return True
        unlisted = [
            folder
            for holder, folder in clashes
            if (state.kind is Kind.FOLDER or folder != version.node) and self._edit.get(holder).is_dirty
            for folder in self._unlisted(holder, folder)
        ]
        self.unlisted.update(unlisted)
        return bool(unlisted) or any(
            self._is_busy(holder) and not self._stays_here(holder, state.kind) for holder, _ in clashes
        )

    def _is_removed_here(self, folder: NodeId) -> bool:
        record = self._edit.record(folder)
        return record is not None and record.local is None and record.synced is not None

    def _is_folder_waited_for(self, folder: NodeId) -> bool:
        """Whether something waits to leave a folder that was removed, which would come back with it otherwise.

        Or has no name any more and may need the folder, if it is kept: its removal waits, and another got its name.
        """
        for child in self._edit.children(folder):
            waiting = self._edit.news_of(child.node)
            if waiting is not None and (
                waiting.state is None or all(name.parent != folder for name in waiting.state.names)
            ):
                return True
        return any(
            (waiting := self._edit.news_of(node)) is not None
            and waiting.state is None
            and (local := self._edit.get(node).local) is not None
            and not local.names
            for node in self._edit.slot_holders(folder)
        )

    def _is_unsettled(self, node: NodeId) -> bool:
        return self._edit.get(node).is_dirty or self._edit.news_of(node) is not None

    def _clashes(self, node: NodeId, state: NodeState) -> list[tuple[NodeId, NodeId]]:
        """Who has names here that this state gives to the node, or that a folder gets back for it; with the latter."""
        wanted = [(name, node) for name in state.names]
        for name in state.names:
            folder = self._edit.record(name.parent)
            if folder is not None and folder.local is None and folder.synced is not None:
                wanted += [(own, name.parent) for own in folder.synced.names]
        found = [(self._edit.holder(name), wanting) for name, wanting in wanted]
        return [(holder, wanting) for holder, wanting in found if holder is not None and holder != wanting]

    def _unlisted(self, loser: NodeId, target: NodeId) -> list[NodeId]:
        """Folders of which not all is known here, in `loser` and below, that would go into `target` and below."""
        record = self._edit.record(loser)
        if record is None or record.local is None or record.local.kind is not Kind.FOLDER:
            return []
        if not record.is_listed:
            return [loser]
        found: list[NodeId] = []
        for child in self._edit.children(loser):
            other = self._edit.holder(Name(target, child.name)) if child.kind is Kind.FOLDER else None
            if other is not None and self._is_folder(other):
                found += self._unlisted(child.node, other)
        return found

    def _revive_folder(self, folder: NodeId) -> bool:
        """A folder removed here, into which something came from elsewhere, lives on; whether it is such a one."""
        record = self._edit.record(folder)
        if record is None or record.local is not None or record.synced is None:
            return False
        for name in record.synced.names:
            self._revive_folder(name.parent)
        revived = replace(record, local=record.synced, is_dirty=False, synced=None)
        for name in record.synced.names:
            holder = self._edit.holder(name)
            if holder is None or holder == folder:
                continue
            if self._edit.get(holder).is_dirty:
                revived = self._yield(holder, name, folder, revived, name, 0)
            else:
                # The server gave the name to that one, and is about to tell where the folder is now.
                revived = _hidden(revived, name)
        self._put(folder, revived, 0)
        return True

    # Names that were given twice

    def _yield(
        self,
        loser: NodeId,
        own: Name,
        node: NodeId,
        record: Record,
        name: Name,
        edited_ns: int,
        *,
        is_moved: bool = False,
    ) -> Record:
        """Makes `loser`, whose name is `own`, give way to `node` in `name`; returns what the node's record becomes.

        Nodes of one kind become one: what `loser` holds goes into the node, or is kept as a version of it. One that is
        clean does so only when it `is_moved` with its folder.
        """
        other = self._present(loser)
        mine, theirs = other.local, record.local
        if mine is None or theirs is None:
            return record
        waiting = self._edit.news_of(loser)
        is_told = waiting is not None and mine.kind is not Kind.FOLDER and _takes(waiting, other, own)
        if is_told or not (other.is_dirty or is_moved):
            # The server took the name from it, in news that waits here or is about to come: until then it is not shown.
            self._put(loser, _hidden(other, own), 0)
            return record
        if self._stays_here(loser, theirs.kind):
            self._put_aside(loser, own, theirs.names)
            return record
        if _can_be_one(mine, theirs):
            # News waits until a folder is listed (see `_unlisted`); a move that is undone cannot.
            if mine.kind is Kind.FOLDER and other.is_listed:
                self._move_children(loser, node)
                self._remove(loser)
                return record
            if mine.kind is not Kind.FOLDER and len(mine.names) > 1:
                # What it holds is still to be had under its other names.
                self._edit.set_local(loser, _without(mine, own), self._edit.edited_ns(loser))
                return record
            if mine.kind is not Kind.FOLDER and not self._is_busy(loser):
                joined = self._join(loser, other, node, record, edited_ns)
                self._remove(loser, heir=node)
                return joined
        free = self._free_name(name, theirs.names)
        self._edit.set_local(loser, _renamed(mine, own, free, name.parent), self._edit.edited_ns(loser))
        return record

    def _stays_here(self, node: NodeId, kind: Kind) -> bool:
        """Whether this is ignored, and keeps apart from something of this kind that is to have its name.

        Folders become one: what is in them is judged by itself.
        """
        is_one = kind is Kind.FOLDER and self._is_folder(node)
        return not is_one and self._is_ignored(node, self._edit.record(node))

    def _put_aside(self, node: NodeId, own: Name, taken: Sequence[Name]) -> None:
        """Gives what is ignored a name under which it is ignored, too, and none of those that are `taken`."""
        other = self._present(node)
        assert other.local is not None
        free = labelled(own.name, ASIDE)
        if self._is_taken(Name(own.parent, free), taken):
            free = self._free_name(Name(own.parent, free), taken)
        self._edit.set_local(node, _renamed(other.local, own, free), self._edit.edited_ns(node))

    def _present(self, node: NodeId) -> Record:
        """The record without those names that this edit gave to others already, before the node's own news came."""
        record = self._edit.get(node)
        for name in record.local.names if record.local is not None else ():
            if self._edit.holder(name) not in (None, node):
                record = _hidden(record, name)
        return record

    def _free_name(self, name: Name, taken: Sequence[Name] = ()) -> bytes:
        return free_name(name.name, lambda candidate: self._is_taken(Name(name.parent, candidate), taken))

    def _is_taken(self, name: Name, taken: Sequence[Name]) -> bool:
        """Whether the name leads somewhere here, or is one of those that a node is about to get."""
        return self._edit.holder(name) is not None or name in taken

    def _remove(self, node: NodeId, heir: NodeId | None = None) -> None:
        if heir is not None and self._edit.get(node).rev == 0:
            self._edit.move_lost(node, heir)
        self._edit.set_local(node, None, self._edit.edited_ns(node))

    def _join(self, loser: NodeId, other: Record, node: NodeId, record: Record, theirs_edited_ns: int) -> Record:
        """What becomes of two files given one name: equal ones become one, of unequal ones the newer has the name."""
        mine, theirs = other.local, record.local
        assert mine is not None
        assert theirs is not None
        # Of a clean one it is not known when its content was edited, but not later than its ctime.
        lost_ns = self._edited_ns(loser) or mine.ctime_ns
        edited_ns = lost_ns - self._correction_ns
        if not other.staged and (mine.content, mine.target) == (theirs.content, theirs.target) and not record.staged:
            return record
        # What is being written to a file replaces its content when it is flushed.
        if self._is_busy(node) or lost_ns <= max(theirs_edited_ns, self._edited_ns(node)):
            self._edit.keep_lost(node, LostEdit(mine, lost_ns, other.staged))
            return record
        if record.staged:
            self._edit.keep_lost(node, LostEdit(theirs, self._edited_ns(node), record.staged))
        self._edit.mark_dirty(node, edited_ns)
        return replace(
            record,
            local=replace(
                theirs,
                content=mine.content,
                target=mine.target,
                mtime_ns=mine.mtime_ns,
                ctime_ns=mine.ctime_ns,
                mode=mine.mode,
                xattrs=mine.xattrs,
            ),
            is_dirty=True,
            synced=record.agreed,
            staged=other.staged,
            staged_size=other.staged_size,
            overrides=record.rev,
        )

    def _move_children(self, source: NodeId, target: NodeId) -> None:
        for child in self._edit.children(source):
            state = self._present(child.node).local
            if state is None:
                continue
            own, name = Name(source, child.name), Name(target, child.name)
            holder = self._edit.holder(name)
            if holder == child.node:
                # It is in both folders, by the same name.
                self._edit.set_local(child.node, _without(state, own), self._edit.edited_ns(child.node))
                continue
            if holder is not None and self._stays_here(holder, state.kind):
                self._put_aside(holder, name, state.names)
                holder = None
            if holder is not None and not self._takes_over(child.node, state, holder):
                kept = self._edit.get(holder)
                kept_ns = self._edited_ns(holder) or (kept.local.ctime_ns if kept.local is not None else 0)
                joined = self._yield(child.node, own, holder, kept, name, kept_ns, is_moved=True)
                self._put(holder, joined, 0)
                continue
            moved = _renamed(state, own, name.name, name.parent)
            self._edit.set_local(child.node, moved, self._edit.edited_ns(child.node))

    def _takes_over(self, node: NodeId, state: NodeState, holder: NodeId) -> bool:
        """Whether a file that is open for writing takes the name of another, which then is a version of it.

        Its content cannot go into another node, for it is not known yet. Of two such files neither gives way.
        """
        kept = self._edit.get(holder)
        if (
            kept.local is None
            or kept.local.kind is not state.kind
            or not self._is_busy(node)
            or self._is_busy(holder)
            or len(kept.local.names) > 1
        ):
            return False
        self._edit.keep_lost(node, LostEdit(kept.local, self._edited_ns(holder) or kept.local.ctime_ns, kept.staged))
        self._remove(holder, heir=node)
        return True

    # Folders in each other

    def _undo_cycles(self, start: NodeId) -> None:
        """A move here and a move elsewhere may put two folders into each other: the move here is undone."""
        while cycle := self._cycle(start):
            moved = [node for node in cycle if self._is_moved(node)]
            if not moved:
                return
            self._undo_move(max(moved, key=self._edit.edited_ns))

    def _cycle(self, node: NodeId) -> list[NodeId]:
        """The folders above this one that are in each other."""
        way: dict[NodeId, int] = {}
        while node not in way:
            way[node] = len(way)
            record = self._edit.record(node)
            if node == ROOT or record is None or record.local is None or not record.local.names:
                return []
            node = record.local.names[0].parent
        return list(way)[way[node] :]

    def _is_moved(self, node: NodeId) -> bool:
        record = self._edit.get(node)
        return (
            record.is_dirty
            and record.local is not None
            and record.synced is not None
            and record.local.names != record.synced.names
        )

    def _undo_move(self, node: NodeId) -> None:
        record = self._edit.get(node)
        assert record.local is not None
        assert record.synced is not None
        name = record.synced.names[0]
        # Out of the index first: the folder above may be revived under the name that this one has now.
        self._edit.unindex(node, record.local.names)
        undone = replace(record, local=replace(record.local, names=(name,)))
        self._revive_folder(name.parent)
        holder = self._edit.holder(name)
        if holder is not None and holder != node:
            undone = self._yield(holder, name, node, undone, name, 0)
        self._edit.put(node, undone)


def _takes(news: NodeVersion, record: Record, name: Name) -> bool:
    """Whether this news takes the name from its node; a removal takes none that the node only got here."""
    if news.state is not None:
        return name not in news.state.names
    return record.agreed is not None and name in record.agreed.names


def _can_be_one(one: NodeState, other: NodeState) -> bool:
    """Whether two nodes with one name can become one; what a shared folder holds is of another space, for others."""
    return one.kind is other.kind and not (one.mounts or other.mounts)


def _renamed(state: NodeState, old: Name, name: bytes, parent: NodeId | None = None) -> NodeState:
    new = Name(old.parent if parent is None else parent, name)
    return replace(state, names=tuple(new if own == old else own for own in state.names))


def _hidden(record: Record, name: Name) -> Record:
    """Without this name, until news tells which it has now; the planner leaves a node without any alone."""
    assert record.local is not None
    return replace(record, local=_without(record.local, name), is_dirty=True, synced=record.agreed)


def _without(state: NodeState, name: Name) -> NodeState:
    return replace(state, names=tuple(own for own in state.names if own != name))
