"""Marking: which chunks a space needs: all that its manifests name, down through the leaves of long ones.

A mark that is not whole is none: what is removed because of it could be somebody's only copy.
"""

from collections.abc import Callable, Iterable
from functools import partial

from remote.protocol import manifests, sealing
from remote.protocol.errors import RemoteError
from remote.protocol.ids import Rev, SpaceId
from remote.protocol.nodes import Entry
from remote.server.database import chunks as chunk_rows
from remote.server.database import upkeep as rows
from remote.server.database.connection import Database
from remote.server.database.scratch import Scratch
from remote.server.database.spaces import space_row
from remote.server.keyring import Keyring
from remote.server.keys import SpaceKey
from remote.server.objects.store import ObjectMissing, Objects, name_of
from remote.server.states import open_manifest

AT_ONCE = 2_000
"""Rows that are read in one transaction."""


class Incomplete(Exception):
    """Not all that a space needs could be found out; `str()` says what is missing."""


class Marker:
    """Marks one space after the other into the sets of `scratch`; `pause` is called between transactions."""

    def __init__(
        self, database: Database, objects: Objects, keyring: Keyring, scratch: Scratch, pause: Callable[[], None]
    ) -> None:
        self._database = database
        self._objects = objects
        self._keyring = keyring
        self._scratch = scratch
        self._pause = pause

    def mark(self, space: SpaceId) -> tuple[Rev, list[bytes]]:
        """The rev up to which versions were looked at, and manifests that none of them names; raises Incomplete.

        Afterwards `scratch.is_reached` says what is needed. Commits that come meanwhile may be missed: they take the
        chunks that they name out of doubt themselves.
        """
        self._scratch.begin_space()
        row = self._database.read_now(lambda session: space_row(session, space))
        if row is None:
            return Rev(0), []
        key = self._keyring.key(row)
        head = self._name_contents(space)
        unnamed: list[bytes] = []
        after = b""
        while True:
            found = self._database.read_now(partial(rows.manifests_after, space=space, content_id=after, limit=AT_ONCE))
            self._pause()
            for content_id, body in found:
                if self._scratch.is_named(content_id):
                    self._reach(space, key, content_id, body)
                else:
                    unnamed.append(content_id)
            if len(found) < AT_ONCE:
                break
            after = found[-1][0]
        self._check_none_is_left(space)
        return head, unnamed

    def _name_contents(self, space: SpaceId) -> Rev:
        rev, ordinal = 0, -1
        while True:
            found = self._database.read_now(
                partial(rows.versions_after, space=space, rev=rev, ordinal=ordinal, limit=AT_ONCE)
            )
            self._pause()
            self._scratch.name((content, each, at) for each, at, _, content in found if content is not None)
            if found:
                rev, ordinal, *_ = found[-1]
            if len(found) < AT_ONCE:
                break
        node = 0
        while True:
            nodes = self._database.read_now(partial(rows.nodes_after, space=space, node=node, limit=AT_ONCE))
            self._pause()
            self._scratch.name((content, 0, 0) for _, content in nodes if content is not None)
            if len(nodes) < AT_ONCE:
                return Rev(rev)
            node = nodes[-1][0]

    def _check_none_is_left(self, space: SpaceId) -> None:
        for content_id, rev, ordinal in self._scratch.left_named(AT_ONCE):
            if not rev or self._database.read_now(
                partial(rows.names_content, space=space, rev=rev, ordinal=ordinal, content_id=content_id)
            ):
                raise Incomplete(f"space {space}: the manifest {content_id.hex()} of rev {rev} is missing.")

    def _reach(self, space: SpaceId, key: SpaceKey, content_id: bytes, body: bytes) -> None:
        try:
            manifest = open_manifest(key, body)
        except (RemoteError, ValueError) as error:
            raise Incomplete(f"space {space}: the manifest {content_id.hex()} cannot be opened: {error}") from error
        self._reach_all(space, manifest.entries, manifest.depth)

    def _reach_all(self, space: SpaceId, entries: Iterable[Entry], depth: int) -> None:
        named = [entry for entry in entries if not entry.is_hole]
        self._scratch.reach(entry.id for entry in named)
        self._scratch.reach(entry.base.id for entry in named if entry.base is not None)
        if depth:
            for entry in named:
                if self._scratch.open(entry.id, depth):
                    self._reach_all(space, self._leaf(space, entry), depth - 1)

    def _leaf(self, space: SpaceId, entry: Entry) -> Iterable[Entry]:
        place = self._database.read_now(lambda session: chunk_rows.place(session, entry.id))
        if place is None:
            raise Incomplete(f"space {space}: the leaf {entry.id.hex()} of a manifest is lost.")
        try:
            name = name_of(place.object_id, is_pack=place.pack is not None)
            data = self._objects.read(name, place.offset, place.size)
            return manifests.decode_leaf(sealing.open_leaf(entry, data))
        except (ObjectMissing, RemoteError) as error:
            raise Incomplete(
                f"space {space}: the leaf {entry.id.hex()} of a manifest cannot be read: {error}"
            ) from error
