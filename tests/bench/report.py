"""Report: runs the work in rounds and prints the medians."""

import argparse
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

from tests.bench.stage import staged
from tests.bench.work import ALL, Figure, Sizes

DISK_PER_BYTE = 6


def main(root: Path) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(prog="tests/bench/run", description="Measures this checkout on this machine.")
    parser.add_argument("--json", action="store_true", help="print JSON and nothing else on stdout")
    parser.add_argument("--rounds", type=int, default=1, help="how often everything is done; medians are printed")
    parser.add_argument("--large", type=int, default=2 << 30, metavar="BYTES", help="size of the large file")
    parser.add_argument("--only", default="", metavar="WORD", help="only work whose name contains this")
    parser.add_argument("--work", type=Path, default=Path("/var/tmp"), metavar="DIR", help="a folder on a real disk")
    chosen = parser.parse_args()
    chosen.work.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(chosen.work).free < chosen.large * DISK_PER_BYTE:
        sys.exit(f"{chosen.work} has not the {chosen.large * DISK_PER_BYTE / 1e9:.0f} GB free that this needs: --work")
    began = time.monotonic()
    rounds: list[list[Figure]] = [[] for _ in range(chosen.rounds)]
    for figures in rounds:
        work = Path(tempfile.mkdtemp(prefix="satchel-bench-", dir=chosen.work))
        try:
            for piece in ALL:
                if chosen.only in piece.__name__:
                    # A server of its own: what other work left there would be listed by new devices.
                    with staged(work / piece.__name__) as stage:
                        for figure in piece(stage, Sizes(chosen.large)):
                            figures.append(figure)
                            print(f"  {figure.name}: {figure.ours:.4g} {figure.unit}", file=sys.stderr, flush=True)
                    shutil.rmtree(work / piece.__name__)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    machine = {
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load": os.getloadavg()[0],
        "rounds": chosen.rounds,
        "seconds": round(time.monotonic() - began),
    }
    rows = [_median(same) for same in zip(*rounds, strict=True)]
    if chosen.json:
        told = [{**one._asdict(), "ratio": one.ours / one.local if one.local else None} for one in rows]
        print(json.dumps({"machine": machine, "figures": told}, indent=2))
    else:
        print(", ".join(f"{key} {value}" for key, value in machine.items()))
        print(table(rows))


def _median(figures: tuple[Figure, ...]) -> Figure:
    locals_ = [figure.local for figure in figures if figure.local is not None]
    return figures[0]._replace(
        ours=statistics.median(figure.ours for figure in figures),
        local=statistics.median(locals_) if locals_ else None,
    )


def table(rows: list[Figure]) -> str:
    """The figures as a table in Markdown; the last column is ours divided by the local disk's."""
    lines = ["| what | unit | here | local disk | ratio |", "| --- | --- | ---: | ---: | ---: |"]
    for row in rows:
        local = f"{row.local:,.4g}" if row.local is not None else ""
        ratio = f"{row.ours / row.local:.3g}" if row.local else ""
        lines.append(f"| {row.name.strip()} | {row.unit} | {row.ours:,.4g} | {local} | {ratio} |")
    return "\n".join(lines)
