"""What somebody without a device removes: names, and files only with their last one."""

from typing import Any

import msgspec
import pytest

from remote.protocol.errors import NotFound
from remote.protocol.ids import ROOT, NodeId, UserId
from remote.protocol.nodes import Manifest, Name
from remote.server.instance import Instance

pytestmark = pytest.mark.anyio


async def linked(ann: Any, build: Any, *names: tuple[NodeId, bytes]) -> NodeId:
    """A file with all of these names."""
    node: NodeId = await ann.new_id()
    state = msgspec.structs.replace(
        build.file(b"", ROOT, Manifest(4, b"kept")), names=tuple(Name(parent, name) for parent, name in names)
    )
    await ann.made(build.change(node, state))
    return node


async def test_a_file_stays_under_its_other_names(ann: Any, instance: Instance, build: Any) -> None:
    user, folder = UserId(ann.login.user), await ann.new_folder(b"folder")
    deep = await ann.new_folder(b"deep", folder)
    node = await linked(ann, build, (ROOT, b"one"), (ROOT, b"two"), (folder, b"three"), (deep, b"four"))
    inside = await linked(ann, build, (folder, b"five"), (deep, b"six"))
    await instance.files.remove(user, ann.home, node, Name(ROOT, b"one"))
    assert await ann.names() == [b"folder", b"two"]
    with pytest.raises(NotFound):
        await instance.files.remove(user, ann.home, node, Name(ROOT, b"one"))
    await instance.files.remove(user, ann.home, folder, Name(ROOT, b"folder"))
    assert await ann.names() == [b"two"]
    assert (await ann.node(node)).state.content == Manifest(4, b"kept")
    assert (await ann.node(inside)).state is None
    await instance.files.remove(user, ann.home, node, Name(ROOT, b"two"))
    assert (await ann.node(node)).state is None
