"""Shared folders: made of folders with nothing uploaded, and what members see and may do."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from remote.protocol.ids import ROOT, NodeId, Rev, SpaceId
from remote.protocol.messages import Done, FolderQuery, Listing, ListRequest
from remote.protocol.nodes import Manifest
from remote.protocol.sharing import (
    Invitations,
    Shared,
    SharedSpaceRequest,
    ShareRequest,
    Wish,
)
from remote.server.instance import Instance

pytestmark = pytest.mark.anyio

LONG = bytes(range(256)) * 40_000
SignIn = Callable[[str], Awaitable[Any]]


async def share(asker: Any, node: NodeId, *wishes: str, role: str = "editor", space: int = 0) -> Shared:
    request = ShareRequest(SpaceId(space or asker.home), node, tuple(Wish(who, role) for who in wishes))
    return await asker.ask("POST", "/v1/shares/make", request, Shared)  # type: ignore[no-any-return]


async def about(asker: Any, what: str, space: int, kind: Any = Done) -> Any:
    return await asker.ask("POST", f"/v1/shares/{what}", SharedSpaceRequest(SpaceId(space)), kind)


async def invitations(asker: Any) -> list[str]:
    found = await asker.ask("GET", "/v1/shares/invitations", None, Invitations)
    return [f"{one.name} of {one.owner_name}: {one.role}" for one in found.invitations]


async def names_in(asker: Any, space: int, folder: NodeId = ROOT) -> list[bytes]:
    listing = await asker.in_space("list", ListRequest((FolderQuery(folder),), Rev(0)), Listing, space)
    return list(listing.folders[0].names)


def content(instance: Instance, space: int, data: bytes) -> Manifest:
    writer = instance.contents.writer(SpaceId(space))
    writer.add(data)
    return writer.finish()


@pytest.fixture
async def thesis(ann: Any, instance: Instance) -> NodeId:
    """Ann's folder thesis/{intro.txt, tables/figures.bin}."""
    thesis = await ann.new_folder(b"thesis")
    tables = await ann.new_folder(b"tables", thesis)
    await ann.new_file(b"intro.txt", thesis, content(instance, ann.home, b"Call me Ishmael."))
    await ann.new_file(b"figures.bin", tables, content(instance, ann.home, LONG))
    return thesis


async def test_a_folder_becomes_a_space_with_the_same_nodes(ann: Any, thesis: NodeId) -> None:
    before = await ann.listing(thesis)
    head = (await ann.space()).head
    shared = await share(ann, thesis)
    assert (shared.mount, shared.name, shared.is_new) == (thesis, "thesis", True)

    after = await ann.in_space("list", ListRequest((FolderQuery(ROOT),), Rev(0)), Listing, shared.space)
    old, new = before.folders[0], after.folders[0]
    assert after.rev == 2
    assert new.names == old.names
    assert [one.node for one in new.children] == [one.node for one in old.children]
    assert [one.state.content for one in new.children] == [one.state.content for one in old.children]
    assert [one.state.names[0].parent for one in new.children] == [ROOT, ROOT]

    assert (await ann.node(thesis)).state.mounts == shared.space
    assert await ann.names(thesis) == []
    changes = await ann.changes(head)
    assert {one.node for one in changes.commits[0].changes if one.state is None} == {
        one.node for one in (*old.children, *(await ann.listing(old.children[1].node, as_of=head)).folders[0].children)
    }
