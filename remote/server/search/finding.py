"""Finding: what of one space's index is what a query asks for, and how well. Reads the index only: see answers.py.

Names are found by any three letters in a row of theirs, so by a part, too; content by whole words. Both are looked up,
then looked at. When little is found so, words that differ in one letter count as well.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import msgspec

from remote.protocol.errors import BadRequest
from remote.protocol.ids import ROOT, NodeId
from remote.protocol.nodes import Name
from remote.protocol.search import REACH_MAX
from remote.server.database import index as rows
from remote.server.database.connection import Row, Session
from remote.server.search.indexing import other_names
from remote.server.search.query import SIZE_END, Query, Wanted
from remote.server.search.tokens import (
    Tokens,
    folded_name,
    has_terms,
    start_token,
    stem_of,
    trigram_token,
    type_token,
    word_token,
)
from remote.server.search.words import trigrams, words_of

EXACT, NAME, CONTENT, SIMILAR = range(4)
"""Why something was found, the best first."""
_WINDOW: Final = 1_000
"""Docs that are looked at for each way of finding, the newest first."""
_WIDE_WINDOW: Final = 10_000
"""The same when size, time or folder are asked for, of which words know nothing."""
_TRIGRAMS_MAX: Final = 12
_LIKE_MAX: Final = 48
"""Words that are taken for what one misspelt word may mean."""
_DEPTH_MAX: Final = 5_000


@dataclass(frozen=True)
class Hit:
    """Something found; sorts before what is worse."""

    why: int
    quality: int
    time_ns: int
    node: NodeId
    name: bytes
    """The name that matched best, or the first."""

    @property
    def rank(self) -> tuple[int, int, int, int]:
        """Smaller is better."""
        return self.why, -self.quality, -self.time_ns, self.node


class Finder:
    """Finds in one index; `below`: only what is below this folder."""

    def __init__(self, session: Session, tokens: Tokens, query: Query, below: NodeId = ROOT) -> None:
        self._session = session
        self._tokens = tokens
        self._query = query
        self._below = below
        self._terms = {each: [tokens.term(word) for word in words_of(each.text)] for each in query.words}
        self._is_below: dict[NodeId, bool] = {ROOT: below == ROOT, below: True}
        self._is_wide = query.has_bounds or below != ROOT
        self._seen: set[int] = set()
        self.is_cut = False
        """Whether there was more than could be looked at."""

    def literal(self) -> list[Hit]:
        """What has all words as they are."""
        query = self._query
        if not query.words:
            types = msgspec.json.encode(query.types).decode()
            window = _WIDE_WINDOW if self._below != ROOT else _WINDOW
            # By what is likely to be rare: a walk by time would pass all files for the few large ones.
            look = rows.found_by_time if query.sizes == (0, SIZE_END) else rows.found_by_size
            found = look(self._session, types, window, query.sizes, query.times_ns)
            return list(self._hits(found, window, lambda row, names: self._hit(row, names, NAME)))
        hits: list[Hit] = []
        whole = self._tokens.name_token(" ".join(wanted.text for wanted in query.words))
        hits += self._matching([whole], self._judge)
        hits += self._matching([self._name_part(wanted) for wanted in query.words], self._judge)
        # Those by content come behind those by name, of which nobody pages to more.
        if len(hits) < REACH_MAX and not all(wanted.in_name for wanted in query.words):
            hits += self._matching([self._part(wanted) for wanted in query.words], self._judge)
        return hits

    def similar(self) -> list[Hit]:
        """What has words like these, and was not found before."""
        likes = [self._like(wanted) for wanted in self._query.words]
        if not any(likes):
            return []
        parts = [
            f"({self._part(wanted)} OR {' OR '.join(map(word_token, sorted(like)))})" if like else self._part(wanted)
            for wanted, like in zip(self._query.words, likes, strict=True)
        ]

        def judge(row: Row, names: list[bytes]) -> Hit | None:
            terms = {term for name in names for _, term in self._tokens.terms_in_name(name)}
            quality = 0
            for wanted, like in zip(self._query.words, likes, strict=True):
                is_in_name = bool(like & terms) or any(wanted.text in folded_name(name) for name in names)
                if wanted.in_name and not is_in_name:
                    return None
                quality += is_in_name
            return self._hit(row, names, SIMILAR, quality)

        return self._matching(parts, judge)

    def _matching(self, parts: list[str], judge: "Callable[[Row, list[bytes]], Hit | None]") -> list[Hit]:
        """Docs in which all parts are, as judged; those that were seen before are left out."""
        if not all(parts):
            return []
        if self._query.types:
            parts = [*parts, f"({' OR '.join(map(type_token, self._query.types))})"]
        window = _WIDE_WINDOW if self._is_wide else _WINDOW
        found = rows.found_by_words(self._session, " AND ".join(parts), window, self._query.sizes, self._query.times_ns)
        return list(self._hits(found, window, judge))

    def _hits(
        self, found: Iterator[Row], window: int, judge: "Callable[[Row, list[bytes]], Hit | None]"
    ) -> Iterator[Hit]:
        count = 0
        for row in found:
            doc, is_doc = row[0], row[-1]
            if not is_doc:
                count = doc
                break
            count += 1
            if doc in self._seen:
                continue
            names = [Name(row[7], row[8]), *other_names(row[9])]
            there = [name.name for name in names if self._lies_below(name.parent)]
            hit = judge(row, there) if there else None
            if hit is not None:
                self._seen.add(doc)
                yield hit
        self.is_cut |= count >= window

    def _judge(self, row: Row, names: list[bytes]) -> Hit | None:
        """How well a doc that has the tokens has the words."""
        best, best_name = -1, names[0]
        for name in names:
            quality = self._quality(folded_name(name))
            if quality > best:
                best, best_name = quality, name
        if best >= 0:
            is_exact = best >= 3 * len(self._query.words)
            return self._hit(row, [best_name], EXACT if is_exact else NAME, best)
        terms: bytes | None = row[10]
        folded = [folded_name(name) for name in names]
        for wanted in self._query.words:
            if any(wanted.text in each for each in folded):
                continue
            if wanted.in_name:
                return None
            # Three letters here and three there make no word: only who has all its words in the content does.
            if terms is None:
                terms = rows.terms_of(self._session, row[0])
            words = self._terms[wanted]
            if not words or not has_terms(terms, words):
                return None
        return self._hit(row, names, CONTENT)

    def _quality(self, folded: str) -> int:
        """How well a name has all words; -1: not all are in it."""
        sum_ = 0
        if folded == (whole := " ".join(wanted.text for wanted in self._query.words)) or stem_of(folded) == whole:
            return 3 * len(self._query.words)
        for wanted in self._query.words:
            at = folded.find(wanted.text)
            if at < 0:
                return -1
            sum_ += 2 if at == 0 else 1 if not folded[at - 1].isalnum() else 0
        return sum_

    def _hit(self, row: Row, names: list[bytes], why: int, quality: int = 0) -> Hit:
        return Hit(why, quality, row[6], NodeId(row[1]), names[0])

    def _lies_below(self, folder: NodeId) -> bool:
        """Whether a folder is the one that is asked for, or below it."""
        if self._below == ROOT:
            return True
        passed: list[NodeId] = []
        at: NodeId | None = folder
        while at is not None and at not in self._is_below and len(passed) < _DEPTH_MAX:
            passed.append(at)
            at = rows.parent_of(self._session, at)
        found = at is not None and self._is_below.get(at, False)
        for one in passed:
            self._is_below[one] = found
        return found

    def _name_part(self, wanted: Wanted) -> str:
        """The tokens of a name that has this in it; empty: it has none to look up."""
        found = sorted(map(trigram_token, trigrams(wanted.text)))
        if found:
            return f"({' AND '.join(found[:: 1 + len(found) // _TRIGRAMS_MAX])})"
        if len(wanted.text) == 2 and wanted.text.isalnum():
            return f"({start_token(wanted.text)} OR {word_token(self._tokens.term(wanted.text))})"
        return self._word_part(wanted)

    def _word_part(self, wanted: Wanted) -> str:
        """The tokens of the words in this."""
        found = sorted({word_token(self._tokens.term(word)) for word in words_of(wanted.text)})
        return f"({' AND '.join(found)})" if found else ""

    def _part(self, wanted: Wanted) -> str:
        """Either."""
        in_name, in_content = self._name_part(wanted), "" if wanted.in_name else self._word_part(wanted)
        return f"({in_name} OR {in_content})" if in_name and in_content else in_name or in_content

    def _like(self, wanted: Wanted) -> set[bytes]:
        """Words of the space that differ from this one in a letter; none for what is no single word."""
        words = list(words_of(wanted.text))
        if words != [wanted.text]:
            return set()
        found: set[bytes] = set()
        for near in self._tokens.nears(wanted.text):
            found.update(rows.terms_like(self._session, near, _LIKE_MAX - len(found)))
            if len(found) >= _LIKE_MAX:
                break
        return found - {self._tokens.term(wanted.text)}


def check_words(query: Query) -> None:
    """Raises BadRequest for a word of which nothing can be looked up."""
    for wanted in query.words:
        if len(wanted.text) < 2 and not any(words_of(wanted.text)):
            raise BadRequest(f"{wanted.text!r} is too short to be looked for: two letters at least.")
