"""Recovery: what a killed daemon left is made to agree; after a power cut, unsafe content is not trusted.

A machine that went down may have kept a staging's record and lost bytes of its
file, which then read as zeros: sent as they are, they would replace good content everywhere.
"""

import logging

from msgspec.structs import replace

from cache.errors import ContentDamaged
from cache.records import LostEdit
from cache.staging import StagingId, Stagings
from cache.tree import Tree
from remote.protocol.ids import NodeId

log = logging.getLogger(__name__)

_BOOT = "boot"


def agree_on_sizes(tree: Tree, stagings: Stagings) -> None:
    """Gives files the size that their stagings have: one that was being cut when the daemon was killed is cut.

    With the old size it would show zeros here where there was content, and be short everywhere else.
    """
    for node, _ in (*tree.dirty(), *tree.ignored()):
        record = tree.record(node)
        if record is None or not record.staged:
            continue
        size = stagings.kept_size(StagingId(record.staged))
        if size is not None and size != record.staged_size:
            with tree.edit() as edit:
                edit.put(node, replace(record, staged_size=size))


def recover(tree: Tree, stagings: Stagings) -> list[NodeId]:
    """Sets suspect files back to the version that the server has; what was written stays as a version with a mark.

    A file that the server never had keeps what is left of it. Returns the nodes that were set back. Once for each
    start of the machine: looking at every staging takes time.
    """
    boot = stagings.boot
    if tree.setting(_BOOT) == boot:
        return []
    set_back: list[NodeId] = []
    for node, _ in tree.dirty():
        record = tree.record(node)
        if record is None or not record.staged or record.local is None:
            continue
        if record.synced is None or record.synced.content is None:
            continue
        try:
            if not stagings.load(StagingId(record.staged)).is_suspect:
                continue
            _set_back(tree, node, is_something_left=True)
        except (KeyError, ContentDamaged):
            _set_back(tree, node, is_something_left=False)
        set_back.append(node)
    tree.set_setting(_BOOT, boot)
    return set_back


def _set_back(tree: Tree, node: NodeId, *, is_something_left: bool) -> None:
    with tree.edit() as edit:
        record = edit.get(node)
        assert record.local is not None
        assert record.synced is not None
        if is_something_left:
            edit.keep_lost(node, LostEdit(record.local, edit.edited_ns(node), record.staged))
        state = replace(record.local, content=record.synced.content, mtime_ns=record.synced.mtime_ns)
        edit.put(node, replace(record, local=state, staged=0, staged_size=0))
    log.warning(
        "node %d: the power went off before what was written to it was on this disk. It is again what the server has; "
        "what is left of the newer content is kept as a version: satchel versions",
        node,
    )
