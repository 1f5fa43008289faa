"""Daemon: one mounted drive from start to end; `python -m fusefs.daemon DIR`, started by `satchel mount`.

Composes everything in one nursery. Whatever ends it - a signal, `satchel umount`, umount(8), a fault - it flushes what
open files hold into the stores and leaves no dead folder behind.
"""

import argparse
import gc
import json
import logging
import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

import trio

from cache.chunks import open_store
from cache.errors import CacheError, StoreInUse
from cache.records import STATE_TABLES
from cache.store import Store
from cache.tree import Tree
from fusefs import kernel, logs, mounts
from fusefs.clearing import clear
from fusefs.control import Exit, Refused
from fusefs.drive import Drive, Plan
from fusefs.mounts import Busy
from fusefs.options import parse_options
from fusefs.settings import IDENTITY, Account, Places, load_account, load_choices, remove_account
from fusefs.verbs import Verbs, listen
from remote.client.service import connect, logout
from remote.client.traffic import Traffic
from remote.protocol.errors import BadRequest, RemoteError

log = logging.getLogger(__name__)

_FILES: Final = 65_536
_LOCK_SECONDS: Final = 5.0
_READY_SECONDS: Final = 20.0
_FLUSH_SECONDS: Final = 10.0
_CLOSE_SECONDS: Final = 5.0
_ANSWER_SECONDS: Final = 3.0
_FIRST_SECONDS: Final = 2.0
_NEW_OBJECTS: Final = 10_000
"""After so many the garbage collector looks for circles among them; hardly a request makes any."""


def plan(point: str, options: str, source: str) -> Plan:
    """Reads what is needed to mount; raises Refused. `source`: what is to be shown as the device, "" for the usual."""
    places = Places.of_environment()
    places.make()
    account = load_account(places.account_file)
    if account is None:
        raise Refused("This device is not signed in. Sign in first: satchel login URL --user NAME", Exit.SIGN_IN)
    told = parse_options(options)
    choices = load_choices(places.choices_file, told.settings)
    return Plan(point, places, account, choices, told.kernel, source or account.source)


def open_state(places: Places, account: Account) -> Store:
    """The state store, made to belong to this account; raises Refused, StoreDamaged."""
    store = _open_when_free(places.tree_file)
    tree = Tree(store)
    owner = tree.setting(IDENTITY)
    if owner is None:
        tree.set_setting(IDENTITY, account.identity.encode())
    elif owner.decode() != account.identity:
        store.close()
        raise Refused(
            f"{places.state} holds the files of another account. Sign in again (satchel login), which puts them away "
            "when they are all on their server; or use another SATCHEL_HOME."
        )
    return store


def _open_when_free(file: Path) -> Store:
    """A daemon that was killed a moment ago holds the store until the kernel has taken it apart."""
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            return Store(file, STATE_TABLES, has_journal=True)
        except StoreInUse:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.02)


@contextmanager
def opened(planned: Plan) -> Iterator[tuple[Store, Store]]:
    """Both stores, closed at the end whatever happens."""
    state = open_state(planned.places, planned.account)
    try:
        cache = open_store(planned.places.cache)
        try:
            yield state, cache
        finally:
            cache.close()
    finally:
        state.close()


async def run(planned: Plan, state: Store, cache: Store, ready: Callable[[], None]) -> bool:
    """Mounts, answers until it is unmounted or told to end; whether the server says that all of it is to be removed."""
    account = planned.account
    traffic = Traffic()
    async with connect(account.url, account.token, allow_insecure=account.allow_insecure, traffic=traffic) as service:
        drive = Drive(planned, state, cache, service, service.acts, traffic, search=service.search)
        verbs = Verbs(drive, account, planned.point, kernel.stop)
        try:
            _mount(drive, planned)
        except Refused:
            drive.close()
            raise
        drive.guard(planned.point)
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(drive.run)
                nursery.start_soon(service.keep_ready)
                nursery.start_soon(_serve, nursery.cancel_scope)
                nursery.start_soon(_end_on_signal, verbs, planned.point, nursery.cancel_scope)
                nursery.start_soon(_end_with_the_mount, planned.point, nursery.cancel_scope)
                nursery.start_soon(_end_when_wiped, drive, planned.point, nursery.cancel_scope)
                with trio.fail_after(_READY_SECONDS):
                    # Only free space is always asked for anew: this is answered by the loop that just started.
                    await trio.to_thread.run_sync(os.statvfs, planned.point, abandon_on_cancel=True)
                if not drive.tree.has_range:
                    # A new device can make nothing before it has ids to give and knows what there is at the top: who
                    # mounts it may work in it at once.
                    with trio.move_on_after(_FIRST_SECONDS):
                        await drive.sync.caught_up()
                nursery.start_soon(verbs.serve, listen(planned.places.socket))
                log.info("mounted at %s as process %d", planned.point, os.getpid())
                ready()
        finally:
            kernel.unmount(is_mounted=mounts.is_ours_at(planned.point))
            drive.close()
            # Also when all this was cancelled; nothing is lost where it takes longer.
            with trio.CancelScope(shield=True), trio.move_on_after(_CLOSE_SECONDS):
                await drive.past.close()
            planned.places.socket.unlink(missing_ok=True)
            log.info("unmounted from %s", planned.point)
    return drive.sync.wiped.is_set()


def _mount(drive: Drive, planned: Plan) -> None:
    """Mounts; raises Refused with what libfuse and its helper have to say, which they tell standard error only."""
    usual = os.dup(2)
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            kernel.mount(drive.operations, planned.point, planned.source, planned.options)
        except RuntimeError as error:
            said.seek(0)
            reason = said.read().decode(errors="replace").strip() or str(error)
            raise Refused(
                f"{planned.point} cannot be mounted: {reason}. `satchel doctor` says what is missing."
            ) from error
        finally:
            os.dup2(usual, 2)
            os.close(usual)


async def _serve(scope: trio.CancelScope) -> None:
    """Answers the kernel until the folder is unmounted, which ends everything."""
    await kernel.serve()
    scope.cancel()


async def _end_with_the_mount(point: str, scope: trio.CancelScope) -> None:
    """Ends when the folder is unmounted, although a copy of it in another mount namespace still holds it."""
    with open("/proc/self/mountinfo", "rb") as listed:  # noqa: ASYNC230 - no disk is behind it
        while mounts.is_ours_at(point):
            # proc(5): a change of the list is an exceptional condition of the file, of which epoll tells who waits for
            # anything; that it can be read is always so, that it can be written never.
            await trio.lowlevel.wait_writable(listed)
    await _end(scope)


async def _end_when_wiped(drive: Drive, point: str, scope: trio.CancelScope) -> None:
    """Ends when the user signed this device out from another one, to be wiped: programs lose the folder at once."""
    await drive.sync.wiped.wait()
    log.info("this device is to be wiped: unmounting")
    try:
        await trio.to_thread.run_sync(lambda: _unmount(point))
    except OSError as error:
        log.warning("%s cannot be unmounted: %s", point, error)
    await _end(scope)


async def _end_on_signal(verbs: Verbs, point: str, scope: trio.CancelScope) -> None:
    """Unmounts on the first signal, lazily when programs use the folder; the end of the mount ends the rest."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async for number in signals:
            log.info("%s: unmounting", signal.Signals(number).name)
            try:
                with trio.move_on_after(_FLUSH_SECONDS):
                    await verbs.sending.flush()
            except CacheError as error:
                log.error("what programs had not closed was not kept: %s", error)
            try:
                await trio.to_thread.run_sync(lambda: _unmount(point))
            except OSError as error:
                log.warning("%s cannot be unmounted: %s", point, error)
            await _end(scope)


async def _end(scope: trio.CancelScope) -> None:
    """Ends everything, after a moment for requests that are being answered."""
    kernel.stop()
    await trio.sleep(_ANSWER_SECONDS)
    scope.cancel()


def _unmount(point: str) -> None:
    try:
        mounts.unmount(point)
    except Busy:
        mounts.unmount(point, is_lazy=True)


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(prog="fusefs.daemon", description="Answers for one mount; see satchel mount.")
    parser.add_argument("point", metavar="DIR")
    parser.add_argument("-o", dest="options", default="")
    parser.add_argument("--source", default="")
    parser.add_argument("--foreground", action="store_true")
    parser.add_argument("--ready-fd", type=int, default=-1)
    wanted = parser.parse_args()
    os.umask(0o077)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    most = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    # The kernel holds each program to its own; that of the shell that mounted is nobody else's.
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    # What was loaded stays: to look through it at each full collection makes every program wait for 20 ms.
    gc.freeze()
    gc.set_threshold(_NEW_OBJECTS)
    sys.exit(_run_logged(wanted))


def _run_logged(wanted: argparse.Namespace) -> int:
    try:
        planned = plan(wanted.point, wanted.options, wanted.source)
        logs.begin(None if wanted.foreground else planned.places.log_file)
        with opened(planned) as (state, cache):
            is_wiped = trio.run(run, planned, state, cache, lambda: _tell(wanted.ready_fd, {"ok": True}))
        if is_wiped:
            _wipe(planned)
    except BaseException as fault:  # noqa: BLE001 - the outermost loop: it tells, logs once and ends
        return _failed(_only(fault), wanted.ready_fd, is_foreground=wanted.foreground)
    return Exit.OK


def _wipe(planned: Plan) -> None:
    """Removes everything that this device holds of the drive, its sign-in last, and tells the server that it did."""
    account = planned.account
    clear(planned.places)
    try:
        trio.run(partial(logout, account.url, account.token, allow_insecure=account.allow_insecure))
    except RemoteError as error:
        log.info("the server could not be told that this device was wiped: %s", error)
    remove_account(planned.places.account_file)
    log.info("wiped: this device was signed out from another one, and holds nothing of the drive any more")


def _failed(error: BaseException, ready_fd: int, *, is_foreground: bool) -> int:
    """Logs once why it ended, and tells who waits; the exit code."""
    if isinstance(error, Refused | CacheError | BadRequest):
        code = error.code if isinstance(error, Refused) else Exit.FAILURE
        log.error("not mounted: %s", error)
        _tell(ready_fd, {"error": str(error), "code": code})
        if is_foreground:
            print(f"satchel: {error}", file=sys.stderr)  # noqa: T201 - nobody listens at a pipe
        return code
    log.critical("ended by a fault: %s", error, exc_info=error)
    _tell(ready_fd, {"error": f"The daemon failed: {error!r}. Its log says more.", "code": Exit.FAILURE})
    return Exit.FAILURE


def _only(error: BaseException) -> BaseException:
    """What is in groups of one, as nurseries wrap what ends them."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _tell(ready_fd: int, said: dict[str, object]) -> None:
    """Says how the start went, once, to who waits for it."""
    if ready_fd < 0:
        return
    try:
        os.write(ready_fd, json.dumps(said).encode() + b"\n")
        os.close(ready_fd)
    except OSError:
        return


if __name__ == "__main__":
    main()
