"""Past: bytes only, bounded, and never worse than empty."""

import os
import pickle
import shutil
import sqlite3
import stat
from pathlib import Path

import diskcache
import pytest

from cache.past import BytesDisk, Past, Refused

pytestmark = pytest.mark.anyio


class Exploit:
    """Says so when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.mark),)


async def test_answers_are_kept_for_the_next_start(tmp_path: Path) -> None:
    directory = tmp_path / "past"
    past = Past(directory)
    assert not directory.exists(), "nothing is opened before it is needed"
    assert await past.get(b"key") is None
    await past.put(b"key", b"answer")
    await past.put(b"empty", b"")
    assert await past.get(b"key") == b"answer"
    assert await past.get(b"empty") == b""
    await past.put(b"key", b"again")
    await past.close()
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    again = Past(directory)
    assert await again.get(b"key") == b"again"
    await again.close()


async def test_the_oldest_answers_go_when_it_is_full(tmp_path: Path) -> None:
    past = Past(tmp_path, 1 << 20)
    for number in range(100):
        await past.put(b"%d" % number, os.urandom(50_000))
    assert await past.get(b"0") is None
    assert await past.get(b"99") is not None
    assert (tmp_path / "cache.db").stat().st_size <= (1 << 20) + 200_000
    await past.put(b"large", bytes(600_000))
    assert await past.get(b"large") is None, "one answer does not take all the room"


@pytest.mark.parametrize("where", ["row", "file", "key"])
async def test_pickles_are_never_loaded(tmp_path: Path, where: str, caplog: pytest.LogCaptureFixture) -> None:
    directory = tmp_path / "past"
    mark = tmp_path / "was unpickled"
    with diskcache.Cache(str(directory), disk_min_file_size=0 if where == "file" else 1 << 20) as foreign:
        foreign.set(b"key", Exploit(mark))
        if where == "key":
            foreign.set(("a", "tuple"), b"")
            database = sqlite3.connect(directory / "cache.db")
            database.execute("UPDATE Cache SET key = ? WHERE raw = 0", (pickle.dumps(Exploit(mark)),))
            database.commit()
            database.close()
    past = Past(directory)
    assert await past.get(b"key") is None
    assert not mark.exists()
    assert "not ours" in caplog.text
    await past.put(b"key", b"answer")
    assert await past.get(b"key") == b"answer"


def test_the_disk_refuses_everything_but_bytes(tmp_path: Path) -> None:
    with diskcache.Cache(str(tmp_path), disk=BytesDisk) as cache:
        for value in (1, 1.5, "text", None, ("a",), [b"x"], bytearray(b"x")):
            with pytest.raises(Refused):
                cache.set(b"key", value)
            with pytest.raises(Refused):
                cache.get(value)
        with (tmp_path / "file").open("w+b") as file, pytest.raises(Refused):
            cache.set(b"key", file, read=True)


@pytest.mark.parametrize("harm", ["garbage", "empty", "wiped", "no database", "folder"])
async def test_a_damaged_database_is_begun_anew(tmp_path: Path, harm: str) -> None:
    directory = tmp_path / "past"
    past = Past(directory)
    await past.put(b"key", b"answer")
    database = directory / "cache.db"
    for beside in directory.glob("cache.db-*"):
        beside.unlink()
    if harm == "garbage":
        database.write_bytes(b"no database at all " * 1_000)
    elif harm == "empty":
        database.write_bytes(b"")
    elif harm == "wiped":
        shutil.rmtree(directory)
    elif harm == "no database":
        database.unlink()
    else:
        database.unlink()
        database.mkdir()
    assert await past.get(b"key") is None
    await past.put(b"key", b"answer again")
    assert await past.get(b"key") == b"answer again"


async def test_a_changed_answer_is_not_given_out(tmp_path: Path) -> None:
    past = Past(tmp_path)
    await past.put(b"key", b"answer")
    database = sqlite3.connect(tmp_path / "cache.db")
    database.execute("UPDATE Cache SET value = CAST(replace(value, 'answer', 'anzwer') AS BLOB)")
    database.commit()
    database.close()
    assert await past.get(b"key") is None


async def test_where_nothing_can_be_written_nothing_is_kept(tmp_path: Path) -> None:
    (tmp_path / "past").write_bytes(b"a file in the way")
    past = Past(tmp_path / "past")
    await past.put(b"key", b"answer")
    assert await past.get(b"key") is None
