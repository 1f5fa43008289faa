"""Statements on what is kept of the past (keyed by space): the revs that stand for times, and what is forgotten."""

from collections.abc import Iterable, Iterator

from remote.protocol.ids import NodeId, Rev, SpaceId
from remote.server.database.connection import Row, Session
from remote.server.database.schema import NEVER

FORGOTTEN = -1
"""In a version's `overrides`: what the node was then is purged; `state` is NULL as for a removal."""


def every_space(session: Session) -> list[SpaceId]:
    """All spaces, for the keeping of them: it looks into every shard."""
    return [SpaceId(row[0]) for row in session.rows("SELECT space_id FROM space /* every shard */ ORDER BY space_id")]


def retention(session: Session, space: SpaceId) -> tuple[int, int, int, bool] | None:
    """(all_days, hourly_days, daily_days, for_ever) as set; None: as usual."""
    found = session.row("SELECT all_days, hourly_days, daily_days, for_ever FROM retention WHERE space_id = ?", space)
    return (found[0], found[1], found[2], bool(found[3])) if found else None


def set_retention(session: Session, space: SpaceId, days: tuple[int, int, int], *, for_ever: bool) -> None:
    """Sets what the space keeps."""
    session.run(
        "INSERT INTO retention (space_id, all_days, hourly_days, daily_days, for_ever) VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT (space_id) DO UPDATE SET all_days = excluded.all_days, hourly_days = excluded.hourly_days,"
        " daily_days = excluded.daily_days, for_ever = excluded.for_ever",
        space,
        *days,
        int(for_ever),
    )


def kept_from(session: Session, space: SpaceId, rev: Rev) -> Row | None:
    """(rev, time_ns) of the first kept rev that is not before this one."""
    return session.row(
        "SELECT kept.rev, journal.time_ns FROM kept JOIN journal ON journal.space_id = kept.space_id"
        " AND journal.rev = kept.rev WHERE kept.space_id = ? AND kept.rev >= ? ORDER BY kept.rev LIMIT 1",
        space,
        rev,
    )


def kept_until(session: Session, space: SpaceId, rev: Rev) -> Row | None:
    """(rev, time_ns) of the last kept rev that is not behind this one."""
    return session.row(
        "SELECT kept.rev, journal.time_ns FROM kept JOIN journal ON journal.space_id = kept.space_id"
        " AND journal.rev = kept.rev WHERE kept.space_id = ? AND kept.rev <= ? ORDER BY kept.rev DESC LIMIT 1",
        space,
        rev,
    )


def commit_until(session: Session, space: SpaceId, rev: Rev) -> Row | None:
    """(rev, time_ns) of the last commit that is not behind this rev."""
    return session.row(
        "SELECT rev, time_ns FROM journal WHERE space_id = ? AND rev <= ? ORDER BY rev DESC LIMIT 1", space, rev
    )


def kept(session: Session, space: SpaceId) -> list[Rev]:
    """All kept revs, the oldest first."""
    return [Rev(row[0]) for row in session.rows("SELECT rev FROM kept WHERE space_id = ? ORDER BY rev", space)]


def keep(session: Session, space: SpaceId, rev: Rev) -> None:
    """This rev stands for the time up to it, and what is before it is thinned."""
    session.run("INSERT INTO kept (space_id, rev) VALUES (?, ?) ON CONFLICT DO NOTHING", space, rev)
    session.run("UPDATE space SET floor = ? WHERE space_id = ? AND floor < ?", rev, space, rev)


def unkeep(session: Session, space: SpaceId, rev: Rev) -> None:
    """This rev stands for no time any more."""
    session.run("DELETE FROM kept WHERE space_id = ? AND rev = ?", space, rev)


def versions_between(session: Session, space: SpaceId, since: Rev, to: Rev) -> Iterator[Row]:
    """(node, rev, ordinal, mark, content_id, state) of versions with since < rev <= to, each node's together."""
    return session.rows(
        "SELECT node_id, rev, ordinal, mark, content_id, state FROM version"
        " WHERE space_id = ? AND rev > ? AND rev <= ? ORDER BY node_id, rev, ordinal",
        space,
        since,
        to,
    )


def versions_of(session: Session, space: SpaceId, node: NodeId) -> Iterator[Row]:
    """(rev, ordinal, mark, content_id, state) of a node's versions."""
    return session.rows(
        "SELECT rev, ordinal, mark, content_id, state FROM version WHERE space_id = ? AND node_id = ?"
        " ORDER BY rev, ordinal",
        space,
        node,
    )


def is_open(session: Session, space: SpaceId, node: NodeId, rev: Rev) -> bool:
    """Whether the version lost a merge that nobody has settled."""
    sql = "SELECT 1 FROM conflict WHERE space_id = ? AND node_id = ? AND rev = ?"
    return session.row(sql, space, node, rev) is not None


def past_bytes(session: Session, space: SpaceId, versions: Iterable[tuple[Rev, int]]) -> int:
    """What these versions (rev, ordinal) count for together."""
    sql = "SELECT past_bytes FROM version WHERE space_id = ? AND rev = ? AND ordinal = ?"
    found = (session.row(sql, space, rev, ordinal) for rev, ordinal in versions)
    return sum(row[0] for row in found if row)


def end_past_bytes(session: Session, space: SpaceId, node: NodeId) -> int:
    """Lets the versions of a node count for nothing; what they counted for."""
    found = session.row("SELECT SUM(past_bytes) FROM version WHERE space_id = ? AND node_id = ?", space, node)
    counted: int = (found[0] or 0) if found else 0
    if counted:
        session.run("UPDATE version SET past_bytes = 0 WHERE space_id = ? AND node_id = ?", space, node)
    return counted


def put_past_bytes(session: Session, space: SpaceId, rows: Iterable[tuple[int, Rev, int]]) -> None:
    """Sets what versions (bytes, rev, ordinal) count for."""
    session.run_many(
        "UPDATE version SET past_bytes = ? WHERE space_id = ? AND rev = ? AND ordinal = ?",
        [(size, space, rev, ordinal) for size, rev, ordinal in rows],
    )


def drop_versions(session: Session, space: SpaceId, versions: Iterable[tuple[Rev, int]]) -> None:
    """These versions (rev, ordinal) never were."""
    session.run_many(
        "DELETE FROM version WHERE space_id = ? AND rev = ? AND ordinal = ?",
        [(space, rev, ordinal) for rev, ordinal in versions],
    )


def forget_versions(session: Session, space: SpaceId, versions: Iterable[tuple[Rev, int]]) -> None:
    """Forgets what these versions (rev, ordinal) were; that there was something stays, for devices that are behind."""
    session.run_many(
        "UPDATE version SET state = NULL, content_id = NULL, overrides = -1, past_bytes = 0"
        " WHERE space_id = ? AND rev = ? AND ordinal = ?",
        [(space, rev, ordinal) for rev, ordinal in versions],
    )


def drop_names(session: Session, space: SpaceId, parents: Iterable[NodeId], since: Rev, to: Rev) -> None:
    """Names in these folders that began and ended within since < rev <= to never were."""
    session.run_many(
        "DELETE FROM name WHERE space_id = ? AND parent = ? AND until_rev > ? AND until_rev <= ? AND from_rev > ?",
        [(space, parent, since, to, since) for parent in parents],
    )


def forget_name(session: Session, space: SpaceId, parent: NodeId, name: bytes, node: NodeId) -> None:
    """Takes away that the node ever had this name, unless it has it now."""
    session.run(
        "DELETE FROM name WHERE space_id = ? AND parent = ? AND until_rev < ? AND name = ? AND node_id = ?",
        space,
        parent,
        NEVER,
        name,
        node,
    )


def is_named(session: Session, space: SpaceId, content_id: bytes) -> bool:
    """Whether any version has this content."""
    sql = "SELECT 1 FROM version WHERE space_id = ? AND content_id = ? LIMIT 1"
    return session.row(sql, space, content_id) is not None


def drop_manifest(session: Session, space: SpaceId, content_id: bytes) -> None:
    """Forgets a manifest: what only it names is garbage."""
    session.run("DELETE FROM manifest WHERE space_id = ? AND content_id = ?", space, content_id)
