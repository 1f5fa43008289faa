"""Content: the bytes of a file version, opened on the server, and chunks made of bytes that come without a device.

For those who have no device of their own: links, and whatever else reads or writes files over plain HTTP. Everything
here blocks on the disk and computes: call it from a thread.
"""

import secrets
from collections.abc import Iterator, Sequence

from remote.protocol import cutting, deltas, manifests, sealing
from remote.protocol.errors import ChunkDamaged, Infected
from remote.protocol.ids import ChunkId, SpaceId
from remote.protocol.nodes import INLINE_MAX, Base, Entry, Manifest
from remote.protocol.sealing import Buffer, Sealed
from remote.server.chunks import Chunks


class Contents:
    """Reads and makes content in the chunk store of an instance."""

    def __init__(self, chunks: Chunks, domain_secret: bytes) -> None:
        self._chunks = chunks
        self._domain_secret = domain_secret

    def read(self, space: SpaceId, manifest: Manifest, start: int, stop: int) -> Iterator[Buffer]:
        """The bytes start .. stop of the content, in pieces of up to 1.4 MiB, each read when it is asked for.

        Raises Infected at once; later ChunkDamaged, and ServerFault for a chunk that the store lost.
        """
        self.check(space, manifest)
        return self._read(space, manifest, start, stop)

    def check(self, space: SpaceId, manifest: Manifest) -> None:
        """Raises Infected for content that is given to nobody."""
        self._chunks.check(space, [entry.id for entry in manifest.entries])
        self._chunks.check(space, [entry.base.id for entry in manifest.entries if entry.base is not None])

    def _read(self, space: SpaceId, manifest: Manifest, start: int, stop: int) -> Iterator[Buffer]:
        if manifest.inline:
            yield manifest.inline[start:stop]
            return
        for at, entry in self._entries(space, manifest.entries, manifest.depth, start, stop):
            yield from self._stretch(space, entry, max(0, start - at), min(entry.length, stop - at))

    def unguarded(self) -> "Unguarded":
        """The same with what is given to nobody."""
        return Unguarded(self._chunks, self._domain_secret)

    def writer(self, space: SpaceId) -> "Writer":
        """Takes content of any length."""
        return Writer(self._chunks, space, self._domain_secret)

    def as_chunk(self, space: SpaceId, plain: bytes) -> Entry:
        """These bytes as a chunk that the space may read, as it stands in a manifest."""
        sealed = sealing.seal(plain, self._domain_secret, sealing.Contexts())
        self._chunks.keep(space, [sealed])
        return Entry(sealed.id, sealed.key, sealed.length)

    def holds_refused(self, space: SpaceId, manifest: Manifest) -> bool:
        """Whether chunks of it are given to nobody; those that deltas are of do not count."""
        try:
            self._chunks.check(space, [entry.id for entry in manifest.entries])
            for _, entry in self._entries(space, manifest.entries, manifest.depth, 0, manifest.size):
                self._chunks.check(space, [entry.id])
        except Infected:
            return True
        return False

    def joined(self, space: SpaceId, entries: Sequence[Entry]) -> Manifest:
        """The manifest of content that came in parts, of all their entries in order."""
        size = sum(entry.length for entry in entries)
        if size <= INLINE_MAX:
            return Manifest(
                size, b"".join(map(bytes, self.read(space, Manifest(size, b"", 0, tuple(entries)), 0, size)))
            )
        return self._built(space, size, entries)

    def _built(self, space: SpaceId, size: int, entries: Sequence[Entry]) -> Manifest:
        manifest, leaves = manifests.build(
            size, entries, lambda plain: sealing.seal(plain, self._domain_secret, sealing.Contexts())
        )
        self._chunks.keep(space, leaves)
        return manifest

    def _entries(
        self, space: SpaceId, entries: tuple[Entry, ...], depth: int, start: int, stop: int, base: int = 0
    ) -> Iterator[tuple[int, Entry]]:
        for offset, entry in manifests.overlapping(entries, start - base, stop - base):
            at = base + offset
            if depth:
                below = manifests.decode_leaf(sealing.open_leaf(entry, self._sealed(space, entry.id)))
                if sum(child.length for child in below) != entry.length:
                    raise ChunkDamaged(f"Leaf {entry.id.hex()} does not cover what it stands for.")
                yield from self._entries(space, below, depth - 1, start, stop, at)
            else:
                yield at, entry

    def _stretch(self, space: SpaceId, entry: Entry, start: int, stop: int) -> Iterator[Buffer]:
        if entry.is_hole:
            for at in range(start, stop, sealing.PLAIN_MAX):
                yield bytes(min(sealing.PLAIN_MAX, stop - at))
        elif entry.base is None:
            yield memoryview(sealing.open_chunk(entry, self._sealed(space, entry.id)))[start:stop]
        else:
            yield self._delta(space, entry, entry.base, start, stop)

    def _delta(self, space: SpaceId, entry: Entry, base: Base, start: int, stop: int) -> bytes:
        # As a chunk of its own a delta has no base.
        told = sealing.open_leaf(Entry(entry.id, entry.key, entry.length), self._sealed(space, entry.id))
        parts = tuple(deltas.cut_out(deltas.decode(entry, told), start, stop))
        whole: Buffer = b""
        if any(isinstance(part, deltas.Copy) for part in parts):
            whole = sealing.open_chunk(Entry(base.id, base.key, base.length), self._sealed(space, base.id))
        return b"".join(whole[part.start : part.stop] if isinstance(part, deltas.Copy) else part for part in parts)

    def _sealed(self, space: SpaceId, chunk: ChunkId) -> bytes:
        place = self._chunks.place(space, chunk)
        return self._chunks.read(place, 0, place.size)


class Unguarded(Contents):
    """The same with what is given to nobody: for the scanner, and to keep what that finds nothing in."""

    def check(self, space: SpaceId, manifest: Manifest) -> None:
        """Raises nothing."""

    def freed(self, space: SpaceId, manifest: Manifest) -> Manifest:
        """The same content, in which refused chunks, and deltas of such ones, are chunks that nothing else has.

        What is refused stays so: other content that holds it may not have been looked at further.
        """
        secret = secrets.token_bytes(32)
        entries = [
            self._anew(space, entry, secret) if self._is_refused(space, entry) else entry
            for _, entry in self._entries(space, manifest.entries, manifest.depth, 0, manifest.size)
        ]
        built, leaves = manifests.build(
            manifest.size, entries, lambda plain: sealing.seal(plain, secret, sealing.Contexts())
        )
        self._chunks.keep(space, leaves)
        return built

    def _is_refused(self, space: SpaceId, entry: Entry) -> bool:
        of = entry.id if entry.base is None else entry.base.id
        return self._chunks.is_refused(space, entry.id) or self._chunks.is_refused(space, of)

    def _anew(self, space: SpaceId, entry: Entry, secret: bytes) -> Entry:
        plain = b"".join(self._stretch(space, entry, 0, entry.length))
        sealed = sealing.seal(plain, secret, sealing.Contexts())
        self._chunks.keep(space, [sealed])
        return Entry(sealed.id, sealed.key, sealed.length)

    def _sealed(self, space: SpaceId, chunk: ChunkId) -> bytes:
        is_refused = self._chunks.is_refused(space, chunk)
        return self._chunks.read_refused(chunk) if is_refused else super()._sealed(space, chunk)


class Writer:
    """Makes chunks of content as it comes, and the manifest at its end; nothing names them before that is committed."""

    def __init__(self, chunks: Chunks, space: SpaceId, domain_secret: bytes) -> None:
        self._chunks = chunks
        self._space = space
        self._domain_secret = domain_secret
        self._contexts = sealing.Contexts()
        self._waiting = bytearray()
        self._entries: list[Entry] = []
        self.size = 0
        """Bytes taken so far."""

    def add(self, piece: Buffer) -> None:
        """Takes the next bytes."""
        self._waiting += piece
        self.size += len(piece)
        if len(self._waiting) >= cutting.WINDOW:
            self._cut(is_last=False)

    def finish(self) -> Manifest:
        """The manifest of all that was taken; its chunks are stored, and readable in the space."""
        if self.size <= INLINE_MAX:
            return Manifest(self.size, bytes(self._waiting))
        manifest, leaves = manifests.build(self.size, self.finish_part(), self._seal)
        self._chunks.keep(self._space, leaves)
        return manifest

    def finish_part(self) -> list[Entry]:
        """The entries of all that was taken, when it is a part of some content; their chunks are stored."""
        self._cut(is_last=True)
        return self._entries

    def _cut(self, *, is_last: bool) -> None:
        view = memoryview(self._waiting)
        sealed: list[Sealed] = []
        at = 0
        for length in cutting.cut(view, is_last=is_last):
            sealed.append(self._seal(view[at : at + length]))
            at += length
        view.release()
        self._chunks.keep(self._space, sealed)
        self._entries += [Entry(each.id, each.key, each.length) for each in sealed]
        del self._waiting[:at]

    def _seal(self, plain: Buffer) -> Sealed:
        return sealing.seal(plain, self._domain_secret, self._contexts)
