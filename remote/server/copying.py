"""Copying: what copies of files and folders are made of, out of one space or several. Nothing is written here.

Into another space content goes by reference: manifests are sealed under that space's key, and its members may read the
chunks from then on (`Brought`). A shared folder in a copied one is gone into, and its copy is an ordinary folder.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from msgspec.structs import replace

from remote.protocol.errors import NotAllowed, NotFound, TooLarge
from remote.protocol.ids import NO_SPACE, ROOT, ChunkId, NodeId, Rev, SpaceId, UserId
from remote.protocol.messages import Change
from remote.protocol.nodes import Kind, Name, NodeState
from remote.server.commits import Draft
from remote.server.database import chunks as chunk_rows
from remote.server.database import past as past_rows
from remote.server.database import trees
from remote.server.database.connection import Session
from remote.server.database.spaces import SpaceRow
from remote.server.files import TREE_MAX, shown_name
from remote.server.keyring import Keyring
from remote.server.leaves import CHUNKS_MAX, ReadChunk, named_by
from remote.server.rights import Right, member_space
from remote.server.scanning.carrying import Carried, carry
from remote.server.states import decode_state, encode_state, open_manifest

Found = tuple[trees.NodeRow, NodeState]


@dataclass
class Brought:
    """What comes out of another space: contents, all chunks that they name, and files by what their copies are."""

    source: SpaceId
    contents: set[bytes] = field(default_factory=set)
    chunks: set[ChunkId] = field(default_factory=set)
    files: dict[NodeId, NodeId] = field(default_factory=dict)

    def is_there(self, session: Session) -> bool:
        """Whether the source still has the contents: what it has, the collector leaves alone."""
        return all(past_rows.manifest(session, self.source, each) is not None for each in self.contents)

    def bring(self, session: Session, user: UserId, target: SpaceId) -> list[Carried]:
        """Lets members of `target` read the chunks, for a user who may read the source; what is refused there stays so.

        Raises NotFound, NotAllowed.
        """
        member_space(session, self.source, user, Right.READ)
        chunk_rows.add_references(session, target, self.chunks)
        return carry(session, self.source, target, self.chunks, self.files)


@dataclass
class Copies:
    """The changes that make copies, and what has to come with them from other spaces."""

    drafts: list[Draft] = field(default_factory=list)
    brought: dict[SpaceId, Brought] = field(default_factory=dict)


@dataclass
class Copier:
    """Copies for one user into the space `target`; `next_id` and as many behind it as TREE_MAX are new ids.

    `is_move`: what is copied is about to go, so it is as old as it was, and shared folders cannot be in it.
    """

    session: Session
    keyring: Keyring
    read_chunk: ReadChunk
    user: UserId
    target: SpaceRow
    next_id: int
    is_move: bool = False
    copies: Copies = field(default_factory=Copies)
    _made: dict[NodeId, NodeId] = field(default_factory=dict)
    _sealed: dict[bytes, tuple[bytes, bytes]] = field(default_factory=dict)
    _chunk_count: int = 0

    def copy_of(self, node: NodeId) -> NodeId:
        """The id that the copy of a node has."""
        if node not in self._made:
            self._made[node] = NodeId(self.next_id)
            self.next_id += 1
        return self._made[node]

    def copy(self, source: SpaceRow, top: Found, to: Name, *, is_deep: bool = True) -> Copies:
        """Copies of a node and of all that is below it; links among what is copied are kept.

        Raises NotAllowed for too much, and for a folder that would be copied into itself.
        """
        names: dict[NodeId, list[Name]] = {top[0].node: [to]}
        found: dict[NodeId, tuple[SpaceRow, Found]] = {top[0].node: (source, top)}
        waiting = [top[0].node]
        while waiting:
            at = waiting.pop()
            space, (_, state) = found[at]
            if state.kind is not Kind.FOLDER or not is_deep:
                continue
            within, folder = self._entered(space, state, at)
            if (within.space, folder) == (self.target.space, to.parent):
                raise NotAllowed("A folder cannot be copied into itself.")
            for name, child in trees.names_in(self.session, within.space, folder):
                node = NodeId(child)
                if node not in found:
                    found[node] = within, present(self.session, within, node)
                    waiting.append(node)
                names.setdefault(node, []).append(Name(self.copy_of(at), name))
            if len(found) > TREE_MAX:
                raise NotAllowed(f"There are over {TREE_MAX:,} files in this folder: use a device for that.")
        for node, (space, (row, state)) in found.items():
            copied = replace(state, names=tuple(names[node]), mounts=NO_SPACE)
            self.add(self.copy_of(node), Rev(0), copied, space, row)
        return self.copies

    def add(self, node: NodeId, base: Rev, state: NodeState, source: SpaceRow, was: trees.NodeRow) -> None:
        """Gives a node of the target this state, with the content that another one has."""
        now_ns = time.time_ns()
        if not self.is_move and not base:
            state = replace(state, birth_ns=now_ns, atime_ns=now_ns)
        state = replace(state, ctime_ns=now_ns)
        content_id, sealed = self._content(source, was.content_id)
        if sealed is not None:
            self.copies.brought[source.space].files[was.node] = node
        change = Change(node, base, now_ns, state)
        self.copies.drafts.append(Draft(change, encode_state(state), content_id, sealed, was.size))

    def _entered(self, space: SpaceRow, state: NodeState, node: NodeId) -> tuple[SpaceRow, NodeId]:
        """The space and folder in which that is what a folder shows."""
        if not state.mounts:
            return space, node
        if self.is_move:
            raise NotAllowed(f"{shown(state)} is a shared folder, which stays in your home: move what is in it.")
        return member_space(self.session, state.mounts, self.user, Right.READ), ROOT

    def _content(self, source: SpaceRow, content_id: bytes | None) -> tuple[bytes | None, bytes | None]:
        """(id, sealed manifest) of a source's content in the target; nothing to seal where it is stored already."""
        if content_id is None or source.space == self.target.space:
            return content_id, None
        if content_id not in self._sealed:
            body = past_rows.manifest(self.session, source.space, content_id)
            if body is None:
                raise NotFound("Content of this file is not on the server any more.")
            manifest = open_manifest(key := self.keyring.key(source), body)
            brought = self.copies.brought.setdefault(source.space, Brought(source.space))
            brought.contents.add(content_id)
            before = len(brought.chunks)
            brought.chunks.update(named_by(self.session, manifest, self.read_chunk))
            self._chunk_count += len(brought.chunks) - before
            if self._chunk_count > CHUNKS_MAX:
                raise TooLarge("This is too much content for another space at once: take parts of it.")
            plain, own = key.open(body), self.keyring.key(self.target)
            self._sealed[content_id] = own.content_id(plain), own.seal(plain)
        return self._sealed[content_id]


def present(session: Session, row: SpaceRow, node: NodeId) -> Found:
    """A node as it is now; raises NotFound when it is removed."""
    found = trees.node_row(session, row.space, node)
    if found is None or found.state is None:
        raise NotFound("That is not on the server: it was removed, or was not sent yet.")
    return found, decode_state(found.state)


def are_there(session: Session, brought: Iterable[Brought]) -> bool:
    """Whether all that is brought is still where it comes from."""
    return all(one.is_there(session) for one in brought)


def shown(state: NodeState) -> str:
    """The name of what is spoken of."""
    return shown_name(state.names[0].name) or "The top"
