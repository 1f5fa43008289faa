"""Shared folders on devices: two of their owner and one of a guest, over the real server."""

from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from msgspec.structs import replace

from cache import rehoming
from cache.edit import Edit
from cache.errors import DiskFull, NoSuchNode
from cache.grafts import VIEWER
from cache.leaving import Gone, Leaving
from cache.news import News
from cache.parts import Part
from cache.pull import Effects
from fusefs.errors import Mounted, OtherSpace, ReadOnly
from remote.protocol.errors import Unreachable
from remote.protocol.ids import ROOT, DeviceId, NodeId, Rev, SpaceId
from remote.protocol.messages import Spaces
from remote.protocol.nodes import Name, NodeVersion
from remote.protocol.sharing import PermitRequest, RevokeRequest, Shared, SharedSpaceRequest, ShareRequest, Wish
from tests.cache.test_full_disk import full
from tests.model.device import Device, Remote, Time, check_tree
from tests.model.play import in_no_time, quiet
from tests.model.server import GUESTS, SPACE, Server
from tests.model.world import begin, end, make, make_folder, write

LONG = bytes(range(256)) * 300


class Friends:
    """A server, two devices of the owner, and one of the guest."""

    def __init__(self, home: Path, nursery: trio.Nursery) -> None:
        self.home = home
        self.server = Server()
        self.one = Device(home, self.server, 1)
        self.two = Device(home, self.server, 2)
        self.guest = Device(home, self.server, GUESTS)
        self.nursery = nursery
        self.space = SpaceId(0)

    @property
    def all(self) -> tuple[Device, ...]:
        """Every device."""
        return self.one, self.two, self.guest

    async def quiet(self, *devices: Device) -> None:
        """These do what is left to do, or all."""
        await quiet(*(devices or self.all))

    def share(self, folder: NodeId, role: str = "editor") -> Shared:
        """The owner shares a folder with the guest."""
        request = ShareRequest(SPACE, folder, (Wish("guest", role),))
        shared = self.server.share(DeviceId(1), lambda sharing, asker: sharing.make(asker, request))
        self.space = shared.space
        return shared

    def accept(self) -> None:
        """The guest accepts."""
        request = SharedSpaceRequest(self.space)
        self.server.share(DeviceId(GUESTS), lambda sharing, asker: sharing.accept(asker, request))

    def permit(self, role: str) -> None:
        """The owner changes the guest's role."""
        request = PermitRequest(self.space, "guest", role)
        self.server.share(DeviceId(1), lambda sharing, asker: sharing.permit(asker, request))

    def revoke(self) -> None:
        """The owner removes the guest."""
        request = RevokeRequest(self.space, "guest")
        self.server.share(DeviceId(1), lambda sharing, asker: sharing.revoke(asker, request))

    def end(self) -> None:
        """The owner shares it no more."""
        request = SharedSpaceRequest(self.space)
        self.server.share(DeviceId(1), lambda sharing, asker: sharing.end(asker, request))


def among_friends(scene: Callable[[Friends], Awaitable[None]]) -> None:
    async def run(home: Path, _: Time) -> None:
        async with trio.open_nursery() as nursery:
            friends = Friends(home, nursery)
            for device in friends.all:
                await device.start(nursery)
            await friends.quiet()
            await scene(friends)
            for device in friends.all:
                check_tree(device)
                await device.stop()

    in_no_time(run)


async def at(device: Device, path: str) -> NodeId:
    """The node that a path leads to."""
    node = ROOT
    for part in path.split("/"):
        node = await device.volume.lookup(node, part.encode())
    return node


async def shared_thesis(friends: Friends, role: str = "editor") -> NodeId:
    """thesis/{intro, tables/figures}, shared, accepted, and known everywhere."""
    thesis = await make_folder(friends.one, b"thesis")
    await make(friends.one, b"intro", b"Call me Ishmael.", thesis)
    tables = await make_folder(friends.one, b"tables", thesis)
    await make(friends.one, b"figures", LONG, tables)
    await friends.quiet()
    friends.share(thesis, role)
    friends.accept()
    await friends.quiet()
    return thesis


def test_what_is_shared_is_seen_by_the_guest_and_edited_by_both() -> None:
    async def scene(friends: Friends) -> None:
        thesis = await shared_thesis(friends)
        figures = await at(friends.guest, "thesis/tables/figures")
        assert await friends.guest.content(figures) == LONG

        await write(friends.guest, await at(friends.guest, "thesis/intro"), b"Call me Bob.")
        await make(friends.guest, b"notes", b"mine", await at(friends.guest, "thesis"))
        await friends.quiet()
        for device in (friends.one, friends.two):
            assert await device.content(await at(device, "thesis/intro")) == b"Call me Bob."
            assert await device.content(await at(device, "thesis/notes")) == b"mine"

        await make(friends.two, b"reply", b"ours", thesis)
        await friends.quiet()
        assert await friends.guest.content(await at(friends.guest, "thesis/reply")) == b"ours"

    among_friends(scene)


def test_sharing_flickers_nothing_and_keeps_what_was_not_sent() -> None:
    async def scene(friends: Friends) -> None:
        thesis = await make_folder(friends.one, b"thesis")
        intro = await make(friends.one, b"intro", b"Call me Ishmael.", thesis)
        doomed = await make(friends.one, b"doomed", b"nobody wants this", thesis)
        await friends.quiet()
        friends.two.wire.set_up(False)
        new = await make(friends.two, b"new", b"not sent", thesis)
        await write(friends.two, intro, b"edited offline")
        await friends.two.volume.unlink(thesis, b"doomed")
        open_file = await begin(friends.two, new, b"still open")
        friends.two.shown.clear()

        friends.share(thesis)
        friends.accept()
        await friends.quiet(friends.one, friends.guest)
        friends.two.wire.calm()
        await trio.sleep(30)
        names = {name.name for effects in friends.two.shown for name in effects.names}
        assert names == set()
        assert await friends.two.content(new) == b"still open"
        end(friends.two, open_file)
        await friends.quiet()

        for device in friends.all:
            assert await device.content(await at(device, "thesis/intro")) == b"edited offline"
            assert await device.content(await at(device, "thesis/new")) == b"still open"
            with pytest.raises(Exception, match="no such name"):
                await at(device, "thesis/doomed")
        assert friends.one.tree.record(intro).space == friends.space
        assert friends.two.tree.record(new).space == friends.space
        assert doomed not in friends.two.local()

    among_friends(scene)


def test_an_unsent_move_over_the_border_is_undone_by_sharing() -> None:
    async def scene(friends: Friends) -> None:
        thesis = await make_folder(friends.one, b"thesis")
        inside = await make(friends.one, b"inside", b"1", thesis)
        outside = await make(friends.one, b"outside", b"2")
        box = await make_folder(friends.one, b"box")
        await make(friends.one, b"boxed", b"3", box)
        await friends.quiet()
        friends.two.wire.set_up(False)
        await friends.two.volume.rename(thesis, b"inside", ROOT, b"went out", 0)
        await friends.two.volume.rename(ROOT, b"outside", thesis, b"came in", 0)
        await friends.two.volume.rename(ROOT, b"box", thesis, b"box", 0)

        friends.share(thesis)
        friends.accept()
        await friends.quiet()
        for device in (friends.one, friends.two):
            assert await at(device, "thesis/inside") == inside
            assert await at(device, "outside") == outside
            assert await device.content(await at(device, "box/boxed")) == b"3"
        assert [child.name for child in friends.guest.tree.children(await at(friends.guest, "thesis"))] == [b"inside"]

    among_friends(scene)


def test_a_move_that_is_undone_by_sharing_brings_the_folder_back_that_was_removed_here_after_it() -> None:
    async def scene(friends: Friends) -> None:
        thesis = await make_folder(friends.one, b"thesis")
        above = await make_folder(friends.one, b"above")
        box = await make_folder(friends.one, b"box", above)
        boxed = await make_folder(friends.one, b"boxed", box)
        await friends.quiet()
        friends.two.wire.set_up(False)
        await friends.two.volume.rename(box, b"boxed", thesis, b"boxed", 0)
        await friends.two.volume.rmdir(above, b"box")
        await friends.two.volume.rmdir(ROOT, b"above")
        await make(friends.two, b"above", b"in its place")
        friends.share(thesis)
        await friends.quiet()
        for device in (friends.one, friends.two):
            assert await at(device, "above (2)/box/boxed") == boxed
            assert await device.content(await at(device, "above")) == b"in its place"

    among_friends(scene)


def test_what_is_new_and_moved_into_a_folder_that_is_shared_while_it_is_sent_is_in_one_space() -> None:
    async def scene(friends: Friends) -> None:
        thesis = await make_folder(friends.one, b"thesis")
        await friends.quiet()
        friends.two.wire.delay_seconds = 5
        box = await make_folder(friends.two, b"box")
        mine = await make(friends.two, b"mine", b"1", box)
        with trio.fail_after(60):
            while not friends.two.push.is_sending:  # noqa: ASYNC110 - on the test's clock
                await trio.sleep(0.01)
        # On the way to the home they are in it, whatever becomes of them here until that is answered.
        await friends.two.volume.rename(ROOT, b"box", thesis, b"box", 0)
        friends.share(thesis)
        await friends.quiet()
        for device in (friends.one, friends.two):
            assert await at(device, "box/mine") == mine
            assert not device.tree.has_children(thesis)

    among_friends(scene)


def test_a_file_whose_move_into_a_folder_waits_while_that_is_shared_is_in_it_when_it_is_removed_and_edited() -> None:
    async def scene(friends: Friends) -> None:
        thesis = await make_folder(friends.one, b"thesis")
        mine = await make(friends.one, b"mine", b"1")
        await friends.quiet()
        handle = await begin(friends.two, mine, b"edited")
        await write(friends.one, mine, b"2")
        await friends.one.volume.rename(ROOT, b"mine", thesis, b"ours", 0)
        await friends.quiet(friends.one)
        friends.share(thesis)
        await friends.quiet(friends.one)
        await friends.one.volume.unlink(thesis, b"ours")
        await friends.quiet(friends.one)
        await trio.sleep(5)
        end(friends.two, handle)
        await friends.quiet()
        for device in (friends.one, friends.two):
            assert await at(device, "thesis/ours") == mine
            assert await device.content(mine) == b"edited"

    among_friends(scene)


def test_what_is_not_sent_of_a_folder_that_is_taken_away_is_kept_when_the_homes_news_tells_of_it_again() -> None:
    async def scene(friends: Friends) -> None:
        thesis = await shared_thesis(friends)
        friends.two.wire.set_up(False)
        mine = await make(friends.two, b"mine", b"1", thesis)
        home = Part(friends.two.tree)
        # As it is from when the folder is gone in the home until all that was in it is, too; this edit is not kept.
        edit = home.edit()
        rev = edit.get(thesis).rev
        edit.drop(thesis)
        told = News(edit, lambda _: False, 0, is_own=home.is_own, top=home.top)
        told.take([NodeVersion(thesis, Rev(rev + 1), 1, None)])
        local = edit.get(mine).local
        assert local is not None
        assert local.names == (Name(thesis, b"mine"),)
        await friends.quiet()

    among_friends(scene)


def test_what_is_kept_of_a_folder_removed_in_one_that_was_never_known_here_stays_in_the_shared_folder() -> None:
    async def scene(friends: Friends) -> None:
        thesis = await shared_thesis(friends)
        await friends.guest.stop()
        friends.guest.is_walking = False
        await friends.guest.start(friends.nursery)
        outer = await make_folder(friends.one, b"outer", thesis)
        inner = await make_folder(friends.one, b"inner", outer)
        folder = await make_folder(friends.one, b"folder", thesis)
        await friends.quiet(friends.one)
        await quiet(friends.guest, is_whole=False)
        await friends.guest.syncs.list_folder(folder)
        friends.guest.wire.set_up(False)
        unsent = await make(friends.guest, b"unsent", b"unsent", folder)
        await friends.one.volume.rename(thesis, b"folder", inner, b"folder", 0)
        await friends.quiet(friends.one)
        await friends.one.volume.rmdir(inner, b"folder")
        await friends.quiet(friends.one)
        await friends.one.volume.rmdir(outer, b"inner")
        await friends.quiet(friends.one)
        friends.guest.wire.set_up(True)
        await quiet(friends.one, friends.guest, is_whole=False)
        for device in (friends.one, friends.guest):
            assert await at(device, "thesis/folder/unsent") == unsent

    among_friends(scene)


def test_a_folder_that_is_removed_here_unsent_is_there_again_when_it_was_shared() -> None:
    async def scene(friends: Friends) -> None:
        thesis = await make_folder(friends.one, b"thesis")
        await make(friends.one, b"intro", b"1", thesis)
        await friends.quiet()
        friends.two.wire.set_up(False)
        await friends.two.volume.unlink(thesis, b"intro")
        await friends.two.volume.rmdir(ROOT, b"thesis")
        friends.share(thesis)
        friends.accept()
        await friends.quiet()
        for device in friends.all:
            assert await device.content(await at(device, "thesis/intro")) == b"1"

    among_friends(scene)


def test_what_was_removed_elsewhere_and_edited_and_linked_out_here_is_in_the_shared_folder_alone() -> None:
    async def scene(friends: Friends) -> None:
        thesis = await make_folder(friends.one, b"thesis")
        intro = await make(friends.one, b"intro", b"1", thesis)
        papers = await make_folder(friends.one, b"papers")
        await friends.quiet()
        friends.two.wire.set_up(False)
        await write(friends.two, intro, b"2")
        await friends.two.volume.link(intro, papers, b"again")
        await friends.one.volume.unlink(thesis, b"intro")
        await friends.quiet(friends.one, friends.guest)
        friends.share(thesis)
        friends.accept()
        await friends.quiet()
        for device in friends.all:
            assert await device.content(await at(device, "thesis/intro")) == b"2"
        assert not friends.two.tree.has_children(papers)

    among_friends(scene)


def test_a_viewer_changes_nothing() -> None:
    async def scene(friends: Friends) -> None:
        await shared_thesis(friends, "viewer")
        volume = friends.guest.volume
        thesis, intro = await at(friends.guest, "thesis"), await at(friends.guest, "thesis/intro")
        with pytest.raises(ReadOnly):
            await make(friends.guest, b"new", b"", thesis)
        with pytest.raises(ReadOnly):
            volume.open(intro, is_writing=True, is_truncating=False)
        for change in (
            volume.unlink(thesis, b"intro"),
            volume.rmdir(thesis, b"tables"),
            volume.rename(thesis, b"intro", thesis, b"other", 0),
            volume.link(intro, thesis, b"other"),
        ):
            with pytest.raises(ReadOnly):
                await change
        assert not volume.attributes(intro).mode & 0o222
        assert not volume.attributes(thesis).mode & 0o222
        # The folder itself is his own.
        await volume.rename(ROOT, b"thesis", ROOT, b"hers", 0)
        friends.guest.shown.clear()

        friends.permit("editor")
        await friends.quiet()
        assert volume.attributes(intro).mode & 0o222
        assert any(intro in effects.nodes for effects in friends.guest.shown)
        await write(friends.guest, intro, b"may I")
        await friends.quiet()
        assert await friends.one.content(await at(friends.one, "thesis/intro")) == b"may I"
        assert await at(friends.guest, "hers/intro") == intro

    among_friends(scene)


def test_names_lead_over_no_border() -> None:
    async def scene(friends: Friends) -> None:
        thesis = await shared_thesis(friends)
        volume = friends.one.volume
        mine = await make(friends.one, b"mine", b"1")
        folder = await make_folder(friends.one, b"folder")
        with pytest.raises(OtherSpace):
            await volume.rename(ROOT, b"mine", thesis, b"mine", 0)
        with pytest.raises(OtherSpace):
            await volume.rename(thesis, b"tables", ROOT, b"tables", 0)
        with pytest.raises(OtherSpace):
            await volume.link(mine, thesis, b"mine")
        with pytest.raises(Mounted):
            await volume.rmdir(ROOT, b"thesis")
        with pytest.raises(Mounted):
            await volume.rename(ROOT, b"folder", ROOT, b"thesis", 0)
        await volume.rename(ROOT, b"thesis", folder, b"moved", 0)
        await friends.quiet()
        assert await friends.two.content(await at(friends.two, "folder/moved/intro")) == b"Call me Ishmael."
        assert await friends.guest.content(await at(friends.guest, "thesis/intro")) == b"Call me Ishmael."

    among_friends(scene)


def test_a_revoked_guest_loses_all_but_what_he_had_not_sent() -> None:
    async def scene(friends: Friends) -> None:
        await shared_thesis(friends)
        guest = friends.guest
        thesis, intro = await at(guest, "thesis"), await at(guest, "thesis/intro")
        figures, tables = await at(guest, "thesis/tables/figures"), await at(guest, "thesis/tables")
        guest.wire.set_up(False)
        await write(guest, intro, b"edited, and never sent")
        await make(guest, b"new", b"made, and never sent", tables)
        handle = guest.volume.open(figures, is_writing=False, is_truncating=False)
        friends.revoke()
        guest.wire.calm()
        await trio.sleep(20)

        with pytest.raises(NoSuchNode):
            await guest.files.read(handle, 0, 10)
        guest.volume.close(handle)
        await friends.quiet()
        assert not guest.grafts.all
        left = {record.space for _, record in guest.records()}
        assert left == {0}
        assert not ({thesis, intro, figures, tables} & set(guest.local()))
        assert await guest.content(await at(guest, "thesis (unsent)/intro")) == b"edited, and never sent"
        assert await guest.content(await at(guest, "thesis (unsent)/tables/new")) == b"made, and never sent"
        assert {child.name for child in guest.tree.children(ROOT)} == {b"thesis (unsent)"}
        assert await friends.one.content(await at(friends.one, "thesis/intro")) == b"Call me Ishmael."

    among_friends(scene)


def test_a_killed_device_goes_on_offline_with_its_shared_folders() -> None:
    async def scene(friends: Friends) -> None:
        await shared_thesis(friends)
        guest = friends.guest
        guest.wire.set_up(False)
        await guest.kill()
        await guest.start(friends.nursery)
        thesis = await at(guest, "thesis")
        assert await guest.content(await at(guest, "thesis/intro")) == b"Call me Ishmael."
        new = await make(guest, b"new", b"made offline", thesis)
        assert guest.tree.record(new).space == friends.space
        await guest.kill()
        await guest.start(friends.nursery)
        await friends.quiet()
        assert await friends.two.content(await at(friends.two, "thesis/new")) == b"made offline"

    among_friends(scene)


def test_chunks_of_a_revoked_folder_go_from_the_cache() -> None:
    async def scene(friends: Friends) -> None:
        await shared_thesis(friends)
        guest = friends.guest
        figures = await at(guest, "thesis/tables/figures")
        assert await guest.content(figures) == LONG
        record = guest.tree.record(figures)
        assert record is not None
        assert record.local is not None
        assert record.local.content is not None
        entry = record.local.content.entries[0]
        assert guest.chunks.held(entry)
        friends.revoke()
        await trio.sleep(5)
        assert not guest.chunks.held(entry)

    among_friends(scene)


def test_a_folder_that_is_shared_no_more_is_the_owners_with_all_that_was_edited() -> None:
    async def scene(friends: Friends) -> None:
        thesis = await shared_thesis(friends)
        intro = await at(friends.two, "thesis/intro")
        figures = await at(friends.two, "thesis/tables/figures")
        friends.two.wire.set_up(False)
        await write(friends.two, intro, b"edited offline")
        await make(friends.two, b"new", b"made offline", thesis)
        await write(friends.guest, await at(friends.guest, "thesis/tables/figures"), b"by the guest")
        await friends.quiet(friends.one, friends.guest)
        friends.end()
        await friends.quiet()
        for device in (friends.one, friends.two):
            assert not device.grafts.all
            assert {record.space for _, record in device.records()} == {0}
            assert await at(device, "thesis/tables/figures") == figures
            assert await device.content(figures) == b"by the guest"
            assert await device.content(await at(device, "thesis/intro")) == b"edited offline"
            assert await device.content(await at(device, "thesis/new")) == b"made offline"
        assert not friends.guest.tree.children(ROOT)
        # It can be shared anew.
        friends.share(thesis)
        friends.accept()
        await friends.quiet()
        assert await friends.guest.content(await at(friends.guest, "thesis/new")) == b"made offline"

    among_friends(scene)


def test_a_single_file_is_shared_in_a_folder_beside_it() -> None:
    async def scene(friends: Friends) -> None:
        poem = await make(friends.one, b"poem.txt", b"roses")
        await friends.quiet()
        handle = friends.two.volume.open(poem, is_writing=False, is_truncating=False)
        friends.share(poem)
        friends.accept()
        await friends.quiet()
        assert await friends.two.files.read(handle, 0, 10) == b"roses"
        friends.two.volume.close(handle)
        for device in friends.all:
            assert await at(device, "poem.txt (shared)/poem.txt") == poem
            assert await device.content(poem) == b"roses"

    among_friends(scene)


def test_what_is_copied_over_the_border_is_not_uploaded() -> None:
    async def scene(friends: Friends) -> None:
        thesis = await shared_thesis(friends)
        one = friends.one
        sent: list[int] = []
        put = friends.server.objects.write
        friends.server.objects.write = lambda name, data: (sent.append(len(data)), put(name, data))[1]  # type: ignore[method-assign, assignment]
        mine = await make(one, b"mine", LONG[::-1])
        await friends.quiet()
        assert sent
        sent.clear()
        # As mv does over a border: a copy, and the old one goes.
        await make(one, b"moved", await one.content(mine), thesis)
        await one.volume.unlink(ROOT, b"mine")
        await make(one, b"out", await one.content(await at(one, "thesis/tables/figures")))
        await friends.quiet()
        assert not sent
        assert await friends.guest.content(await at(friends.guest, "thesis/moved")) == LONG[::-1]
        assert await friends.two.content(await at(friends.two, "out")) == LONG

    among_friends(scene)


def test_a_folder_made_here_does_not_become_one_with_a_shared_one_of_its_name() -> None:
    """What is in it is its owner's alone, until he puts it there himself."""

    async def scene(friends: Friends) -> None:
        thesis = await make_folder(friends.one, b"thesis")
        await make(friends.one, b"intro", b"1", thesis)
        await friends.quiet()
        friends.guest.wire.set_up(False)
        own = await make_folder(friends.guest, b"thesis")
        await make(friends.guest, b"diary", b"mine", own)
        friends.share(thesis)
        friends.accept()
        await friends.quiet()
        assert await friends.guest.content(await at(friends.guest, "thesis (2)/diary")) == b"mine"
        assert await friends.guest.content(await at(friends.guest, "thesis/intro")) == b"1"
        assert {child.name for child in friends.one.tree.children(thesis)} == {b"intro"}

    among_friends(scene)


def test_what_was_put_in_the_place_of_a_folder_that_was_shared_meanwhile_keeps_another_name() -> None:
    async def scene(friends: Friends) -> None:
        thesis = await make_folder(friends.one, b"thesis")
        await make(friends.one, b"intro", b"1", thesis)
        await friends.quiet()
        friends.two.wire.set_up(False)
        await friends.two.volume.unlink(thesis, b"intro")
        await friends.two.volume.rmdir(ROOT, b"thesis")
        await make(friends.two, b"thesis", b"a file now")
        friends.share(thesis)
        friends.accept()
        await friends.quiet()
        for device in (friends.one, friends.two):
            assert await device.content(await at(device, "thesis/intro")) == b"1"
            assert await device.content(await at(device, "thesis (2)")) == b"a file now"

    among_friends(scene)


def test_what_a_device_sends_after_the_end_of_sharing_is_in_the_folder_again() -> None:
    async def scene(friends: Friends) -> None:
        thesis = await shared_thesis(friends)
        friends.two.wire.set_up(False)
        friends.end()
        await make(friends.two, b"late", b"not to be hidden", thesis)
        push = friends.two.grafts.all[friends.space].push
        friends.two.wire.calm()
        # Its commit may be there before the device hears that the folder is its own again.
        push.wake()
        await friends.quiet()
        assert await friends.one.content(await at(friends.one, "thesis/late")) == b"not to be hidden"
        assert not friends.server.alive_of(friends.space).keys() - {ROOT}

    among_friends(scene)


def test_a_program_that_writes_while_its_folder_becomes_a_shared_one_is_refused_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scene(friends: Friends) -> None:
        thesis = await make_folder(friends.two, b"thesis")
        await friends.quiet()
        share = rehoming.share

        async def written_meanwhile(*args: Any) -> None:
            await share(*args)
            if args[0] is friends.two.tree:
                await make(friends.two, b"new", b"while it was shared", thesis)

        monkeypatch.setattr(rehoming, "share", written_meanwhile)
        friends.share(thesis)
        friends.accept()
        await friends.quiet()
        assert await friends.guest.content(await at(friends.guest, "thesis/new")) == b"while it was shared"

    among_friends(scene)


@pytest.mark.parametrize("is_closing", [False, True])
def test_what_is_waited_for_while_its_folder_becomes_a_shared_one_is_there_then(is_closing: bool) -> None:
    """`satchel wait`, and who closes a file with sync=remote."""

    async def scene(friends: Friends) -> None:
        thesis = await make_folder(friends.one, b"thesis")
        await friends.quiet()
        two = friends.two
        two.wire.set_up(False)
        node = await make(two, b"new", LONG, thesis)
        friends.share(thesis)
        waited: list[bool] = []

        async def wait() -> None:
            if is_closing:
                await two.syncs.delivered(node, 100)
            else:
                await two.syncs.sent(node)
            waited.append(node in friends.server.alive_of(friends.space) and not two.tree.is_dirty(node))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            two.wire.set_up(True)
            two.sync.retry_now()
        assert waited == [True]
        friends.accept()
        await friends.quiet()
        assert await friends.guest.content(await at(friends.guest, "thesis/new")) == LONG

    among_friends(scene)


def test_what_is_being_written_to_a_file_that_is_removed_elsewhere_is_kept_when_sharing_ends() -> None:
    async def scene(friends: Friends) -> None:
        thesis = await shared_thesis(friends)
        handle = await begin(friends.one, await at(friends.one, "thesis/intro"), b"not flushed yet")
        friends.one.wire.set_up(False)
        await friends.guest.volume.unlink(await at(friends.guest, "thesis"), b"intro")
        await friends.quiet(friends.two, friends.guest)
        friends.end()
        await friends.quiet()
        with pytest.raises(NoSuchNode):
            await friends.one.files.write(handle.file, 0, b"more")
        end(friends.one, handle)
        await friends.quiet()
        for device in (friends.one, friends.two):
            kept = await device.volume.lookup(thesis, b"intro")
            assert await device.content(kept) == b"not flushed yet"
        assert not friends.one.stagings.ids()

    among_friends(scene)


def test_who_goes_through_a_shared_folder_looks_for_what_is_in_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(friends: Friends) -> None:
        await shared_thesis(friends)
        part = friends.guest.grafts.all[friends.space].part
        looked: list[Part] = []
        all_nodes = Part.all_nodes

        def look(self: Part) -> set[NodeId]:
            looked.append(self)
            return all_nodes(self)

        monkeypatch.setattr(Part, "all_nodes", look)
        pages = [list(page) for page in part.pages(2)]
        assert looked == [part]
        assert [node for page in pages for node in page] == part.nodes()
        assert [len(page) for page in pages] == [2, 1]
        home = Part(friends.guest.tree)
        assert [node for page in home.pages(1) for node in page] == home.nodes()

    among_friends(scene)


def test_indexes_follow_a_folder_that_begins_to_mount_a_space() -> None:
    async def scene(friends: Friends) -> None:
        await shared_thesis(friends)
        box = await make_folder(friends.one, b"box")
        tree = friends.one.tree
        for space in (friends.space, SpaceId(0)):
            with tree.edit() as edit:
                record = edit.get(box)
                assert record.local is not None
                edit.put(box, replace(record, local=replace(record.local, mounts=space), is_listed=False))
            assert friends.one.grafts.all[friends.space].part.unlisted() == ([box] if space else [])
        with tree.edit() as edit:
            edit.put(box, replace(edit.get(box), is_listed=True))
        await friends.quiet()

    among_friends(scene)


def test_what_becomes_a_shared_folder_while_a_program_moves_a_file_into_it_takes_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scene(friends: Friends) -> None:
        thesis = await make_folder(friends.one, b"thesis")
        await friends.quiet()
        mine = await make(friends.two, b"mine", b"1")
        volume, ensure = friends.two.volume, friends.two.volume.ensure_listed

        async def shared_meanwhile(folder: NodeId) -> None:
            await ensure(folder)
            friends.share(thesis)
            await friends.quiet(friends.one, friends.two)

        monkeypatch.setattr(volume, "ensure_listed", shared_meanwhile)
        with pytest.raises(OtherSpace):
            await volume.rename(ROOT, b"mine", thesis, b"mine", 0)
        monkeypatch.undo()
        await friends.quiet()
        assert await at(friends.one, "mine") == mine

    among_friends(scene)


def test_a_shared_folder_is_none_of_the_homes_before_the_list_of_spaces_came(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor after a restart without it."""

    async def scene(friends: Friends) -> None:
        thesis = await make_folder(friends.one, b"thesis")
        await friends.quiet()
        guest, spaces = friends.guest, Remote.spaces

        async def lost(remote: Remote) -> Spaces:
            if remote.wire is guest.wire:
                raise Unreachable("nobody answers")
            return await spaces(remote)

        monkeypatch.setattr(Remote, "spaces", lost)
        friends.share(thesis)
        friends.accept()
        await trio.sleep(5)
        await make(guest, b"mine", b"1")
        for is_restarted in (False, True):
            if is_restarted:
                await guest.kill()
                await guest.start(friends.nursery)
            assert await at(guest, "thesis")
            with pytest.raises(ReadOnly):
                await guest.volume.rename(ROOT, b"mine", await at(guest, "thesis"), b"mine", 0)
        monkeypatch.undo()
        await friends.quiet()
        with pytest.raises(OtherSpace):
            await guest.volume.rename(ROOT, b"mine", await at(guest, "thesis"), b"mine", 0)

    among_friends(scene)


def test_what_is_being_written_to_a_file_that_is_removed_elsewhere_is_kept_when_its_folder_becomes_a_shared_one() -> (
    None
):
    async def scene(friends: Friends) -> None:
        thesis = await make_folder(friends.one, b"thesis")
        box = await make_folder(friends.one, b"box", thesis)
        await make(friends.one, b"intro", LONG, box)
        await make(friends.one, b"unread", LONG, box)
        await friends.quiet()
        handle = await begin(friends.two, await at(friends.two, "thesis/box/intro"), b"not flushed yet")
        idle = friends.two.volume.open(await at(friends.two, "thesis/box/unread"), is_writing=True, is_truncating=False)
        await friends.one.volume.unlink(box, b"intro")
        await friends.one.volume.unlink(box, b"unread")
        await friends.one.volume.rmdir(thesis, b"box")
        await friends.quiet(friends.one, friends.guest)
        await trio.sleep(5)
        friends.share(thesis)
        friends.accept()
        await trio.sleep(5)
        with pytest.raises(NoSuchNode):
            await friends.two.files.write(handle.file, 0, b"more")
        end(friends.two, handle)
        end(friends.two, idle)
        await friends.quiet()
        for device in friends.all:
            assert await device.content(await at(device, "thesis/box/intro")) == b"not flushed yet"
            assert [child.name for child in device.tree.children(await at(device, "thesis/box"))] == [b"intro"]
        assert not friends.two.stagings.ids()

    among_friends(scene)


def test_what_is_being_written_to_such_a_file_is_kept_when_the_disk_is_full_just_then() -> None:
    async def scene(friends: Friends) -> None:
        thesis = await make_folder(friends.one, b"thesis")
        await make(friends.one, b"intro", LONG, thesis)
        await friends.quiet()
        handle = await begin(friends.two, await at(friends.two, "thesis/intro"), b"not flushed yet")
        await friends.one.volume.unlink(thesis, b"intro")
        await friends.quiet(friends.one, friends.guest)
        await trio.sleep(5)
        grafts = friends.two.syncs.grafts
        revoke = grafts.revoke

        def revoke_on_a_full_disk(nodes: Iterable[NodeId]) -> None:
            grafts.revoke = revoke
            with full(friends.two.state):
                revoke(nodes)

        grafts.revoke = revoke_on_a_full_disk
        friends.share(thesis)
        friends.accept()
        await trio.sleep(60)
        assert grafts.revoke == revoke
        end(friends.two, handle)
        await friends.quiet()
        for device in friends.all:
            assert await device.content(await at(device, "thesis/intro")) == b"not flushed yet"
        assert not friends.two.stagings.ids()

    among_friends(scene)


@pytest.mark.parametrize("is_open", [False, True])
def test_who_waits_for_an_edit_of_a_file_that_gets_another_id_waits_for_that(*, is_open: bool) -> None:
    """It was removed elsewhere, and its folder is a shared one now: nobody can have its old id there."""

    async def scene(friends: Friends) -> None:
        thesis = await make_folder(friends.one, b"thesis")
        intro = await make(friends.one, b"intro", LONG, thesis)
        await friends.quiet()
        two = friends.two
        two.syncs.hold("not now")
        await write(two, intro, b"edited")
        await friends.one.volume.unlink(thesis, b"intro")
        await friends.quiet(friends.one, friends.guest)
        await trio.sleep(5)
        handle = await begin(two, intro, b"edited again") if is_open else None
        waited: list[int] = []

        async def wait_for(job: Awaitable[None]) -> None:
            await job
            waited.append(len(friends.server.alive_of(friends.space)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait_for, two.syncs.sent(intro))
            await trio.testing.wait_all_tasks_blocked()
            friends.share(thesis)
            await trio.sleep(5)
            assert not waited
            two.syncs.hold("")
            nursery.start_soon(wait_for, two.syncs.delivered(intro, 100))
        # The root, and the file.
        assert waited == [2, 2]
        # Where it went on is remembered for those who wait only.
        assert two.tree.heir(intro) == intro
        if handle is not None:
            with pytest.raises(NoSuchNode):
                await two.files.write(handle.file, 0, b"and again")
            end(two, handle)
        friends.accept()
        await friends.quiet()
        for device in friends.all:
            assert await device.content(await at(device, "thesis/intro")) == (b"edited again" if is_open else b"edited")

    among_friends(scene)


def test_a_device_that_is_killed_while_its_folder_becomes_a_shared_one_goes_on_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scene(friends: Friends) -> None:
        thesis = await make_folder(friends.one, b"thesis")
        for number in range(9):
            await make(friends.one, b"%d" % number, b"as it was", thesis)
        await friends.quiet()
        two, give = friends.two, rehoming._give
        given: list[NodeId] = []
        is_half = trio.Event()
        two.wire.set_up(False)
        await write(two, await at(two, "thesis/8"), b"edited offline")

        def stopped(edit: Edit, node: NodeId, *args: Any) -> None:
            if two.tree.store is edit.change._store:
                given.append(node)
            if len(given) == 5:
                is_half.set()
            give(edit, node, *args)

        monkeypatch.setattr(rehoming, "_AT_ONCE", 2)
        monkeypatch.setattr(rehoming, "_give", stopped)
        friends.share(thesis)
        two.wire.set_up(True)
        two.sync.retry_now()
        await is_half.wait()
        await two.kill()
        monkeypatch.undo()
        await two.start(friends.nursery)
        friends.accept()
        await friends.quiet()
        assert two.grafts._nursery is not None
        assert len(two.grafts._nursery.child_tasks) == 1
        for device in friends.all:
            assert await device.content(await at(device, "thesis/8")) == b"edited offline"
            assert len(device.tree.children(await at(device, "thesis"))) == 9

    among_friends(scene)


def test_a_device_that_is_killed_before_it_knows_the_folder_that_mounts_a_space_keeps_what_it_has_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A file that it knows was moved into a folder that it never listed, which then became a shared one."""

    async def scene(friends: Friends) -> None:
        box = await make_folder(friends.one, b"box")
        thesis = await make_folder(friends.one, b"thesis", box)
        intro = await make(friends.one, b"intro", b"1")
        await friends.quiet()
        two = Device(friends.home, friends.server, 3, is_walking=False)
        await two.start(friends.nursery)
        await trio.sleep(2)
        await two.pull.list_folders([ROOT])
        await friends.one.volume.rename(ROOT, b"intro", thesis, b"intro", 0)
        await friends.quiet()
        await trio.sleep(2)
        assert two.tree.record(thesis) is None
        two.syncs.hold("not now")
        await write(two, intro, b"edited here")
        share, is_shared = rehoming.share, trio.Event()

        async def stopped(*args: Any) -> None:
            await share(*args)
            if args[0] is two.tree:
                is_shared.set()
                await trio.sleep_forever()

        monkeypatch.setattr(rehoming, "share", stopped)
        friends.share(thesis)
        await is_shared.wait()
        await two.kill()
        monkeypatch.undo()
        await two.start(friends.nursery)
        friends.accept()
        await quiet(two, *friends.all, is_whole=False)
        assert two.syncs.standing().pending_nodes == 0
        assert await friends.guest.content(await at(friends.guest, "thesis/intro")) == b"edited here"
        assert {child.name for child in two.tree.children(ROOT)} == {b"box"}
        assert await two.content(await at(two, "box/thesis/intro")) == b"edited here"
        await two.stop()

    among_friends(scene)


def test_a_removed_file_that_is_open_in_a_folder_which_is_taken_away_leaves_nothing_behind() -> None:
    async def scene(friends: Friends) -> None:
        await shared_thesis(friends)
        guest = friends.guest
        intro = await at(guest, "thesis/intro")
        handle = await begin(guest, intro, LONG)
        await guest.volume.unlink(await at(guest, "thesis"), b"intro")
        friends.revoke()
        await trio.sleep(10)
        with pytest.raises(NoSuchNode):
            await guest.files.read(handle, 0, 10)
        end(guest, handle)
        assert not guest.stagings.total_bytes
        assert not guest.tree.children(ROOT)

    among_friends(scene)


def test_a_folder_that_cannot_be_cleaned_up_holds_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    clean_up = Leaving.clean_up
    stuck: list[SpaceId] = []

    async def clean_most_up(self: Leaving, gone: Gone) -> int:
        if gone.space in stuck:
            raise DiskFull("This disk is full.")
        return await clean_up(self, gone)

    monkeypatch.setattr("cache.leaving.Leaving.clean_up", clean_most_up)

    async def scene(friends: Friends) -> None:
        await shared_thesis(friends)
        stuck.append(friends.space)
        friends.revoke()
        await trio.sleep(10)
        poems = await make_folder(friends.one, b"poems")
        await make(friends.one, b"poem", b"Tiger, tiger", poems)
        await friends.quiet(friends.one)
        friends.share(poems)
        friends.accept()
        await trio.sleep(60)
        # The list of spaces is taken in all the same.
        assert await friends.guest.content(await at(friends.guest, "poems/poem")) == b"Tiger, tiger"
        friends.revoke()
        await trio.sleep(60)
        assert [gone.space for gone in friends.guest.grafts.gone()] == stuck
        stuck.clear()
        await trio.sleep(60)
        assert not friends.guest.grafts.gone()
        assert {record.space for _, record in friends.guest.records()} == {0}

    among_friends(scene)


def test_a_folder_that_is_left_while_the_disk_is_full_is_left_when_there_is_room() -> None:
    async def scene(friends: Friends) -> None:
        await shared_thesis(friends)
        guest = friends.guest
        handle = await begin(guest, await at(guest, "thesis/intro"), b"being written")
        guest.fill(1.0)
        friends.revoke()
        await trio.sleep(60)
        # It is there as it was, also for a restart.
        assert not guest.grafts.gone()
        assert [one.space for one in guest.grafts.known()] == [friends.space]
        guest.fill(0)
        await trio.sleep(60)
        assert not guest.grafts.known()
        assert not guest.grafts.gone()
        assert await guest.content(await at(guest, "thesis (unsent)/intro")) == b"being written"
        end(guest, handle)

    among_friends(scene)


def test_what_was_not_sent_keeps_what_it_lies_on_also_when_cleaning_up_is_cut_off() -> None:
    async def scene(friends: Friends) -> None:
        thesis = await shared_thesis(friends)
        await make(friends.one, b"same as figures", LONG, thesis)
        await friends.quiet()
        guest = friends.guest
        figures = await at(guest, "thesis/tables/figures")
        assert await guest.content(figures) == LONG
        guest.wire.set_up(False)
        handle = guest.volume.open(figures, is_writing=True, is_truncating=False)
        await guest.files.write(handle.file, 10, b"never sent")
        end(guest, handle)
        show = guest.face.show

        def show_once(effects: Effects) -> None:
            show(effects)
            if any(name.name == b"thesis (unsent)" for name in effects.names):
                guest.fill(1.0)

        # All that shared folders show goes by the mount's method.
        guest.face.show = show_once  # type: ignore[method-assign]
        friends.revoke()
        guest.wire.calm()
        await trio.sleep(60)
        assert guest.grafts.gone()
        guest.sync.hold("paused")
        guest.fill(0)
        await trio.sleep(60)
        assert not guest.grafts.gone()
        kept = await at(guest, "thesis (unsent)/tables/figures")
        assert await guest.content(kept) == LONG[:10] + b"never sent" + LONG[20:], "what it lies on is gone"

    among_friends(scene)


def test_a_server_put_back_to_before_a_folder_was_shared_has_all_of_it_again_from_its_owner() -> None:
    async def scene(friends: Friends) -> None:
        thesis = await make_folder(friends.one, b"thesis")
        intro = await make(friends.one, b"intro", b"1" * 3_000, thesis)
        await make(friends.one, b"figures", LONG, thesis)
        await friends.quiet()
        friends.server.back_up()
        friends.share(thesis)
        friends.accept()
        box = await make_folder(friends.one, b"made since")
        await make(friends.one, b"inside", b"5", box)
        await friends.quiet()
        await write(friends.guest, await at(friends.guest, "thesis/intro"), b"2" * 3_000)
        tables = await make_folder(friends.guest, b"tables", await at(friends.guest, "thesis"))
        await make(friends.guest, b"table", b"3" * 3_000, tables)
        await friends.guest.volume.unlink(await at(friends.guest, "thesis"), b"figures")
        friends.share(box)
        friends.accept()
        await friends.quiet()
        for device in (friends.one, friends.two):
            assert await device.content(await at(device, "thesis/intro")) == b"2" * 3_000
            assert await device.content(await at(device, "thesis/tables/table")) == b"3" * 3_000
        friends.guest.wire.set_up(False)
        await make(friends.guest, b"unsent", b"4", tables)
        friends.server.put_back()
        await friends.quiet()
        for device in (friends.one, friends.two):
            assert not device.grafts.all
            assert {record.space for _, record in device.records()} == {0}
            assert await at(device, "thesis/intro") == intro
            assert await device.content(intro) == b"2" * 3_000
            assert await device.content(await at(device, "thesis/tables/table")) == b"3" * 3_000
            assert await device.content(await at(device, "made since/inside")) == b"5"
            # What was removed since is there again, as after any such loss.
            assert {child.name for child in device.tree.children(thesis)} == {b"intro", b"tables", b"figures"}
            assert {child.name for child in device.tree.children(ROOT)} == {b"thesis", b"made since"}
        assert {child.name for child in friends.guest.tree.children(ROOT)} == {b"thesis (unsent)"}
        assert await friends.guest.content(await at(friends.guest, "thesis (unsent)/tables/unsent")) == b"4"
        friends.share(thesis)
        friends.accept()
        await friends.quiet()
        assert await friends.guest.content(await at(friends.guest, "thesis/tables/table")) == b"3" * 3_000

    among_friends(scene)


def test_a_server_put_back_to_when_a_folder_was_shared_has_what_was_edited_since() -> None:
    async def scene(friends: Friends) -> None:
        thesis = await shared_thesis(friends)
        friends.server.back_up()
        friends.end()
        await friends.quiet()
        assert not friends.guest.tree.children(ROOT)
        await write(friends.one, await at(friends.one, "thesis/intro"), b"since" * 1_000)
        await make(friends.two, b"new", b"new" * 1_000, thesis)
        await friends.two.volume.unlink(await at(friends.two, "thesis/tables"), b"figures")
        await friends.quiet()
        friends.server.put_back()
        await friends.quiet()
        for device in friends.all:
            assert set(device.grafts.all) == {friends.space}
            assert await device.content(await at(device, "thesis/intro")) == b"since" * 1_000
            assert await device.content(await at(device, "thesis/new")) == b"new" * 1_000

    among_friends(scene)


@pytest.mark.parametrize("is_space_first", [False, True])
def test_the_end_of_sharing_flickers_nothing_for_the_owner(*, is_space_first: bool) -> None:
    """Also when the space, which has nothing in it any more, is asked for news before the home."""

    async def scene(friends: Friends) -> None:
        await shared_thesis(friends)
        intro = await at(friends.two, "thesis/intro")
        handle = friends.two.volume.open(intro, is_writing=False, is_truncating=False)
        friends.two.shown.clear()
        if is_space_first:
            await friends.two.pull.lock.acquire()
        friends.end()
        if is_space_first:
            await trio.sleep(5)
            assert await at(friends.two, "thesis/intro") == intro
            friends.two.pull.lock.release()
        await friends.quiet()
        assert not {name for effects in friends.two.shown for name in effects.names}
        assert await friends.two.files.read(handle, 0, 4) == b"Call"
        friends.two.volume.close(handle)

    among_friends(scene)


def test_what_waits_to_come_into_a_folder_comes_when_that_is_a_shared_one() -> None:
    async def scene(friends: Friends) -> None:
        box = await make_folder(friends.one, b"box")
        await friends.quiet()
        friends.two.wire.set_up(False)
        await make(friends.two, b"poem", b"of two" * 1_000, box)
        theirs = await make(friends.one, b"poem", b"of one" * 1_000, box)
        await friends.quiet(friends.one, friends.guest)
        # More is to come after what takes its name, so that its news waits.
        friends.share(box)
        friends.two.syncs.hold("not now")
        friends.two.wire.set_up(True)
        friends.two.sync.retry_now()
        await trio.sleep(5)
        assert [child.node for child in friends.two.tree.children(box)] == [theirs]
        friends.two.syncs.hold("")
        friends.accept()
        await friends.quiet()
        for device in friends.all:
            assert [child.node for child in device.tree.children(await at(device, "box"))] == [theirs]
            assert await device.content(theirs) == b"of one" * 1_000

    among_friends(scene)


def test_a_program_that_goes_on_moving_while_its_folder_becomes_a_shared_one_gets_exdev(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scene(friends: Friends) -> None:
        thesis = await make_folder(friends.one, b"thesis")
        for number in range(20):
            await make(friends.one, b"%02d" % number, b"", thesis)
        box = await make_folder(friends.one, b"z", thesis)
        mine = await make(friends.one, b"mine", b"1")
        await friends.quiet()
        monkeypatch.setattr(rehoming, "_AT_ONCE", 1)
        effects_of, is_begun = rehoming.effects_of, trio.Event()

        def begun(edit: Edit, *, is_event: bool) -> Effects:
            if edit.change._store is friends.two.tree.store:
                is_begun.set()
            return effects_of(edit, is_event=is_event)

        monkeypatch.setattr(rehoming, "effects_of", begun)
        friends.share(thesis)
        await is_begun.wait()
        with pytest.raises(OtherSpace):
            await friends.two.volume.rename(ROOT, b"mine", box, b"mine", 0)
        friends.accept()
        await friends.quiet()
        assert await at(friends.one, "mine") == mine

    among_friends(scene)


def test_a_folder_that_becomes_a_shared_one_while_it_is_listed_is_listed_whole() -> None:
    async def scene(friends: Friends) -> None:
        thesis = await make_folder(friends.one, b"thesis")
        await make(friends.one, b"intro", b"1", thesis)
        await friends.quiet()
        three = Device(friends.home, friends.server, 3, is_walking=False)
        await three.start(friends.nursery)
        await trio.sleep(2)
        await three.pull.list_folders([ROOT])
        assert not three.tree.children(thesis)
        friends.share(thesis)
        await three.syncs.list_folder(thesis)
        assert [child.name for child in three.tree.children(thesis)] == [b"intro"]
        await three.stop()

    among_friends(scene)


def test_what_is_removed_together_with_an_edit_of_a_mount_is_none_of_its_space() -> None:
    async def scene(friends: Friends) -> None:
        box = await make_folder(friends.one, b"box")
        thesis = await make_folder(friends.one, b"thesis", box)
        intro = await make(friends.one, b"intro", b"1")
        await friends.quiet()
        friends.share(thesis)
        await friends.quiet()
        three = Device(friends.home, friends.server, 3, is_walking=False)
        await three.start(friends.nursery)
        await trio.sleep(2)
        await three.pull.list_folders([ROOT])
        assert intro in three.local()
        friends.one.syncs.hold("together")
        await friends.one.volume.unlink(ROOT, b"intro")
        await make(friends.one, b"new", b"", thesis)
        friends.one.syncs.hold("")
        await friends.quiet()
        await trio.sleep(5)
        assert three.tree.record(intro) is None
        assert three.tree.record(thesis) is None
        await three.stop()

    among_friends(scene)


@pytest.mark.parametrize("is_killed", [False, True])
def test_who_leaves_a_folder_and_accepts_it_again_has_all_of_it(
    monkeypatch: pytest.MonkeyPatch, *, is_killed: bool
) -> None:
    async def scene(friends: Friends) -> None:
        await shared_thesis(friends)
        guest, spaces = friends.guest, Remote.spaces

        async def slow(remote: Remote) -> Spaces:
            # What is known of the old one is still there when the new one comes.
            await trio.sleep(2)
            return await spaces(remote)

        monkeypatch.setattr(Remote, "spaces", slow)
        leave = SharedSpaceRequest(friends.space)
        guest.wire.set_up(False)
        friends.server.share(DeviceId(GUESTS), lambda sharing, asker: sharing.leave(asker, leave))
        friends.accept()
        if is_killed:
            await guest.kill()
            await guest.start(friends.nursery)
        guest.wire.set_up(True)
        guest.sync.retry_now()
        await friends.quiet()
        assert await guest.content(await at(guest, "thesis/tables/figures")) == LONG
        await make(guest, b"new", b"by the guest", await at(guest, "thesis"))
        await friends.quiet()
        assert await friends.one.content(await at(friends.one, "thesis/new")) == b"by the guest"

    among_friends(scene)


def test_what_a_viewer_had_not_sent_is_said_not_to_be_sent() -> None:
    async def scene(friends: Friends) -> None:
        await shared_thesis(friends)
        guest = friends.guest
        guest.syncs.hold("not now")
        await write(guest, await at(guest, "thesis/intro"), b"edited")
        friends.permit("viewer")
        await trio.sleep(5)
        guest.syncs.hold("")
        await trio.sleep(5)
        standing = guest.syncs.standing()
        assert standing.pending_nodes
        assert [(one.path, one.sentence) for one in standing.stuck] == [(b"thesis", VIEWER)]
        friends.permit("editor")
        await friends.quiet()
        assert not guest.syncs.standing().stuck
        assert await friends.one.content(await at(friends.one, "thesis/intro")) == b"edited"

    among_friends(scene)
