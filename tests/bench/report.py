"""Report: what was asked for on the command line, and the tables that are printed."""

import argparse
import json
import os
import platform
import shutil
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path

from tests.bench.contestant import Contestant, Local
from tests.bench.goals import GOALS
from tests.bench.growing import grow
from tests.bench.peers import NOT_HAD, PEERS
from tests.bench.rounds import GROUPS, OVER_ALL, Results, chosen, run_rounds
from tests.bench.satchel import Satchel
from tests.bench.saved import load, used_as_json
from tests.bench.work import MB, Scale

DISK_PER_BYTE = 8
ABOUT = """
Measures this checkout on this machine, beside the local disk (the control) and, with --against, beside other file
systems. It starts servers and mounts of its own on the loopback interface, everything remote through a proxy that
counts bytes, and takes all of it away at the end."""
EXAMPLES = """
  tests/bench/run --only small.create               # a few seconds: the local disk and this checkout
  tests/bench/run --only large.read,small --rounds 3
  tests/bench/run --only large --large 256M --alone  # without the local disk
  tests/bench/run --latency 20                      # 20 ms each way
  tests/bench/run --growth --sizes 1000,10000
  tests/bench/run --rounds 3 --against juicefs,juicefs-redis,rclone,weed,s3fs

A step that needs another (large.read: large.write) does that first. Ratios above 1 mean that satchel is the better one.
The steps:
"""


def main() -> None:
    """Measures and prints; the exit code is 1 when something of this checkout failed."""
    given = _parser().parse_args()
    # So that mounts and servers are taken away then, too.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit("ended by a signal"))
    given.work.mkdir(parents=True, exist_ok=True)
    if given.growth:
        sys.exit(grow(given))
    groups = chosen(given.only.split(","))
    if not groups:
        sys.exit(f"no step has {given.only!r} in its name: --help lists them")
    kinds: list[type[Contestant]] = [Satchel] if given.alone else [Local, Satchel]
    wanted = [name for name in given.against.split(",") if name]
    for name in wanted:
        if name not in {**PEERS, **NOT_HAD}:
            sys.exit(f"{name} is none of {', '.join(PEERS)}")
    kinds += [PEERS[name] for name in wanted if name in PEERS]
    scale = Scale(_size(given.large), given.files, given.seconds)
    if shutil.disk_usage(given.work).free < scale.large * DISK_PER_BYTE:
        sys.exit(f"{given.work} has not the {scale.large * DISK_PER_BYTE / 1e9:.0f} GB free that this needs: --work")
    began, load_before = time.monotonic(), os.getloadavg()[0]
    work = Path(tempfile.mkdtemp(prefix="satchel-bench-", dir=given.work))
    try:
        results = load(given.add_to) if given.add_to else Results()
        run_rounds(results, kinds, groups, scale, work, given.rounds, given.latency / 1e3)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    results.missing.update({name: NOT_HAD[name] for name in wanted if name in NOT_HAD})
    machine = {
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load at start, end": f"{load_before:.1f}, {os.getloadavg()[0]:.1f}",
        "rounds": max(len(each) for by_name in results.values.values() for each in by_name.values()),
        "ms each way": given.latency,
        "seconds": round(time.monotonic() - began),
    }
    told = json.dumps(as_json(machine, results), indent=2)
    if given.add_to:
        given.add_to.write_text(told + "\n")
    if given.json:
        print(told)
    else:
        print(", ".join(f"{key} {value}" for key, value in machine.items()) + "\n")
        # What was used over all of it has a goal only where all was done.
        goals = {
            what: goal for what, goal in GOALS.get(given.latency, {}).items() if not given.only or what not in OVER_ALL
        }
        print(table(results, [kind.name for kind in kinds], goals))
        print("\n" + costs(results))
        for line in [*(f"{name} is left out: {why}" for name, why in results.missing.items()), *results.failed]:
            print(line)
    sys.exit(any(line.startswith((Satchel.name, Local.name)) for line in results.failed))


def _parser() -> argparse.ArgumentParser:
    steps = "\n".join("  " + "  ".join(step.name for step in group) for group in GROUPS)
    parser = argparse.ArgumentParser(
        prog="tests/bench/run",
        description=ABOUT,
        epilog="examples:" + EXAMPLES + steps,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", default="", metavar="WORD,…", help="only steps whose names contain one of these")
    parser.add_argument("--rounds", type=int, default=1, help="how often everything is done; medians are printed")
    parser.add_argument("--latency", type=float, default=0.0, metavar="MS", help="how far the servers are, each way")
    parser.add_argument("--large", default="1G", metavar="SIZE", help="size of the large file")
    parser.add_argument("--files", type=int, default=5_000, metavar="N", help="how many small files")
    parser.add_argument("--seconds", type=float, default=5.0, metavar="S", help="how long to read at random")
    parser.add_argument("--against", default="", metavar="PEER,…", help=f"others to measure: {', '.join(PEERS)}")
    parser.add_argument("--alone", action="store_true", help="without the local disk")
    parser.add_argument("--growth", action="store_true", help="instead: what things cost in larger and larger drives")
    parser.add_argument("--sizes", default="", metavar="N,…", help="with --growth: how many files")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="with --growth: draws the cost of each operation")
    parser.add_argument("--json", action="store_true", help="print JSON and nothing else on stdout")
    parser.add_argument(
        "--add-to", type=Path, metavar="FILE", help="keep the JSON there, with earlier rounds of the same"
    )
    parser.add_argument("--work", type=Path, default=Path("/var/tmp"), metavar="DIR", help="a folder on a real disk")
    return parser


def _size(text: str) -> int:
    units = {"K": 10, "M": 20, "G": 30}
    return int(text[:-1]) << units[text[-1]] if text[-1] in units else int(text)


def better(unit: str, ours: float, other: float) -> float | None:
    """How many times better ours is: above 1 it is; None when that cannot be said."""
    up, down = (ours, other) if "/s" in unit or unit == "IOPS" else (other, ours)
    return up / down if down else None


def medians(values: dict[str, list[float]]) -> dict[str, float]:
    """By contestant."""
    return {name: statistics.median(each) for name, each in values.items()}


def ratios(unit: str, found: dict[str, float]) -> tuple[float | None, str, float | None]:
    """Ours to the local disk; the best peer; ours to it."""
    ours = found.get(Satchel.name)
    if ours is None:
        return None, "", None
    local = better(unit, ours, found[Local.name]) if Local.name in found else None
    peers = {name: value for name, value in found.items() if name not in (Satchel.name, Local.name)}
    if not peers:
        return local, "", None
    best = (max if "/s" in unit or unit == "IOPS" else min)(peers, key=lambda name: peers[name])
    return local, best, better(unit, ours, peers[best])


def table(results: Results, names: list[str], goals: dict[str, float]) -> str:
    """The figures as a table in Markdown; ratios above 1 say that ours is the better one."""
    peers = any(name not in (Local.name, Satchel.name) for name in names)
    head = ["what", "unit", *names, "to local", *(["to the best peer"] if peers else []), "goal", "to goal"]
    lines = [f"| {' | '.join(head)} |", f"| --- | --- |{' ---: |' * (len(head) - 2)}"]
    for what in results.order:
        found = medians(results.values[what])
        local, best, to_best = ratios(results.units[what], found)
        cells = [number(found.get(name)) for name in names]
        cells.append(number(local, 3))
        if peers:
            cells.append(f"{number(to_best, 3)} {best}".strip())
        goal, ours = goals.get(what), found.get(Satchel.name)
        reached = better(results.units[what], ours, goal) if goal is not None and ours is not None else None
        cells += [number(goal), number(reached, 3)]
        lines.append(f"| {what} | {results.units[what]} | {' | '.join(cells)} |")
    return "\n".join(lines)


def costs(results: Results) -> str:
    """What each step used, as a table in Markdown: figures that a busy machine does not change much."""
    lines = ["| step | contestant | daemon CPU s | store CPU s | requests | sent MB | received MB |"]
    lines.append("| --- | --- |" + " ---: |" * 5)
    for step, by_name in results.used.items():
        for name, each in by_name.items():
            if name != Local.name:
                numbers = [
                    statistics.median(one.daemon_cpu_seconds for one in each),
                    statistics.median(one.store_cpu_seconds for one in each),
                    statistics.median(one.requests for one in each),
                    statistics.median(one.wire.sent_bytes for one in each) / MB,
                    statistics.median(one.wire.received_bytes for one in each) / MB,
                ]
                lines.append(f"| {step} | {name} | {' | '.join(number(value) for value in numbers)} |")
    return "\n".join(lines)


def number(value: float | None, digits: int = 4) -> str:
    """As tables say it, in so many digits at least; empty for None."""
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 10 ** (digits - 1) or value == int(value) else f"{value:.{digits}g}"


def as_json(machine: dict[str, object], results: Results) -> dict[str, object]:
    """All of it for programs: medians, every round's value, ratios, costs."""
    figures = []
    for what in results.order:
        values = results.values[what]
        local, best, to_best = ratios(results.units[what], medians(values))
        figures.append(
            {
                "name": what,
                "unit": results.units[what],
                "median": medians(values),
                "rounds": values,
                "to_local": local,
                "best_peer": best,
                "to_best_peer": to_best,
            }
        )
    return {
        "machine": machine,
        "figures": figures,
        "used": used_as_json(results),
        "missing": results.missing,
        "failed": results.failed,
    }
