"""Searching: how long a search takes among so many files of one space, by kind of query, and how fast they are indexed.

    .venv/bin/python -m tests.bench.searching --data DIR [--files 1000000] [--contents 50000] [--seconds 300]

Names and texts are made of 30,000 invented words, a few of them common and most rare, as words are. With a DIR that it
made before, it goes on indexing where it was, for the seconds that it is given, and measures when all is indexed.
"""

import argparse
import asyncio
import random
import resource
import threading
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from remote.protocol.ids import ROOT, DeviceId, NodeId, Rev, SpaceId
from remote.protocol.nodes import Kind, Manifest, Name, NodeState
from remote.protocol.search import FOUND_MAX, SearchRequest
from remote.server import instance as instances
from remote.server.database import accounts as account_rows
from remote.server.database import spaces as space_rows
from remote.server.database import trees
from remote.server.database.accounts import Device
from remote.server.database.connection import Session
from remote.server.database.jobs import WALKED
from remote.server.database.trees import NodeRow
from remote.server.instance import Instance
from remote.server.jobs.following import Follower
from remote.server.keys import SpaceKey
from remote.server.search.upkeep import standing
from remote.server.states import encode_manifest, encode_state

FOLDER = 100
"""Files in a folder."""
AT_ONCE = 5_000
WORDS = 30_000
ASKED = 100
"""Queries of each kind."""
EXTENSIONS = (*("jpg",) * 30, *("doc",) * 25, *("ppt",) * 6, *("bin",) * 10, "mp4", "mp3", "zip", "png")
"""None of which is read: they have a size here, and no content."""
MANY = "a common word, 200 shown, as in `.search`"
YEAR_NS = 365 * 86_400 * 10**9


class Words:
    """Invented words, the first ones common."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        syllables = [a + b for a in "bcdfghklmnprstvwz" for b in ("a", "e", "i", "o", "u", "an", "er", "ing")]
        made: dict[str, None] = {}
        while len(made) < WORDS:
            made["".join(self.random.choices(syllables, k=self.random.randint(2, 4)))] = None
        self.all = list(made)
        self._weights = [1 / (at + 10) for at in range(WORDS)]
        self._sums: list[float] = []
        total = 0.0
        for weight in self._weights:
            total += weight
            self._sums.append(total)

    def some(self, count: int) -> list[str]:
        """As a text has them."""
        return self.random.choices(self.all, cum_weights=self._sums, k=count)


def rows_of(words: Words, files: int, contents: int, now_ns: int) -> Iterator[tuple[NodeRow, bytes, NodeId, bytes]]:
    """Each node with its name, its folder and its content."""
    node, folder = 2, ROOT
    for at in range(files):
        if at % FOLDER == 0:
            folder = NodeId(node)
            node += 1
            name = f"{' '.join(words.some(2))} {at // FOLDER}".encode()
            state = state_of(Kind.FOLDER, ROOT, name, now_ns)
            yield NodeRow(folder, Rev(1), now_ns, Kind.FOLDER, ROOT, 0, encode_state(state), None), name, ROOT, b""
        has_text = at % max(1, files // max(1, contents)) == 0
        extension = "txt" if has_text else words.random.choice(EXTENSIONS)
        text = " ".join(words.some(150)).encode()[:2_000] if has_text else b""
        name = f"{'-'.join(words.some(2))} {words.random.randint(1, 9_999):04}.{extension}".encode()
        size = len(text) or int(words.random.paretovariate(0.6) * 1_000)
        state = state_of(Kind.FILE, folder, name, now_ns - int(words.random.random() * 5 * YEAR_NS))
        yield (
            NodeRow(NodeId(node), Rev(1), now_ns, Kind.FILE, NodeId(0), size, encode_state(state), None),
            name,
            folder,
            text,
        )
        node += 1


def state_of(kind: Kind, parent: NodeId, name: bytes, time_ns: int) -> NodeState:
    """A node as it would be committed."""
    return NodeState(kind, (Name(parent, name),), 0o644, 0, 0, time_ns, time_ns, time_ns, time_ns)


def fill(instance: Instance, space: SpaceId, files: int, contents: int) -> None:
    """Puts the nodes into the tables, as if the first commit had brought them."""
    words = Words(1)
    made = rows_of(words, files, contents, time.time_ns())
    key: SpaceKey = instance.database.read_now(
        lambda session: instance.keyring.key(space_rows.space_row(session, space))  # type: ignore[arg-type]
    )
    while batch := list(islice(made, AT_ONCE)):

        def put(session: Session, batch: list[Any] = batch) -> None:
            rows = []
            for row, _, _, text in batch:
                if row.kind == Kind.FILE:
                    # A hole, where there is no text: it has a size, and nothing to be read.
                    body = encode_manifest(Manifest(row.size, text) if text else Manifest(row.size))
                    id_ = key.content_id(body)
                    trees.add_manifests(session, space, [(id_, key.seal(body))])
                    rows.append(
                        NodeRow(row.node, row.rev, row.edited_ns, row.kind, row.parent, row.size, row.state, id_)
                    )
                else:
                    rows.append(row)
            trees.put_nodes(session, space, rows)
            trees.add_names(session, space, [(parent, name, row.node) for row, name, parent, _ in batch], Rev(1))

        instance.database.write_now(put)


def build(instance: Instance, space: SpaceId, files: int, seconds: float) -> bool:
    """Indexes what is not yet; whether that is all. Says how long it took."""
    job = instance.search.indexer(reads_content=True)
    follower = Follower(job, instance.database, instance.keyring, instance.contents, threading.Event())
    began, used = time.monotonic(), time.process_time()
    cursor = job.cursors.cursor(space)
    was_walked = cursor is not None and cursor.walked == WALKED
    while follower.step(space):
        if time.monotonic() - began > seconds:
            print(f"not all is indexed after {seconds:g} s: run it again to go on")
            return False
        # What is put by comes last.
        if not was_walked and (cursor := job.cursors.cursor(space)) is not None and cursor.walked == WALKED:
            was_walked = True
            print(f"names indexed: {files:,} in {time.monotonic() - began:.0f} s, in this run")
    whole, cpu = time.monotonic() - began, time.process_time() - used
    if whole > 1:
        print(f"all indexed, contents too: {whole:.0f} s ({cpu:.0f} of a processor) in this run")
    return True


def queries(files: int) -> dict[str, list[str]]:
    """What people may ask, by kind."""
    words = Words(1)
    words.random.seed(2)
    rare = [words.all[words.random.randrange(1_000, WORDS)] for _ in range(ASKED)]
    common = [words.all[words.random.randrange(30)] for _ in range(ASKED)]
    wrong = [slip(words.random, word) for word in rare]
    folders = [words.random.randrange(max(1, files // FOLDER)) for _ in range(ASKED)]
    return {
        "a rare word": rare,
        "a common word": common,
        MANY: common,
        "two words": [f"{a} {b}" for a, b in zip(common, words.some(ASKED), strict=True)],
        "part of a word": [word[1:5] for word in rare],
        "three letters": [word[:3] for word in rare],
        "two letters": [word[:2] for word in rare],
        "a misspelt word": wrong,
        "two words, one misspelt": [f"{a} {b}" for a, b in zip(common, wrong, strict=True)],
        "a word and type, size, time": [f"{word} type:document size:>10K after:2024" for word in common],
        "type and time, no word": ["type:image after:2025-01 before:2025-06"] * ASKED,
        "size alone": [f"size:>{words.random.randint(1, 900)}M" for _ in range(ASKED)],
        "all digits": [f"{number:04}" for number in folders],
        "nothing has it": [f"{word}qqx" for word in rare],
    }


def slip(chance: random.Random, word: str) -> str:
    """The word with two letters that changed places."""
    at = chance.randrange(1, max(2, len(word) - 2))
    return word[:at] + word[at + 1 : at + 2] + word[at : at + 1] + word[at + 2 :]


async def measure(instance: Instance, device: Device, files: int) -> None:
    """Asks, and prints how long answers took."""
    everything: list[float] = []
    everything_cpu: list[float] = []
    print(f"\n| among {files:,} files | p50 ms | p99 ms | of a processor: p50 | p99 | found, on the average |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for kind, asked in queries(files).items():
        taken: list[float] = []
        cpu: list[float] = []
        found = 0
        for query in asked:
            began, used = time.perf_counter(), time.process_time()
            answer = await instance.search.search(device, SearchRequest(query, FOUND_MAX if kind == MANY else 50))
            taken.append((time.perf_counter() - began) * 1_000)
            cpu.append((time.process_time() - used) * 1_000)
            found += len(answer.found)
        everything += taken
        everything_cpu += cpu
        print(f"| {kind} | {_shown(taken)} | {_shown(cpu)} | {found / len(asked):.0f} |")
    print(f"| all | {_shown(everything)} | {_shown(everything_cpu)} | |")
    print(f"\npeak RSS {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10} MB")


def _shown(taken: list[float]) -> str:
    return f"{at(taken, 0.5):.1f} | {at(taken, 0.99):.1f}"


def at(taken: list[float], share: float) -> float:
    """The value that this share of them does not pass."""
    return sorted(taken)[min(len(taken) - 1, int(len(taken) * share))]


def main() -> None:
    """Runs it."""
    parser = argparse.ArgumentParser(description="How long searches take.")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument("--contents", type=int, default=50_000)
    parser.add_argument("--seconds", type=float, default=3_600.0, help="for indexing, in this run")
    parser.add_argument("--build-only", action="store_true")
    options = parser.parse_args()
    data, key_file = options.data / "data", options.data / "key"
    is_new = not data.exists()
    if is_new:
        instances.make(data, key_file)
        instances.add_account(data, key_file, "ann", "correct horse")
    with instances.opened(data, key_file) as instance:
        user = instance.database.read_now(account_rows.users)[0]
        account = instance.database.read_now(lambda session: account_rows.account(session, user))
        assert account is not None
        if is_new:
            began = time.monotonic()
            fill(instance, account.home, options.files, options.contents)
            print(f"filled: {time.monotonic() - began:.0f} s", flush=True)
        is_whole = build(instance, account.home, options.files, options.seconds)
        instance.search.indexer(reads_content=False)
        if is_whole and not options.build_only:
            asyncio.run(measure(instance, Device(user, DeviceId(0), "ann", b""), options.files))
    with instances.beside(data, key_file) as beside:
        for one in standing(beside):
            print(f"index: {one.files:,} files, {one.size_bytes >> 20} MiB, {one.to_be_read} to be read")


if __name__ == "__main__":
    main()
