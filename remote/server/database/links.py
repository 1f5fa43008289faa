"""Statements on public links (keyed by the user who made them), and the directory that leads from a secret to one."""

from collections.abc import Iterator
from dataclasses import dataclass

from remote.protocol.ids import NodeId, SpaceId, UserId
from remote.server.database.connection import Row, Session


@dataclass(frozen=True)
class LinkRow:
    """One link as stored; `secret` is sealed by the space's key, `password_hash` empty when there is no password."""

    user: UserId
    link: int
    space: SpaceId
    node: NodeId
    kind: str
    secret: bytes
    password_hash: str
    created_ns: int
    expires_ns: int
    downloads_max: int
    downloads: int
    is_revoked: bool


def add_link(session: Session, row: LinkRow, secret_hash: bytes) -> None:
    """Writes a link and the way from its secret to it."""
    session.run(
        "INSERT INTO link (user_id, link_id, space_id, node_id, kind, secret, password_hash, created_ns, expires_ns,"
        " downloads_max, downloads, is_revoked) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, 0)",
        row.user,
        row.link,
        row.space,
        row.node,
        row.kind,
        row.secret,
        row.password_hash,
        row.created_ns,
        row.expires_ns,
        row.downloads_max,
    )
    session.run(
        "INSERT INTO link_secret (secret_hash, user_id, link_id) VALUES (?, ?, ?)", secret_hash, row.user, row.link
    )


def link_of_secret(session: Session, secret_hash: bytes) -> LinkRow | None:
    """The link that this secret opens, also one that is over."""
    found = session.row("SELECT user_id, link_id FROM link_secret WHERE secret_hash = ?", secret_hash)
    return link(session, UserId(found[0]), found[1]) if found else None


def link(session: Session, user: UserId, link_id: int) -> LinkRow | None:
    """A link of the user."""
    found = session.row(
        "SELECT user_id, link_id, space_id, node_id, kind, secret, password_hash, created_ns, expires_ns,"
        " downloads_max, downloads, is_revoked FROM link WHERE user_id = ? AND link_id = ?",
        user,
        link_id,
    )
    return _row(found) if found else None


def links(session: Session, user: UserId) -> Iterator[LinkRow]:
    """The user's links that were not revoked, the newest first."""
    found = session.rows(
        "SELECT user_id, link_id, space_id, node_id, kind, secret, password_hash, created_ns, expires_ns,"
        " downloads_max, downloads, is_revoked FROM link WHERE user_id = ? AND is_revoked = 0"
        " ORDER BY created_ns DESC, link_id",
        user,
    )
    return map(_row, found)


def link_count(session: Session, user: UserId) -> int:
    """How many links of the user were not revoked."""
    found = session.row("SELECT count(*) FROM link WHERE user_id = ? AND is_revoked = 0", user)
    return int(found[0]) if found else 0


def revoke_link(session: Session, user: UserId, link_id: int) -> None:
    """Ends a link for ever."""
    session.run("UPDATE link SET is_revoked = 1 WHERE user_id = ? AND link_id = ?", user, link_id)


def count_download(session: Session, user: UserId, link_id: int) -> bool:
    """Counts one more; False when the link allows no more."""
    counted = session.run(
        "UPDATE link SET downloads = downloads + 1 WHERE user_id = ? AND link_id = ?"
        " AND (downloads_max = 0 OR downloads < downloads_max)",
        user,
        link_id,
    )
    return bool(counted)


def _row(found: Row) -> LinkRow:
    user, link_id, space, node, kind, secret, password_hash, created_ns, expires_ns, most, downloads, is_revoked = found
    return LinkRow(
        UserId(user),
        link_id,
        SpaceId(space),
        NodeId(node),
        kind,
        bytes(secret),
        password_hash,
        created_ns,
        expires_ns,
        most,
        downloads,
        bool(is_revoked),
    )
