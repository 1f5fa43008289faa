"""Collecting garbage while others upload and commit: nothing that is needed goes, all that is not does."""

import atexit
import hashlib
import os
import random
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path

import pytest

from remote.protocol import sealing
from remote.protocol.errors import ChunkMissing
from remote.protocol.ids import ROOT, ChunkId, DeviceId, NodeId, Rev, UserId
from remote.protocol.manifests import encode_leaf
from remote.protocol.messages import SMALL_CHUNK_MAX, Change, Commit, PutRequest, WantRequest
from remote.protocol.nodes import Entry, Kind, Manifest, Name, NodeState
from remote.protocol.sealing import Sealed
from remote.server import commits
from remote.server import instance as instances
from remote.server.accounts import add_user
from remote.server.chunks import Chunks
from remote.server.database import accounts as account_rows
from remote.server.database import upkeep as rows
from remote.server.database.accounts import Device
from remote.server.database.chunks import Place
from remote.server.database.connection import Database, Session
from remote.server.database.spaces import space_row
from remote.server.keyring import Keyring
from remote.server.keys import MasterKey
from remote.server.leaves import Leaves
from remote.server.objects.local import LocalObjects
from remote.server.objects.signing import Signer
from remote.server.objects.store import name_of, object_name
from remote.server.states import open_manifest
from remote.server.upkeep.collecting import Collected, Collector
from remote.server.upkeep.packing import Packer

IN_MEMORY = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else None
SECRET = b"s" * 32
MASTER = MasterKey(b"m" * 32)
GRACE_SECONDS = 100.0
FILES = 3
PLAYS = int(os.environ.get("SATCHEL_TEST_PLAYS", "60"))
FIRST_SEED = int(os.environ.get("SATCHEL_TEST_SEED", "0"))
SMALL = [sealing.seal(b"%d" % number * 3_000, SECRET) for number in range(4)]
LARGE = [sealing.seal(hashlib.shake_256(b"%d" % number).digest(SMALL_CHUNK_MAX + 1), SECRET) for number in range(2)]


def entry(one: Sealed) -> Entry:
    return Entry(one.id, one.key, one.length)


def long_content(parts: list[Sealed]) -> tuple[Manifest, list[Sealed]]:
    """A manifest with a leaf above these chunks, and all that it is made of."""
    leaf = sealing.seal(encode_leaf([entry(one) for one in parts]), SECRET)
    size = sum(one.length for one in parts)
    return Manifest(size, depth=1, entries=(Entry(leaf.id, leaf.key, size),)), [*parts, leaf]


CONTENTS: list[tuple[Manifest, list[Sealed]]] = [
    *((Manifest(one.length, entries=(entry(one),)), [one]) for one in (*SMALL[:2], LARGE[0])),
    long_content([SMALL[1], SMALL[2]]),
    long_content([SMALL[3], LARGE[1]]),
]
ALL = {one.id: one.data for _, parts in CONTENTS for one in parts}


@cache
def template() -> Path:
    """The data of a new instance with one user who has a device."""
    directory = Path(tempfile.mkdtemp(prefix="satchel-collecting-", dir=IN_MEMORY))
    atexit.register(shutil.rmtree, directory)
    instances.make(directory / "data", directory / "key")
    database = Database(directory / "data" / instances.DATABASE)
    database.write_now(partial(add_user, master=MASTER, name="ann", password_hash="", now_ns=1))
    user = database.read_now(lambda session: account_rows.user_of_login(session, "ann")) or UserId(0)
    database.write_now(lambda session: account_rows.add_range(session, 1, user, DeviceId(1)))
    database.close()
    return directory / "data"


class World:
    """A store with one space, in which devices of one user keep FILES files; time stands still unless it is moved."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.now_ns = time.time_ns() + 1_000_000 * 10**9
        shutil.copytree(template(), directory / "data")
        self.open()
        self.space = self.database.read_now(partial(rows.spaces_after, after=0, limit=1))[0]
        self.user = self.database.read_now(lambda session: account_rows.user_of_login(session, "ann")) or UserId(0)
        self.device = Device(self.user, DeviceId(1), "ann", b"t")
        self.nodes = [NodeId((1 << 32) + number) for number in range(FILES)]
        self.promised: dict[ChunkId, int] = {}
        """Chunks that the server said are there, and when."""
        self.half: list[tuple[list[Place], dict[ChunkId, bytes]]] = []
        """Uploads of which the objects are there and nothing is noted yet."""
        self.pending: list[tuple[int, int, bytes, commits.Prepared]] = []
        """Commits that were prepared and not taken yet."""

    def open(self) -> None:
        self.database = Database(self.directory / "data" / instances.DATABASE)
        self.objects = LocalObjects(self.directory / "data", Signer(b"k", time.time))
        self.chunks = Chunks(self.database, self.objects)
        self.leaves = Leaves(self.chunks.read_whole)
        self.keyring = Keyring(MASTER)

    def close(self) -> None:
        self.database.close()

    def wait(self, seconds: float) -> None:
        self.now_ns += int(seconds * 1e9)

    def collector(self, pause: Callable[[], None] = lambda: None) -> Collector:
        return Collector(self.database, self.objects, self.keyring, now_ns=lambda: self.now_ns, pause=pause)

    def packer(self, pause: Callable[[], None] = lambda: None) -> Packer:
        return Packer(self.database, self.objects, self.collector(pause), now_ns=lambda: self.now_ns, pause=pause)

    def collect(self) -> Collected:
        return self.collector().run(GRACE_SECONDS)

    # What devices do

    def want(self, parts: list[Sealed]) -> list[Sealed]:
        request = WantRequest(tuple((one.id, len(one.data)) for one in parts))
        missing = self.chunks.want(self.user, self.space, [], request).missing
        self.promise(one.id for one in parts if one.id not in missing)
        return [one for one in parts if one.id in missing]

    def promise(self, chunks: Iterator[ChunkId]) -> None:
        self.promised.update(dict.fromkeys(chunks, self.now_ns))

    def begin_upload(self, parts: list[Sealed]) -> None:
        small = {one.id: one.data for one in parts if len(one.data) <= SMALL_CHUNK_MAX}
        places = self.chunks._store(small) if small else []
        for one in parts:
            if one.id not in small:
                self.objects.write(object_name(one.id), one.data)
                places.append(Place(one.id, len(one.data), None))
        self.half.append((places, {one.id: one.data for one in parts}))

    def end_upload(self) -> None:
        if self.half:
            places, sent = self.half.pop(0)
            if self.database.write_now(partial(self.chunks._add, self.space, places, sent)):
                self.promise(iter(sent))

    def upload(self, parts: list[Sealed]) -> None:
        small = [one.data for one in parts if len(one.data) <= SMALL_CHUNK_MAX]
        if small:
            self.promise(iter(self.chunks.put(self.space, PutRequest(tuple(small))).ids))
        for one in parts:
            if len(one.data) > SMALL_CHUNK_MAX:
                self.objects.write(object_name(one.id), one.data)
                self.chunks.received(self.space, [Place(one.id, len(one.data), None)])
                self.promise(iter([one.id]))

    def is_promised(self, content: int) -> bool:
        oldest = self.now_ns - int(GRACE_SECONDS * 1e9)
        return all(self.promised.get(one.id, 0) > oldest for one in CONTENTS[content][1])

    def prepare(self, file: int, content: int) -> None:
        """Refused only when the server never said, or long ago, that it has all of it."""
        present = self.database.read_now(
            lambda session: commits._StoredTree(session, self.space, self.device).row(self.nodes[file])
        )
        state = NodeState(Kind.FILE, (Name(ROOT, b"%d" % file),), 0o644, 0, 0, 1, 1, 1, 1, content=CONTENTS[content][0])
        change = Change(self.nodes[file], present.rev if present else Rev(0), 1, state)
        commit = Commit(secrets.token_bytes(16), (change,))
        key = self.key()
        try:
            prepared = self.database.read_now(
                lambda session: commits.prepare(session, self.space, commit, key, self.leaves, now_ns=self.now_ns)
            )
        except ChunkMissing:
            assert not self.is_promised(content)
        else:
            self.pending.append((file, content, commit.op_id, prepared))

    def take(self) -> None:
        if not self.pending:
            return
        file, content, op_id, prepared = self.pending.pop(0)
        try:
            self.database.write_now(partial(self._take, op_id, prepared))
        except commits.Overtaken:
            self.prepare(file, content)
            if self.pending:
                *_, op_id, prepared = self.pending.pop()
                self.database.write_now(partial(self._take, op_id, prepared))

    def _take(self, op_id: bytes, prepared: commits.Prepared, session: Session) -> object:
        row = space_row(session, self.space)
        assert row is not None
        return commits.take(
            session, row, self.device, op_id, prepared.drafts, key=self.key(), now_ns=self.now_ns, found=prepared.found
        )

    def commit(self, file: int, content: int) -> None:
        self.prepare(file, content)
        while self.pending:
            self.take()

    def purge(self) -> None:
        """All versions but the present ones are gone."""
        self.database.write_now(
            lambda session: session.run(
                "DELETE FROM version WHERE space_id = ? AND NOT EXISTS (SELECT 1 FROM node WHERE"
                " node.space_id = version.space_id AND node.node_id = version.node_id AND node.rev = version.rev)",
                self.space,
            )
        )

    def remove(self, file: int) -> None:
        """The file and its versions are gone."""
        for statement in (
            "DELETE FROM node WHERE space_id = ? AND node_id = ?",
            "DELETE FROM version WHERE space_id = ? AND node_id = ?",
            "DELETE FROM name WHERE space_id = ? AND node_id = ?",
        ):
            self.database.write_now(_run(statement, self.space, self.nodes[file]))

    # What must be true

    def key(self):  # type: ignore[no-untyped-def]
        row = self.database.read_now(lambda session: space_row(session, self.space))
        assert row is not None
        return self.keyring.key(row)

    def needed(self) -> set[ChunkId]:
        """Chunks that versions name."""
        by_manifest = dict(CONTENTS)
        found = self.database.read_now(
            lambda session: list(
                session.rows(
                    "SELECT version.content_id, manifest.body FROM version LEFT JOIN manifest ON"
                    " manifest.space_id = version.space_id AND manifest.content_id = version.content_id"
                    " WHERE version.space_id = ? AND version.content_id IS NOT NULL",
                    self.space,
                )
            )
        )
        assert all(body is not None for _, body in found), "a manifest that a version names is gone"
        return {one.id for _, body in found for one in by_manifest[open_manifest(self.key(), body)]}

    def check(self) -> None:
        """Whatever a version names can be read."""
        for chunk in self.needed():
            place = self.chunks.place(self.space, chunk)
            assert self.chunks.read(place, 0, place.size) == ALL[chunk]

    def check_clean(self) -> None:
        """Nothing else is there."""
        needed = self.needed()
        found = self.database.read_now(partial(rows.chunks_after, chunk=b"", limit=1_000))
        assert {each.place.id for each in found} == needed
        references = self.database.read_now(partial(rows.references_after, space=self.space, chunk=b"", limit=1_000))
        assert {chunk for chunk, _ in references} == needed
        expected = {name_of(each.place.object_id, is_pack=each.place.pack is not None) for each in found}
        assert {stored.name for stored in self.objects.names()} == expected


@contextmanager
def world() -> Iterator[World]:
    directory = Path(tempfile.mkdtemp(prefix="satchel-collecting-", dir=IN_MEMORY))
    made = World(directory)
    try:
        yield made
    finally:
        made.close()
        shutil.rmtree(directory)


@pytest.fixture(name="world")
def world_fixture() -> Iterator[World]:
    with world() as made:
        yield made


def _run(statement: str, *values: int) -> Callable[[Session], int]:
    return lambda session: session.run(statement, *values)


class Killed(Exception):
    """The collector's process ends here."""


def act(here: World, chance: random.Random) -> None:
    """One thing that a device or the time does."""
    content = chance.randrange(len(CONTENTS))
    parts = CONTENTS[content][1]
    file = chance.randrange(FILES)
    match chance.choices(range(10), (2, 2, 2, 2, 3, 3, 4, 1, 4, 3))[0]:
        case 0:
            here.want(parts)
        case 1:
            here.begin_upload(here.want(parts))
        case 2:
            here.end_upload()
        case 3:
            here.upload(here.want(parts))
        case 4 if not here.pending:
            here.prepare(file, content)
        case 5:
            here.take()
        case 6 if not here.pending:
            here.commit(file, content)
        case 7:
            here.purge()
        case 8 if not here.pending:
            here.remove(file)
        case 9:
            here.wait(chance.choice((1, 60, 101)))


@pytest.mark.parametrize("seed", range(PLAYS))
def test_nothing_that_is_needed_or_was_promised_is_collected_whatever_happens_meanwhile(seed: int) -> None:
    chance = random.Random(FIRST_SEED + seed)
    with world() as here:
        for _ in range(4):
            for _ in range(chance.randrange(6)):
                act(here, chance)
            left = chance.choice((0, chance.randrange(30)))

            def pause() -> None:
                nonlocal left
                left -= 1
                if not left:
                    raise Killed
                while chance.random() < 0.4:
                    act(here, chance)

            try:
                here.collector(pause).run(GRACE_SECONDS)
                here.packer(pause).run()
            except Killed:
                here.close()
                here.open()
                here.half.clear()
                here.pending.clear()
            here.check()
        here.pending.clear()
        here.half.clear()
        for _ in range(3):
            here.wait(GRACE_SECONDS + 1)
            here.collect()
        here.check()
        here.check_clean()
