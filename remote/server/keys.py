"""The master key: a file outside the data directory, and what is wrapped by it."""

import hmac
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from remote.protocol import sealing
from remote.protocol.errors import ChunkDamaged

KEY_SIZE = 32


class KeyTrouble(Exception):
    """The master key is missing, in a place where it protects nothing, or not the one of this data directory."""


@dataclass(frozen=True)
class MasterKey:
    """32 bytes that open everything at rest; `derive` gives keys for other uses without showing it."""

    secret: bytes

    def wrap(self, secret: bytes) -> bytes:
        """The secret as it may be stored."""
        return sealing.seal_blob(self.secret, secret)

    def unwrap(self, wrapped: bytes) -> bytes:
        """The secret that was wrapped; raises KeyTrouble under another master key."""
        try:
            return sealing.open_blob(self.secret, wrapped)
        except ChunkDamaged as error:
            raise KeyTrouble(
                "The master key file is not the one that this data directory was made with;"
                " nothing can be read without that one."
            ) from error

    def derive(self, use: bytes) -> bytes:
        """A key for one use."""
        return hmac.digest(self.secret, b"satchel " + use, "sha256")


@dataclass(frozen=True)
class SpaceKey:
    """The key of one space: seals its manifests and names them."""

    secret: bytes

    def content_id(self, manifest: bytes) -> bytes:
        """The name of an encoded manifest: equal ones share it, and only who has the key can tell which."""
        return hmac.digest(self.secret, manifest, "sha256")

    def derive(self, use: bytes) -> bytes:
        """A key for one use."""
        return hmac.digest(self.secret, b"satchel " + use, "sha256")

    def seal(self, manifest: bytes) -> bytes:
        """The encoded manifest as it may be stored."""
        return sealing.seal_blob(self.secret, manifest)

    def open(self, sealed: bytes) -> bytes:
        """The encoded manifest."""
        return sealing.open_blob(self.secret, sealed)


def fresh_key() -> bytes:
    """A new random key."""
    return secrets.token_bytes(KEY_SIZE)


def refuse_inside(key_file: Path, data: Path) -> None:
    """Raises KeyTrouble for a key that would be copied, lost and stolen together with what it closes."""
    if key_file.resolve().is_relative_to(data.resolve()):
        raise KeyTrouble(
            f"The master key file {key_file} lies inside the data directory {data}: whoever copies the data would have"
            " the key too. Give a place outside with --master-key FILE."
        )


def make_master_key(key_file: Path) -> MasterKey:
    """The key in this file, which is made (for its owner only) when it is not there."""
    key_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = key_file.with_name(f"{key_file.name}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(fresh_key())
            file.flush()
            os.fsync(file.fileno())
        # A link never replaces: a key that is there already may be the only way to somebody's data.
        os.link(draft, key_file)
        sync_folder(key_file.parent)
    except FileExistsError:
        pass
    finally:
        draft.unlink(missing_ok=True)
    return read_master_key(key_file)


def read_master_key(key_file: Path) -> MasterKey:
    """The key in this file; raises KeyTrouble when it is missing, unreadable or open to others."""
    try:
        secret = key_file.read_bytes()
        mode = key_file.stat().st_mode
    except OSError as error:
        raise KeyTrouble(
            f"The master key file {key_file} cannot be read ({error.strerror}). Give its place with --master-key FILE"
            " or SATCHEL_MASTER_KEY_FILE; without it the data cannot be opened."
        ) from error
    if len(secret) != KEY_SIZE:
        raise KeyTrouble(f"{key_file} is no master key: it holds {len(secret)} bytes, not {KEY_SIZE}.")
    if mode & 0o077:
        raise KeyTrouble(f"The master key file {key_file} can be read by others: run chmod 600 {key_file}")
    return MasterKey(secret)


def sync_folder(folder: Path) -> None:
    """Returns when new names in the folder survive a power cut; blocks."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
