"""Messages about search: what is asked for in words, and what was found."""

import msgspec

from remote.protocol.ids import NodeId, SpaceId
from remote.protocol.nodes import Kind

QUERY_MAX = 1_000
"""Characters of a query."""
FOUND_MAX = 200
"""Found things in one answer."""
REACH_MAX = 1_000
"""Found things that can be paged to; beyond them, a narrower query is the way."""


class SearchRequest(msgspec.Struct, frozen=True):
    """Files and folders of the user's spaces, the best `limit` (1-200) behind the first `offset`.

    `query`: words, "words together", name:, type:, size:, before:, after:, on:, owner:, in:; see docs/commands.md.
    `space`: only in this one; 0: in all. `local_offset_minutes`: of the time zone that days are meant in.
    """

    query: str
    limit: int = 50
    offset: int = 0
    space: SpaceId = SpaceId(0)
    local_offset_minutes: int = 0


class Found(msgspec.Struct, frozen=True, array_like=True):
    """Something found. `path` is from the top of its space; `why`: "name", "content" or "similar" (to what was asked).

    `mtime_ns`: when its content was changed.
    """

    space: SpaceId
    node: NodeId
    path: bytes
    kind: Kind
    type: str
    size: int
    mtime_ns: int
    why: str


class SearchAnswer(msgspec.Struct, frozen=True):
    """The best first. `more`: ask again behind them. `is_behind`: the index does not know of all that is there yet.

    `is_cut`: there are more than could be looked at.
    """

    found: tuple[Found, ...]
    more: bool = False
    is_behind: bool = False
    is_cut: bool = False
