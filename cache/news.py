"""News: takes what the server says of nodes into the tree, as one edit, and settles names that clash.

Applying the same news twice, or a listing across the journal, gives the same tree: states are compared by rev.
"""

from collections.abc import Callable, Sequence

from msgspec.structs import replace

from cache.merge import free_name, settle
from cache.tree import Edit, LostEdit, Record
from remote.protocol.ids import ROOT, NodeId, Rev
from remote.protocol.nodes import Kind, Name, NodeState, NodeVersion


class News:
    """One batch of news on its way into an edit.

    `is_busy(node)`: a program has the file open for writing; what concerns its content waits until it is closed.
    `correction_ns`: what to add to this machine's clock to get the server's.
    """

    def __init__(self, edit: Edit, is_busy: Callable[[NodeId], bool], correction_ns: int) -> None:
        self._edit = edit
        self._is_busy = is_busy
        self._correction_ns = correction_ns

    def take(self, versions: Sequence[NodeVersion]) -> None:
        """Takes these states in; those that concern nothing known here are passed over."""
        alive = [version for version in versions if version.state is not None and self._concerns(version)]
        removed = [version for version in versions if version.state is None]
        for version in alive:
            record = self._edit.record(version.node)
            if record is not None and record.local is not None and version.state is not None and not record.is_dirty:
                self._edit.unindex(version.node, set(record.local.names) - set(version.state.names))
        for version in removed:
            record = self._edit.record(version.node)
            if record is not None and record.local is not None and record.local.kind is not Kind.FOLDER:
                self._take_one(version)
        # Folders before what is in them, so that a new folder counts as known.
        for version in sorted(
            alive, key=lambda version: version.state is None or version.state.kind is not Kind.FOLDER
        ):
            self._take_one(version)
        for version in sorted(removed, key=lambda version: -self._depth(version.node)):
            self._take_one(version)

    def _concerns(self, version: NodeVersion) -> bool:
        if self._edit.record(version.node) is not None:
            return True
        state = version.state
        return state is not None and any(self._is_known_folder(name.parent) for name in state.names)

    def _is_known_folder(self, folder: NodeId) -> bool:
        record = self._edit.record(folder)
        return record is not None and (record.is_listed or record.is_listing)

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

    def _take_one(self, version: NodeVersion) -> None:
        node = version.node
        before = self._edit.record(node)
        if before is not None and version.rev <= before.rev:
            return
        if self._must_wait(before, version):
            self._edit.keep_news(version)
            return
        self._edit.forget_news(node)
        edited_ns = self._edit.edited_ns(node) + self._correction_ns
        is_kept_alive = before is not None and self._is_folder(before) and self._edit.has_children(node)
        settled = settle(before, version, edited_ns, is_kept_alive)
        if settled.is_local_lost and before is not None and before.local is not None:
            self._edit.keep_lost(node, LostEdit(before.local, edited_ns, before.staged))
        self._keep(node, before, settled.record, version)

    def _keep(self, node: NodeId, before: Record | None, record: Record | None, version: NodeVersion) -> None:
        if record is None:
            if before is not None:
                self._edit.drop(node)
            return
        if record.local is not None:
            for name in record.local.names:
                self._revive_folder(name.parent)
                holder = self._edit.holder(name)
                if holder is not None and holder != node:
                    record = self._settle_clash(node, record, name, holder)
        self._edit.put(node, record)
        if record.is_dirty:
            self._edit.mark_dirty(node, self._edit.edited_ns(node) or version.edited_ns - self._correction_ns)
        else:
            self._edit.mark_clean(node)
        if record.local is not None and record.local.kind is Kind.FOLDER:
            self._undo_cycle(node)

    @staticmethod
    def _is_folder(record: Record) -> bool:
        state = record.local or record.agreed
        return state is not None and state.kind is Kind.FOLDER

    def _must_wait(self, before: Record | None, version: NodeVersion) -> bool:
        state = version.state
        if before is not None and before.local is not None and self._is_busy(version.node):
            return state is None or state.content != (before.agreed and before.agreed.content)
        if state is None:
            return False
        holders = (self._edit.holder(name) for name in state.names)
        return any(holder not in (None, version.node) and self._is_busy(holder) for holder in holders if holder)

    def _revive_folder(self, folder: NodeId) -> None:
        """A folder removed here, into which something came from elsewhere, lives on."""
        record = self._edit.record(folder)
        if record is None or record.local is not None or record.synced is None:
            return
        for name in record.synced.names:
            self._revive_folder(name.parent)
        revived = replace(record, local=record.synced, is_dirty=False, synced=None)
        for name in record.synced.names:
            holder = self._edit.holder(name)
            if holder is not None and holder != folder:
                revived = self._settle_clash(folder, revived, name, holder)
        self._edit.put(folder, revived)
        self._edit.mark_clean(folder)

    def _settle_clash(self, node: NodeId, record: Record, name: Name, holder: NodeId) -> Record:
        """The name is the server's for `node`, and was given to `holder` here; returns the record for `node`."""
        other = self._edit.get(holder)
        mine, theirs = other.local, record.local
        if mine is None or theirs is None:
            return record
        if other.rev == 0 and not record.is_dirty and mine.kind is theirs.kind:
            if mine.kind is Kind.FOLDER:
                self._move_children(holder, node)
                self._edit.drop(holder)
                return record
            if mine.kind is Kind.FILE:
                return self._settle_same_file(node, record, theirs, holder, other, mine)
            if mine.target == theirs.target and mine.rdev == theirs.rdev:
                self._edit.drop(holder)
                return record
        names = tuple(Name(name.parent, self._free_name(name)) if own == name else own for own in mine.names)
        self._edit.set_local(holder, replace(mine, names=names), self._edit.edited_ns(holder))
        return record

    def _free_name(self, name: Name) -> bytes:
        return free_name(name.name, lambda candidate: self._edit.holder(Name(name.parent, candidate)) is not None)

    def _settle_same_file(
        self, node: NodeId, record: Record, theirs: NodeState, holder: NodeId, other: Record, mine: NodeState
    ) -> Record:
        """Two files were made under one name: equal ones become one, of unequal ones the newer has the name."""
        edited_ns = self._edit.edited_ns(holder)
        self._edit.drop(holder)
        if not other.staged and mine.content == theirs.content:
            return record
        if edited_ns + self._correction_ns <= theirs.ctime_ns:
            self._edit.keep_lost(node, LostEdit(mine, edited_ns + self._correction_ns, other.staged))
            return record
        self._edit.mark_dirty(node, edited_ns)
        return replace(
            record,
            local=replace(theirs, content=mine.content, mtime_ns=mine.mtime_ns, ctime_ns=mine.ctime_ns, mode=mine.mode),
            is_dirty=True,
            synced=theirs,
            staged=other.staged,
            staged_size=other.staged_size,
            overrides=record.rev,
        )

    def _move_children(self, source: NodeId, target: NodeId) -> None:
        for child in self._edit.children(source):
            state = self._edit.get(child.node).local
            if state is None:
                continue
            old = Name(source, child.name)
            names = tuple(Name(target, child.name) if name == old else name for name in state.names)
            self._edit.set_local(child.node, replace(state, names=names), self._edit.edited_ns(child.node))

    def _undo_cycle(self, start: NodeId) -> None:
        """A move here and a move elsewhere may put two folders into each other: the move here is undone."""
        seen: set[NodeId] = set()
        node = start
        while node not in seen and node != ROOT:
            seen.add(node)
            record = self._edit.record(node)
            if record is None or record.local is None or not record.local.names:
                return
            node = record.local.names[0].parent
        if node == ROOT:
            return
        for member in seen:
            record = self._edit.record(member)
            if record is None or record.local is None or record.synced is None:
                continue
            if record.is_dirty and record.local.names != record.synced.names:
                name = record.synced.names[0]
                holder = self._edit.holder(name)
                if holder not in (None, member):
                    name = Name(name.parent, self._free_name(name))
                self._edit.put(member, replace(record, local=replace(record.local, names=(name,))))
                return


def retry(edit: Edit, is_busy: Callable[[NodeId], bool], correction_ns: int, waiting: Sequence[NodeVersion]) -> None:
    """Takes in news that had to wait, as far as nothing is in its way any more."""
    for version in waiting:
        record = edit.record(version.node)
        if record is not None and version.rev <= record.rev:
            edit.forget_news(version.node)
    News(edit, is_busy, correction_ns).take(waiting)


def acknowledge(
    edit: Edit, node: NodeId, sent: NodeState | None, rev: Rev, is_merged: bool, is_unchanged: bool
) -> None:
    """The server has committed `sent` as the node's state; `is_unchanged`: its staging was not written to since.

    `is_merged`: the server may have made something else of it, which the journal will bring.
    """
    record = edit.record(node)
    if record is None:
        if sent is not None:
            # Made, sent and removed here meanwhile: the removal is still to be told.
            edit.put(node, Record(rev=rev, local=None, is_dirty=True, synced=sent))
            edit.mark_dirty(node, sent.ctime_ns)
        return
    if record.rev > rev:
        return
    if sent is None:
        if record.local is None:
            edit.drop(node)
        return
    new_rev = record.rev if is_merged else rev
    same = record.local is not None and is_unchanged and replace(record.local, content=sent.content) == sent
    if same:
        edit.put(
            node,
            replace(
                record, rev=new_rev, local=sent, is_dirty=False, synced=None, staged=0, staged_size=0, overrides=Rev(0)
            ),
        )
        edit.mark_clean(node)
    else:
        edit.put(node, replace(record, rev=new_rev, synced=sent, is_dirty=True, overrides=Rev(0)))
