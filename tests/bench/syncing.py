"""Syncing: how two devices keep in step: at rest, change by change, after a time apart, and far behind; what is sent.

    .venv/bin/python -m tests.bench.syncing                        # all, about ten minutes
    .venv/bin/python -m tests.bench.syncing --only idle --seconds 10

Real servers, daemons and mounts on this machine, the server behind the relay that tests/bench/run uses.
docs/performance.md keeps the last results.
"""

import argparse
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.bench.apart import apart
from tests.bench.behind import behind
from tests.bench.contestant import discard, new_home
from tests.bench.elsewhere import elsewhere
from tests.bench.idle import idle
from tests.bench.points import events, sent, start
from tests.bench.report import number
from tests.bench.rounds import say
from tests.bench.work import Figure

LATENCY_MS = 20.0


@dataclass(frozen=True)
class Part:
    """One kind of measurement."""

    name: str
    does: Callable[[Path, argparse.Namespace], Iterator[Figure]]


PARTS = (
    Part("idle", lambda home, given: idle(home, given.seconds)),
    Part("elsewhere.near", lambda home, given: elsewhere(home, given.changes, 0.0)),
    Part("elsewhere.distant", lambda home, given: elsewhere(home, given.changes, LATENCY_MS)),
    Part("apart", lambda home, given: apart(home, given.edits)),
    Part("behind", lambda home, given: behind(home, given.missed)),
    Part("sent", lambda home, given: sent(home, given.mib)),
    Part("start", lambda home, given: start(home, given.known)),
    Part("events", lambda home, given: events(home, given.rounds)),
)


def main() -> None:
    """Measures and prints tables."""
    given = _parser().parse_args()
    # So that mounts and servers are taken away then, too.
    for one in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(one, lambda *_: sys.exit("ended by a signal"))
    words = given.only.split(",")
    chosen = [part for part in PARTS if any(word in part.name for word in words)]
    if not chosen:
        sys.exit(f"no part has {given.only!r} in its name: there are {', '.join(part.name for part in PARTS)}")
    work = Path(tempfile.mkdtemp(prefix="satchel-syncing-", dir=given.work))
    try:
        for part in chosen:
            _run(part, work, given)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _run(part: Part, work: Path, given: argparse.Namespace) -> None:
    load = os.getloadavg()[0]
    say(f"{part.name} …")
    home = new_home(work, part.name)
    figures = list(part.does(home, given))
    discard(home)
    print(f"\n{part.name}: commit {_commit()}, kernel {platform.release()}, load at start, end {load:.1f}, ", end="")
    print(f"{os.getloadavg()[0]:.1f}\n\n| what | unit | |\n| --- | --- | ---: |")
    for figure in figures:
        print(f"| {figure.name} | {figure.unit} | {number(figure.value)} |")
    sys.stdout.flush()


def _commit() -> str:
    root = Path(__file__).resolve().parents[2]
    told = subprocess.run(
        ["git", "-C", root, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return told.stdout.strip() or "unknown"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tests.bench.syncing", description=__doc__.split("\n")[0])
    parser.add_argument("--only", default="", metavar="WORD,…", help="only parts whose names contain one of these")
    parser.add_argument("--seconds", type=float, default=60.0, metavar="S", help="how long to look at what is idle")
    parser.add_argument("--changes", type=int, default=320, metavar="N", help="changes that are to be seen elsewhere")
    parser.add_argument("--edits", type=int, default=10_000, metavar="N", help="edits on each of two sides apart")
    parser.add_argument("--missed", type=int, default=100_000, metavar="N", help="changes that a device is behind")
    parser.add_argument(
        "--mib", type=int, default=1024, metavar="N", help="the size of the largest file that is edited"
    )
    parser.add_argument("--known", type=int, default=100_000, metavar="N", help="files that a device starts with")
    parser.add_argument("--rounds", type=int, default=20, metavar="N", help="events of each kind")
    parser.add_argument("--work", type=Path, default=Path("/var/tmp"), metavar="DIR", help="a folder on a real disk")
    return parser


if __name__ == "__main__":
    main()
