"""Face: what synchronisation asks of the mount and tells it (cache.pull.Mount), answered by open files and kernel."""

from collections.abc import Callable

from cache.pull import Effects
from cache.staging import Staging
from fusefs.handles import OpenFiles
from remote.protocol.ids import NodeId
from remote.protocol.nodes import Manifest


class Face:
    """The mount as synchronisation sees it."""

    def __init__(self, files: OpenFiles, announce: Callable[[Effects], None], notice_room: Callable[[], None]) -> None:
        """`announce` tells the kernel; `notice_room` tells writers that wait for room."""
        self._files = files
        self._announce = announce
        self._notice_room = notice_room
        self.on_sent: Callable[[NodeId, Staging], None] = lambda _node, _staging: None
        """Called when the server has what a staging held, and the tree says so."""

    def is_busy(self, node: NodeId) -> bool:
        """Whether a program has the file open for writing, or what it wrote could not be kept yet when it closed it."""
        return self._files.is_written(node)

    def is_held(self, node: NodeId) -> bool:
        """Whether something was written to the file that is not flushed yet, or it was made and is being filled."""
        return self._files.is_unfinished(node)

    def show(self, effects: Effects) -> None:
        """The tree shows something else now."""
        # Content that lost against news is of no use to anybody, unless a program still has it open.
        self._files.release_dropped()
        self._files.follow(effects.contents)
        self._files.note_strays(effects.nodes)
        self._announce(effects)

    def let_go(self, node: NodeId, staging: Staging, content: Manifest) -> None:
        """The server has this content."""
        self._files.let_go(node, staging, content)
        self.on_sent(node, staging)
        self._notice_room()
