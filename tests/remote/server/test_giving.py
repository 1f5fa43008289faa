"""Giving: a confined process gets the content that it asks for, and has no other way with the server."""

import os
from collections.abc import Iterator

import pytest

from remote.server.jobs import giving
from remote.server.jobs.confined import Confined, Limits, TooMuch, Unreadable
from remote.server.jobs.giving import Giver
from remote.server.jobs.tasks.asking import REQUEST

CONTENT = os.urandom((3 << 20) + 17)


def read(start: int, stop: int) -> Iterator[bytes]:
    for at in range(start, stop, 1_000):
        yield CONTENT[at : min(at + 1_000, stop)]


@pytest.fixture
def giver() -> Iterator[Giver]:
    made = Giver(len(CONTENT), read)
    yield made
    made.close()


@pytest.mark.parametrize("start", [0, 1, (1 << 20) - 5, 1 << 20, len(CONTENT) - 1])
def test_it_gives_what_is_there(giver: Giver, start: int) -> None:
    os.write(giver.theirs, REQUEST.pack(start, 5_000))
    giver.answer()
    found = os.read(giver.theirs, 1 << 20)
    assert found
    assert CONTENT[start : start + 5_000].startswith(found)


@pytest.mark.parametrize(
    "asked",
    [
        REQUEST.pack(len(CONTENT), 1),
        REQUEST.pack(2**64 - 1, 1),
        REQUEST.pack(0, 0),
        REQUEST.pack(0, 2**32 - 1),
        b"give me all",
        bytes(10_000),
    ],
)
def test_what_no_reader_of_ours_asks_ends_it(giver: Giver, asked: bytes) -> None:
    os.write(giver.theirs, asked)
    with pytest.raises(Unreadable):
        giver.answer()


def test_who_does_not_listen_is_not_waited_for(giver: Giver) -> None:
    def ask_for_long() -> None:
        for _ in range(1_000):
            os.write(giver.theirs, REQUEST.pack(0, 1 << 16))
            giver.answer()

    with pytest.raises(Unreadable, match="does not listen"):
        ask_for_long()


def test_what_is_read_for_one_process_is_bounded(giver: Giver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(giving, "GIVEN_MAX", 2 << 20)
    for number in (0, 1, 0):
        os.write(giver.theirs, REQUEST.pack(number << 20, 10))
        giver.answer()
    os.write(giver.theirs, REQUEST.pack(2 << 20, 10))
    with pytest.raises(TooMuch, match="would have to be read"):
        giver.answer()


def test_who_asks_for_ever_is_ended(giver: Giver) -> None:
    confined = Confined(Limits(cpu_seconds=20, seconds=1.0))
    with pytest.raises(TooMuch, match="longer than 1 second"):
        confined.run_asking("trying", giver, "ask")


def test_what_cannot_be_read_here_ends_the_process() -> None:
    def lost(start: int, stop: int) -> Iterator[bytes]:
        raise OSError(5, f"{start} to {stop} is lost")

    giver = Giver(10, lost)
    with pytest.raises(OSError, match="0 to 10 is lost"):
        Confined().run_asking("trying", giver, "ask")
    giver.close()
