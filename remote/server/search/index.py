"""Index: the files of an instance's index, one for each space, in its data directory. All of it can be made again."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from remote.protocol.ids import SpaceId
from remote.server.database import index as rows
from remote.server.database.connection import DerivedDamaged, Session, derived_session
from remote.server.database.jobs import Cursor

FOLDER = "search"
_END = ".index"


class Index:
    """Opens the index of a space for one transaction; may be used from any thread."""

    def __init__(self, data: Path) -> None:
        self.folder = data / FOLDER

    @contextmanager
    def reading(self, space: SpaceId) -> Iterator[Session | None]:
        """The index as it is; None when there is none that can be read. Raises ServerFault, DerivedDamaged."""
        try:
            with derived_session(self._path(space), (), writes=False) as session:
                yield session if rows.format_of(session) == rows.FORMAT else None
        except FileNotFoundError:
            yield None

    @contextmanager
    def writing(self, space: SpaceId) -> Iterator[Session]:
        """The index to be changed, made when there is none; what is damaged is removed. Raises ServerFault."""
        self.folder.mkdir(mode=0o700, exist_ok=True)
        path = self._path(space)
        if not self._is_whole(space):
            self.remove(space)
        with derived_session(path, rows.TABLES, writes=True) as session:
            yield session

    def cursor(self, space: SpaceId) -> Cursor | None:
        """How far a space is indexed; None when it is not."""
        try:
            with self.reading(space) as session:
                return rows.cursor(session) if session is not None else None
        except DerivedDamaged:
            return None

    def put(self, space: SpaceId, cursor: Cursor) -> None:
        """Notes how far a space is indexed."""
        with self.writing(space) as session:
            rows.put_cursor(session, cursor)

    def remove(self, space: SpaceId) -> None:
        """Takes the file of a space away, for which nobody may be writing it."""
        path = self._path(space)
        for end in ("", "-wal", "-shm"):
            path.with_name(path.name + end).unlink(missing_ok=True)

    def clear(self, space: SpaceId) -> None:
        """Empties the index of a space, where there is one."""
        if self._path(space).exists():
            with self.writing(space) as session:
                rows.clear(session)

    def spaces(self) -> list[SpaceId]:
        """The spaces that have an index."""
        return sorted(SpaceId(int(path.stem)) for path in self.folder.glob(f"*{_END}") if path.stem.isdecimal())

    def size_bytes(self, space: SpaceId) -> int:
        """What the index of a space takes."""
        path = self._path(space)
        return sum(each.stat().st_size for each in path.parent.glob(f"{path.name}*"))

    def _is_whole(self, space: SpaceId) -> bool:
        """Whether the file, if there is one, has our tables; a fault deeper in it shows when it is met."""
        if not self._path(space).exists():
            return True
        try:
            with derived_session(self._path(space), (), writes=False) as session:
                # None of any format: made a moment ago, and killed before its tables were.
                return rows.format_of(session) in {0, rows.FORMAT}
        except DerivedDamaged:
            return False

    def _path(self, space: SpaceId) -> Path:
        return self.folder / f"{space}{_END}"
