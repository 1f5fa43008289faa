"""Long random plays, each made from its seed alone: from two to four devices, everything that people and the world do.

tests/model/run --seeds 10000
"""

import argparse
import contextlib
import functools
import io
import logging
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from types import FrameType

import pytest

from tests.model.play import Step, perform
from tests.model.sharing import sharing_play

EDITS = [
    *["create", "create", "mkdir", "symlink", "write", "write", "append", "cut", "save", "save", "rename", "rename"],
    *["exchange", "link", "unlink", "rmdir", "rmtree", "chmod", "utime", "xattr", "read"],
    *[
        "resolve",
        "patch",
        "patch",
        "copy",
        "special",
        "replace",
        "quarrel",
        "swap",
        "swap",
        "restore",
        "peek",
        "peek",
        "deliver",
    ],
]
BEGINNING = ["create", "create", "mkdir", "symlink", "link"]
WORLD = ["wait", "wait", "wait", "wait", "offline", "online", "online", "look", "pause", "evict", "pin"]
HOLDS = ["hold", "hold", "release"]
WEATHER = ["weather", "weather", "kill", "kill", "restart", "forget", "crash", "clock", "quota"]
SINCE = {
    600_000: ["truncate", "scribble", "scribble", "rules", "rewind", "undo", "put_back", "lose_cache", "reinstall"],
    700_000: ["full", "full", "walk"],
}
"""Steps that plays have from this seed on: those before stay what they were, for the suite keeps some that failed."""
SECONDS_MAX = 120
"""By the machine's clock: a play takes a quarter of a second, and one that never waits is not ended by its own."""
_SKEWS = (0, 30, -4_000, -1_794_999_990)


@contextlib.contextmanager
def in_small_parts() -> Iterator[None]:
    """What is done in parts when there is much of it is done in parts here, too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cache.pull._AT_ONCE", 2)
        patch.setattr("cache.pull._ASKED_AT_ONCE", 3)
        patch.setattr("cache.rehoming._AT_ONCE", 2)
        patch.setattr("cache.leaving._AT_ONCE", 2)
        patch.setattr("cache.pull._AHEAD_BELOW", 7)
        patch.setattr("cache.store.CHECKPOINT_PUTS", 60)
        yield


def long_play(seed: int) -> None:
    """The play of this seed; raises what was wrong, after its log."""
    rng = random.Random(seed)
    devices = rng.choice((2, 3, 3, 4))
    lazy = rng.choice((0, 0, 1, 2))
    verbs = [*EDITS, *WORLD, *HOLDS, *WEATHER, *(verb for first in SINCE if seed >= first for verb in SINCE[first])]

    def some(verbs: list[str], count: int) -> list[Step]:
        return [
            Step(rng.choice(verbs), rng.randrange(devices), rng.randrange(100), rng.randrange(100))
            for _ in range(count)
        ]

    # Mostly there is something on all devices already.
    beginning = [*some(BEGINNING, rng.choice((0, 6, 12))), Step("wait", 0, 4, 0)]
    steps = [*beginning, *some(verbs, rng.choice((20, 40, 80)))]
    perform(steps, devices=devices, seed=seed, skews=_SKEWS, lazy=lazy)


class _Errors(logging.Handler):
    """The first error that is logged, as the result of a play in which nothing else went wrong."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.first = ""

    def emit(self, record: logging.LogRecord) -> None:
        cause = record.exc_info[1] if record.exc_info else None
        self.first = self.first or f"logged: {record.getMessage()}: {cause!r}"


def _end(number: int, frame: FrameType | None) -> None:
    raise TimeoutError(f"the play did not end within {SECONDS_MAX} seconds")


def _try(seed: int, play: Callable[[int], None]) -> tuple[int, str]:
    """The seed, and what a failed play printed."""
    printed = io.StringIO()
    errors = _Errors()
    logging.getLogger().addHandler(errors)
    signal.signal(signal.SIGALRM, _end)
    signal.alarm(SECONDS_MAX)
    try:
        with contextlib.redirect_stdout(printed), in_small_parts():
            play(seed)
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is the play's result
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        return seed, f"{printed.getvalue()}{type(error).__name__}: {error}"
    finally:
        signal.alarm(0)
        logging.getLogger().removeHandler(errors)
    return seed, errors.first


def main() -> None:
    """Plays many seeds; exit code 1 when one failed."""
    parser = argparse.ArgumentParser(description="Random plays on several devices and a real server, on a test clock.")
    parser.add_argument("--seeds", type=int, default=1_000, help="how many plays")
    parser.add_argument("--first", type=int, default=1, help="the first seed")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--log", action="store_true", help="print the steps of the plays that fail")
    parser.add_argument("--sharing", action="store_true", help="two users who share folders")
    options = parser.parse_args()
    # Warnings tell of changes that the server has no room for, and the like: what comes of them is checked.
    logging.disable(logging.WARNING)
    begun = time.monotonic()
    failed = 0
    seeds = range(options.first, options.first + options.seeds)
    with contextlib.ExitStack() as stack:
        attempt = functools.partial(_try, play=sharing_play if options.sharing else long_play)
        found = map(attempt, seeds)
        if options.jobs > 1:
            found = stack.enter_context(ProcessPoolExecutor(options.jobs)).map(attempt, seeds, chunksize=10)
        for seed, trouble in found:
            if trouble:
                failed += 1
                print(trouble if options.log else trouble.splitlines()[-1][:300])
                sharing = " --sharing" if options.sharing else ""
                print(f"again: tests/model/run{sharing} --first {seed} --seeds 1 --log", flush=True)
    print(f"{options.seeds} plays from seed {options.first}: {failed} failed, {time.monotonic() - begun:.0f} s")
    sys.exit(1 if failed else 0)
