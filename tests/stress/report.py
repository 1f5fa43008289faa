"""Report: does what was chosen, one piece of work after the other, and prints what came of each."""

import argparse
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from tests.stress.crashes import kills, remounts
from tests.stress.full import full_disk
from tests.stress.loads import Sizes, beside_a_disk, exercise, fio, stressors
from tests.stress.options import OPTION_SETS
from tests.stress.result import Result
from tests.stress.stage import Stage, staged

Work = Callable[[Stage, str, Sizes], Iterator[Result]]
ALL: Final[dict[str, Work]] = {
    "exerciser": exercise,
    "twins": beside_a_disk,
    "fio": fio,
    "stress-ng": stressors,
    "kills": kills,
    "remounts": remounts,
    "full disk": full_disk,
}


def main() -> None:
    """Runs and prints; exits 1 when something failed."""
    parser = argparse.ArgumentParser(prog="tests/stress/run", description="Tries to break this checkout.")
    parser.add_argument("--only", default="", metavar="WORD", help=f"only this work: {', '.join(ALL)}")
    parser.add_argument("--options", default="", metavar="NAME", help=f"only these: {', '.join(OPTION_SETS)}")
    parser.add_argument("--steps", type=int, default=20_000, help="steps of the exerciser, and calls of the twins")
    parser.add_argument("--seconds", type=int, default=5, help="how long each stressor of stress-ng runs")
    parser.add_argument("--megabytes", type=int, default=64, help="size of each file of fio")
    parser.add_argument("--kills", type=int, default=20, help="how often a daemon is killed under load")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1, 1 << 31))
    parser.add_argument("--work", type=Path, default=Path("/var/tmp"), metavar="DIR", help="a folder on a real disk")
    chosen = parser.parse_args()
    sizes = Sizes(chosen.steps, chosen.seconds, chosen.megabytes, chosen.kills, chosen.seed)
    print(f"{os.cpu_count()} cores, kernel {os.uname().release}, seed {chosen.seed}\n\n{Result.head()}", flush=True)
    chosen_work = [work for name, work in ALL.items() if chosen.only in name]
    chosen_options = [options for options in OPTION_SETS if chosen.options in options]
    is_well = [_is_well(work, options, sizes, chosen.work) for work in chosen_work for options in chosen_options]
    sys.exit(0 if all(is_well) else 1)


def _is_well(work: Work, options: str, sizes: Sizes, where: Path) -> bool:
    """Does one piece of work with one set of options, and prints its rows."""
    home = Path(tempfile.mkdtemp(prefix="satchel-stress-", dir=where))
    results = []
    try:
        with staged(home / "stage") as stage:
            for result in work(stage, options, sizes):
                results.append(result)
                print(result.row(), flush=True)
    except AssertionError as error:
        # A command failed, a log complained, or something could not be taken away.
        results.append(Result("the devices", options, "", 0.0, str(error), is_well=False))
        print(results[-1].row(), flush=True)
    finally:
        shutil.rmtree(home, ignore_errors=True)
    return all(result.is_well for result in results)
