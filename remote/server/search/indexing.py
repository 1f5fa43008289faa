"""Indexing: the job that keeps the index: names as soon as they are committed, content when there is time."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Final

import msgspec

from remote.protocol.errors import RemoteError, ServerFault
from remote.protocol.ids import NO_SPACE, ROOT, NodeId, SpaceId
from remote.protocol.nodes import Kind, Manifest, Name, NodeState
from remote.server.database import index as rows
from remote.server.database.connection import DerivedDamaged, Session
from remote.server.database.index import DocRow
from remote.server.jobs.confined import CONTENT_MAX, Confined, NotConfined, Refused
from remote.server.jobs.following import Batch, Changed, Job, NotNow, Trouble
from remote.server.keys import SpaceKey
from remote.server.search.index import Index
from remote.server.search.tokens import Tokens, folded_name
from remote.server.search.types import extension_of, reader_of, type_of
from remote.server.search.words import NotText, distinct_words, is_like_worthy, plain_text
from remote.server.states import encode_manifest

WORDS_MAX: Final = 10_000
"""Different words of one file that it is found by."""
LIKENESS_MAX: Final = 1_000_000
"""Different words of a space that are found by near misses, too."""
_PUT_BY: Final = 64
_PUT_BY_SECONDS: Final = 1.0
"""Files of which the content is read in one step, and after how long it ends: names that came meanwhile go first."""
_KNOWN_MAX: Final = 200_000
"""Words that are known to be noted without a look."""
_IN_PLACE_MAX: Final = 16 << 10
"""Bytes of plain text that are split here: a process of its own takes longer to start."""
_PLAIN_MAX: Final = 8 << 20
"""Bytes of plain text that are looked at."""
_USE: Final = b"search"
_names = msgspec.msgpack.Encoder()
_names_of = msgspec.msgpack.Decoder(tuple[Name, ...])


class Indexer(Job):
    """Keeps the index; with `reads_content` False by names only."""

    name = "search"

    def __init__(self, index: Index, *, reads_content: bool) -> None:
        self._index = index
        self._reads_content = reads_content
        self._confined = Confined()
        self._is_checked = False
        self._known = self._writes = _Known()
        self.cursors = index

    def take(self, batch: Batch) -> Sequence[Trouble]:
        """Indexes names; puts by what has content to be read."""
        tokens = tokens_of(batch.key)
        with self._writing(batch.space) as session:
            doc = rows.newest_doc(session)
            for one in batch:
                if one.is_now and one.node != ROOT:
                    doc += 1
                    self._put(session, tokens, doc, one, batch.key)
        return ()

    def put_by(self, space: SpaceId) -> Sequence[NodeId]:
        """Nodes of which the content is to be read."""
        if not self._reads_content:
            return ()
        with _for_now(self._index, space), self._index.reading(space) as session:
            return rows.later(session, _PUT_BY) if session is not None else ()

    def take_put_by(self, batch: Batch) -> Sequence[Trouble]:
        """Reads their content."""
        self._check_once()
        tokens = tokens_of(batch.key)
        troubles: list[Trouble] = []
        found: dict[NodeId, tuple[bytes, list[str]]] = {}
        done: list[NodeId] = []
        end = time.monotonic() + _PUT_BY_SECONDS
        for one in batch:
            if time.monotonic() > end:
                break
            done.append(one.node)
            if one.state is None or one.state.content is None:
                continue
            try:
                found[one.node] = content_id(batch.key, one.state.content), self._words(batch, one.state)
            except (Refused, RemoteError) as error:
                troubles.append(Trouble(one.node, str(error)))
        with self._writing(batch.space) as session:
            for node, (id_, words) in found.items():
                self._put_words(session, tokens, node, id_, words)
            rows.end_later(session, done)
        return troubles

    def start_over(self, space: SpaceId) -> None:
        """Empties the index of the space."""
        self._known = _Known()
        self._index.clear(space)

    def close(self) -> None:
        """Ends the process that reads a file."""
        self._confined.close()

    @contextmanager
    def _writing(self, space: SpaceId) -> Iterator[Session]:
        """The index, to be changed; what is known of it holds while all goes well."""
        known, self._known = self._known, _Known()
        if known.space != space:
            known = _Known(space)
        with _for_now(self._index, space), self._index.writing(space) as session:
            if known.terms and not rows.term_count(session):
                # Somebody else emptied it.
                known = _Known(space)
            self._writes = known
            yield session
        self._known = known

    def _check_once(self) -> None:
        """Raises NotNow on a machine that cannot confine a process, where no content is read from now on."""
        if not self._is_checked:
            try:
                self._confined.check()
            except NotConfined as error:
                self._reads_content = False
                raise NotNow(f"{error} Files are found by their names only.") from error
            self._is_checked = True

    def _put(self, session: Session, tokens: Tokens, doc: int, one: Changed, key: SpaceKey) -> None:
        before = rows.doc_of(session, one.node)
        after = None
        if one.state is not None and one.state.names:
            after = _doc(doc, one.node, one.state)
            id_ = content_id(key, one.state.content) if one.state.content is not None else b""
            if before is not None and before.content_id and before.content_id == id_:
                after = replace(after, content_id=id_, terms=before.terms)
            elif id_ and after.size and reader_of(one.state.kind, after.extension):
                rows.put_later(session, [one.node])
            if before is not None and replace(after, doc=before.doc) == before:
                return
        _exchange(session, tokens, before, after)
        if after is not None:
            for name in names_of(after):
                self._learn(session, tokens, dict(tokens.terms_in_name(name)))

    def _put_words(self, session: Session, tokens: Tokens, node: NodeId, id_: bytes, words: Sequence[str]) -> None:
        before = rows.doc_of(session, node)
        if before is None:
            # Removed since it was looked up; and when it comes again, its content is read then.
            return
        hashes = {word: tokens.term(word) for word in words}
        terms = b"".join(sorted(set(hashes.values())))
        doc = rows.newest_doc(session) + 1
        _exchange(session, tokens, before, replace(before, doc=doc, content_id=id_, terms=terms))
        self._learn(session, tokens, hashes)

    def _learn(self, session: Session, tokens: Tokens, words: dict[str, bytes]) -> None:
        """Notes of words that are new in the space how they may be misspelt."""
        known = self._writes.terms
        new = []
        for word, term in words.items():
            if term not in known and is_like_worthy(word):
                known.add(term)
                if rows.is_new_term(session, term):
                    new.append(word)
        if new and rows.term_count(session) < LIKENESS_MAX:
            rows.add_likeness(session, ((near, words[word]) for word in new for near in tokens.nears(word)))
        if len(known) > _KNOWN_MAX:
            known.clear()

    def _words(self, batch: Batch, state: NodeState) -> list[str]:
        """The words of a file's content; raises Refused, RemoteError."""
        assert state.content is not None
        how = reader_of(state.kind, extension_of(folded_name(state.names[0].name)))
        size = state.content.size
        if how == "plain" and size <= _IN_PLACE_MAX:
            try:
                return distinct_words(plain_text(b"".join(batch.content(state))), WORDS_MAX)
            except NotText as error:
                raise Refused(f"It cannot be read: {error}") from error
        if size > CONTENT_MAX and how != "plain":
            raise Refused(f"It has more than {CONTENT_MAX >> 20} MiB.")
        content = batch.content(state, 0, _PLAIN_MAX if how == "plain" else size)
        try:
            told = self._confined.run("text", content, how, str(WORDS_MAX))
        except (NotConfined, OSError) as error:
            raise NotNow(f"Content cannot be read: {error}") from error
        # What comes out of there is nobody's word: it is taken apart anew, and bounded.
        return distinct_words(told.decode(errors="replace"), WORDS_MAX)


@dataclass
class _Known:
    """Words of a space that are noted; only of what is written, so it is dropped when a transaction is."""

    space: SpaceId = NO_SPACE
    terms: set[bytes] = field(default_factory=set)


@lru_cache(16)
def tokens_of(key: SpaceKey) -> Tokens:
    """What stands in the index of the space that has this key."""
    return Tokens(key.derive(_USE))


def content_id(key: SpaceKey, content: Manifest) -> bytes:
    """Names a content in the index."""
    return key.content_id(encode_manifest(content))


def names_of(row: DocRow) -> tuple[bytes, ...]:
    """All names of a node."""
    return (row.name, *(other.name for other in other_names(row.other_names)))


def other_names(encoded: bytes) -> tuple[Name, ...]:
    """The names that a node has besides the first."""
    return _names_of.decode(encoded) if encoded else ()


def _doc(doc: int, node: NodeId, state: NodeState) -> DocRow:
    first, *others = state.names
    extension = extension_of(folded_name(first.name)) if state.kind == Kind.FILE else ""
    return DocRow(
        doc=doc,
        node=node,
        kind=state.kind,
        type=type_of(state.kind, extension),
        extension=extension,
        size=state.content.size if state.content is not None else 0,
        time_ns=state.mtime_ns,
        parent=first.parent,
        name=first.name,
        other_names=_names.encode(others) if others else b"",
    )


def _exchange(session: Session, tokens: Tokens, before: DocRow | None, after: DocRow | None) -> None:
    """Takes out what a node was, and puts in what it is."""
    if before is not None:
        rows.remove_doc(session, before.doc, _all_tokens(tokens, before))
    if after is not None:
        rows.add_docs(session, [after], [_all_tokens(tokens, after)])


def _all_tokens(tokens: Tokens, row: DocRow) -> str:
    return tokens.of_doc(names_of(row), row.type, row.extension, row.terms)


@contextmanager
def _for_now(index: Index, space: SpaceId) -> Iterator[None]:
    """Makes of what is wrong with the file what a job says; one that is damaged goes, and is made anew."""
    try:
        yield
    except DerivedDamaged as error:
        index.remove(space)
        raise NotNow(f"{error} It is made anew.") from error
    except ServerFault as error:
        raise NotNow(str(error)) from error
