"""Siblings: what is fetched unasked, for which ways of opening files."""

from collections.abc import Iterable
from pathlib import Path
from typing import cast

import pytest

from cache.reader import Reader
from cache.records import STATE_TABLES, Record
from cache.store import Store
from cache.tree import Tree
from fusefs.siblings import Siblings
from remote.protocol.ids import ROOT, ChunkId, NodeId, Rev
from remote.protocol.nodes import Entry, Kind, Manifest, Name, NodeState

FOLDERS, FILES = 4, 300


class Fetched:
    """Stands where the reader is: nothing is here, and what is fetched ahead is written down."""

    def __init__(self) -> None:
        self.steps: list[list[bytes]] = []
        self.held = self

    def bytes_of(self, content: Manifest) -> int:
        return 0

    def prefetch(self, entries: Iterable[Entry]) -> None:
        self.steps.append([entry.id for entry in entries])


class World:
    """Four folders of 300 files, the third below the second."""

    def __init__(self, home: Path) -> None:
        self.store = Store(home / "tree.mdb", STATE_TABLES, has_journal=True)
        self.tree = Tree(self.store)
        self.tree.make_root()
        self.fetched = Fetched()
        self.siblings = Siblings(self.tree, cast(Reader, self.fetched))
        parents = [ROOT, ROOT, NodeId(11), ROOT]
        with self.tree.edit() as edit:
            for folder, parent in enumerate(parents):
                names = (Name(parent, b"d%d" % folder),)
                state = NodeState(Kind.FOLDER, names, 0o755, 0, 0, 1, 1, 1, 1)
                edit.put(NodeId(10 + folder), Record(Rev(1), state, is_listed=True))
            for folder in range(FOLDERS):
                for number in range(FILES):
                    state = self.file(folder, number)
                    edit.put(self.node(folder, number), Record(Rev(1), state))

    @staticmethod
    def node(folder: int, number: int) -> NodeId:
        return NodeId(1_000 * (folder + 1) + number)

    def file(self, folder: int, number: int) -> NodeState:
        entry = Entry(ChunkId(b"%d/%03d" % (folder, number)), b"k" * 32, 4_096)
        names = (Name(NodeId(10 + folder), b"f%03d" % number),)
        return NodeState(Kind.FILE, names, 0o644, 0, 0, 1, 1, 1, 1, content=Manifest(4_096, entries=(entry,)))

    def opened(self, folder: int, number: int) -> None:
        self.siblings.opened(self.node(folder, number), self.file(folder, number))


@pytest.fixture
def world(tmp_path: Path) -> Iterable[World]:
    world = World(tmp_path)
    yield world
    world.store.close()


def test_one_file_of_a_folder_brings_nothing(world: World) -> None:
    world.opened(0, 0)
    assert world.fetched.steps == []


def test_the_second_file_of_a_folder_brings_the_rest_of_it_by_steps(world: World) -> None:
    for number in range(FILES):
        world.opened(0, number)
    found = [one for step in world.fetched.steps for one in step]
    assert found == [b"0/%03d" % number for number in range(2, FILES)]
    assert len(world.fetched.steps) == 3  # of 256, of what is left, and of nothing


def test_who_goes_through_the_tree_is_fetched_ahead_of_across_folders(world: World) -> None:
    world.opened(0, FILES - 1)
    # In the order of names: d2 in d1 comes before the files of d1.
    order = [(2, number) for number in range(FILES)] + [(1, number) for number in range(FILES)]
    for folder, number in order:
        world.opened(folder, number)
    found = [one for step in world.fetched.steps for one in step]
    assert found[: 2 * FILES - 1] == [b"%d/%03d" % one for one in order[1:]]
    assert found[2 * FILES - 1 :] == [b"3/%03d" % number for number in range(len(found) - 2 * FILES + 1)]


def test_who_opens_here_and_there_is_soon_left_alone(world: World) -> None:
    for number in range(0, 100, 2):
        world.opened(number % 4 // 2 * 3, FILES - 1 - number)
    assert len(world.fetched.steps) <= 3
