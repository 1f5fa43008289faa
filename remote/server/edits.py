"""Edits: what people do to a space by name, each as one commit: make, replace, move, copy, remove.

For those who ask for one thing and wait for it: scripts, WebDAV. A commit is by the user and by device 0; its op id
says which device asked, so that `undo` finds it. What a request takes for granted (`Condition`) is judged in the same
state that the commit is made on: nothing is replaced that the asker did not know. What moves from one space to another
is copied there and removed here, by one transaction.
"""

import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

from msgspec.structs import replace

from remote.protocol.errors import BadRequest, Changed, InTheWay, NotAllowed, NotFound
from remote.protocol.ids import NO_SPACE, NOW, ROOT, DeviceId, NodeId, Rev, SpaceId, UserId
from remote.protocol.messages import Change, Commit, CommitAnswer
from remote.protocol.nodes import Kind, Manifest, Name, NodeState
from remote.server import commits
from remote.server.chunks import Chunks
from remote.server.commits import Draft
from remote.server.copying import Copier, Copies, Found, are_there, present, shown
from remote.server.database import chunks as chunk_rows
from remote.server.database import conflicts as conflict_rows
from remote.server.database import trees
from remote.server.database.accounts import Device
from remote.server.database.connection import Database, Session
from remote.server.database.events import EventRow
from remote.server.database.spaces import SpaceRow
from remote.server.files import TREE_MAX, Files, Item, file_state, item_of, shown_name
from remote.server.guard import Watch
from remote.server.hub import Hub
from remote.server.keyring import Keyring
from remote.server.keys import SpaceKey
from remote.server.limits import check_name
from remote.server.needs import Needs
from remote.server.past import Past
from remote.server.quotas import bounded
from remote.server.reading import act_tag, asked_op_id
from remote.server.rights import Right, member_space
from remote.server.scanning.carrying import Carried
from remote.server.states import decode_state, encode_state

T = TypeVar("T")

_TRIES = 5
SERVER: Final = DeviceId(0)
Planner = Callable[[Session, SpaceRow, SpaceKey], list[Draft]]
CommitOf = Callable[[Device, SpaceId, Commit], Awaitable[CommitAnswer]]
Announce = Callable[[SpaceId, EventRow], Awaitable[None]]


@dataclass(frozen=True)
class By:
    """For whom a commit is made; `device` 0: by WebDAV or a link, without any."""

    user: UserId
    device: DeviceId = SERVER

    def op_id(self) -> bytes:
        """A new op id."""
        return act_tag(self.device) + secrets.token_bytes(8) if self.device else asked_op_id()


@dataclass(frozen=True)
class Condition:
    """What is taken for granted: `etags`: it is one of these ("*": there is something); `is_new`: there is nothing."""

    etags: frozenset[str] = frozenset()
    is_new: bool = False

    def check(self, etag: str | None, what: str) -> None:
        """Raises Changed unless it holds of what has this etag (None: there is nothing)."""
        if self.is_new and etag is not None:
            raise Changed(f"There is {what} already; nothing was changed.")
        if self.etags and etag is None:
            raise Changed(f"There is no {what} any more; nothing was changed.")
        if self.etags and "*" not in self.etags and etag not in self.etags:
            raise Changed(f"{what} is not what you know: its ETag is {etag} now. Nothing was changed.")


ANYTHING = Condition()


@dataclass(frozen=True)
class Place:
    """Where something goes to; `within`: the space of that name, when it is not that of what goes there."""

    name: Name
    within: SpaceId = NO_SPACE
    replaces: bool = False
    """What has the name goes, in the same commit."""


def etag_of(rev: Rev, state: NodeState) -> str:
    """What names one state of a node for ever, also on a server that was put back from an older copy."""
    return f'"{rev:x}-{state.ctime_ns & (1 << 64) - 1:x}"'


@dataclass(frozen=True)
class _Bringing:
    """Copies, the first of which is `made`; with `going` what they are of goes in their source (`move`)."""

    made: NodeId
    target: SpaceId
    copies: Copies
    source: SpaceId = NO_SPACE
    going: Sequence[Draft] = ()


class _NotTaken(Exception):
    """The second commit of a transaction is refused: nothing of the first one is kept."""

    def __init__(self, answer: CommitAnswer) -> None:
        super().__init__(answer.reason)
        self.answer = answer


class Edits:
    """Edits of spaces, for their members; every method raises NotFound and NotAllowed by the user's rights."""

    def __init__(
        self,
        database: Database,
        keyring: Keyring,
        hub: Hub,
        files: Files,
        chunks: Chunks,
        *,
        needs: Needs,
        commit: CommitOf,
        announce: Announce,
    ) -> None:
        self._database = database
        self._keyring = keyring
        self._hub = hub
        self._needs = needs
        self._files = files
        self._chunks = chunks
        self._commit = commit
        self._announce = announce

    async def put(
        self, by: By, space: SpaceId, at: Name, manifest: Manifest, condition: Condition, *, mtime_ns: int = 0
    ) -> NodeId:
        """The file of this name with this content: a new one, or the one that is there; raises Changed, InTheWay.

        Without a condition only a new one: nothing is replaced that nobody spoke of.
        """
        fresh = await self._files.fresh_node(by.user)

        def plan(session: Session) -> Change:
            row = member_space(session, space, by.user, Right.WRITE)
            there = check_put(session, row, self._keyring.key(row), at, condition)
            if there is None:
                state = replace(file_state(manifest, mtime_ns=mtime_ns), names=(at,))
                return Change(fresh, Rev(0), time.time_ns(), state)
            now_ns = time.time_ns()
            state = replace(there.state, content=manifest, mtime_ns=mtime_ns or now_ns, ctime_ns=now_ns)
            return Change(there.node, there.rev, now_ns, state)

        async def attempt() -> tuple[CommitAnswer, NodeId]:
            change = await self._database.read(plan)
            return await self._commit(_device(by), space, Commit(by.op_id(), (change,))), change.node

        return await _until_taken(attempt)

    async def room_for(self, by: By, space: SpaceId, at: Name, condition: Condition) -> int:
        """How many bytes a content of this name may have; raises as `put` would as things are now."""

        def read(session: Session) -> int:
            row = member_space(session, space, by.user, Right.WRITE)
            there = check_put(session, row, self._keyring.key(row), at, condition)
            was = there.state.content.size if there is not None and there.state.content is not None else 0
            return bounded(session, row).left + was

        return await self._database.read(read)

    async def make_folder(self, by: By, space: SpaceId, at: Name, state: NodeState) -> NodeId:
        """A new folder; raises InTheWay when there is something of this name."""
        fresh = await self._files.fresh_node(by.user)

        def plan(session: Session, row: SpaceRow, key: SpaceKey) -> list[Draft]:
            _check_parent(session, row, at)
            _check_free(session, row, at)
            return [_draft(fresh, Rev(0), replace(state, names=(at,)))]

        await self._do(by, space, plan)
        return fresh

    async def change(
        self, by: By, space: SpaceId, node: NodeId, edit: Callable[[NodeState], NodeState], condition: Condition
    ) -> None:
        """Gives a node the state that `edit` makes of its present one, content aside."""

        def plan(session: Session, row: SpaceRow, key: SpaceKey) -> list[Draft]:
            found, state = present(session, row, node)
            condition.check(etag_of(found.rev, state), shown(state))
            edited = edit(state)
            if edited == state:
                return []
            return [_draft(node, found.rev, edited, found.content_id, found.size)]

        await self._do(by, space, plan)

    async def take_lost(self, by: By, space: SpaceId, node: NodeId, rev: Rev) -> None:
        """Makes a node what its version of `rev` was, which lost a merge; where it is stays. Raises NotFound."""

        def plan(session: Session, row: SpaceRow, key: SpaceKey) -> list[Draft]:
            found, state = present(session, row, node)
            lost = conflict_rows.lost_version(session, row.space, node, rev)
            if lost is None:
                raise NotFound(f"Rev {rev} of this file is no conflict that is to be settled.")
            size = Past(session, row.space, key, NOW).content_size(lost[1]) if lost[1] is not None else 0
            back = replace(decode_state(lost[0]), names=state.names, mounts=state.mounts, birth_ns=state.birth_ns)
            return [_draft(node, found.rev, back, lost[1], size)]

        await self._do(by, space, plan)

    async def move(
        self,
        by: By,
        space: SpaceId,
        node: NodeId,
        to: Place,
        *,
        was: Name | None = None,
        condition: Condition = ANYTHING,
        edit: Callable[[NodeState], NodeState] = lambda state: state,
    ) -> NodeId:
        """Gives a node this place instead of the name `was` (None: its first), all in one; `edit`: what else it gets.

        In another space it is new, with all that is below it: its history, and the trash that has it, stay.
        """

        def look(session: Session, row: SpaceRow) -> tuple[trees.NodeRow, NodeState, Name]:
            found, state = present(session, row, node)
            condition.check(etag_of(found.rev, state), shown(state))
            if node == ROOT:
                raise NotAllowed("The top of a space has no name.")
            old = was if was is not None else state.names[0]
            if old not in state.names:
                raise NotFound("That is not there any more: it was moved.")
            return found, state, old

        def plan(session: Session, row: SpaceRow, key: SpaceKey) -> list[Draft]:
            found, state, old = look(session, row)
            _check_parent(session, row, to.name)
            drafts = [] if to.name in state.names else _clear(session, row, to)
            _check_apart(drafts, node)
            names = dict.fromkeys(to.name if name == old else name for name in state.names)
            moved = edit(replace(state, names=tuple(names)))
            if moved == state:
                return []
            return [*drafts, _draft(node, found.rev, moved, found.content_id, found.size)]

        def plan_between(session: Session, first: NodeId) -> _Bringing:
            here = member_space(session, space, by.user, Right.WRITE)
            there = member_space(session, to.within, by.user, Right.WRITE)
            found, state, old = look(session, here)
            copier = Copier(session, self._keyring, self._chunks.read_whole, by.user, there, first, is_move=True)
            made = _copied(copier, here, (found, edit(state)), to, is_deep=True)
            return _Bringing(made, there.space, copier.copies, here.space, _removals(session, here, node, (old,)))

        if to.within not in {NO_SPACE, space}:
            return await self._bring(by, plan_between)
        await self._do(by, space, plan)
        return node

    async def copy(self, by: By, space: SpaceId, node: NodeId, to: Place, *, is_deep: bool = True) -> NodeId:
        """A copy in this place, with all that is below a folder, shared folders too; links among that are kept.

        A file that replaces a file becomes a version of it.
        """

        def plan(session: Session, first: NodeId) -> _Bringing:
            here = member_space(session, space, by.user, Right.READ)
            there = member_space(session, to.within or space, by.user, Right.WRITE)
            copier = Copier(session, self._keyring, self._chunks.read_whole, by.user, there, first)
            made = _copied(copier, here, present(session, here, node), to, is_deep=is_deep)
            return _Bringing(made, there.space, copier.copies)

        return await self._bring(by, plan)

    async def remove(
        self, by: By, space: SpaceId, node: NodeId, name: Name | None = None, condition: Condition = ANYTHING
    ) -> int:
        """Takes this name (None: all its names) from a node, and what is below a folder with it; how many went."""
        gone = [0]

        def plan(session: Session, row: SpaceRow, key: SpaceKey) -> list[Draft]:
            found, state = present(session, row, node)
            condition.check(etag_of(found.rev, state), shown(state))
            if node == ROOT:
                raise NotAllowed("The top of a space cannot be removed.")
            if name is not None and name not in state.names:
                raise NotFound("That is not there any more: it was moved.")
            drafts = _removals(session, row, node, state.names if name is None else (name,))
            gone[0] = len(drafts)
            return drafts

        await self._do(by, space, plan)
        return gone[0]

    async def _do(self, by: By, space: SpaceId, planner: Planner) -> None:
        op_id = by.op_id()

        def planned(session: Session) -> list[Draft]:
            row = member_space(session, space, by.user, Right.WRITE)
            return planner(session, row, self._keyring.key(row))

        async def attempt() -> tuple[CommitAnswer | None, None]:
            drafts = await self._database.read(planned)
            return await self._take(by, space, op_id, drafts) if drafts else None, None

        await _until_taken(attempt)

    async def _take(self, by: By, space: SpaceId, op_id: bytes, drafts: list[Draft]) -> CommitAnswer:
        watch = _watch(by)
        take = partial(self._taken, by, space, op_id, drafts, watch)
        answer = await self._needs.met(_device(by), space, lambda: self._database.write(take))
        await self._tell(space, watch, answer)
        return answer

    async def _bring(self, by: By, planner: Callable[[Session, NodeId], _Bringing]) -> NodeId:
        first = await self._files.fresh_nodes(by.user, TREE_MAX + 1)
        op_id, removing_id = by.op_id(), by.op_id()

        async def attempt() -> tuple[CommitAnswer, NodeId]:
            planned = await self._database.read(lambda session: planner(session, first))
            return await self._take_both(by, planned, op_id, removing_id), planned.made

        return await _until_taken(attempt)

    async def _take_both(self, by: By, planned: _Bringing, op_id: bytes, removing_id: bytes) -> CommitAnswer:
        """The answer that counts, of two commits in one transaction: a crash leaves both or none, and so a refusal."""
        coming, going = _watch(by), _watch(by)
        brought = planned.copies.brought.values()
        carried: list[Carried] = []

        def take(session: Session) -> CommitAnswer:
            carried.clear()
            if not are_there(session, brought):
                return CommitAnswer(Rev(0), 0, (), "What was to be copied was changed meanwhile.")
            if planned.going:
                # First, so that a quota that both count in does not count it twice.
                gone = self._taken(by, planned.source, removing_id, planned.going, going, session)
                if not gone.rev:
                    return gone
            for one in brought:
                carried.extend(one.bring(session, by.user, planned.target))
            came = self._taken(by, planned.target, op_id, planned.copies.drafts, coming, session)
            if not came.rev and (planned.going or brought):
                raise _NotTaken(came)
            return came

        def hold(session: Session) -> CommitAnswer:
            answer = self._taken(by, planned.target, op_id, planned.copies.drafts, coming, session)
            if answer.rev:
                raise _NotTaken(CommitAnswer(Rev(0), 0, (), "The guard was answered meanwhile."))
            return answer

        try:
            answer = await self._needs.met(_device(by), planned.target, lambda: self._database.write(take))
        except _NotTaken as refused:
            if not refused.answer.held:
                return refused.answer
            # With the rest of the transaction the guard's question went, too: it is asked by itself.
            coming, going = _watch(by), _watch(by)
            try:
                answer = await self._database.write(hold)
            except _NotTaken as allowed:
                return allowed.answer
        for one in carried if answer.rev else ():
            self._chunks.refuse(one.space, one.chunks, one.virus)
        await self._tell(planned.target, coming, answer)
        if planned.going:
            await self._tell(planned.source, going, answer)
        return answer

    def _taken(
        self, by: By, space: SpaceId, op_id: bytes, drafts: Sequence[Draft], watch: Watch, session: Session
    ) -> CommitAnswer:
        row = member_space(session, space, by.user, Right.WRITE)
        # They name stored content only, or what was made readable in this transaction: nothing is in doubt.
        found = commits.Found(frozenset(), chunk_rows.upkeep_round(session), watch)
        key, now_ns = self._keyring.key(row), time.time_ns()
        return commits.take(session, row, _device(by), op_id, drafts, key=key, now_ns=now_ns, found=found)

    async def _tell(self, space: SpaceId, watch: Watch, answer: CommitAnswer) -> None:
        if answer.rev:
            self._hub.moved(space)
        if watch.event is not None:
            await self._announce(space, watch.event)


def check_put(session: Session, row: SpaceRow, key: SpaceKey, at: Name, condition: Condition) -> Item | None:
    """The file that a new content of this name would replace; None: there is nothing. Raises Changed, InTheWay."""
    _check_parent(session, row, at)
    node = trees.holder(session, row.space, at.parent, at.name)
    there = item_of(session, row.space, key, node) if node is not None else None
    shown = shown_name(at.name)
    condition.check(etag_of(there.rev, there.state) if there is not None else None, shown)
    if there is not None and there.state.kind is not Kind.FILE:
        raise InTheWay(f"{shown} is there already, and is no file.")
    if there is not None and not condition.etags:
        raise InTheWay(f"{shown} is there already: send If-Match with its ETag to replace it.")
    return there


def _device(by: By) -> Device:
    return Device(by.user, DeviceId(0), "", b"")


async def _until_taken(attempt: Callable[[], Awaitable[tuple[CommitAnswer | None, T]]]) -> T:
    """What came of the first attempt that was taken, or had nothing to do: each plans anew, as others change things.

    Raises NotAllowed for what waits for a yes, InTheWay when none was taken.
    """
    reason = ""
    for _ in range(_TRIES):
        answer, made = await attempt()
        if answer is None or answer.rev:
            return made
        if answer.held:
            raise NotAllowed(answer.reason)
        reason = answer.reason
    raise InTheWay(f"{reason} Nothing was changed.")


def _watch(by: By) -> Watch:
    # As the journal has it: what a user does without a device of the drive is guarded as one.
    return Watch(_device(by))


def _copied(copier: Copier, here: SpaceRow, top: Found, to: Place, *, is_deep: bool) -> NodeId:
    """Plans copies in this place, and what makes room for them: the id of the first one."""
    session, there = copier.session, copier.target
    node, state = top[0].node, top[1]
    _check_parent(session, there, to.name)
    holder = trees.holder(session, there.space, to.name.parent, to.name.name)
    if here.space == there.space and holder == node:
        raise NotAllowed("What is copied has this name already.")
    if holder is not None and to.replaces and state.kind is Kind.FILE:
        replaced, old = present(session, there, holder)
        if old.kind is Kind.FILE:
            alike = replace(state, names=old.names, birth_ns=old.birth_ns, uid=old.uid, gid=old.gid)
            copier.add(holder, replaced.rev, alike, here, top[0])
            return holder
    cleared = _clear(session, there, to)
    if here.space == there.space:
        _check_apart(cleared, node)
    copier.copies.drafts.extend(cleared)
    copier.copy(here, top, to.name, is_deep=is_deep)
    return copier.copy_of(node)


def _check_parent(session: Session, row: SpaceRow, at: Name) -> None:
    check_name(at, "name")
    _, state = present(session, row, at.parent)
    if state.kind is not Kind.FOLDER:
        raise BadRequest(f"{shown(state)} is no folder.")


def _check_free(session: Session, row: SpaceRow, at: Name) -> None:
    if trees.holder(session, row.space, at.parent, at.name) is not None:
        raise InTheWay(f"There is {shown_name(at.name)} already; nothing was changed.")


def _check_apart(cleared: list[Draft], node: NodeId) -> None:
    if any(draft.change.node == node for draft in cleared):
        raise NotAllowed("What is moved or copied and its destination lie in each other.")


def _clear(session: Session, row: SpaceRow, to: Place) -> list[Draft]:
    """What takes away that has this name."""
    if not to.replaces:
        _check_free(session, row, to.name)
    there = trees.holder(session, row.space, to.name.parent, to.name.name)
    return _removals(session, row, there, (to.name,)) if there is not None else []


def _removals(session: Session, row: SpaceRow, node: NodeId, names: tuple[Name, ...]) -> list[Draft]:
    """What takes these names away, and all names below a folder; what has another name elsewhere stays there."""
    gone: dict[NodeId, list[Name]] = {node: list(names)}
    waiting = [node]
    found: dict[NodeId, trees.NodeRow] = {}
    while waiting:
        at = waiting.pop()
        found[at], state = present(session, row, at)
        if state.kind is not Kind.FOLDER:
            continue
        for name, child in trees.names_in(session, row.space, at):
            if child not in gone:
                waiting.append(NodeId(child))
            gone.setdefault(NodeId(child), []).append(Name(at, name))
        if len(gone) > TREE_MAX:
            raise NotAllowed(f"There are over {TREE_MAX:,} files in this folder: use a device for that.")
    drafts: list[Draft] = []
    for each, ended in gone.items():
        was = found[each]
        assert was.state is not None
        state = decode_state(was.state)
        left = tuple(name for name in state.names if name not in ended)
        if left:
            drafts.append(_draft(each, was.rev, replace(state, names=left), was.content_id, was.size))
        else:
            drafts.append(Draft(Change(each, was.rev, time.time_ns(), None), None, None, None))
    return drafts


def _draft(node: NodeId, base: Rev, state: NodeState, content_id: bytes | None = None, size: int = 0) -> Draft:
    now_ns = time.time_ns()
    state = replace(state, ctime_ns=now_ns)
    return Draft(Change(node, base, now_ns, state), encode_state(state), content_id, None, size)
