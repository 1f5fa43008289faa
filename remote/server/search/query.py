"""Query: what a person asks for, taken apart. Pure."""

import re
from dataclasses import dataclass, field
from typing import Final

from remote.protocol.errors import BadRequest
from remote.protocol.search import QUERY_MAX
from remote.protocol.sizes import size_of
from remote.protocol.times import SECOND_NS, span
from remote.server.search.types import TYPES
from remote.server.search.words import fold

WORDS_MAX: Final = 16
"""Words, phrases and conditions of one query."""
EVER_NS: Final = (1 << 63) - 1
SIZE_END: Final = 1 << 62
_PART: Final = re.compile(r'(?:(?P<key>[A-Za-z]+):)?(?:"(?P<phrase>[^"]*)"|(?P<word>[^\s"]+))')
_KEYS: Final = ("name", "type", "size", "before", "after", "on", "owner", "in")
_TYPE: Final = re.compile(r"[a-z0-9]{1,16}")
_PLURALS: Final = {
    **{f"{type_}s": type_ for type_ in TYPES - {"audio", "text", "code", "other"}},
    "dir": "folder",
    "directory": "folder",
    "picture": "image",
    "pictures": "image",
    "photo": "image",
    "photos": "image",
    "movie": "video",
    "movies": "video",
    "music": "audio",
    "link": "symlink",
    "doc": "document",
}


@dataclass(frozen=True)
class Wanted:
    """One word or phrase, folded; `in_name`: only the name counts."""

    text: str
    in_name: bool = False


@dataclass(frozen=True)
class Query:
    """What is asked for: all of it must hold; of `types` one. Bounds are inclusive."""

    words: tuple[Wanted, ...] = ()
    types: tuple[str, ...] = ()
    sizes: tuple[int, int] = (0, SIZE_END)
    times_ns: tuple[int, int] = (-EVER_NS, EVER_NS)
    owner: str = ""
    below: bytes = b""

    @property
    def has_bounds(self) -> bool:
        """Whether size or time is asked for."""
        return self.sizes != (0, SIZE_END) or self.times_ns != (-EVER_NS, EVER_NS)


@dataclass
class _Draft:
    words: list[Wanted] = field(default_factory=list)
    types: list[str] = field(default_factory=list)
    sizes: tuple[int, int] = (0, SIZE_END)
    times_ns: tuple[int, int] = (-EVER_NS, EVER_NS)
    owner: str = ""
    below: bytes = b""


def parse(text: str, local_offset_minutes: int = 0) -> Query:
    """The query that a person wrote; raises BadRequest, in words for that person."""
    if len(text) > QUERY_MAX:
        raise BadRequest(f"A search has at most {QUERY_MAX} letters.")
    if text.count('"') % 2:
        raise BadRequest('A quotation mark " is not closed.')
    draft = _Draft()
    parts = list(_PART.finditer(text))
    if len(parts) > WORDS_MAX:
        raise BadRequest(f"A search has at most {WORDS_MAX} words.")
    for part in parts:
        key = (part["key"] or "").lower()
        value = part["phrase"] if part["phrase"] is not None else part["word"]
        if not key and value.endswith(":") and value[:-1].lower() in _KEYS:
            key, value = value[:-1].lower(), ""
        if key in _KEYS:
            if not value.strip():
                raise BadRequest(f"{key}: what? Write it like {_EXAMPLES[key]}")
            _take(draft, key, value, local_offset_minutes)
        else:
            # Any other colon is one of a name.
            draft.words += _wanted(f"{part['key']}:{value}" if key else value)
    if not parts or draft == _Draft():
        raise BadRequest("Search for what? Give a word, or a condition such as type:pdf")
    if draft.sizes[0] > draft.sizes[1] or draft.times_ns[0] > draft.times_ns[1]:
        raise BadRequest("Nothing can be of that size or time: the bounds exclude each other.")
    return Query(tuple(draft.words), tuple(draft.types), draft.sizes, draft.times_ns, draft.owner, draft.below)


def _take(draft: _Draft, key: str, value: str, offset_minutes: int) -> None:
    if key == "name":
        draft.words += _wanted(value, in_name=True)
    elif key == "type":
        draft.types += [_type(each) for each in value.lower().split(",") if each]
    elif key == "size":
        draft.sizes = _within(draft.sizes, _sizes(value))
    elif key == "owner":
        draft.owner = value
    elif key == "in":
        draft.below = value.strip("/").encode(errors="surrogateescape")
    else:
        draft.times_ns = _within(draft.times_ns, _times(key, value, offset_minutes))


def _wanted(text: str, *, in_name: bool = False) -> list[Wanted]:
    folded = fold(text).strip()
    return [Wanted(folded, in_name)] if folded else []


def _type(text: str) -> str:
    if not _TYPE.fullmatch(text):
        raise BadRequest(f"{text[:40]!r} is no type. Write it like {_EXAMPLES['type']}")
    return _PLURALS.get(text, text)


def _sizes(value: str) -> tuple[int, int]:
    sign = re.match(r"[<>]=?|=?", value)
    how = sign[0] if sign is not None else ""
    low, dots, high = value[len(how) :].partition("..")
    try:
        if dots and not how:
            return size_of(low) if low else 0, size_of(high) if high else SIZE_END
        size = size_of(value[len(how) :])
    except ValueError as error:
        raise BadRequest(f"{error}. Write it like {_EXAMPLES['size']}") from None
    return {">": (size + 1, SIZE_END), ">=": (size, SIZE_END), "<": (0, size - 1), "<=": (0, size)}.get(
        how, (size, size)
    )


def _times(key: str, value: str, offset_minutes: int) -> tuple[int, int]:
    whole = {4: f"{value}-01-01", 7: f"{value}-01"}.get(len(value), value)
    try:
        first_ns, length_ns = span(whole)
        if len(value) in {4, 7}:
            length_ns = _length_ns(value)
    except ValueError as error:
        raise BadRequest(f"{error} A day, month or year alone will do: {_EXAMPLES[key]}") from None
    if not re.search(r"(Z|UTC|[+-]\d\d:?\d\d)$", value[10:]):
        first_ns -= offset_minutes * 60 * SECOND_NS
    last_ns = first_ns + max(0, length_ns - 1)
    return {"before": (-EVER_NS, first_ns - 1), "after": (first_ns, EVER_NS)}.get(key, (first_ns, last_ns))


def _length_ns(value: str) -> int:
    """Of a year or a month."""
    year, month = int(value[:4]), int(value[5:7] or 0)
    following = f"{year + 1}-01-01" if month in {0, 12} else f"{year}-{month + 1:02}-01"
    return span(following)[0] - span(f"{value}-01-01" if not month else f"{value}-01")[0]


def _within(old: tuple[int, int], new: tuple[int, int]) -> tuple[int, int]:
    return max(old[0], new[0]), min(old[1], new[1])


_EXAMPLES: Final = {
    "name": "name:report",
    "type": "type:pdf or type:image,video",
    "size": "size:>10M or size:1M..20M",
    "before": "before:2026-11-01",
    "after": "after:2026",
    "on": "on:2026-11-21",
    "owner": "owner:ann",
    "in": "in:work/2026",
}
