"""Fill: puts many files onto a server fast, by commits of their own and not through a mount."""

import os
import time
from collections.abc import Callable, Iterator
from itertools import islice

import trio

from remote.client.service import connect, login
from remote.protocol.ids import ROOT, NodeId, Rev
from remote.protocol.messages import CHANGES_MAX, Change, Commit
from remote.protocol.nodes import Kind, Manifest, Name, NodeState

FILES_IN_FOLDER = 100
FOLDERS_IN_FOLDER = 100


def folder_of(number: int) -> str:
    """Where the file of this number lies, below the top of the tree."""
    folder = number // FILES_IN_FOLDER
    return f"group-{folder // FOLDERS_IN_FOLDER:03d}/folder-{folder % FOLDERS_IN_FOLDER:03d}"


def name_of(number: int) -> str:
    """The name of the file of this number."""
    return f"file-{number:07d}"


class Filler:
    """One more device of the account, which makes files with a few bytes of content; its node ids are leased."""

    def __init__(self, url: str, user: str, password: str) -> None:
        """Signs in."""
        self.url = url
        answer = trio.run(login, url, user, password, "filler")
        self.token, self.space = answer.token, answer.home

    def head(self) -> Rev:
        """The last rev."""

        async def ask() -> Rev:
            async with connect(self.url, self.token) as service:
                return (await service.spaces()).spaces[0].head

        return trio.run(ask)

    def tree(self, count: int) -> None:
        """So many files under `tree`, FILES_IN_FOLDER in each folder and FOLDERS_IN_FOLDER of those in each above."""
        trio.run(self._fill, lambda ids: _tree(ids, count))

    def wide(self, count: int) -> None:
        """So many files in the one folder `wide`."""
        trio.run(self._fill, lambda ids: _wide(ids, count))

    def deep(self, depth: int) -> None:
        """So many folders, each in the one before, from `deep` on."""
        trio.run(self._fill, lambda ids: _deep(ids, depth))

    async def _fill(self, changes_of: Callable[[Iterator[NodeId]], Iterator[Change]]) -> None:
        async with connect(self.url, self.token) as service:
            leased = await service.lease_range()
            changes = changes_of(map(NodeId, range(leased.first, leased.first + leased.count)))
            # Folders come before what is in them, so commits go one by one.
            while batch := tuple(islice(changes, CHANGES_MAX)):
                answer = await service.commit(self.space, Commit(os.urandom(16), batch))
                assert answer.rev, answer.reason


def change_of(node: NodeId, parent: NodeId, name: str, kind: Kind, content: Manifest | None = None) -> Change:
    """A node that is made."""
    now = time.time_ns()
    mode = 0o755 if kind is Kind.FOLDER else 0o644
    names = (Name(parent, name.encode()),)
    return Change(node, Rev(0), now, NodeState(kind, names, mode, 0, 0, now, now, now, now, content=content))


def _file(node: NodeId, parent: NodeId, number: int) -> Change:
    text = b"file number %d\n" % number
    return change_of(node, parent, name_of(number), Kind.FILE, Manifest(len(text), text))


def _folder(node: NodeId, parent: NodeId, name: str) -> Change:
    return change_of(node, parent, name, Kind.FOLDER)


def _tree(ids: Iterator[NodeId], count: int) -> Iterator[Change]:
    top = group = folder = next(ids)
    yield _folder(top, NodeId(ROOT), "tree")
    for number in range(count):
        if number % FILES_IN_FOLDER == 0:
            group_name, _, folder_name = folder_of(number).partition("/")
            if number % (FILES_IN_FOLDER * FOLDERS_IN_FOLDER) == 0:
                group = next(ids)
                yield _folder(group, top, group_name)
            folder = next(ids)
            yield _folder(folder, group, folder_name)
        yield _file(next(ids), folder, number)


def _wide(ids: Iterator[NodeId], count: int) -> Iterator[Change]:
    top = next(ids)
    yield _folder(top, NodeId(ROOT), "wide")
    for number in range(count):
        yield _file(next(ids), top, number)


def _deep(ids: Iterator[NodeId], depth: int) -> Iterator[Change]:
    parent = NodeId(ROOT)
    for level in range(depth):
        node = next(ids)
        yield _folder(node, parent, "deep" if not level else "d")
        parent = node
