"""Repeater: repeats what was done elsewhere through our own mount, so that the kernel tells programs that watch.

Only the kernel can raise file events (inotify, fanotify), and does it for calls only. So a hand makes the calls that
were made elsewhere; the kernel's requests that come of them are known by its id and answered from the tree,
which has it all already: they change nothing, and nothing is sent. Each is refused when the tree says by now something
else than what is repeated, so what a program does here meanwhile is never undone.
"""

import errno
import logging
import os
import stat
import threading
from collections.abc import Iterator, Set
from contextlib import contextmanager, suppress
from typing import Final

from msgspec.structs import replace

from cache.errors import NoSuchNode
from cache.pull import Effects
from fusefs.attributes import Attributes, file_mode
from fusefs.errors import NoEntry, Overtaken
from fusefs.hands import Hand
from fusefs.steps import Act, Step, Told, steps_of
from fusefs.volume import Volume
from remote.protocol.ids import ROOT, NodeId
from remote.protocol.nodes import EMPTY, Kind, Name, NodeState

log = logging.getLogger(__name__)

WAITING_MAX: Final = 4_096
"""So many nodes may wait; what happens to others meanwhile is not told. The kernel's own queues for those who watch
hold four times as many events, which is about what these make."""
_HELD_FOLDERS: Final = 16
"""Descriptors of folders kept while one batch is repeated."""
_QUIET_SECONDS: Final = 2.0
_EXECUTABLE: Final = 0o111
"""Who may be run is not opened for writing: whoever runs it just then would be refused (ETXTBSY)."""


class Repeater:
    """Repeats changes from a thread of its own, one after the other; whoever hands them over never waits."""

    def __init__(self, mountpoint: bytes, volume: Volume, watchable: Set[int], hand: Hand) -> None:
        """`watchable`: the folders that programs have asked for; nobody can watch others. `hand` makes the calls."""
        self._mountpoint = mountpoint
        self._hand = hand
        self._volume = volume
        self._watchable = watchable
        self._waiting = Told()
        self._is_working = False
        self._is_quiet = False
        self._is_closed = False
        self._changed = threading.Condition()
        # What the requests of this thread are answered by. Written by the thread, read by the event loop.
        self._step: Step | None = None
        self._ghosts: dict[NodeId, NodeState] = {}
        self._held: dict[Name, NodeId | None] = {}
        self._folders: dict[NodeId, int] = {}
        self._thread = threading.Thread(target=self._run, name="repeater", daemon=True)
        self._thread.start()

    @property
    def pid(self) -> int:
        """The pid of the requests that come of it."""
        return self._hand.tid

    # What is to be told; in the event loop

    def told(self, effects: Effects) -> Told:
        """What is to be told of these effects: what happened in folders that programs have asked for."""
        told = Told()
        for node, difference in effects.events.items():
            before, after, _ = difference
            names = (before.names if before is not None else ()) + (after.names if after is not None else ())
            if any(name.parent in self._watchable or name.parent == ROOT for name in names):
                told.differences[node] = difference
                for name in names:
                    self._place(name.parent, told)
                if after is None and before is not None and before.kind is Kind.FOLDER and before.names:
                    told.places[node] = before.names[0]
        return told

    def _place(self, folder: NodeId, told: Told) -> None:
        """Notes the way to a folder as it is now."""
        while folder != ROOT and folder not in told.places:
            record = self._volume.tree.record(folder)
            if record is None or record.local is None or not record.local.names:
                return
            told.places[folder] = record.local.names[0]
            folder = record.local.names[0].parent

    # Answers for the thread's own requests; in the event loop

    def lookup(self, name: Name) -> tuple[Attributes, bool]:
        """Where a name leads for the step that goes on, and whether it leads there in truth; raises NoEntry."""
        if name not in self._held:
            node = self._volume.tree.child(name.parent, name.name)
            if node is None:
                raise NoEntry("There is no such name.")
            return self._volume.attributes(node), True
        node = self._held[name]
        if node is None:
            raise NoEntry("It is not there yet.")
        return self.attributes(node, is_leaving=True), False

    def attributes(self, node: NodeId, *, is_leaving: bool = False) -> Attributes:
        """What stat(2) shows, also of what is gone; `is_leaving`: with the name that it is about to lose."""
        state = self._ghosts.get(node)
        try:
            found = self._volume.attributes(node)
        except NoSuchNode:
            if state is None:
                raise
            size = (state.content or EMPTY).size
            mode = file_mode(state.kind, state.mode)
            times = (state.atime_ns, state.mtime_ns, state.ctime_ns, state.birth_ns)
            return Attributes(node, mode, 1, os.getuid(), os.getgid(), state.rdev, size, 1, *times)
        step = self._step
        if is_leaving and step is not None and step.act is Act.REMOVE and state is None and step.node == node:
            # Else the kernel, which counts it down itself, would take the last name for gone.
            return replace(found, links=found.links + 1)
        return found

    def made(self, name: Name, mode: int) -> Attributes:
        """The node whose making is repeated; raises Overtaken when that is not what the tree has."""
        step = self._expected(Act.MAKE, name)
        if self._volume.tree.child(name.parent, name.name) != step.node:
            raise Overtaken("It was removed or replaced meanwhile.")
        found = self._volume.attributes(step.node)
        if stat.S_IFMT(found.mode) != stat.S_IFMT(mode):
            raise Overtaken("It is something else meanwhile.")
        return found

    def removed(self, name: Name) -> None:
        """Returns when the removal that is repeated holds; raises Overtaken when the name leads somewhere."""
        self._expected(Act.REMOVE, name)
        self._check_absent(name)

    def moved(self, source: Name, target: Name) -> None:
        """Returns when the move that is repeated holds; raises Overtaken."""
        step = self._expected(Act.MOVE, source)
        self._check_absent(source)
        if step.target != target or self._volume.tree.child(target.parent, target.name) != step.node:
            raise Overtaken("It was moved on meanwhile.")

    def _expected(self, act: Act, name: Name) -> Step:
        step = self._step
        if step is None or step.act is not act or step.name != name:
            raise Overtaken("This is not what is being repeated.")
        return step

    def _check_absent(self, name: Name) -> None:
        if self._volume.tree.child(name.parent, name.name) is not None:
            raise Overtaken("The name was given to something new meanwhile.")

    # The thread

    def repeat(self, told: Told) -> None:
        """Notes what is to be repeated, after the kernel was told to ask anew for it; returns at once."""
        if told.differences:
            with self._changed:
                self._waiting.merge(told, WAITING_MAX)
                self._changed.notify_all()

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """While the block runs, the thread does nothing and holds nothing of the mount, which can be unmounted."""
        with self._changed:
            self._is_quiet = True
            self._changed.wait_for(lambda: not self._is_working, _QUIET_SECONDS)
        try:
            yield
        finally:
            with self._changed:
                self._is_quiet = False
                self._changed.notify_all()

    def close(self) -> None:
        """Ends the thread."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self._thread.join(timeout=5.0)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._is_working = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._is_closed or (self._waiting.differences and not self._is_quiet))
                if self._is_closed:
                    return
                told, self._waiting = self._waiting, Told()
                self._is_working = True
            self._repeat(told)

    def _repeat(self, told: Told) -> None:
        steps = steps_of(told)
        removed = [step for step in steps if step.act is Act.REMOVE and step.node in told.places]
        self._ghosts = {
            node: one.before for node, one in told.differences.items() if one.after is None and one.before is not None
        }
        # The way to what was in a folder that was removed leads through it.
        self._held = {step.name: step.node for step in removed}
        try:
            for step in steps:
                if self._is_closed or self._is_quiet:
                    return
                self._step = step
                try:
                    self._do(step, told)
                except OSError as error:
                    # Not known, not allowed or not so any more: the kernel asks anew, and nobody hears of it.
                    log.debug("node %d: %s was not repeated: %s", step.node, step.act.value, error.strerror)
        finally:
            self._step = None
            self._held, self._ghosts = {}, {}
            self._let_go()

    def _do(self, step: Step, told: Told) -> None:
        if len(self._folders) >= _HELD_FOLDERS:
            self._let_go()
        folder, name, state = self._reach(step.name.parent, told), step.name.name, step.state
        if step.act is Act.TOUCH or (step.act is Act.CHANGE and state.mode & _EXECUTABLE):
            self._hand.do("touch", folder, name, state.atime_ns, state.mtime_ns)
        elif step.act is Act.CHANGE:
            size = (state.content or EMPTY).size
            self._hand.do("change", folder, name, step.node, size, state.atime_ns, state.mtime_ns)
        elif step.act is Act.MAKE:
            with self._holding({step.name: None}):
                self._make(folder, name, state)
            if state.kind is Kind.FILE:
                self._hand.do("close_written", folder, name)
        elif step.act is Act.REMOVE:
            with self._holding({step.name: step.node}):
                self._hand.do("rmdir" if state.kind is Kind.FOLDER else "unlink", folder, name, step.node)
        else:
            assert step.target is not None
            target = self._reach(step.target.parent, told)
            with self._holding({step.name: step.node, step.target: None}):
                self._hand.do("rename", folder, name, step.node, target, step.target.name)

    def _make(self, folder: int, name: bytes, state: NodeState) -> None:
        if state.kind is Kind.FOLDER:
            self._hand.do("make_folder", folder, name)
        elif state.kind is Kind.SYMLINK:
            self._hand.do("make_symlink", folder, name, state.target)
        else:
            self._hand.do("make_node", folder, name, file_mode(state.kind, 0o600), state.rdev)

    @contextmanager
    def _holding(self, names: dict[Name, NodeId | None]) -> Iterator[None]:
        """Names as this step is to find them."""
        self._held |= names
        try:
            yield
        finally:
            for name in names:
                self._held.pop(name, None)

    def _reach(self, folder: NodeId, told: Told) -> int:
        """The hand's descriptor of a folder, kept until `_let_go`."""
        known = self._folders.get(folder)
        if known is not None:
            return known
        path = told.path(folder)
        if path is None:
            raise OSError(errno.ENOENT, "the way to it is not known")
        fd = self._folders[folder] = self._hand.do("reach", self._mountpoint, path, folder)
        return fd

    def _let_go(self) -> None:
        for fd in self._folders.values():
            with suppress(OSError):  # nobody is there who could hold it
                self._hand.do("let_go", fd)
        self._folders.clear()
