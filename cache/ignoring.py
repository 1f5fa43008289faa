"""Ignoring: names that stay on this machine: editors' and desktops' own files, and what `.satchelignore` says.

What the server has never is ignored: a rule that comes later changes nothing for it. What is ignored is like any other
file here, is kept in the stagings, and is sent as soon as it has another name or the rule is gone.
"""

import logging
import os
import re
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

import trio
from pathspec import GitIgnoreSpec
from pathspec.patterns.gitignore.spec import GitIgnoreSpecPattern

from cache.errors import CacheError
from cache.merge import ASIDE
from cache.reader import Reader
from cache.records import Record, Table
from cache.staging import StagingId, Stagings
from cache.tree import Tree
from remote.protocol.ids import ROOT, NodeId
from remote.protocol.nodes import EMPTY, Kind, Manifest, Name

log = logging.getLogger(__name__)

FILE: Final = b".satchelignore"
"""At the top of the drive: patterns as in .gitignore."""
FILE_MAX: Final = 64 << 10
"""Bytes of it; a larger one means nothing."""
LINES_MAX: Final = 1_000
LINE_MAX: Final = 500
USUAL: Final = (
    f"*{ASIDE.decode()}*",  # what gave its name up to what came from elsewhere
    ".*.sw[a-p]",  # vim's swap files
    ".*.kate-swp",
    ".#*",  # Emacs' locks, which are symlinks to nowhere
    "\\#*#",  # and what it saves for a crash
    ".~lock.*#",  # LibreOffice's locks
    "~$*",  # Microsoft Office's
    ".goutputstream-*",  # what GNOME's programs write before they rename it
    "*.crdownload",  # what browsers have not got whole yet
    ".DS_Store",  # how a window looked
    "Thumbs.db",
)
"""Ignored unless the file says otherwise (`!Thumbs.db`)."""
_SETTING: Final = "ignore"
_AT_ONCE: Final = 64
_SENT_MAX: Final = 4_096


_TOKEN: Final = re.compile(r"\\.|\[\^/\][*+]?|\[\^?\]?[^\]]*\]|.", re.DOTALL)
"""Of the regular expressions that pathspec makes."""
_STAR: Final = "[^/]*"


class _Pattern(GitIgnoreSpecPattern):
    """A line whose regular expression takes linear time for a path, also with many stars."""

    __slots__ = ()

    # pathspec has it for bytes too; lines are text here.
    @classmethod
    def pattern_to_regex(cls, pattern: str) -> tuple[str | None, bool | None]:  # type: ignore[override]
        """The regular expression for a line, and whether what it matches is ignored; raises ValueError."""
        if len(pattern) > LINE_MAX:
            raise ValueError(f"it is longer than {LINE_MAX} characters.")
        regex, is_ignored = super().pattern_to_regex(pattern)
        if regex is None:
            return None, is_ignored
        # Names may have newlines in them, and at their end.
        if regex.endswith("|$)"):
            regex = regex.removesuffix("$)") + r"\Z)"
        if not regex.startswith("^"):
            regex = f".*?{regex}"
        return f"(?s:{_without_backtracking(_without_going_up(regex))})", is_ignored


def _without_going_up(regex: str) -> str:
    """Likewise for `**`: of the parts between two of them the first place that fits is right."""
    first, *others = regex.split("(?:/.+)?")
    if not others:
        return regex
    if first.startswith("^(?:.+/)?"):
        first = f"^(?>(?:.+?/)??{first.removeprefix('^(?:.+/)?')}(?=/))"
    between = [f"(?>(?:/.+?)??{one}(?=/))" for one in others[:-1]]
    return "".join([first, *between, "(?:/.+)?", others[-1]])


def _without_backtracking(regex: str) -> str:
    """Of all but the last star of a part the first place that fits is right: no other is tried."""
    tokens = _TOKEN.findall(regex)
    parts = []
    is_in_star = False
    for at, token in enumerate(tokens):
        if token == _STAR:
            parts.append(")" if is_in_star else "")
            after = next((one for one in tokens[at + 1 :] if one in (_STAR, "/", "(")), "")
            is_in_star = after == _STAR
            parts.append("(?>[^/]*?" if is_in_star else _STAR)
        elif token[0] == "[" and not token.startswith("[^/]"):
            parts.append(f"(?!/){token}")
        else:
            parts.append(token)
    return "".join(parts)


@dataclass(frozen=True)
class Rules:
    """Patterns, those of the file above the usual ones; `faults`: sentences about lines that mean nothing."""

    lines: tuple[str, ...]
    spec: GitIgnoreSpec
    any_of_them: re.Pattern[str]
    """Matches whatever one of the patterns matches: most names match none, and cost a fifth so."""
    faults: tuple[str, ...]

    @staticmethod
    def of(text: str) -> "Rules":
        """The usual rules with those of a file above them."""
        lines = list(USUAL)
        faults = []
        name = os.fsdecode(FILE)
        if len(text.encode(errors="surrogateescape")) > FILE_MAX:
            faults.append(f"{name} is larger than {FILE_MAX >> 10} KiB and means nothing.")
            text = ""
        said = text.removeprefix("\ufeff").splitlines()
        if len(said) > LINES_MAX:
            faults.append(f"Only the first {LINES_MAX:,} lines of {name} count: more would take too long.")
        for number, line in enumerate(said[:LINES_MAX], start=1):
            try:
                with warnings.catch_warnings():
                    # Of sets that Python may read in another way some day.
                    warnings.simplefilter("error", FutureWarning)
                    _check_matches(line, _spec([line]))
            except (ValueError, re.error, FutureWarning) as error:
                faults.append(f"Line {number} of {name} means nothing and is passed over: {error}")
            else:
                lines.append(line)
        spec = _spec(lines)
        texts = [pattern.regex.pattern for pattern in spec.patterns if pattern.regex is not None]
        # A group may have a name once only.
        any_of_them = re.compile("|".join(re.sub(r"\(\?P<\w+>", "(?:", str(text)) for text in texts))
        return Rules(tuple(lines), spec, any_of_them, tuple(faults))

    def rule_for(self, path: bytes, *, is_folder: bool) -> str:
        """The line that ignores a path (or a folder above it), empty when none does."""
        text = os.fsdecode(path) + ("/" if is_folder else "")
        if self.any_of_them.match(text) is None:
            return ""
        found = self.spec.check_file(text)
        return self.lines[found.index] if found.include and found.index is not None else ""


def _spec(lines: list[str]) -> GitIgnoreSpec:
    # Other backends do not know what _Pattern makes.
    return GitIgnoreSpec.from_lines(lines, _Pattern, backend="simple")


def _check_matches(line: str, spec: GitIgnoreSpec) -> None:
    """Raises ValueError for a line that says something, but matches no path."""
    is_said = bool(line.strip()) and not line.startswith("#")
    if is_said and ("//" in line or all(pattern.regex is None for pattern in spec.patterns)):
        raise ValueError(f"{line!r} can match nothing. A [ needs its ], and between slashes there is a name.")


class Ignoring:
    """What of one tree is ignored; the planner puts it by."""

    def __init__(self, tree: Tree, stagings: Stagings, reader: Reader) -> None:
        self._tree = tree
        self._stagings = stagings
        self._reader = reader
        value = tree.setting(_SETTING)
        self.rules = Rules.of(value.decode(errors="surrogateescape") if value else "")
        # The file as it was when the rules were read from it.
        self._read: object = None
        # Folders that were moved: what is below them is to be looked at again.
        self._moved: set[NodeId] = set()
        self._looked: dict[NodeId, tuple[Name, ...]] = {}
        # Nodes that were judged to be sent, as they were then: each is looked at in every round of planning.
        self._sent: dict[NodeId, Record] = {}
        self.is_unsettled = False
        """A folder was judged that has another name now: what was judged before it is to be judged again."""

    def holds(self, node: NodeId, record: Record | None) -> bool:
        """Whether the node stays on this machine."""
        if record is None or record.local is None or node == ROOT or not record.is_dirty:
            return False
        if not self._tree.is_unknown_elsewhere(node, record):
            return False
        if record.rev:
            # A folder that was removed elsewhere, and lives on for what is ignored in it, is nobody else's concern.
            return self._has_only_ignored(node, record)
        before = self._sent.get(node)
        if before is record:
            return False
        if before is not None and record.local.kind is Kind.FOLDER and _names(before) != _names(record):
            self._sent.clear()
            self.is_unsettled = True
        if self._is_named_so(record) and not self._is_heir(node, record):
            return True
        if len(self._sent) >= _SENT_MAX:
            self._sent.clear()
        self._sent[node] = record
        return False

    def rule_for(self, node: NodeId) -> str:
        """The rule by which a node is ignored, empty for one that is not."""
        record = self._tree.record(node)
        if record is None or record.local is None or not self.holds(node, record):
            return ""
        return next((rule for name in record.local.names if (rule := self._rule(name, record))), "what is in it")

    def _is_named_so(self, record: Record) -> bool:
        assert record.local is not None
        return all(self._rule(name, record) for name in record.local.names)

    def _is_heir(self, node: NodeId, record: Record) -> bool:
        """Whether the server has another node under one of these names: a save by rename of what stays in step.

        So it is of a node of which an edit that lost is to become a version.
        """
        if self._tree.has_lost(node):
            return True
        holders = [self._tree.slot_holder(name) for name in _names(record)]
        return any(holder not in (None, node) for holder in holders)

    def _rule(self, name: Name, record: Record) -> str:
        assert record.local is not None
        if name == Name(ROOT, FILE):
            return ""
        above = self._tree.path_of(name.parent)
        path = above + b"/" + name.name if above else name.name
        return self.rules.rule_for(path, is_folder=record.local.kind is Kind.FOLDER)

    def _has_only_ignored(self, folder: NodeId, record: Record) -> bool:
        assert record.local is not None
        if record.local.kind is not Kind.FOLDER:
            return False
        todo, found = [folder], False
        while todo:
            for child in self._tree.children(todo.pop()):
                below = self._tree.record(child.node)
                if below is None or below.local is None or not below.is_dirty:
                    return False
                if below.rev == 0 and self._is_named_so(below):
                    found = True
                elif below.rev and below.synced is None and below.local.kind is Kind.FOLDER:
                    todo.append(child.node)
                else:
                    return False
        return found

    # The rules

    async def refresh(self) -> None:
        """Reads the rules again when their file is another; what is ignored is then to be planned for again."""
        root = self._tree.record(ROOT)
        node = self._tree.child(ROOT, FILE)
        record = self._tree.record(node) if node is not None else None
        if node is None and (root is None or not root.is_listed):
            return
        state = record.local if record is not None else None
        now = (node, state and (state.content, state.mtime_ns), record and (record.staged, record.staged_size))
        if now == self._read:
            return
        try:
            text = await self._text(record)
        except (CacheError, KeyError) as error:
            log.info("%s cannot be read yet: %s", os.fsdecode(FILE), error)
            return
        encoded = text.encode(errors="surrogateescape")
        if encoded == (self._tree.setting(_SETTING) or b""):
            self._read = now
            return
        self.rules = Rules.of(text)
        for fault in self.rules.faults:
            log.info("%s", fault)
        self._sent.clear()
        await self._look_again([node for node, _ in self._tree.ignored()])
        # Last: when the disk is full, the file is read again.
        self._tree.set_setting(_SETTING, encoded)
        self._read = now

    async def _text(self, record: Record | None) -> str:
        if record is None or record.local is None or record.local.kind is not Kind.FILE:
            return ""
        # One byte more than may be, so that a file that is too large is known for it.
        if record.staged:
            staging = self._stagings.load(StagingId(record.staged))
            parts = [
                staging.read_dirty(part.offset, part.length)
                if part.is_dirty
                else await self._reader.read(staging.base, part.offset, part.length)
                for part in staging.plan_read(0, min(staging.size, FILE_MAX + 1))
            ]
            return b"".join(parts).decode(errors="surrogateescape")
        manifest: Manifest = record.local.content or EMPTY
        return bytes(await self._reader.read(manifest, 0, min(manifest.size, FILE_MAX + 1))).decode(
            errors="surrogateescape"
        )

    # Names that changed

    def note_shown(self, names: Iterable[Name], wake: Callable[[], None]) -> None:
        """These names lead elsewhere now, by news: below folders, other rules may hold. `wake`: something is to do."""
        for name in names:
            node = self._tree.child(name.parent, name.name)
            record = self._tree.record(node) if node is not None else None
            if node is not None and record is not None and record.local and record.local.kind is Kind.FOLDER:
                self._sent.clear()
                self._moved.add(node)
                wake()

    async def look_below_moved(self, dirty: Iterable[NodeId]) -> None:
        """Puts what is ignored, but should not be any more, among those to be planned for: below folders that moved."""
        if not self._tree.store.count(Table.IGNORED):
            self._moved.clear()
            self._looked.clear()
            return
        for node in dirty:
            record = self._tree.record(node)
            if record is None or record.local is None or record.local.kind is not Kind.FOLDER:
                continue
            names = record.local.names
            if (record.synced is None or record.synced.names != names) and self._looked.get(node) != names:
                self._looked[node] = names
                self._moved.add(node)
        while self._moved:
            await self._look_again(await self._ignored_below(self._moved.pop()))

    async def _ignored_below(self, folder: NodeId) -> list[NodeId]:
        found: list[NodeId] = []
        todo = [folder]
        while todo:
            for child in self._tree.children(todo.pop()):
                if child.kind is Kind.FOLDER:
                    todo.append(child.node)
                if self._tree.is_ignored(child.node):
                    found.append(child.node)
            await trio.lowlevel.checkpoint()
        return found

    async def _look_again(self, nodes: list[NodeId]) -> None:
        for at in range(0, len(nodes), _AT_ONCE):
            with self._tree.edit() as edit:
                for node in nodes[at : at + _AT_ONCE]:
                    if self._tree.is_ignored(node) and not self.holds(node, self._tree.record(node)):
                        edit.mark_dirty(node, edit.edited_ns(node))
            await trio.lowlevel.checkpoint()


def _names(record: Record) -> tuple[Name, ...]:
    return record.local.names if record.local is not None else ()
