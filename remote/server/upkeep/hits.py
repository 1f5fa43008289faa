"""Hits: the files of which something is lost."""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

from remote.protocol import manifests, sealing
from remote.protocol.errors import RemoteError
from remote.protocol.ids import ChunkId, NodeId, SpaceId
from remote.protocol.nodes import Entry
from remote.server.database import chunks as chunk_rows
from remote.server.database import trees
from remote.server.database import upkeep as rows
from remote.server.database.connection import Database, Session
from remote.server.database.spaces import space_row
from remote.server.keyring import Keyring
from remote.server.lookup import path_of
from remote.server.objects.store import ObjectMissing, Objects, name_of
from remote.server.states import open_manifest
from remote.server.upkeep.marking import AT_ONCE


@dataclass(frozen=True)
class Hit:
    """A file of which something is lost: in its present state, or only in this many older ones."""

    space: str
    path: bytes
    is_present: bool
    versions: int


class Hits:
    """Finds the files that need chunks; reads every manifest of the spaces that may read them."""

    def __init__(self, database: Database, objects: Objects, keyring: Keyring) -> None:
        self._database = database
        self._objects = objects
        self._keyring = keyring

    def of(self, lost: Collection[ChunkId]) -> Iterator[Hit]:
        """The files that need one of these chunks."""
        after = 0
        while found := self._database.read_now(partial(rows.spaces_after, after=after, limit=AT_ONCE)):
            for space in found:
                if self._database.read_now(partial(_refers_to, space=space, chunks=lost)):
                    yield from self._in_space(space, set(lost))
            after = found[-1]

    def _in_space(self, space: SpaceId, lost: set[ChunkId]) -> Iterator[Hit]:
        row = self._database.read_now(partial(space_row, space=space))
        if row is None:
            return
        key = self._keyring.key(row)
        contents: set[bytes] = set()
        leaves: dict[ChunkId, bool] = {}
        after = b""
        while found := self._database.read_now(
            partial(rows.manifests_after, space=space, content_id=after, limit=AT_ONCE)
        ):
            for content_id, body in found:
                manifest = open_manifest(key, body)
                if self._needs(manifest.entries, manifest.depth, lost, leaves):
                    contents.add(content_id)
            after = found[-1][0]
        counts: dict[NodeId, int] = {}
        rev, ordinal = 0, -1
        while versions := self._database.read_now(
            partial(rows.versions_after, space=space, rev=rev, ordinal=ordinal, limit=AT_ONCE)
        ):
            for rev, ordinal, node, content in versions:  # noqa: B007 - they are where to go on from
                if content in contents:
                    counts[node] = counts.get(node, 0) + 1
        for node, count in counts.items():
            yield self._database.read_now(
                lambda session, node=node, count=count: _hit(session, space, row.name, node, count, contents)  # type: ignore[misc]
            )

    def _needs(self, entries: Iterable[Entry], depth: int, lost: set[ChunkId], leaves: dict[ChunkId, bool]) -> bool:
        for entry in entries:
            if entry.is_hole:
                continue
            if entry.id in lost or (entry.base is not None and entry.base.id in lost):
                return True
            if depth:
                if entry.id not in leaves:
                    leaves[entry.id] = self._needs(self._leaf(entry), depth - 1, lost, leaves)
                if leaves[entry.id]:
                    return True
        return False

    def _leaf(self, entry: Entry) -> Iterable[Entry]:
        place = self._database.read_now(partial(chunk_rows.place, chunk=entry.id))
        if place is None:
            return ()
        try:
            name = name_of(place.object_id, is_pack=place.pack is not None)
            return manifests.decode_leaf(sealing.open_leaf(entry, self._objects.read(name, place.offset, place.size)))
        except (ObjectMissing, RemoteError):
            return ()


def _refers_to(session: Session, space: SpaceId, chunks: Collection[ChunkId]) -> bool:
    return any(chunk_rows.may_read(session, space, chunk) for chunk in chunks)


def _hit(session: Session, space: SpaceId, name: str, node: NodeId, count: int, contents: set[bytes]) -> Hit:
    row = trees.node_row(session, space, node)
    is_present = row is not None and row.content_id in contents
    return Hit(name, path_of(session, space, node), is_present, count - is_present)
