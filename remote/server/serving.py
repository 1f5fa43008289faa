"""Serving: uvicorn on one socket, from the first line until a signal, with open polls ended at once."""

import asyncio
import ctypes
import logging
import signal
import socket
import time
from collections.abc import Callable, Coroutine, Generator, Sequence
from contextlib import ExitStack, contextmanager, suppress

import uvicorn
from litestar.types import ASGIApp, Receive, Scope, Send

from remote.protocol.errors import RemoteError
from remote.server.http.app import make_app
from remote.server.http.connections import BoundedConnection
from remote.server.http.metrics import Metrics
from remote.server.http.requests import watched
from remote.server.hub import Hub
from remote.server.instance import Instance
from remote.server.jobs.following import Job
from remote.server.jobs.running import Jobs
from remote.server.listening import Listen, ListenTrouble, bound_to
from remote.server.upkeep.regular import Upkeep

log = logging.getLogger(__name__)

BACKLOG = 2_048
KEEP_ALIVE_SECONDS = 75
"""Longer than clients keep an idle connection, so that it is they who close it."""
STOP_SECONDS = 1.0
"""So long a server that stops goes on with answers that are under way."""
CUT_SECONDS = 0.5
"""So long requests may take to end whose connection was cut then; what did not is cancelled."""
FIRST_THINNING_SECONDS = 300.0
"""After which a server that was just started thins history: it has other things to do first."""
THINNING_SECONDS = 6 * 3_600.0
ELSEWHERE_SECONDS = 5.0
"""So often it is looked, while devices wait, whether a command (`user disable`, `group member`) changed something."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
"""What mallopt(3) sets."""
_KEPT_BYTES = 32 << 20
_HEAPS = 2
GIVE_BACK_SECONDS = 60.0
"""So often memory that is free, but below some that is used, goes back to the system."""


def keep_memory() -> None:
    """Has the C library keep the memory of bodies for the next ones: new pages for each cost a fifth of all time."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # other libraries than glibc have none
        mallopt(_M_ARENA_MAX, _HEAPS)
        mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


def give_back() -> None:
    """Gives free memory to the system, also what lies below some that is used: of its own the C library keeps that."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:  # other libraries than glibc have none
        trim(ctypes.c_size_t(_KEPT_BYTES))


def serve(
    instance: Instance,
    listen: Listen,
    ready: Callable[[str], object],
    metrics_at: tuple[str, int] | None = None,
    *,
    has_webdav: bool = False,
    is_logged: bool = False,
    jobs: Sequence[Job] = (),
    has_upkeep: bool = False,
) -> None:
    """Answers until SIGTERM or SIGINT; `ready` gets the URL when connections are answered.

    `has_webdav`: also by WebDAV, with names and passwords. `is_logged`: a line of the log for each request.
    `jobs`: what follows the journals meanwhile. `has_upkeep`: gc and scrub are done regularly.
    `metrics_at`: host and port at which Prometheus may ask; None: requests are not counted at all.
    """
    listen.check()
    app: ASGIApp = _with_webdav(instance, make_app(instance)) if has_webdav else make_app(instance)
    with bound_to(listen) as bound, ExitStack() as stack:
        if metrics_at is not None:
            app = stack.enter_context(_measured(instance, app, metrics_at))
        app = _ending_quietly(watched(app, instance.config.networks, is_logged=is_logged))
        url = listen.url(bound.getsockname()[1])
        config = uvicorn.Config(
            app,
            loop="uvloop",
            http=BoundedConnection,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            ssl_certfile=listen.tls_cert,
            ssl_keyfile=listen.tls_key,
        )
        server = _Server(config, instance.hub, lambda: ready(url))
        with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
            beside = [
                _thin_regularly(instance),
                _hear_of_commands(instance),
                _give_back_regularly(),
                Jobs(jobs, instance.database, instance.keyring, instance.contents, instance.hub).run(),
            ]
            if has_upkeep:
                beside.append(Upkeep(instance.data, instance.database, instance.objects, instance.keyring).run())
            runner.run(_until_signal(server, bound, beside))


def _with_webdav(instance: Instance, app: ASGIApp) -> ASGIApp:
    # Loaded for those who want it: it takes 10 MiB.
    from remote.server.http.dav import PATH, webdav  # noqa: PLC0415

    other: ASGIApp | None = None

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal other
        path = str(scope["path"])
        if path != PATH and not path.startswith(f"{PATH}/"):
            await app(scope, receive, send)
            return
        if other is None:
            other = webdav(instance)
        await other(scope, receive, send)

    return answer


def _ending_quietly(app: ASGIApp) -> ASGIApp:
    """The application, of which a request that is cancelled is no fault: only a server that stops does that."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        with suppress(asyncio.CancelledError):
            await app(scope, receive, send)

    return answer


@contextmanager
def _measured(instance: Instance, app: ASGIApp, at: tuple[str, int]) -> Generator[ASGIApp, None, None]:
    """The application with its requests counted, and the counts served at this address."""
    metrics = Metrics(instance)
    host, port = at
    try:
        end = metrics.serve(host, port)
    except OSError as error:
        raise ListenTrouble(
            f"{host}:{port} cannot be listened on for metrics ({error.strerror}): give another --metrics HOST:PORT."
        ) from error
    try:
        yield metrics.counted(app)
    finally:
        end()


class _Server(uvicorn.Server):
    """uvicorn, with polls that end when it stops and signals that belong to us."""

    def __init__(self, config: uvicorn.Config, hub: Hub, ready: Callable[[], object]) -> None:
        super().__init__(config)
        self._hub = hub
        self._ready = ready
        self._ending = asyncio.Event()

    def end(self) -> None:
        """Makes `serve` return when what is being answered is answered."""
        self.should_exit = True
        self._ending.set()

    async def main_loop(self) -> None:
        # uvicorn looks ten times a second whether to end, and what its Date is: see BoundedConnection for that.
        await self._ending.wait()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._hub.close()
        # uvicorn, given a time for it, would log an error for each request that it ends.
        loop = asyncio.get_running_loop()
        timers = [loop.call_later(STOP_SECONDS, self._cut), loop.call_later(STOP_SECONDS + CUT_SECONDS, self._cancel)]
        try:
            await super().shutdown(sockets)
        finally:
            for timer in timers:
                timer.cancel()

    def _cut(self) -> None:
        """To what is under way it is as if its client had left, and the client asks the next server again."""
        for connection in list(self.server_state.connections):
            connection.transport.abort()

    def _cancel(self) -> None:
        for task in list(self.server_state.tasks):
            task.cancel()

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        # uvicorn raises a signal once more when it is done, which would end the process before the database is closed.
        yield


async def _until_signal(
    server: _Server, bound: socket.socket, beside: Sequence[Coroutine[object, object, None]]
) -> None:
    """Serves, and runs what is to be done beside it, until a signal."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, server.end)
    tasks = [asyncio.create_task(each) for each in beside]
    try:
        await server.serve([bound])
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def _hear_of_commands(instance: Instance) -> None:
    """Wakes all who wait when a command that works beside the server changed something: they look what."""
    while True:
        await asyncio.sleep(ELSEWHERE_SECONDS)
        with suppress(RemoteError):  # a command that writes for long: it is looked again
            if instance.hub.waiting and await instance.database.was_written_elsewhere():
                instance.hub.wake()


async def _give_back_regularly() -> None:
    """Gives back what many bodies at a time took, for as long as the server runs."""
    while True:
        await asyncio.sleep(GIVE_BACK_SECONDS)
        await asyncio.to_thread(give_back)


async def _thin_regularly(instance: Instance) -> None:
    """Lets go of what the retention of each space does not keep, for as long as the server runs."""
    pause = FIRST_THINNING_SECONDS
    while True:
        await asyncio.sleep(pause)
        pause = THINNING_SECONDS
        try:
            await instance.acts.thin_by_clock(time.time_ns())
            await instance.previews.sweep()
            await instance.audit.end_old(time.time_ns())
        except RemoteError:
            log.exception("history could not be thinned; it is tried again later")
