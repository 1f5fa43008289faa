"""Settings: where things lie, what the user chose, and who this device is signed in as.

With SATCHEL_HOME everything lies in that one folder, so that one machine can be several devices; otherwise where the
XDG base directories say. Only this module reads the environment for places.
"""

import os
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import msgspec

from fusefs.control import Refused
from remote.protocol.sizes import size_of

CACHE_SIZE_BYTES: Final = 10 << 30
READ_SECONDS: Final = 15.0
_NUMBERS: Final = frozenset({"read_seconds", "uid", "gid"})
IDENTITY: Final = "identity"
"""The setting in the state store that says whose tree it is (Account.identity)."""
_OWNER_MAX: Final = (1 << 32) - 2
CACHE_LEAST: Final = 16 << 20


class SettingsError(Refused):
    """Something in the settings that cannot be used; the sentence names the file and what to change."""


@dataclass(frozen=True)
class Places:
    """The folders of this device, each private to its user."""

    config: Path
    state: Path
    cache: Path
    run: Path

    @staticmethod
    def of_environment() -> "Places":
        """The folders that SATCHEL_HOME or the XDG variables say; nothing is made."""
        home = os.environ.get("SATCHEL_HOME")
        if home:
            base = Path(os.path.abspath(home))
            return Places(base / "config", base / "state", base / "cache", base / "run")
        state = _xdg("XDG_STATE_HOME", ".local/state")
        runtime = os.environ.get("XDG_RUNTIME_DIR", "")
        return Places(
            _xdg("XDG_CONFIG_HOME", ".config"),
            state,
            _xdg("XDG_CACHE_HOME", ".cache"),
            Path(runtime) / "satchel" if os.path.isabs(runtime) and os.path.isdir(runtime) else state / "run",
        )

    def make(self) -> None:
        """Makes the folders that are missing; raises SettingsError when one cannot be."""
        for folder in (self.config, self.state, self.cache, self.run):
            try:
                _make(folder)
            except OSError as error:
                raise SettingsError(
                    f"The folder {folder} cannot be made ({error.strerror}). Make it, or set SATCHEL_HOME to a folder "
                    "that you may write to."
                ) from error

    @property
    def choices_file(self) -> Path:
        """What the user chose."""
        return self.config / "config.toml"

    @property
    def account_file(self) -> Path:
        """Who this device is; holds its token."""
        return self.state / "account.json"

    @property
    def tree_file(self) -> Path:
        """The state store, which must never be lost."""
        return self.state / "tree.mdb"

    @property
    def stagings(self) -> Path:
        """Content that the server does not have yet."""
        return self.state / "staging"

    @property
    def log_file(self) -> Path:
        """What the daemon has to say."""
        return self.state / "daemon.log"

    @property
    def socket(self) -> Path:
        """Where the daemon listens for commands."""
        return self.run / "control"


def _make(folder: Path) -> None:
    """Makes a folder and what is missing above it, all private."""
    if not folder.is_dir():
        _make(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)


def _xdg(variable: str, usual: str) -> Path:
    value = os.environ.get(variable, "")
    # The specification says that a relative path is to be ignored.
    return (Path(value) if os.path.isabs(value) else Path.home() / usual) / "satchel"


class _Chosen(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """config.toml as it is written."""

    cache_size_bytes: int | str = CACHE_SIZE_BYTES
    free_floor_bytes: int | str | None = None
    read_seconds: float = READ_SECONDS
    background_listing: bool = True
    owners: Literal["mine", "real"] = "mine"
    uid: int | None = None
    gid: int | None = None
    sync: Literal["local", "remote"] = "local"
    metered: Literal["pause-uploads", "ignore"] = "pause-uploads"


_KINDS: Final = {
    "cache_size_bytes": 'a number of bytes or a size such as "20G"',
    "free_floor_bytes": 'a number of bytes or a size such as "20G"',
    "read_seconds": "a number of seconds",
    "background_listing": "true or false",
    "owners": '"mine" or "real"',
    "uid": "the number of a user",
    "gid": "the number of a group",
    "sync": '"local" or "remote"',
    "metered": '"pause-uploads" or "ignore"',
}
"""What the values of the settings are, in words."""


@dataclass(frozen=True)
class Choices:
    """What the user chose, or the usual."""

    cache_size_bytes: int = CACHE_SIZE_BYTES
    """The most that cached and not yet sent content may take on this disk."""
    free_floor_bytes: int | None = None
    """The cache leaves at least this much of the disk free; None: as the cache thinks fit."""
    read_seconds: float = READ_SECONDS
    """After this long a read that the server does not serve fails."""
    background_listing: bool = True
    """Whether folders are listed before somebody asks, so that names work offline."""
    owners: Literal["mine", "real"] = "mine"
    """Whether everything is shown as the mounting user's (or `uid`'s and `gid`'s), or as whose it was made."""
    uid: int | None = None
    gid: int | None = None
    sync: Literal["local", "remote"] = "local"
    """What close(2) and fsync(2) wait for: this machine, or the server."""
    metered: Literal["pause-uploads", "ignore"] = "pause-uploads"
    """What is done on a network that costs by the byte, as NetworkManager says."""


def load_choices(file: Path, overrides: dict[str, str] | None = None) -> Choices:
    """The choices of config.toml, with `overrides` (of `mount -o`) above them; raises SettingsError."""
    try:
        values = tomllib.loads(file.read_text())
    except FileNotFoundError:
        values = {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"{file} cannot be read: {error}. Mend it or move it away.") from error
    choices = _checked(values, str(file))
    if not overrides:
        return choices
    given: dict[str, object] = {}
    for name, value in overrides.items():
        given[name] = _number(value) if name in _NUMBERS else value
    return _checked({**values, **given}, "-o")


def choose_cache_size(file: Path, size: int) -> None:
    """Writes `cache_size_bytes` into config.toml and leaves all else of it as it is; raises SettingsError."""
    if size < CACHE_LEAST:
        raise SettingsError("The least that a cache may take is 16M.")
    load_choices(file)
    try:
        lines = file.read_text().splitlines()
    except FileNotFoundError:
        lines = []
    kept = [line for line in lines if not re.match(r"\s*cache_size_bytes\s*=", line)]
    file.parent.mkdir(parents=True, exist_ok=True)
    write_private(file, "\n".join([f"cache_size_bytes = {size}", *kept, ""]).encode())


def _checked(values: dict[str, object], source: str) -> Choices:
    try:
        chosen = msgspec.convert(values, _Chosen)
    except msgspec.ValidationError as error:
        raise SettingsError(f"{source}: {_fault(values, str(error))}") from error
    cache_size = size_bytes(chosen.cache_size_bytes, f"{source}: cache_size_bytes")
    if cache_size < CACHE_LEAST:
        raise SettingsError(f"{source}: cache_size_bytes is {chosen.cache_size_bytes}, the least is 16M.")
    if not 0.1 <= chosen.read_seconds <= 3600:
        raise SettingsError(f"{source}: read_seconds is {chosen.read_seconds}, it must be between 0.1 and 3600.")
    floor = chosen.free_floor_bytes
    if floor is not None:
        floor = size_bytes(floor, f"{source}: free_floor_bytes")
    for name, number in (("uid", chosen.uid), ("gid", chosen.gid)):
        if number is not None and not 0 <= number <= _OWNER_MAX:
            raise SettingsError(f"{source}: {name} is {number}, it must be the number of a user or group.")
        if number is not None and chosen.owners == "real":
            raise SettingsError(f"{source}: owners=real shows whose everything is, {name} would hide it. Choose one.")
    return Choices(
        cache_size,
        floor,
        chosen.read_seconds,
        chosen.background_listing,
        chosen.owners,
        chosen.uid,
        chosen.gid,
        chosen.sync,
        chosen.metered,
    )


def _fault(values: dict[str, object], said: str) -> str:
    """What is wrong with these values, where msgspec says it of the type that they must have."""
    for name, value in values.items():
        if name not in _KINDS:
            return f"there is no setting {name!r}. The settings are: {', '.join(_KINDS)}."
        if f"$.{name}" in said:
            return f"{name} is {value!r}, it must be {_KINDS[name]}."
    return said


def _number(text: str) -> float | str:
    try:
        return int(text) if text.isdecimal() else float(text)
    except ValueError:
        return text


def size_bytes(value: int | str, name: str) -> int:
    """Bytes of a size as people write it: 1073741824, "20G", "500 MB"; raises SettingsError, naming `name`."""
    if isinstance(value, int) and value >= 0:
        return value
    try:
        return size_of(str(value))
    except ValueError:
        raise SettingsError(
            f'{name} is {value!r}, it must be a number of bytes or a size such as "20G", less than 1,024 PiB.'
        ) from None


class Account(msgspec.Struct, frozen=True):
    """Who this device is signed in as, and with what; lies in a file that only its user can read."""

    url: str
    token: str
    device: int
    device_name: str
    user: int
    user_name: str
    space: int
    secret: bytes
    instance: str
    allow_insecure: bool = False

    @property
    def identity(self) -> str:
        """What local state belongs to: the same for every sign-in of this user at this server."""
        return f"{self.instance}/{self.user}/{self.space}"

    @property
    def source(self) -> str:
        """What `mount` and `df` show as the device: whose drive it is, at which server."""
        return f"{self.user_name}@{self.url.partition('://')[2]}".replace(",", "_")


def load_account(file: Path) -> Account | None:
    """The account, or None when nobody is signed in; raises SettingsError."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=Account)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        raise SettingsError(
            f"{file} cannot be read ({error}). Sign in again: satchel login URL --user NAME."
        ) from error


def save_account(file: Path, account: Account) -> None:
    """Keeps the account, whole or not at all, also through a power cut."""
    write_private(file, msgspec.json.format(msgspec.json.encode(account)) + b"\n")


def remove_account(file: Path) -> None:
    """Forgets who was signed in."""
    file.unlink(missing_ok=True)


def write_private(file: Path, content: bytes) -> None:
    """Replaces a file that nobody else can read, whole or not at all."""
    new = file.with_name(file.name + ".new")
    new.unlink(missing_ok=True)
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(fd, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    new.replace(file)
    folder = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
