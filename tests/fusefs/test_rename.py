"""A rename or removal that has to wait for a listing meets what changed elsewhere meanwhile."""

import stat
from pathlib import Path

import pytest
import trio

from fusefs.errors import NoEntry
from fusefs.volume import Caller
from remote.protocol.ids import ROOT, NodeId
from tests.model.device import Device, Time, check_tree
from tests.model.play import in_no_time, quiet
from tests.model.server import Server

ME = Caller(1000, 1000, 0o22)


async def make_folder(device: Device, name: bytes) -> NodeId:
    return await device.volume.make(ROOT, name, stat.S_IFDIR | 0o755, ME)


@pytest.mark.parametrize(("moved", "is_removal"), [(b"source", False), (b"target", False), (b"target", True)])
def test_a_name_that_leads_elsewhere_by_then_is_looked_up_anew(moved: bytes, is_removal: bool) -> None:
    async def scene(home: Path, clock: Time) -> None:
        server = Server()
        desk, laptop = Device(home, server, 1), Device(home, server, 2, is_walking=False)
        async with trio.open_nursery() as nursery:
            await desk.start(nursery)
            await laptop.start(nursery)
            source, _ = await make_folder(desk, b"source"), await make_folder(desk, b"target")
            await quiet(desk)
            await laptop.pull.list_folder(ROOT)
            listed = laptop.pull.list_folder

            async def list_slowly(folder: NodeId) -> None:
                await desk.volume.rename(ROOT, moved, ROOT, b"elsewhere", 0)
                await quiet(desk)
                await laptop.pull.catch_up()
                await listed(folder)

            laptop.volume._list_folder = list_slowly
            if is_removal:
                with pytest.raises(NoEntry):
                    await laptop.volume.rmdir(ROOT, b"target")
            elif moved == b"source":
                with pytest.raises(NoEntry):
                    await laptop.volume.rename(ROOT, b"source", ROOT, b"target", 0)
            else:
                await laptop.volume.rename(ROOT, b"source", ROOT, b"target", 0)
                assert laptop.tree.child(ROOT, b"target") == source
            assert laptop.tree.child(ROOT, b"elsewhere") is not None
            check_tree(laptop)
            await desk.stop()
            await laptop.stop()

    in_no_time(scene)
