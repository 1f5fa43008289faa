"""Announcer: tells the kernel what changed elsewhere, so that it can believe everything else for long."""

import errno
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from cache.pull import Effects
from fusefs import kernel
from fusefs.hands import Hand
from fusefs.repeater import WAITING_MAX, Repeater
from fusefs.steps import Told
from fusefs.volume import Volume
from remote.protocol.ids import NodeId
from remote.protocol.nodes import Kind, Name

log = logging.getLogger(__name__)

_EXPECTED: Final = frozenset(
    (
        errno.ENOENT,
        errno.ENOTEMPTY,
        errno.EBUSY,
        errno.ENODEV,
        errno.ENOTDIR,
        errno.ENOTCONN,
        errno.ECONNABORTED,
        errno.ESTALE,
    )
)


class Announcer:
    """Tells the kernel what changed elsewhere, from a thread: the kernel may make it wait for dirty pages.

    With the write-back cache the kernel keeps its own size and mtime of every file it knows. So names of changed files
    are dropped, which makes it forget files that nobody has open; for those that are open a hand repeats the
    change in our own mount (`is_own` recognises its requests), which the kernel takes as the truth. What programs that
    watch are to hear is then `repeater`'s, which may take its time.
    """

    def __init__(self, mountpoint: bytes, volume: Volume, absent: set[Name], repeater: Repeater, hand: Hand) -> None:
        """`absent`: names of which the kernel may remember that they lead nowhere; those told are taken out."""
        self._mountpoint = mountpoint
        self._hand = hand
        self._repeater = repeater
        self._volume = volume
        self._absent = absent
        # What is to be told, each thing once however often it changed: no queue that could grow behind a slow kernel.
        self._waiting = _News()
        self._is_closed = False
        self._is_telling = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="announcer", daemon=True)
        self._thread.start()

    def is_own(self, pid: int) -> bool:
        """Whether a request repeats a change; its pid is the id of the hand that does it."""
        return pid in (self._hand.tid, self._repeater.pid)

    @property
    def has_told(self) -> bool:
        """Whether the kernel knows of all that was noted (programs that watch may hear of it later)."""
        with self._changed:
            return not self._is_telling and not self._waiting.is_something

    def show(self, effects: Effects) -> None:
        """Notes what is to be told; returns at once."""
        # A fresh name may have been looked up by now: to drop it would take it from a program that stands in it.
        names = set(effects.names - effects.fresh) | (effects.fresh & self._absent)
        self._absent -= names
        resized: dict[NodeId, _Resized] = {}
        for node in effects.nodes:
            record = self._volume.tree.record(node)
            if record is None or record.local is None:
                continue
            if record.local.kind is not Kind.FOLDER:
                names.update(record.local.names)
            if node in effects.contents and self._volume.files.find(node) is not None:
                path = self._volume.tree.path_of(node)
                resized[node] = _Resized(node, path, record.size, record.local.atime_ns, record.local.mtime_ns)
        told = self._repeater.told(effects)
        with self._changed:
            self._waiting.told.merge(told, WAITING_MAX)
            self._waiting.names |= names
            self._waiting.nodes |= effects.nodes
            self._waiting.contents |= effects.contents
            self._waiting.resized |= resized
            self._changed.notify()

    def refresh(self, nodes: set[NodeId]) -> None:
        """Notes nodes of whose attributes the kernel is to ask again, though nothing that programs set has changed."""
        with self._changed:
            self._waiting.nodes |= nodes
            self._changed.notify()

    def close(self) -> None:
        """Ends the thread."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join(timeout=5.0)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._is_closed or self._waiting.is_something)
                news, self._waiting = self._waiting, _News()
                self._is_telling = True
                if self._is_closed:
                    return
            for name in news.names:
                _tell(kernel.drop_name, name.parent, name.name)
            for one in news.resized.values():
                _tell(self._repeat, one)
            for node in news.nodes:
                _tell(kernel.drop_node, node, node not in news.contents)
            for parent in {name.parent for name in news.names}:
                _tell(kernel.drop_node, parent, True)
            with self._changed:
                self._is_telling = False
            # Not before: who hears of a change looks at once.
            self._repeater.repeat(news.told)

    def _repeat(self, one: "_Resized") -> None:
        fd = self._hand.do("reach", self._mountpoint, one.path.split(b"/"), one.node)
        try:
            self._hand.do("resize", fd, one.size, one.atime_ns, one.mtime_ns)
        finally:
            self._hand.do("let_go", fd)


class _Resized(NamedTuple):
    node: NodeId
    path: bytes
    size: int
    atime_ns: int
    mtime_ns: int


@dataclass
class _News:
    names: set[Name] = field(default_factory=set)
    nodes: set[NodeId] = field(default_factory=set)
    contents: set[NodeId] = field(default_factory=set)
    resized: dict[NodeId, _Resized] = field(default_factory=dict)
    told: Told = field(default_factory=Told)

    @property
    def is_something(self) -> bool:
        return bool(self.names or self.nodes or self.told.differences)


def _tell(announce: Callable[..., None], *args: object) -> None:
    try:
        announce(*args)
    except OSError as error:
        # ENOENT: the kernel does not know of it. ENOTEMPTY, EBUSY: somebody stands in it. ENOTCONN: unmounted.
        if error.errno not in _EXPECTED:
            log.warning("the kernel did not take news: %s", error.strerror)
