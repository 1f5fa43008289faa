"""Running: the jobs of a server, woken by the hub, each in a thread of its own; idle, they cost nothing."""

import asyncio
import logging
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from remote.protocol.errors import RemoteError
from remote.protocol.ids import SpaceId
from remote.server.content import Contents
from remote.server.database.connection import Database
from remote.server.database.retention import every_space
from remote.server.hub import Hub
from remote.server.jobs.following import Follower, Job, NotNow, Stopped
from remote.server.jobs.load import Load
from remote.server.keyring import Keyring

log = logging.getLogger(__name__)

GATHER_SECONDS: Final = 0.3
"""After a commit, in which others may follow: a job looks once for all of them."""
RETRY_SECONDS: Final = (1.0, 60.0)
"""After a step that failed: the first pause, which doubles, and the longest."""
REST_SECONDS_MAX: Final = 1.0
"""After a step a job rests as long as that took, up to so long: requests come first."""


class Jobs:
    """All jobs of an instance, for as long as `run` runs."""

    def __init__(self, jobs: Sequence[Job], database: Database, keyring: Keyring, contents: Contents, hub: Hub) -> None:
        self._stopping = threading.Event()
        self._followers = [Follower(job, database, keyring, contents, self._stopping) for job in jobs]
        self._database = database
        self._hub = hub
        self._load = Load()

    async def run(self) -> None:
        """Follows all spaces until it is cancelled; returns when no thread of a job runs any more."""
        if not self._followers:
            return
        async with asyncio.TaskGroup() as group:
            for follower in self._followers:
                group.create_task(self._follow(follower))
                group.create_task(follower.job.beside())

    async def _follow(self, follower: Follower) -> None:
        loop = asyncio.get_running_loop()
        listener = self._hub.listen()
        # After `listen`: what is committed from here on is heard of.
        todo = dict.fromkeys(await self._every_space())
        executor = ThreadPoolExecutor(1, thread_name_prefix=f"job-{follower.job.name}")
        pause = RETRY_SECONDS[0]
        try:
            while True:
                if not todo:
                    await listener.event.wait()
                    await self._rest(follower.job, GATHER_SECONDS)
                listener.event.clear()
                todo |= dict.fromkeys(listener.spaces)
                listener.spaces.clear()
                space = next(iter(todo))
                del todo[space]
                began = loop.time()
                try:
                    has_more = await loop.run_in_executor(executor, follower.step, space)
                except Stopped:
                    return
                except (NotNow, RemoteError, OSError) as error:
                    log.warning("job %s waits %.0f s: %s", follower.job.name, pause, error)
                    todo[space] = None
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, RETRY_SECONDS[1])
                    continue
                except Exception:
                    log.exception(
                        "job %s failed in space %d; that is put by until something changes there",
                        follower.job.name,
                        space,
                    )
                    continue
                pause = RETRY_SECONDS[0]
                if has_more:
                    # Behind the others, so that a large space does not keep small ones waiting.
                    todo[space] = None
                await self._rest(follower.job, min(loop.time() - began, REST_SECONDS_MAX))
        finally:
            self._stopping.set()
            follower.job.close()
            # A thread that works on a file has been told to end; this waits for it, and blocks for a moment at most.
            executor.shutdown(cancel_futures=True)

    async def _rest(self, job: Job, seconds: float) -> None:
        await asyncio.sleep(seconds)
        if not job.is_urgent:
            await self._load.give_way(seconds)

    async def _every_space(self) -> list[SpaceId]:
        while True:
            try:
                return await self._database.read(every_space)
            except RemoteError as error:
                log.warning("jobs wait %.0f s: %s", RETRY_SECONDS[1], error)
                await asyncio.sleep(RETRY_SECONDS[1])


def catch_up(follower: Follower, spaces: Sequence[SpaceId]) -> None:
    """Does all that there is to do in these spaces, without rest; for commands. Raises as `Follower.step` does."""
    for space in spaces:
        while follower.step(space):
            pass
