"""Troubles: what cannot be sent now, why, and when it is tried again."""

import math
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from typing import Final

import msgspec
import trio

from cache.edit import Edit
from cache.errors import DiskFull
from cache.records import Table
from cache.tree import Tree
from remote.protocol.errors import NotAllowed, QuotaExceeded, ServerFault
from remote.protocol.ids import NodeId

LATER_SECONDS: Final = (1.0, 300.0)
ASKED_SECONDS: Final = 30.0
"""So often is looked whether a person said yes elsewhere."""
_HELD: Final = "held"
_REFUSALS_FREE: Final = 4
"""Refusals in a row that are ordinary: somebody was first, and the next try knows it."""


@dataclass(frozen=True)
class Trouble:
    """Why a node cannot be sent now, and when it is tried again (monotonic seconds); an edit of it ends the trouble."""

    sentence: str
    tries: int
    again_at: float
    edited_ns: int = 0
    error: Exception | None = None
    asks: bool = False
    """Whether it waits for a person's yes."""

    @property
    def is_held(self) -> bool:
        """Whether only an edit ends it."""
        return self.again_at == math.inf


class Troubles:
    """Those of one space: of nodes, and of edits that lost a merge (by their key in the tree)."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._refusals: dict[NodeId, int] = {}
        self._lost: dict[bytes, Trouble] = {}
        kept = tree.setting(_HELD)
        held = msgspec.msgpack.decode(kept, type=dict[int, tuple[int, str]]) if kept else {}
        self.nodes: dict[NodeId, Trouble] = {
            NodeId(node): _held(sentence, edited_ns) for node, (edited_ns, sentence) in held.items()
        }
        # Whether the disk still has some that ended: they mean nothing there, as their nodes were edited or sent since.
        self._is_stale = False

    def note(self, node: NodeId, error: Exception) -> None:
        """The node cannot be sent; each time in a row it is tried again later."""
        tries = self.nodes[node].tries + 1 if node in self.nodes else 1
        sentence = str(error) or repr(error)
        self.nodes[node] = Trouble(sentence, tries, _later(tries), self._tree.edited_ns(node), error)

    def hold(self, node: NodeId, sentence: str, edit: Edit) -> None:
        """The node is not to be sent as this edit leaves it, also after a restart, until somebody edits it again."""
        nodes = {**self.nodes, node: _held(sentence, edit.edited_ns(node))}
        edit.change.put(Table.SETTINGS, self._tree.key_of(_HELD), _encoded(nodes))
        edit.on_kept.append(lambda: self.nodes.update({node: nodes[node]}))

    def ask(self, nodes: Iterable[NodeId], sentence: str) -> None:
        """The server takes these when a person has said yes."""
        again_at = trio.current_time() + ASKED_SECONDS
        for node in nodes:
            edited_ns = self._tree.edited_ns(node)
            self.nodes[node] = Trouble(sentence, 1, again_at, edited_ns, NotAllowed(sentence), asks=True)

    def asked(self) -> int:
        """How many nodes wait for a person's yes."""
        return sum(trouble.asks for trouble in self.nodes.values())

    def no_room(self) -> int:
        """How many nodes the quota has no room for."""
        return sum(isinstance(trouble.error, QuotaExceeded) for trouble in self.nodes.values())

    def blocked(self) -> int:
        """How many nodes, and edits that lost, are not to be tried yet."""
        now = trio.current_time()
        return sum(each.again_at > now for each in (*self.nodes.values(), *self._lost.values()))

    def note_lost(self, key: bytes, error: Exception) -> None:
        """An edit that lost cannot be sent."""
        tries = self._lost[key].tries + 1 if key in self._lost else 1
        self._lost[key] = Trouble(str(error), tries, _later(tries), error=error)

    def note_refusal(self, nodes: Iterable[NodeId], reason: str) -> None:
        """A refusal is ordinary (somebody was first) and tried again at once; again and again, it is trouble."""
        for node in nodes:
            tries = self._refusals[node] = self._refusals.get(node, 0) + 1
            if tries >= _REFUSALS_FREE:
                seconds = min(2.0 ** min(tries - _REFUSALS_FREE, 20), LATER_SECONDS[1])
                sentence = f"The server refused the change: {reason}"
                again_at = trio.current_time() + seconds
                self.nodes[node] = Trouble(sentence, tries, again_at, self._tree.edited_ns(node))

    def end(self, node: NodeId) -> None:
        """The node was sent."""
        trouble = self.nodes.pop(node, None)
        self._is_stale = self._is_stale or (trouble is not None and trouble.is_held)
        self._refusals.pop(node, None)

    def end_lost(self, key: bytes) -> None:
        """The edit that lost was sent."""
        self._lost.pop(key, None)

    def forget_settled(self) -> None:
        """Troubles of nodes that are clean by now are over."""
        for node in [node for node in (*self.nodes, *self._refusals) if not self._tree.is_pending(node)]:
            self.end(node)
        if self._is_stale:
            # On a full disk, the next time.
            with suppress(DiskFull):
                self._tree.set_setting(_HELD, _encoded(self.nodes))
                self._is_stale = False

    def holds_back(self, node: NodeId, now: float) -> bool:
        """Whether the node is not to be tried yet."""
        trouble = self.nodes.get(node)
        return trouble is not None and trouble.again_at > now and trouble.edited_ns == self._tree.edited_ns(node)

    def holds_back_lost(self, key: bytes, now: float) -> bool:
        """Whether the edit that lost is not to be tried yet."""
        trouble = self._lost.get(key)
        return trouble is not None and trouble.again_at > now

    def raise_first(self, nodes: Iterable[NodeId]) -> None:
        """Raises what is in the way of one of these, if something is; ServerFault for a change that was refused."""
        lost = {_node_of(key): trouble for key, trouble in self._lost.items()}
        for node in nodes:
            trouble = self.nodes.get(node) or lost.get(node)
            if trouble is not None:
                raise trouble.error or ServerFault(trouble.sentence)

    def seconds_to_next_try(self, since: float) -> float:
        """Until the first of those is tried again that were not to be tried at `since`; infinite without any."""
        all_of_them = (*self.nodes.values(), *self._lost.values())
        first: float = min((each.again_at for each in all_of_them if each.again_at > since), default=float("inf"))
        return max(0.0, first - trio.current_time())

    def stuck(self, limit: int) -> list[tuple[NodeId, Trouble]]:
        """Nodes that cannot be sent now, and those of which an edit that lost cannot be."""
        found = list(islice(self.nodes.items(), limit))
        lost = islice(self._lost.items(), limit - len(found))
        return found + [(_node_of(key), trouble) for key, trouble in lost]

    def retry_all(self) -> None:
        """What was in the way may be gone: all may be tried again now."""
        now = trio.current_time()
        self.nodes = {
            node: trouble if trouble.is_held else replace(trouble, again_at=now) for node, trouble in self.nodes.items()
        }
        self._lost = {key: replace(trouble, again_at=now) for key, trouble in self._lost.items()}


def _held(sentence: str, edited_ns: int) -> Trouble:
    return Trouble(sentence, 0, math.inf, edited_ns, QuotaExceeded(sentence))


def _encoded(nodes: Mapping[NodeId, Trouble]) -> bytes:
    held = {node: (each.edited_ns, each.sentence) for node, each in nodes.items() if each.is_held}
    return msgspec.msgpack.encode(held)


def _node_of(key: bytes) -> NodeId:
    return NodeId(int.from_bytes(key[:8], "big"))


def _later(tries: int) -> float:
    seconds: float = min(LATER_SECONDS[0] * 2 ** min(tries, 20), LATER_SECONDS[1])
    return trio.current_time() + seconds
