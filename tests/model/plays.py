"""Long random plays, each made from its seed alone: from two to four devices, everything that people and the world do.

tests/model/run --seeds 10000
"""

import argparse
import contextlib
import io
import random
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

import pytest

from tests.model.play import Step, perform

EDITS = [
    *["create", "create", "mkdir", "symlink", "write", "write", "append", "cut", "save", "save", "rename", "rename"],
    *["exchange", "link", "unlink", "rmdir", "rmtree", "chmod", "utime", "xattr", "read"],
    "resolve",
]
WORLD = ["wait", "wait", "wait", "offline", "online", "online", "look"]
HOLDS = ["hold", "hold", "release"]
WEATHER = ["weather", "weather", "kill", "kill", "restart", "forget", "crash"]
_SKEWS = (0, 30, -4_000, 2)


@contextlib.contextmanager
def in_small_parts() -> Iterator[None]:
    """What is done in parts when there is much of it is done in parts here, too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cache.pull._AT_ONCE", 2)
        patch.setattr("cache.pull._ASKED_AT_ONCE", 3)
        patch.setattr("cache.store.CHECKPOINT_PUTS", 60)
        yield


def long_play(seed: int) -> None:
    """The play of this seed; raises what was wrong, after its log."""
    rng = random.Random(seed)
    devices = rng.choice((2, 3, 3, 4))
    lazy = rng.choice((0, 0, 1, 2))
    verbs = EDITS + WORLD + HOLDS + WEATHER
    steps = [
        Step(rng.choice(verbs), rng.randrange(devices), rng.randrange(100), rng.randrange(100))
        for _ in range(rng.choice((20, 40, 80)))
    ]
    perform(steps, devices=devices, seed=seed, skews=_SKEWS, lazy=lazy)


def _try(seed: int) -> tuple[int, str]:
    """The seed, and what a failed play printed."""
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed), in_small_parts():
            long_play(seed)
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is the play's result
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        return seed, f"{printed.getvalue()}{type(error).__name__}: {error}"
    return seed, ""


def main() -> None:
    """Plays many seeds; exit code 1 when one failed."""
    parser = argparse.ArgumentParser(description="Random plays on several devices and a real server, on a test clock.")
    parser.add_argument("--seeds", type=int, default=1_000, help="how many plays")
    parser.add_argument("--first", type=int, default=1, help="the first seed")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--log", action="store_true", help="print the steps of the plays that fail")
    options = parser.parse_args()
    begun = time.monotonic()
    failed = 0
    seeds = range(options.first, options.first + options.seeds)
    with contextlib.ExitStack() as stack:
        found = map(_try, seeds)
        if options.jobs > 1:
            found = stack.enter_context(ProcessPoolExecutor(options.jobs)).map(_try, seeds, chunksize=10)
        for seed, trouble in found:
            if trouble:
                failed += 1
                print(trouble if options.log else trouble.splitlines()[-1][:300])
                print(f"again: tests/model/run --first {seed} --seeds 1 --log", flush=True)
    print(f"{options.seeds} plays from seed {options.first}: {failed} failed, {time.monotonic() - begun:.0f} s")
    sys.exit(1 if failed else 0)
