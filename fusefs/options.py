"""Options: what the words of `mount -o`, of /etc/fstab too, mean here: for the kernel, for us, or for nobody. Pure."""

from typing import Final, NamedTuple

from fusefs.control import Exit, Refused

_FOR_KERNEL: Final = frozenset(
    {
        *("allow_other", "allow_root", "ro", "noatime", "nodiratime", "sync", "dirsync"),
        *("nosuid", "nodev", "noexec", "suid", "dev", "exec"),
    }
)
_FOR_NOBODY: Final = frozenset(
    {
        *("rw", "defaults", "auto", "noauto", "nofail", "_netdev", "async"),
        *("user", "nouser", "users", "owner", "noowner", "group", "nogroup"),
        *("atime", "diratime", "relatime", "norelatime", "strictatime", "nostrictatime", "lazytime", "nolazytime"),
    }
)
"""Words for mount(8) itself, and those that change nothing here."""
_FOR_NOBODY_WITH_VALUE: Final = frozenset({"user", "comment"})
_OURS: Final = {
    "cache-size": "cache_size_bytes",
    "free-floor": "free_floor_bytes",
    "read-seconds": "read_seconds",
    "owners": "owners",
    "uid": "uid",
    "gid": "gid",
    "sync": "sync",
}


class Options(NamedTuple):
    """Options of one mount, told apart."""

    kernel: frozenset[str]
    settings: dict[str, str]
    """By the names that config.toml has for them, as text."""


def parse_options(text: str) -> Options:
    """What `-o` says, of `cache-size` and `cache_size` alike; raises Refused for what means nothing here."""
    kernel: set[str] = set()
    settings: dict[str, str] = {}
    for option in filter(None, text.split(",")):
        name, has_value, value = option.partition("=")
        own = _OURS.get(name.replace("_", "-"))
        if own is not None and has_value:
            settings[own] = value
        elif option in _FOR_KERNEL:
            kernel.add(option)
        elif option == "rw":
            kernel.discard("ro")
        elif not _is_for_nobody(option):
            known = ", ".join(sorted([*(f"{ours}=" for ours in _OURS), *_FOR_KERNEL]))
            raise Refused(f"The mount option {option!r} is not known. There are: {known}.", Exit.USAGE)
    return Options(frozenset(kernel), settings)


def _is_for_nobody(option: str) -> bool:
    name, has_value, _ = option.partition("=")
    if has_value and name in _FOR_NOBODY_WITH_VALUE:
        return True
    return option in _FOR_NOBODY or option.lower().startswith("x-")
