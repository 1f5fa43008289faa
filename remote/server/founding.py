"""Founding: a folder of a home becomes a space of its own, or an ordinary folder again; no content moves.

All of it is one transaction. Nodes keep their ids and states; rev 2 of the new space is what the home had, with the
folder itself replaced by the root. What the folder was before stays in the history of the home.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import msgspec

from remote.protocol.errors import InTheWay, NotAllowed, TooLarge
from remote.protocol.ids import NO_SPACE, NOWHERE, ROOT, ChunkId, NodeId, Rev, SpaceId
from remote.protocol.messages import Change
from remote.protocol.nodes import NAME_MAX, ROOT_NAME, Kind, Manifest, Name, NodeState
from remote.protocol.sharing import FOUNDED, SHARED_NODES_MAX
from remote.server import commits
from remote.server.commits import Draft, Moving
from remote.server.database import chunks as chunk_rows
from remote.server.database import spaces as space_rows
from remote.server.database import trees
from remote.server.database.accounts import Device
from remote.server.database.connection import Session
from remote.server.database.spaces import JournalRow, SpaceRow
from remote.server.database.trees import NodeRow
from remote.server.keys import SpaceKey
from remote.server.leaves import CHUNKS_MAX, ReadChunk, named, named_in_leaves
from remote.server.reading import asked_op_id
from remote.server.scanning.carrying import Carried, carry
from remote.server.states import decode_state, encode_state

NUMBERS_MAX = 1_000
"""Names that are tried when one is taken."""
_AT_ONCE = 1_000
"""Nodes that are read, and written, at once."""
Below = Mapping[bytes, frozenset[ChunkId]]
"""Of long manifests, by content id: the chunks that their leaves name, and the leaves below them."""


@dataclass(frozen=True)
class Moved:
    """One node below a folder, with its content opened."""

    row: NodeRow
    state: NodeState
    manifest: bytes | None
    """Encoded, as it is sealed."""


def moved_below(session: Session, space: SpaceId, key: SpaceKey, top: NodeId) -> Iterator[list[Moved]]:
    """All nodes below a folder, each once and folders before what is in them, in batches.

    Raises TooLarge for too many, InTheWay for shared folders and for files with another name outside.
    """
    folders, seen = [top], {top}
    outside: dict[NodeId, set[NodeId]] = {}
    for folder in folders:
        after = b""
        while True:
            found = trees.rows_in(session, space, folder, after, _AT_ONCE)
            batch: list[Moved] = []
            for name, row, body in found:
                if row.node in seen:
                    continue
                seen.add(row.node)
                state = decode_state(row.state or b"")
                if state.mounts:
                    raise InTheWay(f"{_shown(name)} in it is shared already: a shared folder holds no other.")
                if state.kind == Kind.FOLDER:
                    folders.append(row.node)
                if len(state.names) > 1:
                    outside[row.node] = {each.parent for each in state.names}
                batch.append(Moved(row, state, key.open(body) if body is not None else None))
            if len(seen) > SHARED_NODES_MAX:
                raise TooLarge(
                    f"There are over {SHARED_NODES_MAX:,} files and folders in it: share folders that are in it."
                )
            if batch:
                yield batch
            if len(found) < _AT_ONCE:
                break
            after = found[-1][0]
    inside = set(folders)
    for node, parents in outside.items():
        if not parents <= inside:
            raise InTheWay(f"Node {node} in it has another name outside (a hard link): remove one of the two first.")


def long_contents(
    session: Session, space: SpaceId, key: SpaceKey, top: NodeId, read_chunk: ReadChunk
) -> dict[bytes, frozenset[ChunkId]]:
    """What long manifests below a folder name in their leaves, read from the store: to be ready for `found_space`."""
    found: dict[bytes, frozenset[ChunkId]] = {}
    count = 0
    for batch in moved_below(session, space, key, top):
        for moved in batch:
            content_id = moved.row.content_id
            if content_id is None or moved.manifest is None or content_id in found:
                continue
            manifest = msgspec.msgpack.decode(moved.manifest, type=Manifest)
            if manifest.depth:
                found[content_id] = frozenset(named_in_leaves(session, manifest, read_chunk))
                count += len(found[content_id])
                if count > CHUNKS_MAX:
                    raise TooLarge("The content of this folder is too long to be shared at once: share parts of it.")
    return found


@dataclass
class _Founding:
    """A space that is being filled by rev 2."""

    space: SpaceId
    key: SpaceKey
    count: int = 0
    used: int = 0
    folders: list[NodeId] = field(default_factory=list)
    removals: list[Draft] = field(default_factory=list)
    rows: list[NodeRow] = field(default_factory=list)
    contents: set[bytes] = field(default_factory=set)


@dataclass(frozen=True)
class Founder:
    """Makes spaces of folders within one transaction. `below`: as `long_contents` told it, as far as it goes."""

    session: Session
    device: Device
    read_chunk: ReadChunk
    below: Below
    now_ns: int
    carried: list[Carried] = field(default_factory=list)
    """What is refused where it came to; filled by what is done."""

    def found_space(self, home: SpaceRow, home_key: SpaceKey, top: NodeId, space: SpaceRow, space_key: SpaceKey) -> Rev:
        """The rev of the home that shares the folder `top`; `space` is new, of rev 0, and its keys are `space_key`'s.

        Raises NotAllowed for what cannot be shared, InTheWay, TooLarge.
        """
        session = self.session
        row = trees.node_row(session, home.space, top)
        if row is None or row.state is None:
            raise InTheWay("It was removed meanwhile: nothing was shared.")
        state = decode_state(row.state)
        if top == ROOT or state.kind != Kind.FOLDER:
            raise NotAllowed("A folder can be shared, but not the top of your drive.")
        space_rows.add_space(session, space)
        self._root(space.space, state)
        filling = _Founding(space.space, space_key)
        for batch in moved_below(session, home.space, home_key, top):
            self._fill(filling, top, batch, home.space)
        self._end(filling)
        shared = msgspec.structs.replace(state, mounts=space.space, ctime_ns=self.now_ns)
        filling.removals.append(_draft(top, row.rev, self.now_ns, shared))
        return self._take(home, home_key, filling.removals, Moving(space.space, filling.rows))

    def dissolve_space(
        self, space: SpaceRow, space_key: SpaceKey, home: SpaceRow, home_key: SpaceKey, top: NodeId
    ) -> Rev:
        """The rev of the home in which the folder `top` is an ordinary one again, with all that is in the space.

        The space is empty then, and keeps its history. Raises InTheWay, TooLarge, QuotaExceeded.
        """
        session = self.session
        row = trees.node_row(session, home.space, top)
        if row is None or row.state is None:
            raise InTheWay("The folder that stands for it is gone from the drive of its owner: nothing was changed.")
        state = msgspec.structs.replace(decode_state(row.state), mounts=NO_SPACE, ctime_ns=self.now_ns)
        coming, removals = [_draft(top, row.rev, self.now_ns, state)], []
        rows: list[NodeRow] = []
        chunks: set[ChunkId] = set()
        for batch in moved_below(session, space.space, space_key, ROOT):
            for moved in batch:
                rows.append(moved.row)
                removals.append(_draft(moved.row.node, moved.row.rev, self.now_ns, None))
                coming.append(self._back(moved, home.space, home_key, top))
                if moved.manifest is not None:
                    chunks.update(self._chunks(moved))
        if removals:
            self._take(space, space_key, removals, Moving(home.space, rows))
        chunk_rows.add_references(session, home.space, chunks)
        self.carried.extend(carry(session, space.space, home.space, chunks))
        # What the space held counts as the home's own from here on: its row is another one now.
        emptied = space_rows.space_row(session, home.space)
        assert emptied is not None, "an account has a home"
        return self._take(emptied, home_key, coming, Moving(space.space))

    def _back(self, moved: Moved, home: SpaceId, key: SpaceKey, top: NodeId) -> Draft:
        """What brings a node of a shared space into the home, on top of what it was there."""
        had = trees.node_row(self.session, home, moved.row.node)
        names = tuple(Name(top, name.name) if name.parent == ROOT else name for name in moved.state.names)
        state = msgspec.structs.replace(moved.state, names=names)
        change = Change(moved.row.node, had.rev if had is not None else Rev(0), moved.row.edited_ns, state)
        if moved.manifest is None:
            return Draft(change, encode_state(state), None, None)
        content_id, sealed = key.content_id(moved.manifest), key.seal(moved.manifest)
        return Draft(change, encode_state(state), content_id, sealed, moved.row.size)

    def into_folder(self, home: SpaceRow, key: SpaceKey, file: NodeId, folder: NodeId) -> NodeId:
        """Puts a file into a new folder beside it, which has this id; raises InTheWay when it is gone meanwhile."""
        row = trees.node_row(self.session, home.space, file)
        if row is None or row.state is None:
            raise InTheWay("It was removed meanwhile: nothing was shared.")
        state = decode_state(row.state)
        if len(state.names) > 1:
            raise InTheWay("This file has several names (hard links): remove the others first.")
        parent, name = state.names[0].parent, free_name(self.session, home.space, state.names[0], b" (shared)")
        now_ns = self.now_ns
        outer = NodeState(
            Kind.FOLDER, (Name(parent, name),), 0o755, state.uid, state.gid, now_ns, now_ns, now_ns, now_ns
        )
        inner = msgspec.structs.replace(state, names=(Name(folder, state.names[0].name),), ctime_ns=self.now_ns)
        moved = Draft(Change(file, row.rev, self.now_ns, inner), encode_state(inner), row.content_id, None, row.size)
        self._take(home, key, [_draft(folder, Rev(0), self.now_ns, outer), moved], None)
        return folder

    def _take(self, row: SpaceRow, key: SpaceKey, drafts: list[Draft], moving: Moving | None) -> Rev:
        answer = commits.take(
            self.session,
            row,
            self.device,
            asked_op_id(),
            drafts,
            key=key,
            now_ns=self.now_ns,
            found=moving,
        )
        if not answer.rev:
            raise InTheWay(f"{answer.reason} Nothing was changed.")
        return answer.rev

    def _root(self, space: SpaceId, folder: NodeState) -> None:
        """Rev 1: the root, with the mode, attributes and times of the folder."""
        session, rev = self.session, Rev(1)
        state = encode_state(msgspec.structs.replace(folder, names=(ROOT_NAME,)))
        trees.put_nodes(session, space, [NodeRow(ROOT, rev, self.now_ns, Kind.FOLDER, NOWHERE, 0, state, None)])
        root = trees.VersionRow(ROOT, self.now_ns, state, None, trees.WAS_STATE, Rev(0))
        trees.add_versions(session, space, rev, [root])
        space_rows.add_moments(session, space, [ROOT], rev)
        self._journal(space, rev, 0, self.now_ns)

    def _fill(self, filling: _Founding, top: NodeId, batch: list[Moved], home: SpaceId) -> None:
        session, space, rev = self.session, filling.space, FOUNDED
        nodes: list[NodeRow] = []
        entries: list[trees.NameRow] = []
        bodies: dict[bytes, bytes] = {}
        chunks: set[ChunkId] = set()
        for moved in batch:
            content_id: bytes | None = None
            if moved.manifest is not None:
                content_id = filling.key.content_id(moved.manifest)
                if content_id not in filling.contents:
                    filling.contents.add(content_id)
                    bodies[content_id] = filling.key.seal(moved.manifest)
                    chunks.update(self._chunks(moved))
            state = moved.state
            if any(name.parent == top for name in state.names):
                names = tuple(Name(ROOT, name.name) if name.parent == top else name for name in state.names)
                state = msgspec.structs.replace(state, names=names)
            is_folder = state.kind == Kind.FOLDER
            parent = state.names[0].parent if is_folder else NOWHERE
            if is_folder:
                filling.folders.append(moved.row.node)
            row = moved.row
            nodes.append(
                NodeRow(row.node, rev, row.edited_ns, row.kind, parent, row.size, encode_state(state), content_id)
            )
            entries += [(name.parent, name.name, row.node) for name in state.names]
            filling.used += row.size
            filling.rows.append(row)
            filling.removals.append(_draft(row.node, row.rev, self.now_ns, None))
        trees.put_nodes(session, space, nodes)
        trees.add_names(session, space, entries, rev)
        trees.add_manifests(session, space, bodies.items())
        chunk_rows.add_references(session, space, chunks)
        self.carried.extend(carry(session, home, space, chunks))
        versions = [
            trees.VersionRow(row.node, row.edited_ns, row.state, row.content_id, trees.WAS_STATE, Rev(0))
            for row in nodes
        ]
        trees.add_versions(session, space, rev, versions, filling.count)
        filling.count += len(versions)

    def _chunks(self, moved: Moved) -> Iterator[ChunkId]:
        manifest = msgspec.msgpack.decode(moved.manifest or b"", type=Manifest)
        yield from named(manifest.entries)
        if manifest.depth:
            known = self.below.get(moved.row.content_id or b"")
            yield from known if known is not None else named_in_leaves(self.session, manifest, self.read_chunk)

    def _end(self, filling: _Founding) -> None:
        """FOUNDED, also of an empty folder: the cursor of who had the folder before."""
        space_rows.add_moments(self.session, filling.space, [ROOT, *filling.folders], FOUNDED)
        self._journal(filling.space, FOUNDED, filling.used, self.now_ns + 1)

    def _journal(self, space: SpaceId, rev: Rev, used: int, time_ns: int) -> None:
        birth = JournalRow(rev, time_ns, self.device.user, self.device.device)
        space_rows.add_commit(self.session, space, birth, asked_op_id(), used)


def free_name(session: Session, space: SpaceId, wanted: Name, label: bytes = b"") -> bytes:
    """The name with the label behind it, and with a number where that is taken."""
    for number in range(1, NUMBERS_MAX):
        end = label + (b" (%d)" % number if number > 1 else b"")
        tried = wanted.name[: NAME_MAX - len(end)].decode(errors="ignore").encode() + end
        if trees.holder(session, space, wanted.parent, tried) is None:
            return tried
    raise InTheWay(f"There are too many names like {_shown(wanted.name)} already.")


def _draft(node: NodeId, base: Rev, now_ns: int, state: NodeState | None) -> Draft:
    return Draft(Change(node, base, now_ns, state), encode_state(state) if state is not None else None, None, None)


def _shown(name: bytes) -> str:
    return name.decode(errors="backslashreplace")
