"""Rehoming: what a folder holds becomes a shared space's, or the home's again, as the home's journal says.

Nothing is shown differently by it: records change their space, and the rev that they are agreed as of. What was edited
here and not sent is sent to where the node belongs now. An unsent move over the border is undone: no node leaves its
space by a move.
"""

from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Final

import trio
from msgspec.structs import replace

from cache.edit import Edit
from cache.lives import set_back
from cache.merge import free_name
from cache.parts import Part, batches, below, drop_settings, is_folder
from cache.pull import Effects, effects_of
from cache.records import HOME, Record, Table
from cache.tree import Tree
from remote.protocol.ids import NodeId, Rev, SpaceId
from remote.protocol.messages import Nodes
from remote.protocol.nodes import Name, NodeState, NodeVersion
from remote.protocol.sharing import FOUNDED

_BEFORE_FOUNDED: Final = Rev(1)
"""Older than what the space began with: it is asked for."""
_AT_ONCE: Final = 200
_ASKED_AT_ONCE: Final = 500
Show = Callable[[Effects], None]
Ask = Callable[[Sequence[NodeId]], Awaitable[Nodes]]
_DEPTH_MAX: Final = 4_096
_SETTING: Final = b"rehoming"


async def share(tree: Tree, show: Show, top: NodeId, space: SpaceId, went: Collection[NodeId] | None = None) -> None:
    """All below a folder becomes the space's; call it again after a crash (`is_unfinished`). Moves undone are shown.

    `went`: the nodes that left the home by this very commit of its journal, so that what is known of them is what the
    space begins with, but for news that waits. None: it is not known when that was, and the space is to be asked for
    all of it.
    """
    known = tree.record(top)
    is_gone = known is not None and known.local is None
    with tree.edit() as edit:
        if known is not None:
            mounting = replace(known, local=_mounting(known.local, space), synced=_mounting(known.synced, space))
            # Where it was removed here, and that was not sent: the home's news, which comes next, has it back.
            edit.put(top, replace(mounting, is_listed=False, is_listing=False) if is_gone else mounting)
        edit.change.put(Table.SETTINGS, _SETTING, top.to_bytes(8, "big"))
    await trio.lowlevel.checkpoint()
    # No await from here to the first edit: then all its folders are the space's, and nobody moves over the border.
    tops = [top, *(node for node in went or () if tree.record(node) is not None)]
    nodes = list(dict.fromkeys([*tops[1:], *(node for one in tops for node in below(tree, one))]))
    inside = _inside(tree, top, nodes, went)
    # Edits are few, and to look at all records again takes its time.
    edited = inside.intersection(node for node, _ in (*tree.dirty(), *tree.ignored()))
    renewed = {node: tree.new_node() for node in sorted(edited) if lives_on(tree.record(node))}
    rev = _BEFORE_FOUNDED if went is None else FOUNDED
    for some in _in_turns(tree, nodes, renewed):
        with tree.edit() as edit:
            for node in some:
                if edit.record(node) is None:
                    continue
                if node not in inside:
                    _stay(tree, edit, node, lambda other: other == top or other in inside)
                elif is_gone and edit.get(node).local is None:
                    # The folder was removed here, with what was in it, and that was not sent: sharing it comes first.
                    edit.drop(node)
                else:
                    _stay(tree, edit, node, lambda other: other != top and other not in inside)
                    if node in renewed:
                        _renew(edit, node, renewed, space)
                    else:
                        _give(edit, node, space, rev, renewed)
            effects = effects_of(edit, is_event=False)
        show(effects)
        await trio.lowlevel.checkpoint()
    part = Part(tree, space, top)
    with tree.edit() as edit:
        if went is not None:
            part.set_cursor(FOUNDED, edit)
        for node in went or ():
            waiting = edit.news_of(node) if edit.record(node) is None else None
            if waiting is not None:
                # It has not come in here yet, and is what the space began with.
                edit.keep_news(replace(waiting, rev=FOUNDED))
        edit.change.delete(Table.SETTINGS, _SETTING)


def forget_unknown(tree: Tree, part: Part) -> None:
    """Forgets what the space told of and has not come in here yet."""
    with tree.edit() as edit:
        for version in part.news():
            if edit.record(version.node) is None:
                edit.forget_news(version.node)


def is_unfinished(tree: Tree, top: NodeId) -> bool:
    """Whether `share` of this folder was cut off."""
    return tree.setting(_SETTING.decode()) == top.to_bytes(8, "big")


async def unshare(
    tree: Tree,
    show: Show,
    part: Part,
    nodes: Iterable[NodeId],
    versions: Sequence[NodeVersion],
    rev: Rev,
    *,
    forget: Callable[[Edit], None],
) -> None:
    """All nodes of a shared space become the home's, whose news of `rev` says what they are there.

    What is gone there, and was edited here, is new in the home: nobody can have its id any more. `forget`: what the
    last edit does besides, with which the space is not known any more.
    """
    told = {version.node: version.state for version in versions if version.state is not None}
    nodes = sorted(nodes)
    renewed = {node: tree.new_node() for node in nodes if node not in told and _is_edited(tree.record(node))}

    def become_the_homes(edit: Edit, node: NodeId, record: Record) -> None:
        if record.rev and node not in told:
            edit.drop(node)
            return
        local = _in_renewed(record.local, renewed)
        # Mostly it is what it was: then there is no news of it.
        is_news = record.is_dirty or local != told.get(node)
        edit.put(node, replace(record, local=local, space=HOME, rev=Rev(rev - is_news) if record.rev else Rev(0)))

    forget_unknown(tree, part)
    for effects in _in_edits(tree, nodes, renewed, become_the_homes, is_event=True):
        show(effects)
        await trio.lowlevel.checkpoint()
    _unmount(tree, part, forget)


async def take_back(
    tree: Tree,
    show: Show,
    part: Part,
    rev: Rev,
    ask: Ask,
    revoke: Callable[[Iterable[NodeId]], None],
    *,
    forget: Callable[[Edit], None],
) -> None:
    """All of a shared space that the server does not have any more becomes the home's, to be set back from this rev.

    `ask` tells what the home has of nodes. What it never had gets another id: members made it with ids of their own.
    `forget`: see `unshare`.
    """
    forget_unknown(tree, part)
    nodes = sorted(part.all_nodes())
    unknown: list[NodeId] = []
    for some in batches(nodes, _ASKED_AT_ONCE):
        answer = await ask(some)
        unknown += [node for node, then in zip(some, answer.nodes, strict=True) if then is None]
    revoke(node for node in unknown if _has_rev(tree.record(node)))
    # No await from here to the first edit: who writes to one of these is refused from now on.
    gone = {node for node in unknown if _has_rev(tree.record(node))}
    renewed = {node: tree.new_node() for node in sorted(gone) if _is_shown(tree.record(node))}

    def become_the_homes(edit: Edit, node: NodeId, record: Record) -> None:
        if node in gone:
            edit.drop(node)
            return
        local = _in_renewed(record.local, renewed)
        edit.put(node, replace(record, local=local, space=HOME, rev=rev if record.rev else record.rev))

    for effects in _in_edits(tree, nodes, renewed, become_the_homes, is_event=False):
        show(effects)
        await trio.lowlevel.checkpoint()
    _unmount(tree, part, forget)


def _in_edits(
    tree: Tree,
    nodes: Iterable[NodeId],
    renewed: Mapping[NodeId, NodeId],
    become_the_homes: Callable[[Edit, NodeId, Record], None],
    *,
    is_event: bool,
) -> Iterator[Effects]:
    """Nodes of a space become the home's, some at a time; what each edit shows differently."""
    for some in _in_turns(tree, nodes, renewed):
        with tree.edit() as edit:
            for node in some:
                record = edit.record(node)
                if record is None:
                    continue
                edit.forget_news(node)
                if node in renewed:
                    _renew(edit, node, renewed, HOME)
                else:
                    become_the_homes(edit, node, record)
            effects = effects_of(edit, is_event=is_event)
        yield effects


def _unmount(tree: Tree, part: Part, forget: Callable[[Edit], None]) -> None:
    with tree.edit() as edit:
        top = edit.record(part.top)
        if top is not None:
            edit.put(part.top, replace(top, local=_mounting(top.local, HOME), synced=_mounting(top.synced, HOME)))
        # What was made meanwhile, in the folder itself.
        for node in part.all_nodes():
            edit.put(node, replace(edit.get(node), space=HOME))
        drop_settings(tree, edit, part.space)
        forget(edit)


async def give_back(tree: Tree, part: Part, ask: Ask) -> None:
    """All below a folder becomes a shared space's again, which the server has again; `ask` tells what it has of these.

    What is here and not there, or otherwise, is an edit to be sent.
    """
    with tree.edit() as edit:
        top = edit.get(part.top)
        mounting = replace(top, local=_mounting(top.local, part.space), synced=_mounting(top.synced, part.space))
        edit.put(part.top, replace(mounting, is_listed=False, is_listing=False))
        edit.change.put(Table.SETTINGS, _SETTING, part.top.to_bytes(8, "big"))
    for some in _in_turns(tree, list(below(tree, part.top)), {}):
        answer = await ask(some)
        with tree.edit() as edit:
            for node, then in zip(some, answer.nodes, strict=True):
                record = edit.record(node)
                if record is None:
                    continue
                edit.forget_news(node)
                state, rev = (then.state, then.rev) if then is not None else (None, Rev(0))
                edited_ns = edit.edited_ns(node) or (record.local.ctime_ns if record.local is not None else 1)
                new = set_back(replace(record, space=part.space), rev, state)
                if new is None:
                    edit.drop(node)
                    continue
                edit.put(node, new)
                if new.is_dirty:
                    edit.mark_dirty(node, edited_ns)
                else:
                    edit.mark_clean(node)
    with tree.edit() as edit:
        edit.change.delete(Table.SETTINGS, _SETTING)


def _in_turns(tree: Tree, nodes: Iterable[NodeId], renewed: Mapping[NodeId, NodeId]) -> Iterator[Sequence[NodeId]]:
    """What is edited at once: first all folders, and what gets another id with what is in it.

    What is made from then on is of the space that its folder is of; and nothing but that edit tells both ids.
    """
    others: list[NodeId] = []
    first: list[NodeId] = []
    for node in nodes:
        record = tree.record(node)
        state = record.local if record is not None else None
        is_first = is_folder(record) or node in renewed or (renewed and _in_renewed(state, renewed) is not state)
        (first if is_first else others).append(node)
    if first:
        yield first
    yield from batches(others, _AT_ONCE)


def _has_rev(record: Record | None) -> bool:
    return record is not None and bool(record.rev)


def _is_shown(record: Record | None) -> bool:
    return record is not None and record.local is not None


def _is_edited(record: Record | None) -> bool:
    """Whether something of a node that the server has, or had, was edited here, which still shows it."""
    return record is not None and bool(record.rev) and record.is_dirty and record.local is not None


def lives_on(record: Record | None) -> bool:
    """Whether it was so removed elsewhere: it is about to be made again."""
    return _is_edited(record) and record is not None and record.synced is None


def _renew(edit: Edit, node: NodeId, renewed: Mapping[NodeId, NodeId], space: SpaceId) -> None:
    """What is here becomes a new node of the space: nobody can have the old one's id any more."""
    record = edit.get(node)
    edited_ns = edit.edited_ns(node) or (record.local.ctime_ns if record.local is not None else 0)
    edit.forget_news(node)
    edit.drop(node)
    local = _in_renewed(record.local, renewed)
    new = replace(record, rev=Rev(0), local=local, is_dirty=True, synced=None, space=space, overrides=Rev(0))
    edit.put(renewed[node], new)
    if edit.get(renewed[node]).space != space:
        # What is new is taken for that of the space which its folder mounts, as it does until all are the home's.
        edit.put(renewed[node], new)
    edit.mark_dirty(renewed[node], edited_ns)
    edit.move_lost(node, renewed[node])
    edit.succeed(node, renewed[node])


def _in_renewed(state: NodeState | None, renewed: Mapping[NodeId, NodeId]) -> NodeState | None:
    if state is None or not any(name.parent in renewed for name in state.names):
        return state
    return replace(state, names=tuple(Name(renewed.get(name.parent, name.parent), name.name) for name in state.names))


def _mounting(state: NodeState | None, space: SpaceId) -> NodeState | None:
    return replace(state, mounts=space) if state is not None else None


def _inside(tree: Tree, top: NodeId, nodes: Iterable[NodeId], went: Collection[NodeId] | None) -> set[NodeId]:
    """Those of these nodes that are below the folder on the server, as far as is known, and what was made there since.

    `went`: the former, where it is known.
    """
    known: dict[NodeId, bool] = {top: True, **dict.fromkeys(went or (), True)}
    for start in nodes:
        way: list[NodeId] = []
        node = start
        while node not in known and len(way) < _DEPTH_MAX:
            way.append(node)
            record = tree.record(node)
            state = (_known_there(tree, node, record) or record.local) if record is not None else None
            is_left = record is not None and bool(record.rev) and went is not None and not lives_on(record)
            if state is None or not state.names or is_left:
                known[node] = False
                break
            node = state.names[0].parent
        known.update(dict.fromkeys(way, known.get(node, False)))
    return {node for node in known if known[node] and node != top}


def _give(edit: Edit, node: NodeId, space: SpaceId, rev: Rev, renewed: Mapping[NodeId, NodeId]) -> None:
    """The node is the space's, as of this rev."""
    record = edit.get(node)
    if record.space == space:
        return
    waiting = edit.news_of(node)
    if waiting is not None:
        # It is part of what the space began with, and still to be merged.
        edit.forget_news(node)
        if rev > _BEFORE_FOUNDED:
            edit.keep_news(replace(waiting, rev=rev))
        rev = _BEFORE_FOUNDED
    local = _in_renewed(record.local, renewed)
    edit.put(node, replace(record, local=local, space=space, rev=rev if record.rev else record.rev, overrides=Rev(0)))


def _known_there(tree: Tree, node: NodeId, record: Record) -> NodeState | None:
    """What the server has of a node, or is about to get by the commit of the home that is on its way."""
    return record.agreed or tree.sending.get(node)


def _stay(tree: Tree, edit: Edit, node: NodeId, is_beyond: Callable[[NodeId], bool]) -> None:
    """Sees to it that no name of a node lies beyond the border of its space."""
    _follow(edit, node, is_beyond)
    _undo_move(tree, edit, node, is_beyond)


def _follow(edit: Edit, node: NodeId, is_beyond: Callable[[NodeId], bool]) -> None:
    """A move over the border that is told by news which waits is done now; the rest of that is still to be merged."""
    record, waiting = edit.get(node), edit.news_of(node)
    local, agreed = record.local, record.agreed
    if waiting is None or waiting.state is None or agreed is None:
        return
    if not any(is_beyond(name.parent) for name in agreed.names):
        return
    moved = replace(agreed, names=waiting.state.names)
    if local is not None and local.names == agreed.names:
        local = replace(local, names=tuple(_free(edit, node, name) for name in moved.names))
    edit.put(node, replace(record, local=local, synced=moved if record.is_dirty else None))


def _undo_move(tree: Tree, edit: Edit, node: NodeId, is_beyond: Callable[[NodeId], bool]) -> None:
    """Takes away names that were given to a node here, beyond the border of its space, and not sent."""
    record = edit.get(node)
    state, there = record.local, _known_there(tree, node, record)
    if not record.is_dirty or state is None or not any(is_beyond(name.parent) for name in state.names):
        return
    names = tuple(name for name in state.names if not is_beyond(name.parent))
    if not names and there is None:
        # Made here, and not sent to anybody: it is where it was made.
        return
    if not names and there is not None:
        for name in there.names:
            _revive(edit, name.parent)
        names = tuple(_free(edit, node, name) for name in there.names)
    edit.put(node, replace(record, local=replace(state, names=names)))


def _revive(edit: Edit, folder: NodeId) -> None:
    """A folder that was removed here, which is not sent, is there again, as what had left it is in it again."""
    record = edit.record(folder)
    if record is None or record.local is not None or record.synced is None:
        return
    for name in record.synced.names:
        _revive(edit, name.parent)
    names = tuple(_free(edit, folder, name) for name in record.synced.names)
    edit.put(folder, replace(record, local=replace(record.synced, names=names)))


def _free(edit: Edit, node: NodeId, name: Name) -> Name:
    def is_taken(candidate: bytes) -> bool:
        return edit.holder(Name(name.parent, candidate)) not in (None, node)

    return Name(name.parent, free_name(name.name, is_taken)) if is_taken(name.name) else name


def unsent(record: Record) -> bool:
    """Whether something of a node is on this machine only, that its user would miss: content, or all of it."""
    return record.is_dirty and record.local is not None and bool(record.staged or not record.rev)
