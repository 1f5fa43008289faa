"""Sending: waits, for a command, until the server has what is here; or says what is in the way of that."""

import contextlib
import os
import shlex
from functools import partial
from typing import Final

import trio

from fusefs.conflicts import is_below
from fusefs.control import Exit, Refused
from fusefs.drive import Drive
from fusefs.hands import Hand
from remote.protocol.errors import Unreachable
from remote.protocol.ids import ROOT, NodeId

_SENT_SECONDS: Final = 60.0
"""How long what is here may take to be sent, before anything is made of it by the server."""
_AWAY_SECONDS: Final = 3.0
"""How long a server that is away may take to come back, and how long a line may stand still, while somebody waits."""
_SYNC_SECONDS: Final = 30.0
_FILES_SYNCED: Final = 1_000
_NOT_SENT: Final = "Not all that was changed here is on the server yet, where this is done."


class Sending:
    """For one mounted drive."""

    def __init__(self, drive: Drive, point: str) -> None:
        self._drive = drive
        self._point = point

    def shown(self, path: str) -> str:
        """A path of the mount as a person types it, wherever he is."""
        return shlex.quote(os.path.join(self._point, path))

    async def flush(self) -> None:
        """Takes in what the kernel and open files hold back; what does not come in time is left."""
        tree = self._drive.tree
        paths = [os.fsencode(self._point) + b"/" + tree.path_of(node) for node in self._drive.files.written()]
        with trio.move_on_after(_SYNC_SECONDS):
            # Through the kernel, as programs do it: sync(2) and syncfs(2) do not wait for a mount like ours.
            sync = partial(_fsync_all, self._drive.syncing_hand, paths[:_FILES_SYNCED])
            await trio.to_thread.run_sync(sync, abandon_on_cancel=True)
        self._drive.volume.flush_all()

    async def all_of(self, node: NodeId, seconds: float = _SENT_SECONDS, otherwise: str = _NOT_SENT) -> None:
        """Returns when the server has a node as it is here, and all below it.

        Raises NotSignedIn, Unreachable within seconds when the server is away, and Refused (`otherwise`, and what is
        in the way) when nothing is sent now, or not all in time.
        """
        await self.flush()
        # Whoever waits has reason to think that the server is there.
        self._drive.sync.retry_now()
        ends_at = trio.current_time() + seconds
        while not await self._within_a_moment(node):
            self._check_there()
            standing, why = self._drive.sync.standing(), self.in_the_way(node)
            is_stuck = bool(why) and standing.pending_nodes <= standing.blocked
            if standing.held or is_stuck or trio.current_time() >= ends_at:
                why = why or "satchel status says how far it is; try again when all is sent."
                raise Refused(f"{otherwise} {why}", Exit.PENDING)

    async def what_goes(self) -> None:
        """Returns when the server has all, or as much as gets there now: of that, something can be made all the same.

        Raises NotSignedIn, and Unreachable within seconds when the server is away.
        """
        await self.flush()
        self._drive.sync.retry_now()
        left = self._drive.sync.standing().pending_nodes
        while not await self._within_a_moment(ROOT):
            self._check_there()
            before, left = left, self._drive.sync.standing().pending_nodes
            if left >= before:
                return

    async def _within_a_moment(self, node: NodeId) -> bool:
        with trio.move_on_after(_AWAY_SECONDS):
            await self._drive.sync.sent(node)
            return True
        return False

    def _check_there(self) -> None:
        standing = self._drive.sync.standing()
        if not standing.is_online:
            raise Unreachable(standing.trouble)
        if silent := self._drive.flow.silent_seconds():
            raise Unreachable(_silence(silent))

    def in_the_way(self, top: NodeId) -> str:
        """Why the server does not have a node and all below it; empty when it has, or when that is on its way."""
        drive = self._drive
        standing = drive.sync.standing()
        if standing.held:
            return standing.held
        if not standing.is_online:
            return f"The server is away: {standing.trouble}"
        if silent := drive.flow.silent_seconds():
            return _silence(silent)
        prefix = drive.tree.path_of(top)
        stuck = (one for one in standing.stuck if is_below(one.path, prefix))
        return next((f"{os.fsdecode(one.path)}: {one.sentence}" for one in stuck), "")


def _silence(seconds: float) -> str:
    return f"The server has not answered for {seconds:.0f} s."


def _fsync_all(hand: Hand, paths: list[bytes]) -> None:
    """Makes the kernel hand over what it holds back of these files; runs in a thread, for it may take long."""
    for path in paths:
        with contextlib.suppress(OSError):  # gone meanwhile, or not ours to read
            hand.do("fsync", path)
