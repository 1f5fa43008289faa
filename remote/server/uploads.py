"""Uploads: files that come in parts, as plain bytes, over an unreliable line; visible all at once at the end.

1. `begin` binds the name, the size and what is replaced (its rev), and gives a signed URL for each part that is told.
   A URL is good for one part of this size and SHA-256, within an hour; `state` gives new ones.
2. A part that came whole is cut and sealed as a file of its own would be, and its entries are kept: parts may come in
   any order, side by side, and again.
3. `finish` joins the entries to one manifest and commits it on top of what was there at the beginning.

What is not finished is forgotten when it expires, and its chunks are garbage then; the collector's grace is longer.
"""

import asyncio
import hashlib
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from msgspec.structs import replace as with_fields

from remote.protocol import manifests
from remote.protocol.errors import (
    BadRequest,
    Busy,
    Changed,
    ChunkDamaged,
    Gone,
    InTheWay,
    NotAllowed,
    NotFound,
    QuotaExceeded,
    TooLarge,
)
from remote.protocol.ids import NodeId, Rev, SpaceId, UserId
from remote.protocol.messages import Change, Commit
from remote.protocol.nodes import FILE_SIZE_MAX, Entry, Manifest, Name
from remote.protocol.sealing import Buffer
from remote.server.content import Contents, Writer
from remote.server.database import accounts as account_rows
from remote.server.database import spaces as space_rows
from remote.server.database import uploads as rows
from remote.server.database.accounts import Device
from remote.server.database.connection import Database, Session
from remote.server.database.uploads import PartRow, UploadRow
from remote.server.edits import By, CommitOf, Condition, check_put
from remote.server.files import Files, file_state, item_of, shown_name
from remote.server.keyring import Keyring
from remote.server.objects.signing import Signer
from remote.server.quotas import bounded
from remote.server.rights import Right, member_space

UPLOADS_MAX = 100
"""Uploads of one user that are not finished."""
PARTS_MAX = 10_000
PART_MAX = 1 << 30
UPLOAD_SECONDS = 3 * 24 * 3_600
"""Less than the collector's grace: no part of an upload that may go on is garbage."""
URL_SECONDS = 3_600
STREAMS_MAX = 64
"""Parts that are taken at a time: each holds about 10 MiB."""


@dataclass(frozen=True)
class Part:
    """A part to come, or that came; `url` is empty for the latter."""

    number: int
    offset: int
    size: int
    sha256: bytes
    has_come: bool
    url: str


@dataclass(frozen=True)
class Upload:
    """An upload as it stands."""

    row: UploadRow
    parts: list[Part]

    @property
    def told(self) -> int:
        """Bytes of all parts that are told."""
        return sum(part.size for part in self.parts)


@dataclass(frozen=True)
class Grant:
    """Which part a URL says it is good for."""

    user: UserId
    upload: int
    number: int


@dataclass(frozen=True)
class Wanted:
    """A file that is to come: its name, its bytes in all, size and SHA-256 of its first parts; `mtime_ns` 0: now."""

    at: Name
    size: int
    parts: Sequence[tuple[int, bytes]]
    condition: Condition
    mtime_ns: int = 0


class Uploads:
    """Uploads of an instance's users."""

    def __init__(
        self,
        database: Database,
        keyring: Keyring,
        files: Files,
        contents: Contents,
        *,
        signer: Signer,
        commit: CommitOf,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._database = database
        self._keyring = keyring
        self._files = files
        self._contents = contents
        self._signer = signer
        self._commit = commit
        self._now_ns = now_ns
        self._streams = 0

    async def begin(self, device: Device, space: SpaceId, wanted: Wanted) -> Upload:
        """A new upload; raises Changed, InTheWay (as `Edits.put`), QuotaExceeded, NotAllowed for too many."""
        at, size = wanted.at, wanted.size
        if not 0 <= size <= FILE_SIZE_MAX:
            raise TooLarge(f"A file has 0 to {FILE_SIZE_MAX} bytes.")
        fresh = await self._files.fresh_node(device.user)
        by = By(device.user, device.device)

        def begin(session: Session) -> Upload:
            row = member_space(session, space, device.user, Right.WRITE)
            there = check_put(session, row, self._keyring.key(row), at, wanted.condition)
            was = there.state.content.size if there is not None and there.state.content is not None else 0
            left = bounded(session, row).left + was
            if size > left:
                raise QuotaExceeded(f"{row.name} has room for {left} bytes here, not for {size}.")
            self._forget_old(session, device.user)
            upload = UploadRow(
                user=device.user,
                upload=secrets.randbelow((1 << 63) - 1) + 1,
                space=space,
                node=there.node if there is not None else fresh,
                parent=at.parent,
                name=at.name,
                base=there.rev if there is not None else Rev(0),
                size=size,
                mtime_ns=wanted.mtime_ns,
                op_id=by.op_id(),
                expires_ns=self._now_ns() + UPLOAD_SECONDS * 10**9,
            )
            rows.add_upload(session, upload)
            return self._told(session, upload, wanted.parts)

        return await self._database.write(begin)

    async def all(self, device: Device) -> list[Upload]:
        """The user's uploads, without their parts."""

        def read(session: Session) -> list[Upload]:
            now_ns = self._now_ns()
            return [Upload(row, []) for row in rows.uploads(session, device.user) if row.expires_ns > now_ns]

        return await self._database.read(read)

    async def state(self, device: Device, node: NodeId, upload: int, parts: Sequence[tuple[int, bytes]] = ()) -> Upload:
        """The upload, after further parts were told of; with new URLs for those that have not come."""

        def tell(session: Session) -> Upload:
            row = self._row(session, device.user, upload, node)
            return self._told(session, row, parts)

        return await (self._database.write(tell) if parts else self._database.read(tell))

    async def take(self, grant: Grant, expires: int, signature: bytes, body: AsyncIterator[list[bytes]]) -> Part:
        """Takes the bytes of a part; raises NotAllowed for a URL that is none, ChunkDamaged for other bytes."""
        user, upload, number = grant.user, grant.upload, grant.number
        row, part = await self._database.read(lambda session: self._part(session, user, upload, number))
        self._signer.check_text(_text(row, part), expires, signature)
        if part.has_come or row.rev:
            return _shown(part, 0, "", has_come=True)
        if self._streams >= STREAMS_MAX:
            raise Busy("Too many uploads at once: try again in a moment.", 1.0)
        self._streams += 1
        try:
            entries = await self._received(row, part, body)
        finally:
            self._streams -= 1
        encoded = manifests.encode_leaf(entries)

        def keep(session: Session) -> None:
            space = member_space(session, row.space, user, Right.WRITE)
            if not rows.set_come(session, user, upload, number, self._keyring.key(space).seal(encoded)):
                raise NotFound("This upload is over.")

        await self._database.write(keep)
        return _shown(part, 0, "", has_come=True)

    async def finish(self, device: Device, node: NodeId, upload: int) -> UploadRow:
        """Makes the file of all parts, once, however often it is asked for; raises Changed, InTheWay, QuotaExceeded."""
        row = await self._database.read(lambda session: self._row(session, device.user, upload, node))
        if row.rev:
            return row
        entries, done = await self._database.read(partial(self._entries, row))
        if not done:
            manifest = await asyncio.to_thread(self._contents.joined, row.space, entries)
            change = await self._database.read(lambda session: self._change(session, row, manifest))
            nobody = replace(device, device=By(device.user).device)
            answer = await self._commit(nobody, row.space, Commit(row.op_id, (change,)))
            if not answer.rev:
                # An op id that was refused once stays refused.
                fresh = By(device.user, device.device).op_id()
                await self._database.write(lambda session: rows.set_op(session, row.user, row.upload, fresh))
                raise NotAllowed(answer.reason) if answer.held else Changed(f"{answer.reason} Nothing was changed.")
            done = answer.rev
        await self._database.write(lambda session: rows.set_finished(session, row.user, row.upload, done))
        return replace(row, rev=done)

    async def abandon(self, device: Device, node: NodeId, upload: int) -> None:
        """Forgets an upload; the file stays as it is."""

        def forget(session: Session) -> None:
            row = self._row(session, device.user, upload, node)
            rows.remove_upload(session, row.user, row.upload)

        await self._database.write(forget)

    async def _received(self, row: UploadRow, part: PartRow, body: AsyncIterator[list[bytes]]) -> list[Entry]:
        writer = self._contents.writer(row.space)
        digest = hashlib.sha256()
        async for together in body:
            if writer.size + sum(map(len, together)) > part.size:
                raise TooLarge(f"Part {part.number} has {part.size} bytes, and more came.")
            await asyncio.to_thread(_add, writer, digest.update, together)
        if writer.size != part.size or digest.digest() != part.sha256:
            raise ChunkDamaged(
                f"Part {part.number} has {part.size} bytes with the SHA-256 {part.sha256.hex()}; {writer.size} came"
                f" with {digest.hexdigest()}: nothing was kept, send it again."
            )
        return await asyncio.to_thread(writer.finish_part)

    def _told(self, session: Session, row: UploadRow, more: Sequence[tuple[int, bytes]]) -> Upload:
        known = rows.parts(session, row.user, row.upload)
        told = sum(part.size for part in known)
        fresh = [PartRow(len(known) + at, size, sha256) for at, (size, sha256) in enumerate(more, start=1)]
        if len(known) + len(fresh) > PARTS_MAX:
            raise TooLarge(f"An upload has at most {PARTS_MAX} parts: make them larger.")
        for part in fresh:
            if not 1 <= part.size <= PART_MAX:
                raise BadRequest(f"Part {part.number} has {part.size} bytes; 1 to {PART_MAX} are allowed.")
        if told + sum(part.size for part in fresh) > row.size:
            raise BadRequest(f"The parts have more than the {row.size} bytes of the file.")
        if fresh and row.rev:
            raise InTheWay("This upload is finished: begin a new one.")
        if fresh:
            rows.add_parts(session, row.user, row.upload, fresh)
        expires = int(self._now_ns() // 10**9) + URL_SECONDS
        found: list[Part] = []
        offset = 0
        for part in [*known, *fresh]:
            url = "" if part.has_come or row.rev else self._url(row, part, expires)
            found.append(_shown(part, offset, url, has_come=part.has_come))
            offset += part.size
        return Upload(row, found)

    def _url(self, row: UploadRow, part: PartRow, expires: int) -> str:
        signature = self._signer.sign_text(_text(row, part), expires).hex()
        query = f"user={row.user}&expires={expires}&signature={signature}"
        return f"/api/v1/uploads/{row.upload}/parts/{part.number}?{query}"

    def _row(self, session: Session, user: UserId, upload: int, node: NodeId) -> UploadRow:
        row = rows.upload(session, user, upload)
        if row is None or row.node != node:
            raise NotFound(f"There is no upload {upload} of this file.")
        if row.expires_ns <= self._now_ns():
            raise Gone("This upload took too long and is forgotten: begin a new one.")
        member_space(session, row.space, user, Right.WRITE)
        return row

    def _part(self, session: Session, user: UserId, upload: int, number: int) -> tuple[UploadRow, PartRow]:
        row = rows.upload(session, user, upload)
        found = rows.part(session, user, upload, number) if row is not None else None
        account = account_rows.account(session, user)
        if row is None or found is None or account is None or account.is_disabled:
            # As for a signature that does not fit: who has no URL of ours learns nothing.
            raise NotAllowed("This is no signed URL of a part.")
        if row.expires_ns <= self._now_ns():
            raise Gone("This upload took too long and is forgotten: begin a new one.")
        member_space(session, row.space, user, Right.WRITE)
        return row, found

    def _entries(self, row: UploadRow, session: Session) -> tuple[list[Entry], Rev]:
        """The entries of all parts; and the rev, when a finish whose answer got lost made the file already."""
        space = member_space(session, row.space, row.user, Right.WRITE)
        done = space_rows.rev_of_op(session, row.space, row.op_id)
        if done:
            return [], done
        key = self._keyring.key(space)
        found: list[Entry] = []
        for number, sealed in enumerate(rows.entries(session, row.user, row.upload), start=1):
            if sealed is None:
                raise InTheWay(f"Part {number} has not come yet.")
            found += manifests.decode_entries(key.open(sealed))
        come = sum(entry.length for entry in found)
        if come != row.size:
            raise InTheWay(f"{come} of {row.size} bytes came: tell of the other parts and send them.")
        return found, Rev(0)

    def _change(self, session: Session, row: UploadRow, manifest: Manifest) -> Change:
        now_ns = self._now_ns()
        if not row.base:
            state = file_state(manifest, mtime_ns=row.mtime_ns)
            return Change(row.node, Rev(0), now_ns, with_fields(state, names=(Name(row.parent, row.name),)))
        space = member_space(session, row.space, row.user, Right.WRITE)
        item = item_of(session, row.space, self._keyring.key(space), row.node)
        if item.rev != row.base:
            raise Changed(f"{shown_name(item.name)} was changed since this upload began; nothing was replaced.")
        state = with_fields(item.state, content=manifest, mtime_ns=row.mtime_ns or now_ns, ctime_ns=now_ns)
        return Change(row.node, row.base, now_ns, state)

    def _forget_old(self, session: Session, user: UserId) -> None:
        unfinished = 0
        for old in rows.uploads(session, user):
            if old.expires_ns <= self._now_ns():
                rows.remove_upload(session, user, old.upload)
            else:
                unfinished += not old.rev
        if unfinished >= UPLOADS_MAX:
            raise NotAllowed(f"{UPLOADS_MAX} uploads of yours are not finished: finish or abandon some.")


def _add(writer: Writer, digest: Callable[[Buffer], None], pieces: list[bytes]) -> None:
    for piece in pieces:
        digest(piece)
        writer.add(piece)


def _text(row: UploadRow, part: PartRow) -> str:
    """What a part's URL is good for."""
    return f"part\n{row.user}\n{row.upload}\n{part.number}\n{part.size}\n{part.sha256.hex()}"


def _shown(part: PartRow, offset: int, url: str, *, has_come: bool) -> Part:
    return Part(part.number, offset, part.size, part.sha256, has_come, url)
