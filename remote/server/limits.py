"""What a request may say at all: pure checks, before anything is looked up. Each refusal names the place."""

import unicodedata
from collections.abc import Sequence

from remote.protocol import manifests
from remote.protocol.errors import BadRequest, TooLarge
from remote.protocol.ids import ROOT, ChunkId, Rev
from remote.protocol.messages import CHANGES_MAX, CHUNK_MAX, CHUNKS_MAX, Change, Commit
from remote.protocol.nodes import (
    FILE_SIZE_MAX,
    NAME_MAX,
    NAMES_MAX,
    ROOT_NAME,
    SYMLINK_MAX,
    VERSIONS_NAME,
    XATTR_NAME_MAX,
    XATTR_SIZE_MAX,
    XATTR_TOTAL_MAX,
    Kind,
    Manifest,
    Name,
    NodeState,
)

INT63 = (1 << 63) - 1
INT63_TOLD = INT63 - 1023
"""The largest of these that a description in JSON tells exactly: there, many take numbers for floats."""
OP_ID_SIZE = 16
ID_SIZE = 32
MODE_MAX = 0o7777
OWNER_MAX = (1 << 32) - 1
LABEL_MAX = 128
"""Characters of a user's or device's name."""
PASSWORD_MAX = 1_024
STEPS_MAX = 16
SECONDS_MAX = 1 << 40

_CONTENT_KINDS = {Kind.FILE}
_DEVICE_KINDS = {Kind.CHARACTER_DEVICE, Kind.BLOCK_DEVICE}


def check_commit(commit: Commit) -> None:
    """Raises BadRequest for a commit that could never be taken, whatever the space holds."""
    check_op_id(commit.op_id)
    if not commit.changes:
        raise BadRequest("The commit has no changes.")
    check_count("changes", len(commit.changes), CHANGES_MAX)
    seen: set[tuple[int, bool]] = set()
    for at, change in enumerate(commit.changes):
        where = f"changes[{at}]"
        _check_change(change, where)
        if (change.node, change.is_conflict) in seen:
            raise BadRequest(f"{where}: node {change.node} stands twice in this commit.")
        seen.add((change.node, change.is_conflict))


def check_op_id(op_id: bytes) -> None:
    """Raises BadRequest for what is no op id."""
    if len(op_id) != OP_ID_SIZE:
        raise BadRequest(f"op_id has {len(op_id)} bytes, not {OP_ID_SIZE}.")


def check_count(what: str, count: int, maximum: int) -> None:
    """Raises TooLarge for more than the protocol allows."""
    if count > maximum:
        raise TooLarge(f"{count} {what} in one request; at most {maximum} are allowed.")


def check_node(where: str, node: int) -> None:
    """Raises BadRequest for what cannot be a node id."""
    _check_range(f"{where} (a node id)", node, 1, INT63)


def check_space(where: str, space: int) -> None:
    """Raises BadRequest for what cannot be a space id."""
    _check_range(f"{where} (a space id)", space, 1, INT63)


def check_rev(where: str, rev: int) -> None:
    """Raises BadRequest for what cannot be a rev."""
    _check_range(f"{where} (a rev)", rev, 0, INT63)


def check_size(where: str, size: int) -> None:
    """Raises BadRequest for what cannot be a number of bytes, or of anything else."""
    _check_range(where, size, 0, INT63)


def check_limit(limit: int, maximum: int) -> None:
    """Raises BadRequest unless 1 <= limit <= maximum."""
    _check_range("limit", limit, 1, maximum)


def check_steps(steps: Sequence[tuple[int, int]]) -> None:
    """Raises BadRequest or TooLarge unless ages rise, and steps are lengths of time."""
    check_count("steps", len(steps), STEPS_MAX)
    before = 0
    for at, (age, step) in enumerate(steps):
        _check_range(f"steps[{at}]'s age in seconds", age, before + 1, SECONDS_MAX)
        _check_range(f"steps[{at}]'s step in seconds", step, 0, SECONDS_MAX)
        before = age


def check_time(where: str, time_ns: int) -> None:
    """Raises BadRequest for a time outside of 64 bits."""
    _check_range(where, time_ns, -INT63 - 1, INT63)


def check_chunk_ids(chunks: Sequence[ChunkId]) -> None:
    """Raises BadRequest or TooLarge for a list that no request may name."""
    check_count("chunks", len(chunks), CHUNKS_MAX)
    for at, chunk in enumerate(chunks):
        if len(chunk) != ID_SIZE:
            raise BadRequest(f"chunks[{at}]: an id has {ID_SIZE} bytes, not {len(chunk)}.")


def check_chunk_size(where: str, size: int) -> None:
    """Raises BadRequest or TooLarge for a size that no sealed chunk has."""
    if size < 1:
        raise BadRequest(f"{where}: a sealed chunk has at least 1 byte, not {size}.")
    if size > CHUNK_MAX:
        raise TooLarge(f"{where}: a sealed chunk has at most {CHUNK_MAX} bytes, not {size}.")


def check_label(what: str, label: str) -> None:
    """Raises BadRequest for a user's or device's name that could not be shown on one line."""
    if not label or len(label) > LABEL_MAX:
        raise BadRequest(f"{what} has {len(label)} characters; 1 to {LABEL_MAX} are allowed.")
    if label != label.strip() or any(unicodedata.category(character)[0] == "C" for character in label):
        raise BadRequest(f"{what} may not hold control characters, nor begin or end with a space.")


def check_password(password: str) -> None:
    """Raises BadRequest for a password that is too long to be hashed for just anybody."""
    if len(password) > PASSWORD_MAX:
        raise TooLarge(f"The password has {len(password)} characters; at most {PASSWORD_MAX} are allowed.")


def _check_change(change: Change, where: str) -> None:
    check_node(f"{where}.node", change.node)
    check_rev(f"{where}.base", change.base)
    check_rev(f"{where}.overrides", change.overrides)
    check_time(f"{where}.edited_ns", change.edited_ns)
    if change.is_touch and change.is_conflict:
        raise BadRequest(f"{where}: a change cannot be a touch and a lost conflict.")
    if change.overrides and (change.is_touch or change.is_conflict):
        raise BadRequest(f"{where}: only a change that takes effect can override a version.")
    if change.state is None:
        if change.is_touch:
            raise BadRequest(f"{where}: a touch needs a state.")
        if change.node == ROOT:
            raise BadRequest(f"{where}: the root folder cannot be removed.")
        return
    check_state(change.node, change.state, f"{where}.state")
    if change.is_touch and change.state.kind != Kind.FOLDER:
        raise BadRequest(f"{where}: only a folder can be touched.")


def check_state(node: int, state: NodeState, where: str) -> None:
    """Raises BadRequest for a state whose parts do not fit each other or the limits."""
    _check_names(node, state, where)
    _check_range(f"{where}.mode", state.mode, 0, MODE_MAX)
    _check_range(f"{where}.uid", state.uid, 0, OWNER_MAX)
    _check_range(f"{where}.gid", state.gid, 0, OWNER_MAX)
    _check_range(f"{where}.rdev", state.rdev, 0, INT63)
    _check_range(f"{where}.mounts", state.mounts, 0, INT63)
    for field in ("mtime_ns", "ctime_ns", "atime_ns", "birth_ns"):
        check_time(f"{where}.{field}", getattr(state, field))
    if state.mounts and (state.kind != Kind.FOLDER or node == ROOT):
        raise BadRequest(f"{where}.mounts: only folders can stand for a shared space, but not the root.")
    if state.rdev and state.kind not in _DEVICE_KINDS:
        raise BadRequest(f"{where}.rdev: only devices have one.")
    if (state.kind == Kind.SYMLINK) != bool(state.target):
        raise BadRequest(f"{where}.target: symlinks have one, other kinds have none.")
    if len(state.target) > SYMLINK_MAX or b"\0" in state.target:
        raise BadRequest(f"{where}.target: at most {SYMLINK_MAX} bytes without NUL.")
    if (state.kind in _CONTENT_KINDS) != (state.content is not None):
        raise BadRequest(f"{where}.content: files have a manifest (an empty one when empty), other kinds have none.")
    if state.content is not None:
        _check_manifest(state.content, f"{where}.content")
        if state.content.size > FILE_SIZE_MAX:
            raise TooLarge(f"{where}.content has {state.content.size} bytes; at most {FILE_SIZE_MAX} are allowed.")
    _check_xattrs(state, where)


def _check_names(node: int, state: NodeState, where: str) -> None:
    if node == ROOT:
        if state.kind != Kind.FOLDER or state.names != (ROOT_NAME,):
            raise BadRequest(f"{where}: the root is a folder with the one name (0, empty).")
        return
    if not state.names:
        raise BadRequest(f"{where}.names: a node without names does not exist; to remove it, give no state.")
    if state.kind == Kind.FOLDER and len(state.names) != 1:
        raise BadRequest(f"{where}.names: a folder has one name, not {len(state.names)}.")
    if len(state.names) > NAMES_MAX:
        raise TooLarge(f"{where}.names: {len(state.names)} names; at most {NAMES_MAX} are allowed.")
    for at, name in enumerate(state.names):
        check_name(name, f"{where}.names[{at}]")
    if len({(name.parent, name.name) for name in state.names}) != len(state.names):
        raise BadRequest(f"{where}.names: the same name stands there twice.")


def check_name(name: Name, where: str) -> None:
    """Raises BadRequest or TooLarge for what no node can be called."""
    check_node(f"{where}.parent", name.parent)
    if len(name.name) > NAME_MAX:
        raise TooLarge(f"{where}: a name has at most {NAME_MAX} bytes, not {len(name.name)}.")
    if not name.name or name.name in (b".", b"..") or b"/" in name.name or b"\0" in name.name:
        raise BadRequest(f"{where}: {name.name!r} cannot be a name.")
    if name.name == VERSIONS_NAME:
        raise BadRequest(f"{where}: {VERSIONS_NAME.decode()} cannot be a name: devices show a folder's history there.")


def _check_xattrs(state: NodeState, where: str) -> None:
    total = 0
    for name, value in state.xattrs.items():
        if not 0 < len(name) <= XATTR_NAME_MAX or b"\0" in name:
            raise BadRequest(f"{where}.xattrs: a name has 1 to {XATTR_NAME_MAX} bytes without NUL.")
        if len(value) > XATTR_SIZE_MAX:
            raise TooLarge(f"{where}.xattrs[{name!r}] has {len(value)} bytes; at most {XATTR_SIZE_MAX} are allowed.")
        total += len(name) + len(value)
    if total > XATTR_TOTAL_MAX:
        raise TooLarge(f"{where}.xattrs have {total} bytes together; at most {XATTR_TOTAL_MAX} are allowed.")


def _check_manifest(manifest: Manifest, where: str) -> None:
    try:
        manifests.check(manifest)
    except BadRequest as error:
        raise BadRequest(f"{where}: {error}") from None


def _check_range(where: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise BadRequest(f"{where} is {value}; it must be from {least} to {most}.")


def as_rev(where: str, text: str) -> Rev:
    """The rev in a query string."""
    if not text.isascii() or not text.isdigit() or len(text) > len(str(INT63)):
        raise BadRequest(f"{where} must be a rev (a whole number from 0), not {text[:40]!r}.")
    rev = Rev(int(text))
    check_rev(where, rev)
    return rev
