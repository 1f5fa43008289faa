"""Collecting, packing, scrubbing and backing up an instance that is in use."""

import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from remote.protocol import sealing
from remote.protocol.errors import ChunkDamaged, ChunkMissing
from remote.protocol.ids import ROOT, ChunkId
from remote.protocol.manifests import encode_leaf
from remote.protocol.messages import SMALL_CHUNK_MAX, ChunkPart
from remote.protocol.nodes import Entry, Manifest
from remote.server import instance as instances
from remote.server.http.app import make_app
from remote.server.instance import Beside, Instance, InstanceTrouble
from remote.server.keys import KeyTrouble, make_master_key
from remote.server.objects.local import LocalObjects
from remote.server.objects.signing import Signer
from remote.server.upkeep import backing, standing
from remote.server.upkeep.collecting import STRAY_SECONDS, Collected, Collector
from remote.server.upkeep.hits import Hits
from remote.server.upkeep.packing import Packed, Packer
from remote.server.upkeep.regular import Upkeep
from remote.server.upkeep.scrubbing import SCRUB_LOCK, Scrubber

pytestmark = pytest.mark.anyio

SECRET = b"s" * 32
LARGE = hashlib.shake_256(b"large").digest(SMALL_CHUNK_MAX + 1)
LATER_NS = int(2 * STRAY_SECONDS * 1e9)


@pytest.fixture
def beside(instance: Instance, tmp_path: Path) -> Iterator[Beside]:
    with instances.beside(tmp_path / "data", tmp_path / "key") as beside:
        yield beside


def collect(beside: Beside, grace_seconds: float = 0.0, *, is_dry: bool = False) -> Collected:
    return collector(beside).run(grace_seconds, is_dry=is_dry)


def collector(beside: Beside) -> Collector:
    return Collector(beside.database, beside.objects, beside.keyring, now_ns=later_ns)


def later_ns() -> int:
    """A clock by which all objects are old."""
    return time.time_ns() + LATER_NS


def pack(beside: Beside) -> Packed:
    return Packer(beside.database, beside.objects, collector(beside), now_ns=later_ns).run()


def stored_files(tmp_path: Path, what: str) -> list[Path]:
    return [path for path in (tmp_path / "data" / what).rglob("*") if path.is_file()]


def small(number: int) -> bytes:
    return hashlib.shake_256(b"%d" % number).digest(3_000)


def entry(data: bytes) -> Entry:
    return Entry(ChunkId(hashlib.sha256(data).digest()), b"k" * 32, 1_000)


async def keep(asker: Any, name: bytes, *chunks: bytes) -> int:
    """A file of these chunks, which are sent."""
    for chunk in chunks:
        await send(asker, chunk)
    node: int = await asker.new_file(name, ROOT, Manifest(1_000 * len(chunks), entries=tuple(map(entry, chunks))))
    return node


async def send(asker: Any, chunk: bytes) -> None:
    await (asker.put(chunk) if len(chunk) <= SMALL_CHUNK_MAX else asker.send(chunk))


def flip(path: Path, at: int = 100) -> None:
    """A byte is another one than it was."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


# Collecting


async def test_what_nothing_names_is_removed_by_the_second_run_and_asked_for_again(
    ann: Any, beside: Beside, tmp_path: Path
) -> None:
    await keep(ann, b"kept", small(1), LARGE)
    for chunk in (small(2), LARGE[1:] + b"x"):
        await send(ann, chunk)
    first = collect(beside)
    assert (first.needed, first.doubted, first.dropped, first.chunks) == (2, 2, 0, 0)
    assert not (await ann.want(small(1), LARGE)).missing
    second = collect(beside)
    assert (second.needed, second.doubted, second.dropped, second.chunks, second.objects) == (2, 0, 2, 2, 2)
    assert len(stored_files(tmp_path, "objects")) == len(stored_files(tmp_path, "packs")) == 1
    assert len((await ann.want(small(2), LARGE[1:] + b"x")).missing) == 2
    assert await ann.get(ChunkPart(entry(small(1)).id), ChunkPart(entry(LARGE).id)) == (small(1), LARGE)


async def test_a_want_that_says_it_is_there_takes_it_out_of_doubt(ann: Any, beside: Beside) -> None:
    await ann.put(small(1))
    collect(beside)
    assert not (await ann.want(small(1))).missing
    assert (collect(beside).dropped, collect(beside).dropped) == (0, 1)


async def test_a_dry_run_says_what_would_go_and_changes_nothing(ann: Any, beside: Beside) -> None:
    await keep(ann, b"kept", small(1))
    await ann.put(small(2))
    assert collect(beside, is_dry=True).doubted == 1
    assert collect(beside).doubted == 1
    would = collect(beside, is_dry=True)
    did = collect(beside)
    assert (
        (would.dropped, would.chunks, would.chunk_bytes) == (did.dropped, did.chunks, did.chunk_bytes) == (1, 1, 3_000)
    )


async def test_within_the_grace_nothing_is_removed(ann: Any, beside: Beside) -> None:
    await ann.put(small(1))
    assert collect(beside, 3_600.0).doubted == 1
    assert (collect(beside, 3_600.0).dropped, collect(beside).dropped) == (0, 1)


async def test_what_another_space_names_stays(ann: Any, bob: Any, beside: Beside) -> None:
    await ann.put(small(1))
    await keep(bob, b"bobs", small(1))
    collect(beside)
    collected = collect(beside)
    assert (collected.dropped, collected.chunks) == (1, 0)
    assert (await ann.want(small(1))).missing
    assert await bob.get(ChunkPart(entry(small(1)).id)) == (small(1),)


async def test_a_space_of_which_a_leaf_is_lost_is_left_alone_and_named(
    ann: Any, bob: Any, beside: Beside, tmp_path: Path
) -> None:
    sealed = sealing.seal(encode_leaf([entry(small(1))]), SECRET)
    await ann.put(small(1), small(2))
    await ann.put(sealed.data)
    await ann.new_file(b"long", ROOT, Manifest(1_000, depth=1, entries=(Entry(sealed.id, sealed.key, 1_000),)))
    await bob.put(small(3))
    (path,) = [path for path in stored_files(tmp_path, "packs") if sealed.data in path.read_bytes()]
    path.unlink()
    for _ in range(2):
        collected = collect(beside)
        assert len(collected.left_alone) == 1
        assert sealed.id.hex() in collected.left_alone[0]
    assert (collected.spaces, collected.chunks) == (1, 1)
    assert not (await ann.want(small(1), small(2))).missing


async def test_objects_of_uploads_that_were_cut_are_removed(ann: Any, beside: Beside, tmp_path: Path) -> None:
    beside.objects.write("objects/ab/" + "ab" * 32, b"nobody noted this")
    assert collect(beside).objects == 1
    assert not stored_files(tmp_path, "objects")


# Packing


async def test_packs_that_are_mostly_unused_become_one_and_everything_is_read_still(
    ann: Any, beside: Beside, tmp_path: Path
) -> None:
    for group in range(3):
        await ann.put(*(small(group * 10 + number) for number in range(10)))
        await ann.new_file(b"f%d" % group, ROOT, Manifest(1_000, entries=(entry(small(group * 10)),)))
    collect(beside)
    collect(beside)
    packed = pack(beside)
    assert (packed.packs, packed.became, packed.unreadable) == (3, 1, [])
    assert len(stored_files(tmp_path, "packs")) == 1
    wanted = [small(0), small(10), small(20)]
    assert list(await ann.get(*[ChunkPart(entry(data).id) for data in wanted])) == wanted
    assert pack(beside).packs == 0


async def test_who_looked_a_place_up_before_it_was_packed_anew_reads_it_still(
    ann: Any, instance: Instance, beside: Beside
) -> None:
    await ann.put(*map(small, range(10)))
    await ann.new_file(b"f", ROOT, Manifest(1_000, entries=(entry(small(3)),)))
    place = await instance.answers.object_place(ann.login.user, ann.home, entry(small(3)).id)
    collect(beside)
    collect(beside)
    assert pack(beside).packs == 1
    assert await instance.answers.object_bytes(place, 0, place.size) == small(3)


async def test_many_small_packs_become_one(ann: Any, beside: Beside, tmp_path: Path) -> None:
    for number in range(20):
        await keep(ann, b"f%d" % number, small(number))
    assert len(stored_files(tmp_path, "packs")) == 20
    assert (pack(beside).packs, len(stored_files(tmp_path, "packs"))) == (20, 1)
    chunks = [small(number) for number in range(20)]
    assert list(await ann.get(*[ChunkPart(entry(data).id) for data in chunks])) == chunks


# Scrubbing


def scrubber(beside: Beside, replica: Path | None = None) -> Scrubber:
    copy = LocalObjects(replica, Signer(b"", lambda: 0.0), is_only=False) if replica else None
    return Scrubber(beside.database, beside.objects, replica=copy)


@pytest.mark.parametrize("harm", [flip, os.unlink])
async def test_a_damaged_object_is_found_asked_for_again_and_healed_by_sending_it(
    ann: Any, beside: Beside, tmp_path: Path, harm: Any
) -> None:
    await keep(ann, b"file", LARGE)
    (path,) = stored_files(tmp_path, "objects")
    harm(path)
    scrubbed = scrubber(beside).run()
    assert (scrubbed.lost, scrubbed.is_whole) == ([entry(LARGE).id], True)
    with pytest.raises(ChunkDamaged, match="any device that has it"):
        await ann.get(ChunkPart(entry(LARGE).id))
    assert (await ann.want(LARGE)).missing == (entry(LARGE).id,)
    await ann.send(LARGE)
    assert await ann.get(ChunkPart(entry(LARGE).id)) == (LARGE,)
    assert (scrubber(beside).run().lost, list(standing.lost(beside))) == ([], [])


async def test_of_a_damaged_pack_only_what_is_damaged_is_lost(ann: Any, beside: Beside, tmp_path: Path) -> None:
    await keep(ann, b"file", small(1))
    chunks = [small(number) for number in range(5)]
    await ann.put(*chunks)
    (path,) = [path for path in stored_files(tmp_path, "packs") if small(2) in path.read_bytes()]
    flip(path, path.read_bytes().index(small(2)) + 7)
    assert scrubber(beside).run().lost == [entry(small(2)).id]
    others = [small(number) for number in (0, 1, 3, 4)]
    assert list(await ann.get(*[ChunkPart(entry(data).id) for data in others])) == others
    # Small chunks are sent without asking first.
    await ann.put(small(2))
    assert await ann.get(ChunkPart(entry(small(2)).id)) == (small(2),)


async def test_damage_is_repaired_from_a_backup(ann: Any, beside: Beside, tmp_path: Path) -> None:
    await keep(ann, b"file", LARGE, small(1), small(2))
    backing.back_up(beside, tmp_path / "backup")
    flip(stored_files(tmp_path, "objects")[0])
    for path in stored_files(tmp_path, "packs"):
        path.unlink()
    scrubbed = scrubber(beside, tmp_path / "backup").run()
    assert (scrubbed.lost, scrubbed.repaired) == ([], 3)
    assert await ann.get(ChunkPart(entry(LARGE).id), ChunkPart(entry(small(2)).id)) == (LARGE, small(2))


async def test_scrubbing_goes_on_where_it_stopped(ann: Any, beside: Beside) -> None:
    await keep(ann, b"file", *map(small, range(4)))
    read = [scrubber(beside).run(bytes_max=1) for _ in range(5)]
    assert [(each.objects, each.is_whole) for each in read] == [*[(1, False)] * 3, (1, True), (1, False)]


async def test_the_files_that_are_hit_are_named(ann: Any, bob: Any, beside: Beside, tmp_path: Path, build: Any) -> None:
    folder = await ann.new_folder(b"letters")
    await send(ann, small(1))
    await send(ann, small(2))
    node = await ann.new_file(b"to bob", folder, Manifest(1_000, entries=(entry(small(1)),)))
    await keep(bob, b"other", small(2))
    base = (await ann.node(node)).rev
    await ann.made(build.change(node, build.file(b"to bob", folder, Manifest(1_000, entries=(entry(small(2)),))), base))
    for path in stored_files(tmp_path, "packs"):
        if small(1) in path.read_bytes():
            path.unlink()
    lost = scrubber(beside).run().lost
    hits = list(Hits(beside.database, beside.objects, beside.keyring).of(lost))
    assert [(hit.space, hit.path, hit.is_present, hit.versions) for hit in hits] == [
        ("ann", b"letters/to bob", False, 1)
    ]


async def test_a_commit_may_name_what_the_server_lost(ann: Any, beside: Beside, tmp_path: Path, build: Any) -> None:
    """An edit elsewhere in a file, one stretch of which is lost, is not held up by that."""
    node = await keep(ann, b"file", LARGE)
    stored_files(tmp_path, "objects")[0].unlink()
    scrubber(beside).run()
    await ann.put(small(1))
    edited = Manifest(2_000, entries=(entry(LARGE), entry(small(1))))
    base = (await ann.node(node)).rev
    assert await ann.made(build.change(node, build.file(b"file", ROOT, edited), base))


# Backing up


async def test_a_backup_restores_to_the_same_service(
    ann: Any, beside: Beside, tmp_path: Path, http: Any, build: Any
) -> None:
    await keep(ann, b"one", LARGE, small(1))
    first = backing.back_up(beside, tmp_path / "backup")
    assert (first.objects, first.kept) == (2, 0)
    await keep(ann, b"two", small(2))
    second = backing.back_up(beside, tmp_path / "backup")
    assert (second.objects, second.kept, second.removed) == (1, 2, 0)
    await keep(ann, b"three", small(3))
    assert not backing.restore(tmp_path / "backup", tmp_path / "again", tmp_path / "key").damaged
    with instances.opened(tmp_path / "again", tmp_path / "key") as opened:
        transport = httpx.ASGITransport(make_app(opened))
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            again = type(ann)(client, ann.login)
            assert await again.names() == [b"one", b"two"]
            assert await again.get(ChunkPart(entry(LARGE).id), ChunkPart(entry(small(2)).id)) == (LARGE, small(2))
    with instances.beside(tmp_path / "again", tmp_path / "key") as restored:
        assert all(finding.is_good for finding in standing.look(restored))


async def test_only_who_makes_a_backup_may_read_the_database_in_it(ann: Any, beside: Beside, tmp_path: Path) -> None:
    await keep(ann, b"one", LARGE, small(1))
    backup, again = tmp_path / "backup", tmp_path / "again"
    for folder in (backup, again):
        folder.mkdir()
        folder.chmod(0o755)
    backing.back_up(beside, backup)
    for name in ("satchel.backup", "backup.json"):
        # As earlier versions left them.
        (backup / name).chmod(0o644)
    (backup / "backup.json.new").touch(0o644)
    backing.back_up(beside, backup)
    backing.restore(backup, again, tmp_path / "key")
    private = {
        backup / "satchel.backup",
        backup / "backup.json",
        again / "satchel.db",
        tmp_path / "data" / "satchel.db",
    }
    assert {path: oct(path.stat().st_mode & 0o777) for path in private} == dict.fromkeys(private, "0o600")
    folders = [path for top in (backup, again) for path in top.rglob("*") if path.is_dir()]
    assert folders
    assert {path.stat().st_mode & 0o777 for path in folders} == {0o700}


async def test_a_backup_forgets_what_was_collected(ann: Any, beside: Beside, tmp_path: Path) -> None:
    await send(ann, LARGE)
    backing.back_up(beside, tmp_path / "backup")
    collect(beside)
    collect(beside)
    assert backing.back_up(beside, tmp_path / "backup").removed == 1


async def test_what_is_damaged_in_a_backup_is_lost_after_it_and_nothing_else(
    ann: Any, beside: Beside, tmp_path: Path
) -> None:
    await keep(ann, b"one", LARGE, small(1))
    backing.back_up(beside, tmp_path / "backup")
    flip(next(path for path in (tmp_path / "backup" / "objects").rglob("*") if path.is_file()))
    copied = backing.restore(tmp_path / "backup", tmp_path / "again", tmp_path / "key")
    assert copied.lost == [entry(LARGE).id]
    with instances.beside(tmp_path / "again", tmp_path / "key") as restored:
        hits = Hits(restored.database, restored.objects, restored.keyring).of(copied.lost)
        assert [hit.path for hit in hits] == [b"one"]


async def test_wrong_places_are_refused_and_left_as_they_are(ann: Any, beside: Beside, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a file").touch()
    with pytest.raises(InstanceTrouble, match="is no backup, and not empty"):
        backing.back_up(beside, tmp_path / "full")
    with pytest.raises(InstanceTrouble, match="lie in each other"):
        backing.back_up(beside, tmp_path / "data" / "backup")
    with pytest.raises(InstanceTrouble, match="no whole backup"):
        backing.restore(tmp_path / "full", tmp_path / "again", tmp_path / "key")
    backing.back_up(beside, tmp_path / "backup")
    with pytest.raises(InstanceTrouble, match="already: give a new directory"):
        backing.restore(tmp_path / "backup", tmp_path / "data", tmp_path / "key")
    with pytest.raises(InstanceTrouble, match="is not empty"):
        backing.restore(tmp_path / "backup", tmp_path / "full", tmp_path / "key")
    make_master_key(tmp_path / "other-key")
    with pytest.raises(KeyTrouble):
        backing.restore(tmp_path / "backup", tmp_path / "again", tmp_path / "other-key")
    instances.make(tmp_path / "other", tmp_path / "other-key")
    with (
        instances.beside(tmp_path / "other", tmp_path / "other-key") as other,
        pytest.raises(InstanceTrouble, match="backup of another instance"),
    ):
        backing.back_up(other, tmp_path / "backup")
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["a file"]
    assert not (tmp_path / "again").exists()


async def test_a_restore_that_was_cut_goes_on_when_it_is_said_again(ann: Any, beside: Beside, tmp_path: Path) -> None:
    await keep(ann, b"one", LARGE, small(1))
    backing.back_up(beside, tmp_path / "backup")

    def killed(size: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        backing.restore(tmp_path / "backup", tmp_path / "again", tmp_path / "key", killed)
    with pytest.raises(InstanceTrouble, match="no instance"), instances.opened(tmp_path / "again", tmp_path / "key"):
        pass
    copied = backing.restore(tmp_path / "backup", tmp_path / "again", tmp_path / "key")
    assert (copied.objects, copied.kept) == (1, 1)


async def test_usage_and_doctor_tell_what_there_is(ann: Any, beside: Beside, tmp_path: Path) -> None:
    await keep(ann, b"one", LARGE, small(1))
    used = standing.usage(beside)
    assert (used.objects, used.packs, used.chunks, used.lost) == (1, 1, 2, 0)
    assert [(row.name, row.used) for row in used.spaces] == [("ann", 2_000)]
    assert all(finding.is_good for finding in standing.look(beside))
    assert any("Nothing that retention does not keep goes before" in one.sentence for one in standing.look(beside))
    stored_files(tmp_path, "objects")[0].unlink()
    wrong = [finding.sentence for finding in standing.look(beside) if not finding.is_good]
    assert len(wrong) == 1
    assert "missing or too short" in wrong[0]


async def test_a_commit_of_what_was_collected_is_refused(ann: Any, beside: Beside) -> None:
    await ann.put(small(1))
    collect(beside)
    collect(beside)
    with pytest.raises(ChunkMissing):
        await ann.new_file(b"late", ROOT, Manifest(1_000, entries=(entry(small(1)),)))


DAY_NS = 86_400 * 10**9


def upkeep(instance: Instance, days: float) -> Upkeep:
    """What the server does by itself so many days from now."""
    now_ns = time.time_ns() + int(days * DAY_NS)
    return Upkeep(instance.data, instance.database, instance.objects, instance.keyring, lambda: now_ns)


async def test_a_server_with_upkeep_gives_the_disk_back_by_itself(ann: Any, instance: Instance, tmp_path: Path) -> None:
    await send(ann, LARGE)
    upkeep(instance, 1).once()
    # Not before the grace is over, however often it is looked.
    upkeep(instance, 1.5).once()
    upkeep(instance, 2.5).once()
    assert len(stored_files(tmp_path, "objects")) == 1
    upkeep(instance, 9).once()
    assert stored_files(tmp_path, "objects") == []


async def test_upkeep_waits_for_commands_that_do_the_same(ann: Any, instance: Instance, tmp_path: Path) -> None:
    await send(ann, LARGE)
    upkeep(instance, 1).once()
    for lock in (backing.COLLECT_LOCK, SCRUB_LOCK):
        with instances.only_one(tmp_path / "data", lock, "A command"):
            upkeep(instance, 40).once()
    assert stored_files(tmp_path, "objects") == [], "it was done when the first command had ended"


@pytest.mark.logs_errors("1 chunks are lost")
async def test_upkeep_scrubs_each_month(ann: Any, instance: Instance, tmp_path: Path) -> None:
    await keep(ann, b"film", LARGE)
    upkeep(instance, 0).once()
    (file,) = stored_files(tmp_path, "objects")
    flip(file)
    upkeep(instance, 29).once()
    assert not (await ann.want(LARGE)).missing
    upkeep(instance, 31).once()
    assert (await ann.want(LARGE)).missing


async def test_upkeep_that_was_stopped_is_done_after_the_next_start(
    ann: Any, instance: Instance, tmp_path: Path
) -> None:
    await send(ann, LARGE)
    upkeep(instance, 1).once()
    stopped = upkeep(instance, 9)
    stopped.stop()
    stopped.once()
    assert len(stored_files(tmp_path, "objects")) == 1
    upkeep(instance, 9).once()
    assert stored_files(tmp_path, "objects") == []
