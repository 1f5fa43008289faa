"""Backing up: a copy of the database at one moment, and of every object that it names, beside a server that runs.

A backup is a directory:

    backup.json        of which instance, and when it was made (null: the first one did not come to its end)
    satchel.backup     the database; not called satchel.db, so that nobody runs a server on it
    objects/ packs/    as in an instance

Objects never change, so the next backup copies only what is new. Collecting waits meanwhile: what the copy of the
database names is not removed before it is copied. A new copy replaces the old one when all of its objects are there.

The database names all users and files: it and backup.json are for the one who makes the backup only (0600), whatever
the directory is, which keeps its mode when it was there, as it may be a disk's; what is made below it is 0700.
"""

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from remote.protocol.ids import ChunkId
from remote.server.database import accounts as account_rows
from remote.server.database import chunks as chunk_rows
from remote.server.database import upkeep as rows
from remote.server.database.chunks import Place
from remote.server.database.connection import Session, copied_session, copy_database, faults, make_private
from remote.server.database.schema import FORMAT
from remote.server.instance import DATABASE, Beside, InstanceTrouble, only_one
from remote.server.keys import read_master_key, refuse_inside, sync_folder
from remote.server.objects.local import LocalObjects
from remote.server.objects.signing import Signer
from remote.server.objects.store import ObjectMissing, id_of, name_of
from remote.server.upkeep.marking import AT_ONCE

COPY = "satchel.backup"
_DRAFT = "satchel.backup.new"
_ABOUT = "backup.json"
_RESTORING = "restoring"
_IGNORED = {"lost+found"}
COLLECT_LOCK = "collect.lock"


class About(msgspec.Struct, frozen=True):
    """What backup.json says; `made_ns`: when the database was copied."""

    instance: str
    format: int
    made_ns: int | None = None


@dataclass
class Copied:
    """What was copied; `damaged`: objects that were not whole, or missing, with no whole one in the target."""

    objects: int = 0
    object_bytes: int = 0
    kept: int = 0
    removed: int = 0
    damaged: list[str] = field(default_factory=list)
    lost: list[ChunkId] = field(default_factory=list)


def back_up(instance: Beside, target: Path, pace: Callable[[int], None] = lambda size: None) -> Copied:
    """Makes a backup in `target`, or brings an older one of this instance there up to date; raises InstanceTrouble."""
    _refuse_nested(instance.data, target)
    about = _about_target(target, instance.name)
    target.mkdir(mode=0o700, parents=True, exist_ok=True)
    with only_one(target, "lock", "Another backup"), only_one(instance.data, COLLECT_LOCK, "Collecting or a backup"):
        if about is None:
            _write_about(target, About(instance.name, FORMAT))
        made_ns = time.time_ns()
        copy_database(instance.data / DATABASE, target / _DRAFT)
        store = _store(target)
        with copied_session(target / _DRAFT) as session:
            copied = Copied()
            seen = _copy_objects(session, instance.objects, store, copied, pace)
            sync_folder(target)
            os.replace(target / _DRAFT, target / COPY)
            _write_about(target, About(instance.name, FORMAT, made_ns))
            _prune(session, store, seen, copied)
        return copied


def restore(source: Path, data: Path, key_file: Path, pace: Callable[[int], None] = lambda size: None) -> Copied:
    """Makes an instance of a backup, with every byte checked; raises InstanceTrouble or KeyTrouble.

    Objects that are not whole are noted as lost, so that devices which have their chunks send them again. One that was
    cut short goes on where it was when it is called again.
    """
    about = _about(source)
    if about is None or about.made_ns is None or not (source / COPY).exists():
        raise InstanceTrouble(f"There is no whole backup in {source}.")
    if about.format != FORMAT:
        raise InstanceTrouble(f"The backup in {source} has format {about.format}; this version reads format {FORMAT}.")
    refuse_inside(key_file, data)
    refuse_inside(key_file, source)
    _refuse_nested(data, source)
    master = read_master_key(key_file)
    with copied_session(source / COPY) as session:
        master.unwrap(account_rows.setting(session, "key_check") or b"")
        found = faults(session)
        if found:
            raise InstanceTrouble(f"The database in {source} is damaged ({found[0]}): take another backup.")
    _begin_restore(data)
    draft = data / f"{DATABASE}.new"
    with only_one(data, "lock", "A satchel-server"):
        copy_database(source / COPY, draft)
        store = _store(data)
        with copied_session(draft) as session:
            copied = Copied()
            _copy_objects(session, _store(source), store, copied, pace, is_checking=True)
            _note_lost(session, store, copied)
        os.replace(draft, data / DATABASE)
        sync_folder(data)
        (data / _RESTORING).unlink()
    return copied


def _begin_restore(data: Path) -> None:
    if (data / DATABASE).exists():
        raise InstanceTrouble(f"There is an instance in {data} already: give a new directory with --data DIR.")
    if data.exists():
        strangers = sorted(path.name for path in data.iterdir() if path.name not in _IGNORED)
        if strangers and _RESTORING not in strangers:
            raise InstanceTrouble(
                f"{data} is not empty ({strangers[0]} is in it): give a new directory with --data DIR."
            )
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    (data / _RESTORING).touch()
    sync_folder(data)


def _refuse_nested(data: Path, other: Path) -> None:
    one, two = data.resolve(), other.resolve()
    if one.is_relative_to(two) or two.is_relative_to(one):
        raise InstanceTrouble(f"{other} and the server's data in {data} lie in each other: give another directory.")


def _about_target(target: Path, instance: str) -> About | None:
    """What is known of a backup that is there; None for an empty directory. Raises InstanceTrouble for all else."""
    if not target.exists():
        return None
    if not target.is_dir():
        raise InstanceTrouble(f"{target} is no directory.")
    about = _about(target)
    if about is None:
        strangers = sorted(path.name for path in target.iterdir() if path.name not in {*_IGNORED, "lock"})
        if strangers:
            raise InstanceTrouble(
                f"{target} is no backup, and not empty ({strangers[0]} is in it): give an empty directory."
            )
        return None
    if about.instance != instance:
        raise InstanceTrouble(f"{target} is the backup of another instance: give another directory.")
    return about


def _about(directory: Path) -> About | None:
    try:
        return msgspec.json.decode((directory / _ABOUT).read_bytes(), type=About)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        raise InstanceTrouble(f"{directory / _ABOUT} cannot be read: {error}") from error


def _write_about(target: Path, about: About) -> None:
    draft = target / f"{_ABOUT}.new"
    draft.unlink(missing_ok=True)
    make_private(draft)
    with open(draft, "wb") as file:
        file.write(msgspec.json.encode(about))
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, target / _ABOUT)
    sync_folder(target)


def _store(directory: Path) -> LocalObjects:
    # Nobody asks a backup for URLs.
    return LocalObjects(directory, Signer(b"", time.time), is_only=False)


def _places(session: Session) -> Iterator[Place]:
    after = b""
    while found := rows.chunks_after(session, after, AT_ONCE):
        for each in found:
            yield each.place
        after = found[-1].place.id


def _copy_objects(
    session: Session,
    source: LocalObjects,
    target: LocalObjects,
    copied: Copied,
    pace: Callable[[int], None],
    *,
    is_checking: bool = False,
) -> set[bytes]:
    """The packs that there are; `is_checking`: what is in the target already is looked at, too."""
    packs: set[bytes] = set()
    for place in _places(session):
        if place.pack is not None:
            if place.pack in packs:
                continue
            packs.add(place.pack)
        name = name_of(place.object_id, is_pack=place.pack is not None)
        size = target.size(name)
        if size is not None and (
            (not is_checking and size == source.size(name)) or _whole(target, name, place.object_id) is not None
        ):
            copied.kept += 1
            continue
        data = _whole(source, name, place.object_id)
        if data is None:
            copied.damaged.append(name)
            continue
        target.heal(name, data)
        copied.objects += 1
        copied.object_bytes += len(data)
        pace(len(data))
    return packs


def _whole(store: LocalObjects, name: str, object_id: bytes) -> bytes | None:
    try:
        data = store.read(name, 0, store.size(name) or 0)
    except (ObjectMissing, OSError):
        return None
    return data if hashlib.sha256(data).digest() == object_id else None


def _prune(session: Session, store: LocalObjects, packs: set[bytes], copied: Copied) -> None:
    """Removes objects of older backups that this one does not name."""
    for stored in list(store.names()):
        known = id_of(stored.name)
        if known is None:
            continue
        object_id, is_pack = known
        place = None if is_pack else chunk_rows.place(session, ChunkId(object_id))
        is_named = object_id in packs if is_pack else place is not None and place.pack is None
        if not is_named:
            store.remove(stored.name)
            copied.removed += 1


def _note_lost(session: Session, store: LocalObjects, copied: Copied) -> None:
    damaged = set(copied.damaged)
    if not damaged:
        return
    for place in list(_places(session)):
        name = name_of(place.object_id, is_pack=place.pack is not None)
        if name in damaged:
            store.set_aside(name)
            rows.lose_chunk(session, place, time.time_ns(), "it was not whole in the backup")
            copied.lost.append(place.id)
