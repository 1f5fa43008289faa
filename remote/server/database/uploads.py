"""Statements on uploads that are not finished yet (keyed by the user who makes them)."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from remote.protocol.ids import NOW, NodeId, Rev, SpaceId, UserId
from remote.server.database.connection import Row, Session


@dataclass(frozen=True)
class UploadRow:
    """A file that comes in parts. `base`: the rev that it replaces, 0: none; `rev`: of the finished one, 0 before."""

    user: UserId
    upload: int
    space: SpaceId
    node: NodeId
    parent: NodeId
    name: bytes
    base: Rev
    size: int
    mtime_ns: int
    op_id: bytes
    expires_ns: int
    rev: Rev = NOW


@dataclass(frozen=True)
class PartRow:
    """One part; `has_come`: its bytes are stored."""

    number: int
    size: int
    sha256: bytes
    has_come: bool = False


def add_upload(session: Session, row: UploadRow) -> None:
    """Writes a new upload."""
    session.run(
        "INSERT INTO upload (user_id, upload_id, space_id, node_id, parent, name, base, size, mtime_ns, op_id,"
        " expires_ns, rev) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        row.user,
        row.upload,
        row.space,
        row.node,
        row.parent,
        row.name,
        row.base,
        row.size,
        row.mtime_ns,
        row.op_id,
        row.expires_ns,
        row.rev,
    )


def upload(session: Session, user: UserId, upload_id: int) -> UploadRow | None:
    """One upload of the user."""
    found = session.row(
        "SELECT user_id, upload_id, space_id, node_id, parent, name, base, size, mtime_ns, op_id, expires_ns, rev"
        " FROM upload WHERE user_id = ? AND upload_id = ?",
        user,
        upload_id,
    )
    return _row(found) if found else None


def uploads(session: Session, user: UserId) -> list[UploadRow]:
    """All uploads of the user, by id."""
    found = session.rows(
        "SELECT user_id, upload_id, space_id, node_id, parent, name, base, size, mtime_ns, op_id, expires_ns, rev"
        " FROM upload WHERE user_id = ? ORDER BY upload_id",
        user,
    )
    return [_row(one) for one in found]


def set_finished(session: Session, user: UserId, upload_id: int, rev: Rev) -> None:
    """Notes that the file is there, from this rev on."""
    session.run("UPDATE upload SET rev = ? WHERE user_id = ? AND upload_id = ?", rev, user, upload_id)


def set_op(session: Session, user: UserId, upload_id: int, op_id: bytes) -> None:
    """Gives the commit that finishes the upload another op id."""
    session.run("UPDATE upload SET op_id = ? WHERE user_id = ? AND upload_id = ?", op_id, user, upload_id)


def remove_upload(session: Session, user: UserId, upload_id: int) -> None:
    """Forgets an upload with its parts; chunks that nobody names are collected some day."""
    session.run("DELETE FROM upload_part WHERE user_id = ? AND upload_id = ?", user, upload_id)
    session.run("DELETE FROM upload WHERE user_id = ? AND upload_id = ?", user, upload_id)


def add_parts(session: Session, user: UserId, upload_id: int, parts: Iterable[PartRow]) -> None:
    """Writes parts that are still to come."""
    session.run_many(
        "INSERT INTO upload_part (user_id, upload_id, number, size, sha256, entries) VALUES (?, ?, ?, ?, ?, NULL)",
        [(user, upload_id, part.number, part.size, part.sha256) for part in parts],
    )


def parts(session: Session, user: UserId, upload_id: int) -> list[PartRow]:
    """The parts of an upload, in order."""
    found = session.rows(
        "SELECT number, size, sha256, entries IS NOT NULL FROM upload_part WHERE user_id = ? AND upload_id = ?"
        " ORDER BY number",
        user,
        upload_id,
    )
    return [PartRow(row[0], row[1], bytes(row[2]), bool(row[3])) for row in found]


def part(session: Session, user: UserId, upload_id: int, number: int) -> PartRow | None:
    """One part of an upload."""
    found = session.row(
        "SELECT number, size, sha256, entries IS NOT NULL FROM upload_part"
        " WHERE user_id = ? AND upload_id = ? AND number = ?",
        user,
        upload_id,
        number,
    )
    return PartRow(found[0], found[1], bytes(found[2]), bool(found[3])) if found else None


def set_come(session: Session, user: UserId, upload_id: int, number: int, entries: bytes) -> bool:
    """Notes that a part is stored; False when there is no such part (any more)."""
    written = session.run(
        "UPDATE upload_part SET entries = ? WHERE user_id = ? AND upload_id = ? AND number = ?",
        entries,
        user,
        upload_id,
        number,
    )
    return bool(written)


def entries(session: Session, user: UserId, upload_id: int) -> Iterator[bytes | None]:
    """The sealed entries of all parts, in order; None of one that has not come."""
    found = session.rows(
        "SELECT entries FROM upload_part WHERE user_id = ? AND upload_id = ? ORDER BY number", user, upload_id
    )
    return (None if row[0] is None else bytes(row[0]) for row in found)


def _row(found: Row) -> UploadRow:
    user, upload_id, space, node, parent, name, base, size, mtime_ns, op_id, expires_ns, rev = found
    return UploadRow(
        UserId(user),
        upload_id,
        SpaceId(space),
        NodeId(node),
        NodeId(parent),
        bytes(name),
        Rev(base),
        size,
        mtime_ns,
        bytes(op_id),
        expires_ns,
        Rev(rev),
    )
