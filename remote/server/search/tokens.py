"""Tokens: what stands in an index for the names and words of one space. Pure.

Names are in the clear on the server, and so is what is made of them. Words are not: of each the index has a hash under
a key of the space, which is in none of the files beside it. Without the master key one can tell that two files of a
space share a word, and how many have it, but not which word.
"""

import hashlib
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Final

from remote.server.search.words import fold, near_misses, trigrams, words_of

TERM_SIZE: Final = 6
"""Bytes of a hash: of a million words, two have the same with a chance of one in 500."""
_REMEMBERED: Final = 20_000
_NEAR: Final = b"near"
_WORD: Final = b"word"
_NAME: Final = b"name"


class Tokens:
    """Those of one space."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self.term = lru_cache(_REMEMBERED)(self._term)
        """The hash of a folded word."""

    def of_doc(self, names: Iterable[bytes], type_: str, extension: str, terms: bytes) -> str:
        """All tokens of a node, with spaces in between; the same for the same arguments, whenever it is asked."""
        found = {type_token(type_)}
        if extension:
            found.add(type_token(extension))
        for name in names:
            folded = folded_name(name)
            found.update(map(trigram_token, trigrams(folded)))
            for word in words_of(folded):
                found.add(start_token(word[:2]))
                found.add(word_token(self.term(word)))
            found.add(self.name_token(folded))
            found.add(self.name_token(stem_of(folded)))
        found.update(map(word_token, split_terms(terms)))
        return " ".join(sorted(found))

    def terms_in_name(self, name: bytes) -> Iterator[tuple[str, bytes]]:
        """The words of a name, each with its hash."""
        return ((word, self.term(word)) for word in words_of(folded_name(name)))

    def name_token(self, folded: str) -> str:
        """Stands for a whole name."""
        return f"n{self._hash(_NAME, folded).hex()}"

    def nears(self, word: str) -> list[int]:
        """Near misses of a word, as the index knows them."""
        return [int.from_bytes(self._hash(_NEAR, each), "big") for each in near_misses(word)]

    def _term(self, word: str) -> bytes:
        return self._hash(_WORD, word)

    def _hash(self, use: bytes, text: str) -> bytes:
        return hashlib.blake2b(text.encode(), digest_size=TERM_SIZE, key=self._key, person=use).digest()


def folded_name(name: bytes) -> str:
    """A name as it is compared."""
    return fold(name.decode(errors="replace"))


def stem_of(folded: str) -> str:
    """A folded name without its extension."""
    front, dot, _ = folded.rpartition(".")
    return front if dot and front else folded


def split_terms(terms: bytes) -> Iterator[bytes]:
    """The single hashes."""
    return (terms[at : at + TERM_SIZE] for at in range(0, len(terms), TERM_SIZE))


def has_terms(terms: bytes, wanted: Iterable[bytes]) -> bool:
    """Whether all of these are among the hashes."""
    for term in wanted:
        at = terms.find(term)
        while at > 0 and at % TERM_SIZE:
            # The end of one and the beginning of the next.
            at = terms.find(term, at + 1)
        if at < 0:
            return False
    return True


def word_token(term: bytes) -> str:
    """Stands for a word, in a name or in content."""
    return f"w{term.hex()}"


def trigram_token(trigram: str) -> str:
    """Stands for three letters in a name."""
    return f"t{trigram.encode().hex()}"


def start_token(start: str) -> str:
    """Stands for the first two letters of a word in a name."""
    return f"s{start.encode().hex()}"


def type_token(type_: str) -> str:
    """Stands for a type or an extension."""
    return f"k{type_.encode().hex()}"
