"""Opened: what is known of a file, and of each of its handles, while programs have it open. Data only."""

from dataclasses import dataclass, field

from cache.cursor import Cursor
from cache.staging import Staging
from remote.protocol.ids import NodeId
from remote.protocol.nodes import NodeState


@dataclass
class OpenFile:
    """One file while programs have it open, however often."""

    node: NodeId
    state: NodeState
    """As it was when last seen in the tree: all there is of it once its last name is gone."""
    handles: int = 0
    writers: int = 0
    staging: Staging | None = None
    is_orphan: bool = False
    is_revoked: bool = False
    """Its folder is not this user's any more: there is nothing to read in it, or to write to."""
    is_changed: bool = False
    """Written to since the last flush."""
    is_told: bool = False
    """Flushed at least once, or somebody waits for it: others may see what there is of it."""
    changed_at: float = 0.0
    written_at: float = 0.0
    """Monotonic seconds of the first and the last write since the last flush."""
    mtime_ns: int = 0
    """Time of the last write or utime that is not in the tree yet; 0: the tree knows."""
    ctime_ns: int = 0
    """What programs see as the time of its last change; 0: the tree knows."""
    is_refused: bool = False
    """The last write found no room."""
    is_cut: bool = False
    """The last write was refused for the quota: what there is of it was not to be all."""
    is_helpless: bool = False
    """It found none although what is written to the file was being sent."""


@dataclass
class Handle:
    """One open() of a file."""

    file: OpenFile
    is_writing: bool
    is_direct: bool = False
    """Its writes come straight from the program, which can be told of each of them."""
    is_past_cache: bool = False
    """The kernel notes nothing of its writes, not even their time."""
    has_written: bool = False
    cursor: Cursor = field(default_factory=Cursor)
