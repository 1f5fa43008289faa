"""Answered: takes into the tree what became of a commit of ours, told by its answer or by states of the server."""

from msgspec.structs import replace

from cache import merge
from cache.edit import Edit
from cache.records import Record
from remote.protocol.ids import NodeId, Rev
from remote.protocol.nodes import NodeState, NodeVersion


def acknowledge(
    edit: Edit,
    node: NodeId,
    sent: NodeState | None,
    rev: Rev,
    *,
    touch_base: Rev | None = None,
    is_next: bool = True,
    is_unchanged: bool,
) -> None:
    """The server has committed `sent` as the node's state; `is_unchanged`: its staging was not written to since.

    All that came before is known. `touch_base`: it was a touch, made on top of that rev. `is_next`: the journal has
    not brought this commit yet.
    """
    is_touch = touch_base is not None
    record = edit.record(node)
    if record is None:
        if sent is not None and not is_touch:
            # Made, sent and removed here meanwhile: the removal is still to be told.
            edit.put(node, Record(rev=rev, local=None, is_dirty=True, synced=sent))
            edit.mark_dirty(node, sent.ctime_ns)
        return
    if record.rev > rev:
        return
    waiting = edit.news_of(node) if is_touch else None
    if waiting is not None and sent is not None:
        # Made of the folder as it is there, which is not taken in yet: what waits must not look old.
        if is_next and waiting.state is not None and waiting.rev < rev:
            state = merge.touched(waiting.state, sent, is_on_top=waiting.rev == touch_base)
            edit.keep_news(replace(waiting, rev=rev, state=state))
        return
    if sent is None:
        if record.local is None:
            edit.drop(node)
        else:
            edit.put(node, replace(record, rev=rev, synced=None, is_dirty=True, overrides=Rev(0)))
            edit.mark_dirty(node, edit.edited_ns(node) or record.local.ctime_ns)
        return
    agreed, new_rev, local = sent, rev, record.local
    is_same = local is not None and is_unchanged and replace(local, content=sent.content) == sent
    if is_touch:
        before = record.agreed
        if before is None:
            # Removed elsewhere: there was nothing to be touched.
            return
        agreed = merge.touched(before, sent, is_on_top=record.rev == touch_base) if is_next else before
        new_rev = rev if agreed != before else record.rev
        # As it was sent it may differ from what is agreed by now: with its name here, moved elsewhere meanwhile.
        is_same = not record.is_dirty or (is_same and local is not None and merge.is_touch(local, before))
    if is_same:
        clean = replace(record, rev=new_rev, local=agreed, is_dirty=False, synced=None, overrides=Rev(0))
        edit.put(node, replace(clean, staged=0, staged_size=0))
        edit.mark_clean(node)
    elif record.is_dirty:
        edit.put(node, replace(record, rev=new_rev, synced=agreed, overrides=Rev(0)))
        # It may have been put by as ignored: what the server has never is.
        edit.mark_dirty(node, edit.edited_ns(node))


def recognize(edit: Edit, version: NodeVersion, sent: NodeState | None) -> None:
    """What a commit of ours on its way made of a node is no news, whatever was done to it here since.

    `sent`: the state that is on its way, None when it is not known.
    """
    record = edit.record(version.node)
    if record is None or not record.is_dirty or record.rev >= version.rev or sent is None:
        return
    if version.state == sent:
        acknowledge(edit, version.node, sent, version.rev, is_unchanged=False)
    elif record.rev == 0:
        # It came there by that commit: what differs was changed elsewhere since.
        acknowledge(edit, version.node, sent, Rev(version.rev - 1), is_unchanged=False)
