"""Staged: the record of a staging as it lies in the store, and the name of its file; see FORMAT.md."""

import os
from pathlib import Path
from typing import Final

import msgspec

from cache.store import sync_folder
from remote.protocol.nodes import Manifest

FORMAT: Final = 1


class Record(msgspec.Struct, frozen=True, array_like=True):
    """What a staging is, but for its bytes."""

    format: int
    base: Manifest
    base_size: int
    size: int
    part: int
    """Number of the file; 0: the bytes lie in the other table, or nothing was written."""
    dirty: list[int]
    """Start, stop, start, stop ..."""
    generation: int
    synced_generation: int
    """The content as of this generation survives a power cut."""
    boot: bytes
    """The start of the machine during which this was written."""
    is_spare: bool = False
    """Whether its content, once sent, is the first that the cache drops."""


encode: Final = msgspec.msgpack.Encoder().encode
_DECODER: Final = msgspec.msgpack.Decoder(Record)


def decode(value: bytes) -> Record | None:
    """The record, or None when another version wrote it or it is damaged."""
    try:
        record = _DECODER.decode(value)
    except msgspec.MsgspecError:
        return None
    return record if record.format == FORMAT else None


def key_of(number: int) -> bytes:
    """The key of a staging in both tables."""
    return number.to_bytes(8, "big")


def file_name(number: int, part: int) -> str:
    """The name of a file of a staging."""
    return f"{number:016x}.{part}"


def number_in(name: str) -> int | None:
    """The staging in the name of a file, None for a foreign one."""
    number, _, part = name.partition(".")
    try:
        return int(number, 16) if part.isdecimal() else None
    except ValueError:
        return None


def this_boot() -> bytes:
    """Something that differs after each start of this machine."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_bytes().strip()
    except OSError:
        return b""


def sync_file(fd: int, directory: Path | None) -> None:
    """Returns when the file's bytes, and its name when the directory is given, survive a power cut; blocks."""
    os.fdatasync(fd)
    if directory is not None:
        sync_folder(directory)
