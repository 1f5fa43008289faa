"""Apart: two devices that were both edited without the server, and what it takes until they are the same again.

An hour without the server is not waited for: what counts of it is what was done in it.
"""

import random
import time
from collections.abc import Iterator
from pathlib import Path

import trio

from remote.client.service import connect
from remote.protocol.messages import JournalCommit
from tests.bench.contestant import running
from tests.bench.fill import Filler, folder_of, name_of
from tests.bench.growth import Filled
from tests.bench.processes import wait_until
from tests.bench.work import Figure
from tests.mounted.conftest import Device
from tests.mounted.trees import differences, entries

LISTING_SECONDS = SETTLED_SECONDS = 600.0
QUIET_SECONDS = 2.0
LARGEST = 6_000
SAME, SAME_NAME, REMOVED_HERE = 0.1, 0.02, 0.01
"""Of the edits: files that both sides edit, new names that both make, files that one edits and the other removes."""


def apart(home: Path, edits: int) -> Iterator[Figure]:
    """So many edits on each side; raises when the trees differ in the end, or a content that was written is nowhere."""
    with running(Filled, home, 0.0) as one:
        assert isinstance(one, Filled)
        one.filler.tree(edits * 2)
        one.renew()
        desk = one.device
        assert desk is not None
        sides = {"desk": desk, "laptop": one.another()}
        for device in sides.values():
            wait_until(lambda device=device: _is_listed(device), "listing", LISTING_SECONDS, 0.05)  # type: ignore[misc]
        one.server.stop()
        written: set[bytes] = set()
        for name, device in sides.items():
            written |= _edit(device.path / "tree", name, edits)
        rev = max(device.status()["rev"] for device in sides.values())
        before = {name: device.stats()["requests"] for name, device in sides.items()}
        one.server.start()
        began = time.monotonic()
        yield Figure("until both are in step", "s", _in_step_at(list(sides.values())) - began)
        requests = {name: device.stats()["requests"] - before[name] for name, device in sides.items()}
        commits = trio.run(_commits, one.filler, rev)
        for number, (name, device) in enumerate(sides.items(), 1):
            yield Figure(f"requests of device {number}", "", requests[name])
            yield Figure(f"longest turn of the loop of device {number}", "ms", device.stats()["longest_turn_ms"])
        yield Figure("commits", "", len(commits))
        yield Figure("changes in the largest of them", "", max(len(commit.changes) for commit in commits))
        lost = _check(sides, written)
        yield Figure("edits that lost, kept as conflicts", "", lost)
        yield Figure("contents that were written, all found again", "", len(written))


def _is_listed(device: Device) -> bool:
    status = device.status()
    return bool(status["online"] and status["unlisted_folders"] == 0 and status["rev"] > 1)


def _edit(tree: Path, side: str, edits: int) -> set[bytes]:
    """Makes the edits of one side, 0 or 1 by its name; what was written."""
    other = side != "desk"
    rng = random.Random(side)
    same, names, crossed = (int(edits * share) for share in (SAME, SAME_NAME, REMOVED_HERE))
    share = edits // 10
    # Files by number: those that both edit come first, then those that one edits and the other removes, then own ones.
    own = 2 * crossed + same + (edits // 2 + edits // 4) * other
    plan: list[tuple[str, int]] = [("write", number) for number in range(same)]
    mine, theirs = range(same, same + crossed), range(same + crossed, same + 2 * crossed)
    plan += [("write", number) for number in (theirs if other else mine)]
    plan += [("remove", number) for number in (mine if other else theirs)]
    plan += [("write", own + number) for number in range(3 * share)]
    plan += [("rename", own + 3 * share + number) for number in range(share)]
    plan += [("remove", own + 4 * share + number) for number in range(share)]
    plan += [("make", number) for number in range(names)]
    plan += [("make", names + number + edits * other) for number in range(edits - len(plan))]
    rng.shuffle(plan)
    written = set()
    for kind, number in plan:
        content = (b"%d of %s " % (number, side.encode())) * rng.randrange(1, LARGEST // 20)
        path = tree / folder_of(number) / name_of(number)
        if kind == "remove":
            path.unlink()
        elif kind == "rename":
            path.rename(tree / folder_of(rng.randrange(edits)) / f"{side}-{number}")
        else:
            made = tree / folder_of(number % edits) / f"new-{number}"
            (path if kind == "write" else made).write_bytes(content)
            written.add(content)
    return written


def _in_step_at(devices: list[Device]) -> float:
    """Returns when all have sent and heard all, and nothing moves any more; when (monotonic) that began."""
    deadline = time.monotonic() + SETTLED_SECONDS
    since, seen = time.monotonic(), -1
    while True:
        told = [device.status() for device in devices]
        revs = {one["rev"] for one in told}
        is_settled = len(revs) == 1 and all(one["online"] and not one["pending"]["count"] for one in told)
        now = time.monotonic()
        if not is_settled or max(revs) != seen:
            since, seen = now, max(revs)
        elif now - since > QUIET_SECONDS:
            return since
        if now > deadline:
            raise TimeoutError(f"not in step within {SETTLED_SECONDS:.0f} s: {told}")
        time.sleep(0.05)


async def _commits(filler: Filler, since: int) -> list[JournalCommit]:
    found: list[JournalCommit] = []
    async with connect(filler.url, filler.token) as service:
        while True:
            answer = await service.changes(filler.space, found[-1].rev if found else since)  # type: ignore[arg-type]
            found += answer.commits
            if not answer.commits or answer.commits[-1].rev >= answer.head:
                return found


def _check(sides: dict[str, Device], written: set[bytes]) -> int:
    """Raises when the trees differ, or something written is neither in them nor a conflict; how many conflicts."""
    trees = [device.path / "tree" for device in sides.values()]
    different = differences(*(entries(tree) for tree in trees))
    assert not different, different[:10]
    found = {path.read_bytes() for path in trees[0].rglob("*") if path.is_file()}
    folders = [path for path in trees[0].rglob("*") if path.is_dir()]
    lost = [path for folder in folders for path in (folder / ".versions/conflicts").iterdir()]
    found.update(path.read_bytes() for path in lost)
    missing = written - found
    assert not missing, f"{len(missing)} contents are lost: {sorted(missing)[:3]}"
    return len(lost)
