"""Statements on the index of one space: a file of its own, derived from the journal, so its shard key is its name.

doc       a node as it is found: what it is, its first name and the folder of that, and what its tokens are made of
words     which docs have which tokens (FTS5 without content or positions); the newest doc has the highest number
likeness  near misses: which words of the space are without one letter what (hashes, all of them)
term      the words of which there is a likeness
later     nodes of which the content is still to be read
progress  the cursor, in one row
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from remote.protocol.ids import NodeId
from remote.server.database.connection import Row, Session
from remote.server.database.jobs import Cursor

FORMAT = 2
"""Of these tables and of what tokens are; a file of another format is made again."""

TABLES: tuple[str, ...] = (
    """CREATE TABLE doc (
        doc INTEGER PRIMARY KEY, node_id INTEGER NOT NULL, kind INTEGER NOT NULL, type TEXT NOT NULL,
        extension TEXT NOT NULL, size INTEGER NOT NULL, time_ns INTEGER NOT NULL, parent INTEGER NOT NULL,
        name BLOB NOT NULL, other_names BLOB NOT NULL, content_id BLOB NOT NULL, terms BLOB NOT NULL)""",
    "CREATE UNIQUE INDEX doc_by_node ON doc (node_id)",
    # With all that a search without words looks at: it reads nothing else.
    "CREATE INDEX doc_by_time ON doc (time_ns, size, type, extension)",
    "CREATE INDEX doc_by_size ON doc (size, time_ns, type, extension)",
    "CREATE VIRTUAL TABLE words USING fts5 (tokens, content = '', detail = none, columnsize = 0, tokenize = 'ascii')",
    "CREATE TABLE likeness (near INTEGER NOT NULL, term BLOB NOT NULL, PRIMARY KEY (near, term)) WITHOUT ROWID",
    "CREATE TABLE term (number INTEGER PRIMARY KEY, term BLOB NOT NULL UNIQUE)",
    "CREATE TABLE later (node_id INTEGER PRIMARY KEY)",
    """CREATE TABLE progress (
        one INTEGER PRIMARY KEY, life INTEGER NOT NULL, rev INTEGER NOT NULL, ordinal INTEGER NOT NULL,
        walked INTEGER NOT NULL)""",
    f"PRAGMA user_version = {FORMAT}",
)


@dataclass(frozen=True)
class DocRow:
    """A node in the index; `other_names`: encoded, see search.indexing; `terms`: hashes of the words of its content.

    `content_id`: of what content the terms are; empty for none.
    """

    doc: int
    node: NodeId
    kind: int
    type: str
    extension: str
    size: int
    time_ns: int
    parent: NodeId
    name: bytes
    other_names: bytes
    content_id: bytes = b""
    terms: bytes = b""


def format_of(session: Session) -> int:
    """The format of the file."""
    found = session.row("PRAGMA user_version")
    return int(found[0]) if found else 0


def cursor(session: Session) -> Cursor | None:
    """How far the space is indexed."""
    found = session.row("SELECT life, rev, ordinal, walked FROM progress WHERE one = 1")
    return Cursor(*found) if found else None


def put_cursor(session: Session, cursor: Cursor) -> None:
    """Notes how far the space is indexed."""
    session.run(
        "INSERT INTO progress (one, life, rev, ordinal, walked) VALUES (1, ?, ?, ?, ?) ON CONFLICT (one) DO UPDATE"
        " SET life = excluded.life, rev = excluded.rev, ordinal = excluded.ordinal, walked = excluded.walked",
        cursor.life,
        cursor.rev,
        cursor.ordinal,
        cursor.walked,
    )


def clear(session: Session) -> None:
    """Empties the index."""
    session.run("DELETE FROM progress")
    session.run("DELETE FROM doc")
    session.run("DELETE FROM likeness")
    session.run("DELETE FROM term")
    session.run("DELETE FROM later")
    session.run("INSERT INTO words (words) VALUES ('delete-all')")


def doc_of(session: Session, node: NodeId) -> DocRow | None:
    """The doc of a node."""
    found = session.row(
        "SELECT doc, node_id, kind, type, extension, size, time_ns, parent, name, other_names, content_id, terms"
        " FROM doc WHERE node_id = ?",
        node,
    )
    return DocRow(*found) if found else None


def newest_doc(session: Session) -> int:
    """The highest number that a doc has; 0: there is none."""
    found = session.row("SELECT max(doc) FROM doc")
    return int(found[0] or 0) if found else 0


def add_docs(session: Session, docs: Iterable[DocRow], tokens: Iterable[str]) -> None:
    """Writes new docs, each with its tokens."""
    added = list(docs)
    session.run_many(
        "INSERT INTO doc (doc, node_id, kind, type, extension, size, time_ns, parent, name, other_names, content_id,"
        " terms) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (
                one.doc,
                one.node,
                one.kind,
                one.type,
                one.extension,
                one.size,
                one.time_ns,
                one.parent,
                one.name,
                one.other_names,
                one.content_id,
                one.terms,
            )
            for one in added
        ],
    )
    session.run_many(
        "INSERT INTO words (rowid, tokens) VALUES (?, ?)",
        [(one.doc, text) for one, text in zip(added, tokens, strict=True)],
    )


def remove_doc(session: Session, doc: int, tokens: str) -> None:
    """Takes a doc out; `tokens` must be those that it was added with."""
    session.run("DELETE FROM doc WHERE doc = ?", doc)
    session.run("INSERT INTO words (words, rowid, tokens) VALUES ('delete', ?, ?)", doc, tokens)


def is_new_term(session: Session, term: bytes) -> bool:
    """Notes a word; whether it was not noted before."""
    return session.run("INSERT INTO term (term) VALUES (?) ON CONFLICT DO NOTHING", term) > 0


def term_count(session: Session) -> int:
    """How many words are noted."""
    found = session.row("SELECT max(number) FROM term")
    return int(found[0] or 0) if found else 0


def add_likeness(session: Session, rows: Iterable[tuple[int, bytes]]) -> None:
    """Notes which word a near miss may have meant."""
    session.run_many("INSERT INTO likeness (near, term) VALUES (?, ?) ON CONFLICT DO NOTHING", rows)


def terms_like(session: Session, near: int, limit: int) -> list[bytes]:
    """Words that this near miss may have meant."""
    return [bytes(row[0]) for row in session.rows("SELECT term FROM likeness WHERE near = ? LIMIT ?", near, limit)]


def put_later(session: Session, nodes: Iterable[NodeId]) -> None:
    """Puts nodes by, to read their content."""
    session.run_many("INSERT INTO later (node_id) VALUES (?) ON CONFLICT DO NOTHING", [(node,) for node in nodes])


def later(session: Session, limit: int) -> list[NodeId]:
    """Nodes that were put by, the newest first."""
    found = session.rows("SELECT node_id FROM later ORDER BY node_id DESC LIMIT ?", limit)
    return [NodeId(row[0]) for row in found]


def end_later(session: Session, nodes: Iterable[NodeId]) -> None:
    """Puts nodes by no longer."""
    session.run_many("DELETE FROM later WHERE node_id = ?", [(node,) for node in nodes])


def counts(session: Session) -> tuple[int, int]:
    """How many docs there are, and how many nodes are put by."""
    docs, put_by = session.row("SELECT count(*) FROM doc"), session.row("SELECT count(*) FROM later")
    return int(docs[0]) if docs else 0, int(put_by[0]) if put_by else 0


def found_by_words(
    session: Session, match: str, limit: int, sizes: tuple[int, int], times_ns: tuple[int, int]
) -> Iterator[Row]:
    """The fields of a DocRow up to other_names, its terms where they are few, and 1, of those of the newest docs that
    match which fit the bounds; last a row that begins with how many match and ends with 0.
    """
    # The join must go from what was found to the docs, in this order.
    return session.rows(
        "WITH found AS MATERIALIZED (SELECT rowid AS doc FROM words WHERE words MATCH ? ORDER BY rowid DESC LIMIT ?)"
        " SELECT doc.doc, doc.node_id, doc.kind, doc.type, doc.extension, doc.size, doc.time_ns, doc.parent, doc.name,"
        " doc.other_names, CASE WHEN length(doc.terms) <= 3000 THEN doc.terms END, 1"
        " FROM found CROSS JOIN doc ON doc.doc = found.doc"
        " WHERE doc.size BETWEEN ? AND ? AND doc.time_ns BETWEEN ? AND ?"
        " UNION ALL SELECT count(*), 0, 0, '', '', 0, 0, 0, x'', x'', NULL, 0 FROM found",
        match,
        limit,
        *sizes,
        *times_ns,
    )


def found_by_time(
    session: Session, types: str, limit: int, sizes: tuple[int, int], times_ns: tuple[int, int]
) -> Iterator[Row]:
    """The same of all docs that fit, the latest first; `types`: a JSON list of types and extensions, empty for all."""
    return session.rows(
        "SELECT doc.doc, doc.node_id, doc.kind, doc.type, doc.extension, doc.size, doc.time_ns, doc.parent, doc.name,"
        " doc.other_names, 1 FROM (SELECT doc AS found FROM doc INDEXED BY doc_by_time WHERE time_ns BETWEEN ? AND ?"
        " AND size BETWEEN ? AND ? AND (? = '[]' OR type IN (SELECT value FROM json_each(?))"
        " OR extension IN (SELECT value FROM json_each(?))) ORDER BY time_ns DESC LIMIT ?)"
        " CROSS JOIN doc ON doc.doc = found",
        *times_ns,
        *sizes,
        types,
        types,
        types,
        limit,
    )


def found_by_size(
    session: Session, types: str, limit: int, sizes: tuple[int, int], times_ns: tuple[int, int]
) -> Iterator[Row]:
    """The same, the largest first."""
    return session.rows(
        "SELECT doc.doc, doc.node_id, doc.kind, doc.type, doc.extension, doc.size, doc.time_ns, doc.parent, doc.name,"
        " doc.other_names, 1 FROM (SELECT doc AS found FROM doc INDEXED BY doc_by_size WHERE size BETWEEN ? AND ?"
        " AND time_ns BETWEEN ? AND ? AND (? = '[]' OR type IN (SELECT value FROM json_each(?))"
        " OR extension IN (SELECT value FROM json_each(?))) ORDER BY size DESC LIMIT ?)"
        " CROSS JOIN doc ON doc.doc = found",
        *sizes,
        *times_ns,
        types,
        types,
        types,
        limit,
    )


def terms_of(session: Session, doc: int) -> bytes:
    """The hashes of the words of a doc's content."""
    found = session.row("SELECT terms FROM doc WHERE doc = ?", doc)
    return bytes(found[0]) if found else b""


def parent_of(session: Session, node: NodeId) -> NodeId | None:
    """The folder in which a node is; None when it is not in the index."""
    found = session.row("SELECT parent FROM doc WHERE node_id = ?", node)
    return NodeId(found[0]) if found else None
