"""The messages of the sync protocol, version 1: msgpack-encoded structs, and the limits that both sides keep.

A field may be added at the end of a struct with a default; anything else is a new protocol version.
"""

import msgspec

from remote.protocol.ids import ChunkId, DeviceId, NodeId, Rev, SpaceId, UserId
from remote.protocol.nodes import NodeState, NodeVersion

PROTOCOL_VERSION = 1
CONTENT_TYPE = "application/vnd.satchel+msgpack"

CHANGES_MAX = 2_000
"""Changes in one commit."""
COMMIT_BODY_MAX = 16 << 20
"""Bytes of an encoded commit."""
FOLDERS_MAX = 1_000
"""Folders in one list request."""
CHILDREN_MAX = 4_000
"""Children in one list answer; the rest follows with `after`."""
COMMITS_MAX = 1_000
"""Commits in one changes answer."""
CHUNKS_MAX = 2_000
"""Chunks named in one want, get or urls request."""
SMALL_CHUNK_MAX = 256 << 10
"""Sealed chunks up to this size travel in batches and are stored in packs; larger ones have an object each."""
CHUNK_MAX = (4 << 20) + (64 << 10)
"""Sealed bytes of one chunk at the most."""
PUT_BODY_MAX = 4 << 20
"""Sealed bytes in one put request, all chunks together."""
SEND_BODY_MAX = 32 << 20
"""Bytes of one send request: large chunks, each behind its head."""
BELOW_MAX = 4 << 20
"""Bytes of content that may be asked for together with the leaf above it."""
GET_ANSWER_MAX = 8 << 20
"""Sealed bytes in one get answer; what does not fit is left out and asked for again."""
PACK_MAX = 1 << 20
POLL_SECONDS_MAX = 300
LIVES_MAX = 100
CONFLICTS_MAX = 1_000
"""Conflicts in one answer, or settled by one request."""


class Problem(msgspec.Struct, frozen=True):
    """Any answer that is no success: a code of `errors.BY_CODE` and a sentence that names what was wrong."""

    code: str
    message: str
    retry_after_seconds: float = 0.0


class LoginRequest(msgspec.Struct, frozen=True):
    """Signs a new device in. `code`: of the authenticator app, or a recovery code, for accounts that ask for one."""

    user: str
    password: str
    device_name: str
    code: str = ""


class LoginAnswer(msgspec.Struct, frozen=True):
    """The device's identity; the token is shown this once and stored hashed."""

    token: str
    device: DeviceId
    user: UserId
    user_name: str
    home: SpaceId
    instance: str
    """A random name of the server's instance, so that a client notices another server behind the same address."""


class Done(msgspec.Struct, frozen=True):
    """It was done, and there is nothing to say about it."""


class NodeRange(msgspec.Struct, frozen=True):
    """Node ids `first` .. `first + count - 1`, leased to this device for ever."""

    first: NodeId
    count: int


class Life(msgspec.Struct, frozen=True, array_like=True):
    """The commits of a journal after `from_rev`, up to the next life, were given by one run of a server, named `life`.

    A server that is put back from an older copy begins another life where that copy ends. So a rev is the same commit
    for ever only together with the life that it was given in; life 0 is before lives had names.
    """

    from_rev: Rev
    life: int


class Space(msgspec.Struct, frozen=True):
    """A space as its member sees it. `quota` and `used` are bytes, quota 0 means unlimited."""

    space: SpaceId
    name: str
    role: str
    """owner, manager, editor or viewer."""
    head: Rev
    floor: Rev
    quota: int
    used: int
    domain_secret: bytes
    """32 bytes: the secret from which chunk keys of this space's deduplication domain are derived."""
    free: int = 0
    """Bytes that the server can still store for this space."""
    lives: tuple[Life, ...] = ()
    """The newest lives of its journal, oldest first; at most LIVES_MAX."""
    lost: int = 0
    """How many chunks the server lost: see `LostRequest`."""
    owner_name: str = ""
    """Whose quota pays for it. Of a shared space `used` is what is in it, `quota` that with what its owner has left."""
    mount: NodeId = NodeId(0)
    """The folder in the user's home that stands for a shared space; 0: it is the home."""


class Room(msgspec.Struct, frozen=True):
    """What a space has room for, as of `rev`; all in bytes of content, as `used` counts it. `quota` 0: no bound.

    `left`: what the quota leaves beyond `used` and what other devices hold. `lease`: by so much of `left` the asking
    device may let content grow before it asks again; nobody else gets it. `share`: the lease of a device with nothing
    to send. `serial`: of the last Holding that this takes into account.
    """

    rev: Rev = Rev(0)
    quota: int = 0
    used: int = 0
    free: int = 0
    """What the server's disk still takes."""
    left: int = 0
    lease: int = 0
    share: int = 0
    serial: int = 0
    has_lost: bool = False
    """Whether the server lost chunks of the space (see `LostRequest`), in the answer to a poll or to `room`."""
    events: int = 0
    """How many events of the space wait for a person (see events.py), in the same answers and those to commits."""


class Holding(msgspec.Struct, frozen=True, array_like=True):
    """From now on the device holds itself to this part of its lease; `serial` is greater each time it says so."""

    lease: int
    serial: int


class RoomRequest(msgspec.Struct, frozen=True):
    """What is there room for? `wanted`: the lease that the device would have, in all.

    `needed`: when it gets less than that, others that hold some are asked, and the answer comes when there is as much,
    when they were all heard, or after two seconds. 0: nobody is asked.
    """

    holding: Holding | None = None
    wanted: int = 0
    needed: int = 0


class Spaces(msgspec.Struct, frozen=True):
    """Every space of the device's user; `now_ns` is the server's clock."""

    spaces: tuple[Space, ...]
    now_ns: int
    serial: int = 0
    """Grows whenever spaces, roles or invitations of the user change."""


class FolderQuery(msgspec.Struct, frozen=True, array_like=True):
    """A folder to list, from the name after `after` (bytewise order; empty: from the first).

    `below`: of the folders below it some may come along unasked, as they are now, the nearest first, each one whole;
    with at most so many children in all.
    """

    folder: NodeId
    after: bytes = b""
    below: int = 0


class ListRequest(msgspec.Struct, frozen=True):
    """Children of many folders, now or (`as_of` > 0) as of a rev."""

    folders: tuple[FolderQuery, ...]
    as_of: Rev = Rev(0)


class FolderListing(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Children in bytewise order of their name in this folder; `more`: ask again after the last one.

    A node with two names in one folder comes once for each name. `gone`: no such folder as of that rev.
    `names[i]` is the name in this folder of `children[i]`.
    """

    folder: NodeId
    names: tuple[bytes, ...]
    children: tuple[NodeVersion, ...]
    more: bool = False
    gone: bool = False


class Listing(msgspec.Struct, frozen=True):
    """One consistent answer as of `rev`; folders that did not fit any more are left out: ask for them again.

    Behind those asked for come those that were not (see FolderQuery), each behind the one that it is in.
    """

    rev: Rev
    folders: tuple[FolderListing, ...]


class NodesRequest(msgspec.Struct, frozen=True):
    """The states of nodes, now or as of a rev."""

    nodes: tuple[NodeId, ...]
    as_of: Rev = Rev(0)


class Nodes(msgspec.Struct, frozen=True):
    """One for each node asked for, in order; None for a node that never was (as of that rev)."""

    rev: Rev
    nodes: tuple[NodeVersion | None, ...]


class Change(msgspec.Struct, frozen=True, array_like=True):
    """The complete new state of one node, or (None) its removal, made on top of `base` (0: the node is new).

    `edited_ns`: when it was edited, by the server's clock as the device knows it.
    `is_touch`: only a folder's times moved; never refused for its base: on top of the present it is taken as it is,
    on top of an older state only when its ctime is later.
    `is_conflict`: this state lost a merge: keep it in the journal as a version with a mark, leave the node as it is
    (never refused for its base).
    `overrides`: this state won a merge over that rev, which from now on carries the mark.
    """

    node: NodeId
    base: Rev
    edited_ns: int
    state: NodeState | None
    is_touch: bool = False
    is_conflict: bool = False
    overrides: Rev = Rev(0)


class Commit(msgspec.Struct, frozen=True):
    """Changes that are taken whole or not at all; invariants hold after all of them, in whatever order they stand.

    `op_id`: 16 random bytes; a commit with an op id seen before in this space gets the old answer,
    and one that was refused is refused again: what is tried anew has a new one.
    """

    op_id: bytes
    changes: tuple[Change, ...]
    cursor: Rev = Rev(0)
    life: int = 0
    """The last rev that the device applied, with its life: unless that is in the journal, nothing is taken
    (CursorTooOld). 0: not looked at."""


class CommitAnswer(msgspec.Struct, frozen=True):
    """The rev of the accepted commit, or (rev 0) why it was refused, with the winners: the nodes in the way as they
    are now (those with a newer rev, the holders of taken names, removed parents, folders not empty).
    """

    rev: Rev
    now_ns: int
    winners: tuple[NodeVersion, ...] = ()
    reason: str = ""
    life: int = 0
    """The life of the journal that the rev belongs to, see `Life`."""
    room: Room | None = None
    """After an accepted commit."""
    held: tuple[NodeId, ...] = ()
    """Of a commit that is refused because a person has to say yes first: for the sake of which nodes."""


class JournalCommit(msgspec.Struct, frozen=True, array_like=True):
    """One accepted commit. Versions that only keep a lost conflict are not among `changes`."""

    rev: Rev
    time_ns: int
    device: DeviceId
    changes: tuple[NodeVersion, ...]


class Changes(msgspec.Struct, frozen=True):
    """Whole commits after the cursor, oldest first; ask again while `head` is greater than the last one's rev."""

    head: Rev
    now_ns: int
    commits: tuple[JournalCommit, ...]
    lives: tuple[Life, ...] = ()
    """The lives of the journal from that of the cursor on, oldest first; at most LIVES_MAX."""


class PollRequest(msgspec.Struct, frozen=True):
    """Wait until one of these spaces has a rev greater than given, at most `wait_seconds`."""

    cursors: dict[SpaceId, Rev]
    wait_seconds: int = 60
    holding: dict[SpaceId, Holding] = {}
    serial: int = 0
    """The last `Spaces.serial` it knows: with another one the answer says `spaces_changed`. 0: not looked at."""


class PollAnswer(msgspec.Struct, frozen=True):
    """Heads of those that moved; empty after the wait. `spaces_changed`: ask for the list of spaces again."""

    heads: dict[SpaceId, Rev]
    now_ns: int
    spaces_changed: bool = False
    rooms: dict[SpaceId, Room] = {}


class WantRequest(msgspec.Struct, frozen=True):
    """Chunks that the device could send, each with its sealed size in bytes."""

    chunks: tuple[tuple[ChunkId, int], ...]


class WantAnswer(msgspec.Struct, frozen=True):
    """Those that must be sent; a chunk over SMALL_CHUNK_MAX comes with the URL to PUT it to.

    `may_send`: the server itself keeps the objects, so that many of them may also come in one `chunks/send`.
    """

    missing: tuple[ChunkId, ...]
    urls: dict[ChunkId, str]
    may_send: bool = False


class PutRequest(msgspec.Struct, frozen=True):
    """Sealed small chunks, at most PUT_BODY_MAX bytes together; one folder's files belong in one request."""

    chunks: tuple[bytes, ...]


class PutAnswer(msgspec.Struct, frozen=True):
    """The ids of the chunks, in order, all durably stored."""

    ids: tuple[ChunkId, ...]


class Below(msgspec.Struct, frozen=True, array_like=True):
    """With a leaf that is read: also what is needed for bytes [start, stop) of the content below it, unasked.

    `depth` counts the levels of leaves from this one down: at 1 its entries are chunks. The key is the leaf's.
    """

    key: bytes
    depth: int
    start: int
    stop: int


class ChunkPart(msgspec.Struct, frozen=True, array_like=True):
    """A whole sealed chunk (`frames` 0), or its header and the frames `first` .. `first + frames - 1`."""

    id: ChunkId
    first: int = 0
    frames: int = 0
    below: Below | None = None
    """For a leaf of a manifest, when it is read with `chunks/read`."""


class GetRequest(msgspec.Struct, frozen=True):
    """Chunks or parts of chunks to read."""

    parts: tuple[ChunkPart, ...]


class GetAnswer(msgspec.Struct, frozen=True):
    """The bytes of the first parts asked for, in order, as many as fit: at least one; ask again for the rest."""

    parts: tuple[bytes, ...]


class LostRequest(msgspec.Struct, frozen=True):
    """Chunks of this space that the server lost, by id, behind this one."""

    after: ChunkId = ChunkId(b"")


class LostAnswer(msgspec.Struct, frozen=True):
    """At most CHUNKS_MAX; whoever has one may send it, as any other chunk. `more`: ask again after the last one."""

    chunks: tuple[ChunkId, ...]
    more: bool = False


class UrlsRequest(msgspec.Struct, frozen=True):
    """Chunks to read directly from the object store."""

    chunks: tuple[ChunkId, ...]


class UrlsAnswer(msgspec.Struct, frozen=True):
    """A signed GET URL for each chunk that has an object of its own; chunks in packs are read with get."""

    urls: dict[ChunkId, str]
    expires_seconds: int


class MomentsRequest(msgspec.Struct, frozen=True):
    """The newest moments at which a folder, or anything below it, changed, at most `limit` (1 .. 10,000).

    `steps`: pairs (age, step) in seconds, ages rising: of moments younger than the age only the last of each step is
    told, with step 0 all; of those older than every age none.
    """

    folder: NodeId
    limit: int = 1_000
    steps: tuple[tuple[int, int], ...] = ()


class Moment(msgspec.Struct, frozen=True, array_like=True):
    """A commit, by its rev and the server's time, with who made it (empty in the answer to AsOfRequest)."""

    rev: Rev
    time_ns: int
    user_name: str = ""
    device_name: str = ""


class Moments(msgspec.Struct, frozen=True):
    """Newest first."""

    moments: tuple[Moment, ...]


class AsOfRequest(msgspec.Struct, frozen=True):
    """Which rev was the last one at this time?"""

    time_ns: int


class HistoryRequest(msgspec.Struct, frozen=True):
    """The versions of one node, newest first, older than `before` (0: from the newest), at most `limit` (1-1,000)."""

    node: NodeId
    before: Rev = Rev(0)
    limit: int = 1_000


class Version(msgspec.Struct, frozen=True):
    """One version of a node with who made it when; `is_conflict`: it lost against another edit."""

    rev: Rev
    time_ns: int
    edited_ns: int
    user_name: str
    device_name: str
    state: NodeState | None
    is_conflict: bool = False
    device: DeviceId = DeviceId(0)


class History(msgspec.Struct, frozen=True):
    """Newest first."""

    versions: tuple[Version, ...]


class ConflictsRequest(msgspec.Struct, frozen=True):
    """Conflicts that nobody has settled, behind that of this node and rev, by node and rev."""

    after_node: NodeId = NodeId(0)
    after_rev: Rev = Rev(0)


class Conflict(msgspec.Struct, frozen=True):
    """`lost` is a version of the node that lost against another edit; `current` is what the node is now."""

    node: NodeId
    lost: Version
    current: Version


class Conflicts(msgspec.Struct, frozen=True):
    """At most CONFLICTS_MAX; `more`: ask again after the last one. Those of removed nodes are left out."""

    conflicts: tuple[Conflict, ...]
    more: bool = False


class SettleRequest(msgspec.Struct, frozen=True):
    """Conflicts that are settled now, for all devices: by node, and the rev of the version that lost."""

    conflicts: tuple[tuple[NodeId, Rev], ...]
