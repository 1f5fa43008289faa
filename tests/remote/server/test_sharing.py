"""Shared folders: made of folders with nothing uploaded, and what members see and may do."""

import random
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from msgspec.structs import replace

from remote.protocol import history
from remote.protocol.account import Audit, AuditRequest, LinkEntry, LinkRequest, Links
from remote.protocol.errors import BadRequest, InTheWay, NotAllowed, NotFound, QuotaExceeded
from remote.protocol.history import Purged, PurgeRequest, RewindRequest, Trash, TrashRequest, UndoRequest
from remote.protocol.ids import ROOT, ChunkId, NodeId, Rev, SpaceId
from remote.protocol.messages import (
    Change,
    ChunkPart,
    Done,
    FolderQuery,
    History,
    HistoryRequest,
    Listing,
    ListRequest,
    PollAnswer,
    PollRequest,
    Room,
    RoomRequest,
)
from remote.protocol.nodes import EMPTY, Entry, Kind, Manifest, Name, NodeState
from remote.protocol.sharing import (
    Group,
    GroupMemberRequest,
    GroupRequest,
    Groups,
    Invitations,
    LimitRequest,
    Members,
    PermitRequest,
    RevokeRequest,
    Shared,
    SharedSpaceRequest,
    ShareRequest,
    TransferRequest,
    Wish,
)
from remote.server import instance as instances
from remote.server import membership
from remote.server.database import chunks as chunk_rows
from remote.server.database.connection import Session
from remote.server.instance import Instance
from remote.server.upkeep import standing
from remote.server.upkeep.collecting import Collector

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


async def test_versions_name_the_device_that_shared_and_its_undo_passes_that_by(
    ann: Any, bob: Any, thesis: NodeId
) -> None:
    last = await ann.new_file(b"last")
    shared = await share(ann, thesis, "bob")
    mount = (await about(bob, "accept", shared.space, Shared)).mount
    (accepted,) = (await bob.history(mount)).versions
    began = (await ann.history(thesis)).versions[0]
    inside = (await ann.in_space("history", HistoryRequest(ROOT, Rev(0), 9), History, shared.space)).versions
    undone = await ann.in_space("undo", UndoRequest(bytes(16), is_dry_run=True), history.Done)
    assert undone.of == (await ann.node(last)).rev
    await about(ann, "end", shared.space)
    assert (began.user_name, began.device_name) == ("ann", "desk1")
    assert {version.device_name for version in inside} == {"desk1"}
    assert (accepted.user_name, accepted.device_name) == ("bob", "desk2")
    assert (await ann.history(thesis)).versions[0].device_name == "desk1"
    # Nobody's device asked for what others did to him.
    assert [version.device_name for version in (await bob.history(mount)).versions] == ["", "desk2"]


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


async def test_to_share_a_folder_asks_the_database_no_more_often_for_more_files(
    ann: Any, build: Any, instance: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    execute = Session._execute

    def counted(session: Session, sql: str, values: tuple[object, ...]) -> Any:
        asked.append(sql)
        return execute(session, sql, values)

    monkeypatch.setattr(Session, "_execute", counted)
    counts = []
    for files in (1, 31):
        folder = await ann.new_folder(b"folder of %d" % files)
        new = [build.change(await ann.new_id(), build.file(b"%d" % number, folder)) for number in range(files)]
        await ann.commit(*new)
        asked.clear()
        shared = await share(ann, folder)
        counts.append(len(asked))
        await about(ann, "end", shared.space)
    # All who write wait meanwhile.
    assert counts[1] - counts[0] < 10, counts


async def test_members_see_and_change_one_folder(ann: Any, bob: Any, thesis: NodeId, instance: Instance) -> None:
    shared = await share(ann, thesis, "bob")
    with pytest.raises(NotFound):
        await names_in(bob, shared.space)
    assert await invitations(bob) == ["thesis of ann: editor"]
    accepted = await about(bob, "accept", shared.space, Shared)
    assert await invitations(bob) == []
    assert await bob.names() == [b"thesis"]
    assert (await bob.node(accepted.mount)).state.mounts == shared.space
    assert await names_in(bob, shared.space) == [b"intro.txt", b"tables"]

    found = {one.name: one for one in (await bob.spaces()).spaces}
    assert (found["thesis"].role, found["thesis"].owner_name, found["thesis"].mount) == (
        "editor",
        "ann",
        accepted.mount,
    )
    node = await bob.new_id()
    await bob.commit(build_change(bob, node, b"notes", ROOT), space=shared.space)
    assert await names_in(ann, shared.space) == [b"intro.txt", b"notes", b"tables"]


def build_change(asker: Any, node: NodeId, name: bytes, parent: NodeId, **fields: Any) -> Change:
    now_ns = 1_700_000_000_000_000_000
    state = NodeState(Kind.FOLDER, (Name(parent, name),), 0o755, 0, 0, now_ns, now_ns, now_ns, now_ns, **fields)
    return Change(node, Rev(0), now_ns, state)


async def test_the_home_is_the_first_of_the_spaces(ann: Any, bob: Any) -> None:
    # Ids of spaces are drawn by lot.
    for number in range(5):
        await share(ann, await ann.new_folder(b"folder %d" % number), "bob")
    found = (await ann.spaces()).spaces
    assert (found[0].space, len(found)) == (ann.home, 6)


async def test_a_taken_name_gets_a_number(ann: Any, bob: Any, thesis: NodeId) -> None:
    await bob.new_folder(b"thesis")
    shared = await share(ann, thesis, "bob")
    await about(bob, "accept", shared.space, Shared)
    assert await bob.names() == [b"thesis", b"thesis (2)"]


async def test_nothing_has_to_be_sent_and_members_read_all(
    ann: Any, bob: Any, thesis: NodeId, instance: Instance
) -> None:
    listing = (await ann.listing(thesis)).folders[0]
    tables = listing.children[1].node
    figures = (await ann.listing(tables)).folders[0].children[0].state.content
    shared = await share(ann, thesis, "bob", role="viewer")
    await about(bob, "accept", shared.space, Shared)
    part = ChunkPart(figures.entries[0].id)
    for space in (shared.space, bob.home):
        assert len(await bob.get(part, space=space)) == 1
    assert next(instance.contents.read(SpaceId(shared.space), figures, 0, 100))[:100] == LONG[:100]
    await ann.ask("POST", "/v1/shares/revoke", RevokeRequest(SpaceId(shared.space), "bob"), Done)
    for space in (shared.space, bob.home):
        with pytest.raises(NotFound):
            await bob.get(part, space=space)


async def test_only_chunks_of_the_folder_may_be_read(ann: Any, bob: Any, thesis: NodeId, instance: Instance) -> None:
    secret = content(instance, ann.home, LONG[::-1])
    await ann.new_file(b"secret", content=secret)
    shared = await share(ann, thesis, "bob")
    await about(bob, "accept", shared.space, Shared)
    with pytest.raises(NotFound):
        await bob.get(ChunkPart(secret.entries[0].id), space=shared.space)


async def test_leaves_of_a_long_manifest_are_shared(ann: Any, bob: Any, instance: Instance) -> None:
    data = random.Random(5).randbytes(1 << 20)
    pieces = [cut for at in range(70) for cut in (data[at:], data[:at])]
    writer = instance.contents.writer(ann.home)
    for piece in pieces:
        writer.add(piece)
    manifest = writer.finish()
    assert manifest.depth == 1
    folder = await ann.new_folder(b"films")
    await ann.new_file(b"film", folder, manifest)
    shared = await share(ann, folder, "bob")
    await about(bob, "accept", shared.space, Shared)
    read = b"".join(map(bytes, instance.contents.read(SpaceId(shared.space), manifest, 0, manifest.size)))
    assert read == b"".join(pieces)


async def test_a_shared_file_is_in_a_new_folder(ann: Any, bob: Any, instance: Instance) -> None:
    file = await ann.new_file(b"report.txt", content=content(instance, ann.home, b"all is well"))
    shared = await share(ann, file, "bob")
    assert (shared.is_in_new_folder, shared.name) == (True, "report.txt (shared)")
    assert await ann.names() == [b"report.txt (shared)"]
    await about(bob, "accept", shared.space, Shared)
    assert await names_in(bob, shared.space) == [b"report.txt"]


async def test_what_cannot_be_shared_is_refused(ann: Any, bob: Any, thesis: NodeId) -> None:
    with pytest.raises(NotAllowed, match="top of your drive"):
        await share(ann, ROOT)
    with pytest.raises(NotFound):
        await share(bob, thesis, space=ann.home)
    with pytest.raises(NotFound, match="nobody"):
        await share(ann, thesis, "nobody")
    assert await ann.names(thesis) == [b"intro.txt", b"tables"], "refused whole"
    outer = await ann.new_folder(b"outer")
    inner = await ann.new_folder(b"inner", outer)
    await share(ann, inner)
    with pytest.raises(InTheWay, match="inner"):
        await share(ann, outer)
    shared = await share(ann, thesis)
    with pytest.raises(NotAllowed, match="by itself"):
        await share(
            ann,
            (await ann.in_space("list", ListRequest((FolderQuery(ROOT),)), Listing, shared.space))
            .folders[0]
            .children[1]
            .node,
            space=shared.space,
        )


async def test_a_file_with_a_name_outside_keeps_a_folder_from_being_shared(
    ann: Any, thesis: NodeId, build: Any
) -> None:
    node = await ann.new_id()
    names = (Name(thesis, b"one"), Name(ROOT, b"two"))
    await ann.made(build.change(node, build.state(Kind.FILE, names, content=EMPTY)))
    with pytest.raises(InTheWay, match="another name outside"):
        await share(ann, thesis)


async def test_devices_cannot_make_change_or_remove_mounts(ann: Any, thesis: NodeId, build: Any) -> None:
    shared = await share(ann, thesis)
    mount = await ann.node(thesis)
    with pytest.raises(NotAllowed, match="satchel leave"):
        await ann.commit(build.change(thesis, None, mount.rev))
    with pytest.raises(NotAllowed, match="satchel share"):
        await ann.commit(build.change(thesis, replace(mount.state, mounts=0), mount.rev))
    with pytest.raises(NotAllowed, match="satchel share"):
        await ann.commit(build.change(await ann.new_id(), build.folder(b"forged", mounts=shared.space)))
    with pytest.raises(BadRequest, match="mounts"):
        await ann.commit(build.change(await ann.new_id(), build.file(b"forged", mounts=shared.space)))

    renamed = replace(mount.state, names=(Name(ROOT, b"our thesis"),), mode=0o700)
    assert (await ann.commit(build.change(thesis, renamed, mount.rev))).rev
    assert (await ann.node(thesis)).state.mounts == shared.space

    child = await ann.commit(build.change(await ann.new_id(), build.folder(b"child", thesis)))
    assert (child.rev, [one.node for one in child.winners]) == (0, [thesis])


async def test_what_moved_into_the_space_does_not_come_back(ann: Any, thesis: NodeId, build: Any) -> None:
    intro = (await ann.listing(thesis)).folders[0].children[0]
    await share(ann, thesis)
    stale = await ann.commit(build.change(intro.node, intro.state, intro.rev))
    assert (stale.rev, [one.node for one in stale.winners]) == (0, [intro.node, thesis])
    back = build.change(intro.node, build.file(b"back"), stale.winners[0].rev)
    with pytest.raises(NotAllowed, match="another space"):
        await ann.commit(back)
    trash = await ann.in_space("trash", TrashRequest(), Trash)
    assert trash.removed == ()


async def test_going_back_leaves_shared_folders_alone(ann: Any, bob: Any, thesis: NodeId) -> None:
    before = (await ann.space()).head
    await ann.new_folder(b"later")
    shared = await share(ann, thesis, "bob")
    done = await ann.in_space("rewind", RewindRequest(b"1" * 16, ROOT, before), Done)
    assert done is not None
    assert await ann.names() == [b"thesis"]
    assert (await ann.node(thesis)).state.mounts == shared.space
    assert await ann.names(thesis) == []
    sharing_rev = before + 2
    done = await ann.in_space("undo", UndoRequest(b"2" * 16, Rev(sharing_rev)), history.Done)
    assert (done.rev, done.kept) == (0, 4)

    await about(bob, "accept", shared.space, Shared)
    rev = (await bob.space()).head
    await about(bob, "leave", shared.space)
    done = await bob.in_space("rewind", RewindRequest(b"3" * 16, ROOT, rev), history.Done)
    assert (done.rev, done.kept) == (0, 1)
    assert await bob.names() == []


async def test_older_states_of_the_folder_stay_in_the_home(ann: Any, thesis: NodeId) -> None:
    before = (await ann.space()).head
    await share(ann, thesis)
    assert await ann.names(thesis, as_of=before) == [b"intro.txt", b"tables"]


async def test_leaving_and_coming_again(ann: Any, bob: Any, thesis: NodeId) -> None:
    shared = await share(ann, thesis, "bob")
    await about(bob, "accept", shared.space, Shared)
    await about(bob, "leave", shared.space)
    assert await bob.names() == []
    with pytest.raises(NotFound):
        await names_in(bob, shared.space)
    assert await members(ann, shared.space) == ["ann: owner member", "bob: editor declined"]
    await about(bob, "accept", shared.space, Shared)
    assert await bob.names() == [b"thesis"]
    with pytest.raises(NotAllowed, match="yours"):
        await about(ann, "leave", shared.space)


async def members(asker: Any, space: int) -> list[str]:
    found = await about(asker, "members", space, Members)
    return [f"{one.who}: {one.role} {one.standing}" for one in found.members]


async def test_declining(ann: Any, bob: Any, thesis: NodeId) -> None:
    shared = await share(ann, thesis, "bob")
    await about(bob, "decline", shared.space)
    assert await members(ann, shared.space) == ["ann: owner member", "bob: editor declined"]
    await share(ann, thesis, "bob", role="viewer")
    assert await members(ann, shared.space) == ["ann: owner member", "bob: viewer invited"]
    await ann.ask("POST", "/v1/shares/revoke", RevokeRequest(SpaceId(shared.space), "bob"), Done)
    assert await invitations(bob) == []
    with pytest.raises(NotFound):
        await about(bob, "accept", shared.space, Shared)


async def test_what_was_declined_or_left_keeps_no_invitation_away(
    ann: Any, bob: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(membership, "SHARED_MAX", 2)
    folders = [await ann.new_folder(b"%d" % number) for number in range(5)]
    declined, left, *_ = [await share(ann, folder, "bob") for folder in folders[:2]]
    with pytest.raises(NotAllowed, match="all that one gets"):
        await share(ann, folders[2], "bob")
    await about(bob, "decline", declined.space)
    await about(bob, "accept", left.space, Shared)
    await about(bob, "leave", left.space)
    for folder in folders[2:4]:
        await share(ann, folder, "bob")
    with pytest.raises(NotAllowed, match="all that one gets"):
        await share(ann, folders[4], "bob")


async def test_a_role_changes_at_once_and_polls_hear_of_it(ann: Any, bob: Any, thesis: NodeId) -> None:
    shared = await share(ann, thesis, "bob")
    await about(bob, "accept", shared.space, Shared)
    spaces = await bob.spaces()
    cursors = {one.space: one.head for one in spaces.spaces}
    answers: list[PollAnswer] = []

    async def wait() -> None:
        answers.append(await bob.ask("POST", "/v1/poll", PollRequest(cursors, 60, {}, spaces.serial), PollAnswer))

    async with anyio.create_task_group() as group:
        group.start_soon(wait)
        await ann.ask("POST", "/v1/shares/permit", PermitRequest(SpaceId(shared.space), "bob", "viewer"), Done)
    assert answers[0].spaces_changed
    with pytest.raises(NotAllowed, match="viewer"):
        await bob.commit(build_change(bob, await bob.new_id(), b"no", ROOT), space=shared.space)


async def test_who_is_put_out_hears_of_it_at_once(ann: Any, bob: Any, thesis: NodeId) -> None:
    shared = await share(ann, thesis, "bob")
    await about(bob, "accept", shared.space, Shared)
    spaces = await bob.spaces()
    cursors = {one.space: one.head for one in spaces.spaces}
    answers: list[PollAnswer] = []

    async def wait() -> None:
        answers.append(await bob.ask("POST", "/v1/poll", PollRequest(cursors, 60, {}, spaces.serial), PollAnswer))

    async with anyio.create_task_group() as group:
        group.start_soon(wait)
        await ann.ask("POST", "/v1/shares/revoke", RevokeRequest(SpaceId(shared.space), "bob"), Done)
    assert answers[0].spaces_changed
    assert answers[0].heads == {bob.home: cursors[bob.home] + 1}
    assert await bob.names() == []


async def test_ending_brings_all_back_into_the_folder(ann: Any, bob: Any, thesis: NodeId, instance: Instance) -> None:
    shared = await share(ann, thesis, "bob")
    await about(bob, "accept", shared.space, Shared)
    node = await bob.new_id()
    new = content(instance, shared.space, LONG[::-1])
    made = replace(build_change(bob, node, b"from bob", ROOT).state, kind=Kind.FILE, content=new)
    await bob.commit(Change(node, Rev(0), 1, made), space=shared.space)
    with pytest.raises(NotAllowed):
        await about(bob, "end", shared.space)
    await about(ann, "end", shared.space)
    assert await ann.names(thesis) == [b"from bob", b"intro.txt", b"tables"]
    assert (await ann.node(thesis)).state.mounts == 0
    assert len(await ann.get(ChunkPart(new.entries[0].id))) == 1
    assert await bob.names() == []
    with pytest.raises(NotFound):
        await names_in(bob, shared.space)
    assert await names_in(ann, shared.space) == []
    # What a device of hers sends late would be seen by nobody.
    late = build_change(ann, await ann.new_id(), b"late", ROOT)
    with pytest.raises(NotAllowed):
        await ann.commit(late, space=shared.space)
    assert [one.name for one in (await ann.spaces()).spaces] == ["ann"]
    with pytest.raises(NotAllowed, match="keeper"):
        await ann.ask("POST", "/v1/shares/permit", PermitRequest(SpaceId(shared.space), "bob", "viewer"), Done)
    with pytest.raises(NotFound, match="any more"):
        await about(ann, "leave", shared.space)
    with pytest.raises(NotAllowed, match="keeper"):
        await ann.commit(build_change(ann, await ann.new_id(), b"no", ROOT), space=shared.space)
    again = await share(ann, thesis, "bob")
    assert again.space != shared.space
    assert await names_in(ann, again.space) == [b"from bob", b"intro.txt", b"tables"]


async def test_groups_give_and_take_roles(ann: Any, bob: Any, sign_in: SignIn, thesis: NodeId) -> None:
    carol = await sign_in("carol")
    await ann.ask("POST", "/v1/groups/make", GroupRequest("team"), Group)
    await ann.ask("POST", "/v1/groups/add-member", GroupMemberRequest("team", "bob"), Done)
    shared = await share(ann, thesis, "team", role="viewer")
    await about(bob, "accept", shared.space, Shared)
    await ann.ask("POST", "/v1/groups/add-member", GroupMemberRequest("team", "carol"), Done)
    assert await invitations(carol) == ["thesis of ann: viewer"]
    assert await members(ann, shared.space) == [
        "ann: owner member", "bob: viewer member", "carol: viewer invited", "team: viewer member",
    ]  # fmt: skip
    await share(ann, thesis, "bob", role="manager")
    assert [one.role for one in (await bob.spaces()).spaces if one.mount] == ["manager"]
    await ann.ask("POST", "/v1/shares/revoke", RevokeRequest(SpaceId(shared.space), "bob"), Done)
    assert [one.role for one in (await bob.spaces()).spaces if one.mount] == ["viewer"]
    with pytest.raises(InTheWay, match="the group team"):
        await ann.ask("POST", "/v1/shares/revoke", RevokeRequest(SpaceId(shared.space), "bob"), Done)
    with pytest.raises(NotAllowed):
        await bob.ask("POST", "/v1/groups/add-member", GroupMemberRequest("team", "bob"), Done)
    await bob.ask("POST", "/v1/groups/remove-member", GroupMemberRequest("team", "bob"), Done)
    assert await bob.names() == []
    await ann.ask("POST", "/v1/groups/remove", GroupRequest("team"), Done)
    assert await invitations(carol) == []
    assert await members(ann, shared.space) == ["ann: owner member"]
    assert (await ann.ask("GET", "/v1/groups", None, Groups)).groups == ()


async def test_a_group_cannot_have_the_name_of_a_user(ann: Any, bob: Any) -> None:
    for name in ("BOB", "team", "Team"):
        if name == "team":
            await ann.ask("POST", "/v1/groups/make", GroupRequest(name), Group)
            continue
        with pytest.raises(InTheWay):
            await ann.ask("POST", "/v1/groups/make", GroupRequest(name), Group)
    with pytest.raises(NotFound):
        await bob.ask("POST", "/v1/groups/remove", GroupRequest("team"), Done)


@pytest.fixture
def bounded(tmp_path: Path) -> Callable[[str, int], None]:
    return lambda name, quota: instances.set_quota(tmp_path / "data", tmp_path / "key", name, quota)


async def test_what_is_shared_counts_for_its_owner(
    ann: Any, bob: Any, thesis: NodeId, bounded: Callable[[str, int], None], tmp_path: Path
) -> None:
    used = (await ann.space()).used
    shared = await share(ann, thesis, "bob")
    await about(bob, "accept", shared.space, Shared)
    assert (await ann.space()).used == used
    bounded("ann", used + 1_000)
    bounded("bob", 10)
    of_bob = next(one for one in (await bob.spaces()).spaces if one.mount)
    assert (of_bob.used, of_bob.quota - of_bob.used, (await bob.space()).used) == (used, 1_000, 0)

    async def bring(asker: Any, space: int, name: bytes, size: int) -> Any:
        node = await asker.new_id()
        state = replace(build_change(asker, node, name, ROOT).state, kind=Kind.FILE)
        inline = Manifest(size, bytes(size))
        return await asker.commit(Change(node, Rev(0), 1, replace(state, content=inline)), space=space)

    await bring(bob, shared.space, b"small", 600)
    assert (await ann.space()).used == used + 600
    for asker, space in ((bob, shared.space), (ann, ann.home), (ann, shared.space)):
        with pytest.raises(QuotaExceeded):
            await bring(asker, space, b"too much", 401)
    await bring(ann, ann.home, b"rest", 100)
    with pytest.raises(QuotaExceeded, match="no room"):
        await ann.ask("POST", "/v1/shares/transfer", TransferRequest(SpaceId(shared.space), "bob"), Done)
    bounded("bob", used + 10_000)
    await ann.ask("POST", "/v1/shares/transfer", TransferRequest(SpaceId(shared.space), "bob"), Done)
    assert ((await ann.space()).used, (await bob.space()).used) == (100, used + 600)
    assert await members(bob, shared.space) == ["bob: owner member", "ann: manager member"]
    await about(bob, "end", shared.space)
    assert ((await ann.space()).used, (await bob.space()).used) == (100, used + 600)
    assert await ann.names() == [b"rest"]
    with instances.beside(tmp_path / "data", tmp_path / "key") as beside:
        assert [each.sentence for each in standing.look(beside) if not each.is_good] == []


async def test_leases_of_a_shared_folder_are_of_its_owners_quota(
    ann: Any, bob: Any, thesis: NodeId, bounded: Callable[[str, int], None]
) -> None:
    shared = await share(ann, thesis, "bob")
    await about(bob, "accept", shared.space, Shared)
    bounded("ann", (await ann.space()).used + 100_000)
    room = await ann.in_space("room", RoomRequest(None, 70_000), Room)
    assert (room.left, room.lease) == (100_000, 70_000)
    of_bob = await bob.in_space("room", RoomRequest(None, 100_000), Room, shared.space)
    assert (of_bob.left, of_bob.lease) == (30_000, 30_000)
    node = await bob.new_id()
    state = replace(build_change(bob, node, b"hole", ROOT).state, kind=Kind.FILE)
    hole = Manifest(30_001, entries=(Entry(ChunkId(b""), b"", 30_001),))
    with pytest.raises(QuotaExceeded, match="kept for"):
        await bob.commit(Change(node, Rev(0), 1, replace(state, content=hole)), space=shared.space)


async def test_links_into_a_shared_folder_need_an_editor(ann: Any, bob: Any, thesis: NodeId, http: Any) -> None:
    shared = await share(ann, thesis, "bob", role="viewer")
    await about(bob, "accept", shared.space, Shared)
    request = LinkRequest(SpaceId(shared.space), ROOT)
    with pytest.raises(NotAllowed):
        await bob.ask("POST", "/v1/links/make", request, LinkEntry)
    await share(ann, thesis, "bob", role="editor")
    link = await bob.ask("POST", "/v1/links/make", request, LinkEntry)
    own = await ann.ask("POST", "/v1/links/make", LinkRequest(ann.home, thesis), LinkEntry)
    for each in (link, own):
        assert (each.name, each.leads_to) == ("thesis", "thesis")
        assert "intro.txt" in (await http.get(each.path)).text
    await share(ann, thesis, "bob", role="viewer")
    assert (await http.get(link.path)).status_code == 410
    (told,) = (await bob.ask("GET", "/v1/links", None, Links)).links
    assert (told.is_over, told.name, told.leads_to) == (True, "", "")
    assert (await http.get(own.path)).status_code == 200


async def test_upkeep_keeps_what_is_shared(ann: Any, bob: Any, thesis: NodeId, instance: Instance) -> None:
    """Also when the home forgets all that was there before."""
    here = (await ann.listing(thesis)).folders[0].children
    nodes = (thesis, *(one.node for one in (*here, *(await ann.listing(here[1].node)).folders[0].children)))
    shared = await share(ann, thesis, "bob")
    await about(bob, "accept", shared.space, Shared)
    await ann.in_space("purge", PurgeRequest(nodes), Purged)
    clock = iter(range(time.time_ns(), 1 << 62, 10**15))
    for _ in range(3):
        Collector(instance.database, instance.objects, instance.answers._keyring, now_ns=lambda: next(clock)).run()
    tables = (await ann.in_space("list", ListRequest((FolderQuery(ROOT),)), Listing, shared.space)).folders[0]
    figures = await ann.in_space("list", ListRequest((FolderQuery(tables.children[1].node),)), Listing, shared.space)
    manifest = figures.folders[0].children[0].state.content
    read = b"".join(map(bytes, instance.contents.read(SpaceId(shared.space), manifest, 0, manifest.size)))
    assert read == LONG
    chunk = manifest.entries[0].id
    assert not instance.database.read_now(lambda session: chunk_rows.may_read(session, ann.home, chunk))


async def test_sharing_by_json(ann: Any, bob: Any, thesis: NodeId, http: Any) -> None:
    async def ask(asker: Any, method: str, path: str, body: object = None) -> Any:
        headers = {"authorization": asker.headers["authorization"]}
        response = await http.request(method, f"/api/v1{path}", headers=headers, json=body)
        assert response.status_code == 200, response.text
        return response.json()

    await ask(ann, "POST", "/groups", {"name": "team"})
    await ask(ann, "POST", "/groups/members", {"name": "team", "who": "bob"})
    made = await ask(ann, "POST", f"/files/{thesis}/share", {"wishes": [{"who": "team", "role": "viewer"}]})
    assert (made["name"], made["file"], made["is_new"]) == ("thesis", str(thesis), True)
    (invitation,) = (await ask(bob, "GET", "/shares"))["invitations"]
    assert (invitation["name"], invitation["owner"], invitation["role"]) == ("thesis", "ann", "viewer")
    space = invitation["space"]
    await ask(bob, "POST", f"/shares/{space}/decline")
    await ask(bob, "POST", f"/shares/{space}/accept")
    await ask(ann, "POST", f"/shares/{space}/members", {"who": "bob", "role": "manager"})
    (folder,) = (await ask(bob, "GET", "/shares"))["folders"]
    assert (folder["role"], folder["owner"]) == ("manager", "ann")
    told = await ask(bob, "GET", f"/shares/{space}")
    assert [(one["who"], one["role"], one["groups"]) for one in told["members"]] == [
        ("ann", "owner", []),
        ("bob", "manager", ["team"]),
        ("team", "viewer", []),
    ]
    await ask(ann, "POST", f"/shares/{space}/transfer", {"who": "bob"})
    await ask(bob, "DELETE", f"/shares/{space}/members?who=ann")
    assert (await ask(ann, "GET", "/shares"))["folders"] == []
    await ask(bob, "DELETE", f"/shares/{space}")
    assert (await ask(bob, "GET", "/shares"))["folders"] == []
    assert [one["name"] for one in (await ask(ann, "GET", "/groups"))] == ["team"]
    await ask(ann, "DELETE", "/groups/members?name=team&who=bob")
    await ask(ann, "DELETE", "/groups?name=team")


async def test_sharing_is_noted_for_both(ann: Any, bob: Any, thesis: NodeId) -> None:
    shared = await share(ann, thesis, "bob", role="viewer")
    await about(bob, "accept", shared.space, Shared)
    await share(ann, thesis, "bob")
    await ann.ask("POST", "/v1/shares/revoke", RevokeRequest(SpaceId(shared.space), "bob"), Done)
    told = [
        ("share invited", "bob in thesis: as viewer", "ann"),
        ("share accepted", "bob in thesis: as viewer", "bob"),
        ("share role", "bob in thesis: editor instead of viewer", "ann"),
        ("share taken away", "bob in thesis", "ann"),
    ]
    for asker in (ann, bob):
        found = (await asker.ask("POST", "/v1/audit", AuditRequest(), Audit)).entries
        assert [(one.what, one.about, one.by) for one in reversed(found) if one.what.startswith("share")] == told


async def test_what_follows_journals_hears_of_the_new_space(ann: Any, thesis: NodeId, instance: Instance) -> None:
    listener = instance.hub.listen()
    shared = await share(ann, thesis)
    assert set(listener.spaces) == {ann.home, shared.space}


async def test_an_owner_bounds_what_may_be_in_a_folder(
    ann: Any, bob: Any, thesis: NodeId, bounded: Callable[[str, int], None]
) -> None:
    shared = await share(ann, thesis, "bob", role="manager")
    await about(bob, "accept", shared.space, Shared)
    used = (await ann.space()).used

    async def bring(name: bytes, size: int) -> None:
        node = await bob.new_id()
        state = replace(build_change(bob, node, name, ROOT).state, kind=Kind.FILE, content=Manifest(size, bytes(size)))
        answer = await bob.commit(Change(node, Rev(0), 1, state), space=shared.space)
        assert answer.rev

    async def limit(asker: Any, size: int) -> None:
        await asker.ask("POST", "/v1/shares/limit", LimitRequest(SpaceId(shared.space), size), Done)

    with pytest.raises(NotAllowed):
        await limit(bob, 0)
    for quota in (0, used + 100_000):
        bounded("ann", quota)
        await limit(ann, used + 1_000)
        room = await bob.in_space("room", RoomRequest(None, 5_000), Room, shared.space)
        assert (room.quota, room.left, room.lease) == (used + 1_000, 1_000, 1_000)
        with pytest.raises(QuotaExceeded, match="holds"):
            await bring(b"too much %d" % quota, 1_001)
        await bring(b"fits %d" % quota, 1_000)
        used += 1_000
        assert (await about(bob, "members", shared.space, Members)).limit == used
    await limit(ann, 0)
    await bring(b"more", 2_000)
    bounded("ann", used + 2_000 + 500)
    await limit(ann, used + 50_000)
    room = await bob.in_space("room", RoomRequest(None, 5_000), Room, shared.space)
    assert room.left == 500
    with pytest.raises(QuotaExceeded):
        await bring(b"over what ann has", 501)
