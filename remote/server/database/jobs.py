"""Statements on jobs (keyed by space): how far each has come, what it could not do, and what it follows."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from remote.protocol.ids import NodeId, Rev, SpaceId
from remote.server.database.connection import Row, Session

WALKED = NodeId((1 << 63) - 1)
"""`Cursor.walked` when the present was gone through."""


@dataclass(frozen=True)
class Cursor:
    """How far a job has come in a space.

    First it goes through the present, node by node: `walked` is the last one. Then through what the journal has after
    `rev`, in which the first changes up to number `ordinal` are done. `life`: that of the journal, in which rev was
    given.
    """

    life: int
    rev: Rev
    ordinal: int
    walked: NodeId


@dataclass(frozen=True)
class TroubleRow:
    """A file that a job could not do, as of a rev."""

    node: NodeId
    rev: Rev
    reason: str
    time_ns: int


def cursor(session: Session, space: SpaceId, job: str) -> Cursor | None:
    """How far the job has come; None when it never began."""
    found = session.row("SELECT life, rev, ordinal, walked FROM job_cursor WHERE space_id = ? AND job = ?", space, job)
    return Cursor(*found) if found else None


def put_cursor(session: Session, space: SpaceId, job: str, cursor: Cursor) -> None:
    """Notes how far the job has come."""
    session.run(
        "INSERT INTO job_cursor (space_id, job, life, rev, ordinal, walked) VALUES (?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (space_id, job) DO UPDATE SET life = excluded.life, rev = excluded.rev,"
        " ordinal = excluded.ordinal, walked = excluded.walked",
        space,
        job,
        cursor.life,
        cursor.rev,
        cursor.ordinal,
        cursor.walked,
    )


def end_cursor(session: Session, space: SpaceId, job: str) -> None:
    """Lets the job begin anew."""
    session.run("DELETE FROM job_cursor WHERE space_id = ? AND job = ?", space, job)


def put_troubles(session: Session, space: SpaceId, job: str, troubles: Iterable[TroubleRow]) -> None:
    """Notes what the job could not do."""
    session.run_many(
        "INSERT INTO job_trouble (space_id, job, node_id, rev, reason, time_ns) VALUES (?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (space_id, job, node_id) DO UPDATE SET rev = excluded.rev, reason = excluded.reason,"
        " time_ns = excluded.time_ns",
        [(space, job, one.node, one.rev, one.reason, one.time_ns) for one in troubles],
    )


def end_troubles(session: Session, space: SpaceId, job: str, nodes: Iterable[NodeId]) -> None:
    """Forgets what was noted of these nodes."""
    session.run_many(
        "DELETE FROM job_trouble WHERE space_id = ? AND job = ? AND node_id = ?",
        [(space, job, node) for node in nodes],
    )


def end_all_troubles(session: Session, space: SpaceId, job: str) -> None:
    """Forgets all that was noted of a space."""
    session.run("DELETE FROM job_trouble WHERE space_id = ? AND job = ?", space, job)


def has_trouble(session: Session, space: SpaceId, job: str, node: NodeId) -> bool:
    """Whether something is noted of this node."""
    found = session.row("SELECT 1 FROM job_trouble WHERE space_id = ? AND job = ? AND node_id = ?", space, job, node)
    return found is not None


def troubles_after(session: Session, space: SpaceId, job: str, after: NodeId, limit: int) -> list[TroubleRow]:
    """What is noted of nodes behind this one, by node."""
    found = session.rows(
        "SELECT node_id, rev, reason, time_ns FROM job_trouble WHERE space_id = ? AND job = ? AND node_id > ?"
        " ORDER BY node_id LIMIT ?",
        space,
        job,
        after,
        limit,
    )
    return [TroubleRow(*row) for row in found]


def nodes_after(session: Session, space: SpaceId, after: NodeId, limit: int) -> Iterator[Row]:
    """(node, rev, state, manifest) of nodes behind this one as they are now; state None: it is removed."""
    return session.rows(
        "SELECT node.node_id, node.rev, node.state, manifest.body FROM node"
        " LEFT JOIN manifest ON manifest.space_id = node.space_id AND manifest.content_id = node.content_id"
        " WHERE node.space_id = ? AND node.node_id > ? ORDER BY node.node_id LIMIT ?",
        space,
        after,
        limit,
    )


def changes_after(session: Session, space: SpaceId, rev: Rev, ordinal: int, limit: int) -> Iterator[Row]:
    """(rev, ordinal, node, state, manifest, mark, overrides, the node's present rev) of what came behind, in order."""
    return session.rows(
        "SELECT version.rev, version.ordinal, version.node_id, version.state, manifest.body, version.mark,"
        " version.overrides, node.rev FROM version"
        " LEFT JOIN node ON node.space_id = version.space_id AND node.node_id = version.node_id"
        " LEFT JOIN manifest ON manifest.space_id = version.space_id AND manifest.content_id = version.content_id"
        " WHERE version.space_id = ? AND (version.rev, version.ordinal) > (?, ?)"
        " ORDER BY version.rev, version.ordinal LIMIT ?",
        space,
        rev,
        ordinal,
        limit,
    )


def versions_before(session: Session, space: SpaceId, rev: Rev, ordinal: int, limit: int) -> Iterator[Row]:
    """(rev, ordinal, node, state, manifest, mark, the node's present rev, is_seen) of what came before, backwards.

    is_seen: a later version has the same content.
    """
    return session.rows(
        "SELECT version.rev, version.ordinal, version.node_id, version.state, manifest.body, version.mark, node.rev,"
        " EXISTS (SELECT 1 FROM version AS later WHERE later.space_id = version.space_id"
        " AND later.content_id = version.content_id AND (later.rev, later.ordinal) > (version.rev, version.ordinal))"
        " FROM version"
        " LEFT JOIN node ON node.space_id = version.space_id AND node.node_id = version.node_id"
        " LEFT JOIN manifest ON manifest.space_id = version.space_id AND manifest.content_id = version.content_id"
        " WHERE version.space_id = ? AND (version.rev, version.ordinal) < (?, ?)"
        " ORDER BY version.rev DESC, version.ordinal DESC LIMIT ?",
        space,
        rev,
        ordinal,
        limit,
    )
