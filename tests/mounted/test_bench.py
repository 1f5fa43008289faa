"""The benchmark runs, leaves nothing behind, and what it prints can be read by programs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench.report import better
from tests.bench.rounds import GROUPS, chosen

pytestmark = pytest.mark.mounted
RUN = Path(__file__).resolve().parents[1] / "bench/run"
TINY = ("--large", "8M", "--files", "100", "--seconds", "0.2")


def bench(work: Path, *arguments: str) -> dict[str, dict[str, float]]:
    """Medians by figure and contestant."""
    command = [sys.executable, RUN, "--json", "--work", work, *TINY, *arguments]
    told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=1_000)
    answer = json.loads(told.stdout)
    assert answer["failed"] == []
    assert list(work.iterdir()) == []
    return {figure["name"]: figure["median"] for figure in answer["figures"]}


def test_figures_of_ours_stand_beside_the_local_disk(tmp_path: Path) -> None:
    figures = bench(tmp_path, "--only", "large.random,large.overwrite,small.tar")
    assert all(value > 0 for each in figures.values() for value in each.values())
    both = [name for name, each in figures.items() if set(each) == {"local", "satchel"}]
    assert {"tar of many, cold", "write 8 MiB until on the server"} <= set(both)
    # Nothing of the content was here: a cold tar has all of it on the wire.
    assert figures["4 KiB random reads: fetched per byte asked"]["satchel"] > 1


def test_a_distant_server_is_as_far_as_said(tmp_path: Path) -> None:
    figures = bench(tmp_path, "--only", "sparse", "--alone", "--latency", "30")
    (milliseconds,) = (each["satchel"] for name, each in figures.items() if name.endswith("file"))
    assert milliseconds > 60


def test_growth_is_measured_and_drawn(tmp_path: Path) -> None:
    work, drawing = tmp_path / "work", tmp_path / "growth.png"
    command = [sys.executable, RUN, "--json", "--work", work, "--growth", "--sizes", "300,600", "--plot", drawing]
    told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=1_000)
    found = json.loads(told.stdout)["growth"]
    assert {"lookup", "create", "readdir, an entry", "background listing"} <= set(found)
    assert all(set(by_size) == {"300", "600"} for by_size in found.values())
    assert list(work.iterdir()) == []
    assert drawing.read_bytes().startswith(b"\x89PNG")


def test_devices_that_were_apart_or_far_behind_are_in_step_with_few_requests(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.bench.syncing", "--work", tmp_path, "--only", "apart,behind"]
    told = subprocess.run(
        [*command, "--edits", "200", "--missed", "1000"],
        cwd=RUN.parents[2],
        capture_output=True,
        text=True,
        check=True,
        timeout=1_000,
    )
    assert list(tmp_path.iterdir()) == []
    rows = [line.strip("| ").split(" | ") for line in told.stdout.splitlines() if line.startswith("| ")]
    found = {row[0]: row[-1] for row in rows}
    # The measurement itself fails when the trees differ in the end, or a content is nowhere.
    assert int(found["edits that lost, kept as conflicts"]) == 24
    assert int(found["commits"]) <= 12
    assert int(found["changes in the largest of them"]) <= 1_000
    assert int(found["requests of device 1"]) + int(found["requests of device 2"]) < 100


def test_a_step_brings_what_it_needs_and_every_step_can_be_chosen() -> None:
    assert [[step.name for step in group] for group in chosen(["git.status"])] == [
        ["git.untar", "git.add", "git.status"]
    ]
    for group in GROUPS:
        names = [step.name for step in group]
        assert all(step.needs in names[:place] for place, step in enumerate(group) if step.needs)


def test_ratios_above_one_are_better() -> None:
    assert better("MB/s", 200.0, 100.0) == 2.0
    assert better("ms", 200.0, 100.0) == 0.5
    assert better("ms", 0.0, 1.0) is None
