"""Rounds: does the chosen steps with every contestant in turn, and keeps what came of it."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from tests.bench.contestant import Contestant, Missing, Used, discard, new_home, running
from tests.bench.large import LARGE, MIDDLE, SPARSE
from tests.bench.own import ELSEWHERE, MOUNT, REWIND
from tests.bench.satchel import Satchel
from tests.bench.small import SMALL, SOURCE
from tests.bench.work import MB, Figure, Scale, Step

GROUPS: tuple[tuple[Step, ...], ...] = (LARGE, SPARSE, MIDDLE, SMALL, SOURCE, ELSEWHERE, REWIND, MOUNT)
STEP_SECONDS = 600
PEAK = "daemon: peak RSS over all of it"
CPU = "daemon: CPU over all of it"
TURN = "daemon: longest turn of its loop"
OVER_ALL = (PEAK, CPU, TURN)


class TooLong(Exception):
    """A step was given up."""


@dataclass
class Results:
    """Values by figure and contestant, one for each round; what each step used; what went wrong."""

    units: dict[str, str] = field(default_factory=dict)
    values: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    used: dict[str, dict[str, list[Used]]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    _seen: dict[str, dict[str, None]] = field(default_factory=dict)

    @property
    def order(self) -> list[str]:
        """The figures as the work goes: each behind the one before it, also when not all contestants have that."""
        order: list[str] = []
        for seen in sorted(self._seen.values(), key=len, reverse=True):
            place = 0
            for name in seen:
                if name in order:
                    place = order.index(name) + 1
                else:
                    order.insert(place, name)
                    place += 1
        return order

    def add(self, contestant: str, figure: Figure) -> None:
        """Keeps a figure."""
        self._seen.setdefault(contestant, {})[figure.name] = None
        self.units[figure.name] = figure.unit
        self.values.setdefault(figure.name, {}).setdefault(contestant, []).append(figure.value)

    def tell(self, contestant: str, figure: Figure) -> None:
        """Keeps a figure and says it."""
        self.add(contestant, figure)
        say(f"  {contestant:>14}  {figure.name}: {figure.value:,.4g} {figure.unit}")


def say(line: str) -> None:
    """One line of progress."""
    print(line, file=sys.stderr, flush=True)


def chosen(words: list[str]) -> list[list[Step]]:
    """The steps whose names contain one of these words, and those that they need, by group."""
    groups = []
    for group in GROUPS:
        wanted = {step.name for step in group if any(word in step.name for word in words)}
        # A step stands behind what it needs.
        for step in reversed(group):
            if step.name in wanted and step.needs:
                wanted.add(step.needs)
        groups.append([step for step in group if step.name in wanted])
    return [group for group in groups if group]


def run_rounds(
    results: Results,
    kinds: list[type[Contestant]],
    groups: list[list[Step]],
    scale: Scale,
    work: Path,
    rounds: int,
    delay_seconds: float,
) -> None:
    """Adds rounds; contestants alternate: each group of steps is done with all of them, in changing order."""
    for number in range(rounds):
        spent: dict[str, list[_Spent]] = {}
        for place, group in enumerate(groups):
            turn = (number + place) % len(kinds)
            for kind in kinds[turn:] + kinds[:turn]:
                steps = [step for step in group if kind is Satchel or not step.satchel_only]
                if steps and kind.name not in results.missing:
                    home = new_home(work, f"{number}-{steps[0].name}-{kind.name}")
                    spent.setdefault(kind.name, []).append(_group(kind, home, steps, scale, delay_seconds, results))
                    discard(home)
        for name, each in spent.items():
            if any(one.peak_bytes for one in each):
                results.tell(name, Figure(PEAK, "MB", max(one.peak_bytes for one in each) / MB))
                results.tell(name, Figure(CPU, "s", sum(one.cpu_seconds for one in each)))
            if any(one.longest_turn_ms for one in each):
                results.tell(name, Figure(TURN, "ms", max(one.longest_turn_ms for one in each)))


class _Spent(NamedTuple):
    """By the daemons in one group of steps."""

    cpu_seconds: float
    peak_bytes: float
    longest_turn_ms: float


def _group(
    kind: type[Contestant], home: Path, steps: list[Step], scale: Scale, delay_seconds: float, results: Results
) -> _Spent:
    """What the daemons spent; what fails is noted, and ends the group."""
    doing = "start"
    spent = _Spent(0.0, 0.0, 0.0)
    try:
        with running(kind, home, delay_seconds) as one:
            for step in steps:
                doing = step.name
                before, cooled = one.used(), one.cooling
                with _at_most(STEP_SECONDS):
                    for figure in step.does(one, scale):
                        results.tell(one.name, figure)
                used = one.used()
                # Less what went into mounting anew.
                results.used.setdefault(step.name, {}).setdefault(one.name, []).append(
                    used.since(before).since(one.cooling.since(cooled))
                )
                spent = _Spent(used.daemon_cpu_seconds, one.peak_bytes(), one.longest_turn_ms())
    except Missing as missing:
        results.missing[kind.name] = str(missing)
        say(f"  {kind.name:>14}  is left out: {missing}")
    except (OSError, AssertionError, RuntimeError, TooLong, subprocess.SubprocessError) as error:
        results.failed.append(f"{kind.name}: {doing}: {error!r}")
        say(f"  {kind.name:>14}  FAILED at {doing}: {error!r}")
    return spent


@contextmanager
def _at_most(seconds: int) -> Iterator[None]:
    """Raises TooLong in what takes longer."""

    def give_up(_signal: int, _frame: object) -> None:
        raise TooLong(f"not done within {seconds} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
