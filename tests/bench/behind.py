"""Behind: a device that knew everything comes back after many changes, made elsewhere while it was away."""

import os
import random
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import trio
from msgspec.structs import replace

from remote.client.service import HttpService, connect
from remote.protocol.ids import ROOT, NodeId, Rev
from remote.protocol.messages import Change, Commit, FolderQuery
from remote.protocol.nodes import Kind, Manifest, Name, NodeState, NodeVersion
from tests.bench.contestant import running
from tests.bench.fill import Filler, change_of
from tests.bench.growth import Filled
from tests.bench.processes import peak_bytes, resident_bytes, wait_until
from tests.bench.rounds import say
from tests.bench.work import MB, Figure

COMMIT_CHANGES = 500
KNOWN_SHARE = 0.5
"""Files that the device knows, for each change that it missed."""
MADE, EDITED, MOVED = 0.5, 0.3, 0.1
"""Kinds of changes; the rest are removals."""
LISTING_SECONDS = BEHIND_SECONDS = 1_200.0


def behind(home: Path, missed: int) -> Iterator[Figure]:
    """So many changes missed: files made, written, moved and removed, all over the tree; until they are taken in."""
    with running(Filled, home, 0.0) as one:
        assert isinstance(one, Filled)
        known = int(missed * KNOWN_SHARE)
        one.filler.tree(known)
        one.renew()
        device = one.device
        assert device is not None
        wait_until(lambda: device.status()["unlisted_folders"] == 0, "listing", LISTING_SECONDS, 0.05)
        rev = one.filler.head()
        wait_until(lambda: device.status()["rev"] == rev, "news", LISTING_SECONDS, 0.05)
        one.umount()
        head, files = trio.run(_miss, one.filler, missed)
        say(f"  {missed:,} changes are made")
        one.forget_pages()
        before = one.used()
        began = time.monotonic()
        one.mount()
        mounted = time.monotonic()
        wait_until(lambda: device.status()["rev"] >= head, "catching up", BEHIND_SECONDS, 0.05)
        seconds = time.monotonic() - mounted
        used, daemon = one.used().since(before), one.daemons()[0]
        yield Figure(f"satchel mount, {missed:,} changes behind", "s", mounted - began)
        yield Figure("then until all are taken in", "s", seconds)
        yield Figure("changes taken in", "per s", missed / seconds)
        yield Figure("daemon: CPU for it", "s", used.daemon_cpu_seconds)
        yield Figure("server: CPU for it", "s", used.store_cpu_seconds)
        yield Figure("daemon: peak RSS", "MB", peak_bytes(daemon) / MB)
        yield Figure("daemon: RSS after it", "MB", resident_bytes(daemon) / MB)
        yield Figure("longest turn of the daemon's loop", "ms", one.longest_turn_ms())
        found = sum(len(names) for _, _, names in os.walk(one.path / "tree"))
        assert found == files, f"{found} files are here, {files} on the server"


async def _miss(filler: Filler, count: int) -> tuple[Rev, int]:
    """Makes so many changes in commits of COMMIT_CHANGES; the last rev, and how many files there are then."""
    rng = random.Random(count)
    async with connect(filler.url, filler.token) as service:
        leased = await service.lease_range()
        ids = map(NodeId, range(leased.first, leased.first + leased.count))
        folders, files = await _known(service, filler)
        rng.shuffle(files)
        made, edited, moved = (int(count * share) for share in (MADE, EDITED, MOVED))
        left = iter(files)
        changes = [
            change_of(next(ids), rng.choice(folders), f"new-{number}", Kind.FILE, _content(number, "made"))
            for number in range(made)
        ]
        changes += [_edited(one, content=_content(one.node, "edited")) for one in islice(left, edited)]
        changes += [
            _edited(one, names=(Name(rng.choice(folders), b"moved-%d" % one.node),)) for one in islice(left, moved)
        ]
        removed = [Change(one.node, one.rev, time.time_ns(), None) for one in islice(left, count - len(changes))]
        changes += removed
        assert len(changes) == count, "more files would have to be known"
        rng.shuffle(changes)
        head = Rev(0)
        for at in range(0, count, COMMIT_CHANGES):
            answer = await service.commit(
                filler.space, Commit(os.urandom(16), tuple(changes[at : at + COMMIT_CHANGES]))
            )
            assert answer.rev, answer.reason
            head = answer.rev
    return head, len(files) + made - len(removed)


def _content(number: int, word: str) -> Manifest:
    text = b"%s file %d\n" % (word.encode(), number)
    return Manifest(len(text), text)


def _edited(known: NodeVersion, **fields: object) -> Change:
    assert known.state is not None
    now_ns = time.time_ns()
    state: NodeState = replace(known.state, mtime_ns=now_ns, ctime_ns=now_ns, **fields)
    return Change(known.node, known.rev, now_ns, state)


async def _known(service: HttpService, filler: Filler) -> tuple[list[NodeId], list[NodeVersion]]:
    """Folders that hold files, and all files, as the server has them."""
    folders, files = set(), []
    todo = {NodeId(ROOT): b""}
    while todo:
        listing = await service.list_folders(filler.space, [FolderQuery(*one) for one in todo.items()])
        for answer in listing.folders:
            del todo[answer.folder]
            if answer.more:
                todo[answer.folder] = answer.names[-1]
            for child in answer.children:
                if child.state is not None and child.state.kind is Kind.FOLDER:
                    todo[child.node] = b""
                else:
                    files.append(child)
                    folders.add(answer.folder)
    return sorted(folders), files
