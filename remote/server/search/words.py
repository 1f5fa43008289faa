"""Words: how text becomes what is looked up: folded, split, as near misses. Pure; confined processes use it, too."""

import re
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Final

WORD_MIN, WORD_MAX = 2, 40
"""Letters of a word; of a longer one the front counts."""
_LIKE_MIN, _LIKE_MAX = 4, 20
"""Letters of a word that is found by one like it, too: in shorter ones most letters would be a slip."""
_RUN: Final = re.compile(r"[^\W_]+")
# Written without spaces: kana, ideographs, hangul.
_DENSE: Final = re.compile("[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff]+")

_BINARY_LOOK: Final = 8 << 10


class NotText(Exception):
    """The content is not what its name says."""


def fold(text: str) -> str:
    """The text as it is compared: without case and accents."""
    if text.isascii():
        return text.lower()
    apart = unicodedata.normalize("NFKD", text.casefold())
    return unicodedata.normalize("NFC", "".join(each for each in apart if not unicodedata.combining(each)))


def words_of(folded: str) -> Iterator[str]:
    """The words of a folded text in order; of what is written without spaces, each two letters that stand together."""
    for run in _RUN.findall(folded):
        if run.isascii():
            if len(run) >= WORD_MIN:
                yield run[:WORD_MAX]
            continue
        at = 0
        for dense in _DENSE.finditer(run):
            yield from _whole(run[at : dense.start()])
            yield from _pairs(dense[0])
            at = dense.end()
        yield from _whole(run[at:])


def distinct_words(text: str, most: int) -> list[str]:
    """The first so many different words of a text."""
    found: dict[str, None] = {}
    for word in words_of(fold(text)):
        found[word] = None
        if len(found) >= most:
            break
    return list(found)


def trigrams(folded: str) -> set[str]:
    """All that stands in three places of the text one after the other."""
    return {folded[at : at + 3] for at in range(len(folded) - 2)}


def plain_text(data: bytes) -> str:
    """The text that these bytes are; raises NotText for what is none."""
    if data[:2] in {b"\xff\xfe", b"\xfe\xff"}:
        return data.decode("utf-16", "replace")
    if b"\0" in data[:_BINARY_LOOK]:
        raise NotText("it is no text")
    try:
        return data.decode()
    except UnicodeDecodeError:
        # The last letter may be cut in two; older files are in an encoding of one byte each.
        text = data.decode("utf-8", "replace")
        return text if text.count("\ufffd") <= len(text) // 100 else data.decode("latin-1")


def is_like_worthy(word: str) -> bool:
    """Whether a word may be found by one like it."""
    return _LIKE_MIN <= len(word) <= _LIKE_MAX and word.isalpha()


def near_misses(word: str) -> set[str]:
    """The word and all that it is without one letter; words that differ in one letter, or in two that changed places,
    have one of these in common. Nothing for words of which that would say little.
    """
    if not is_like_worthy(word):
        return set()
    return {word, *(word[:at] + word[at + 1 :] for at in range(len(word)))}


def _whole(word: str) -> Iterable[str]:
    return (word[:WORD_MAX],) if len(word) >= WORD_MIN else ()


def _pairs(dense: str) -> Iterable[str]:
    return (dense[at : at + 2] for at in range(len(dense) - 1)) if len(dense) > 1 else (dense,)
