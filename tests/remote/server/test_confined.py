"""What reads content that nobody vouches for can do nothing but read it."""

import os
import threading
from collections.abc import Iterator

import pytest

from remote.server.jobs import confined as confining
from remote.server.jobs.confined import CONTENT_MAX, Confined, Limits, TooMuch, Unreadable
from remote.server.jobs.following import Stopped
from remote.server.jobs.inside import UNREADABLE
from remote.server.jobs.tasks.trying import NOT_REFUSED, REFUSED


@pytest.fixture
def confined() -> Confined:
    return Confined(Limits(cpu_seconds=20, seconds=60.0))


@pytest.mark.parametrize("attempt", REFUSED)
def test_an_attempt_to_get_out_is_refused(confined: Confined, attempt: str) -> None:
    told = confined.run("trying", [b"hostile"], attempt)
    assert told != NOT_REFUSED
    assert told.startswith(b"refused: ")


def test_this_machine_is_found_fit(confined: Confined) -> None:
    confined.check()


@pytest.mark.parametrize(
    ("attempt", "limits", "told"),
    [
        ("allocate", Limits(), "memory"),
        ("loop", Limits(cpu_seconds=1), "processor"),
        ("wait", Limits(seconds=0.5), "longer than"),
        ("flood", Limits(output_bytes=1 << 20), "More comes of it"),
    ],
)
def test_what_takes_too_much_is_ended(attempt: str, limits: Limits, told: str) -> None:
    with pytest.raises(TooMuch, match=told):
        Confined(limits).run("trying", [b"hostile"], attempt)


def test_content_over_the_bound_is_not_taken(confined: Confined) -> None:
    taken = 0

    def endless() -> Iterator[bytes]:
        nonlocal taken
        while True:
            taken += 1
            yield bytes(1 << 20)

    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(TooMuch, match="64 MiB"):
        confined.run("trying", endless(), "open")
    assert taken == (CONTENT_MAX >> 20) + 1
    assert set(os.listdir("/proc/self/fd")) <= before


def test_what_a_task_cannot_read_is_said(confined: Confined) -> None:
    with pytest.raises(Unreadable, match="KeyError"):
        confined.run("trying", [b""], "no such attempt")


def test_what_a_process_says_of_itself_drives_no_terminal() -> None:
    with pytest.raises(Unreadable) as told:
        confining._judged(UNREADABLE, b"\x1b[2J\nall is well" + b"x" * 5_000)
    assert str(told.value).startswith("It cannot be read: ?[2J?all is well")
    assert len(str(told.value)) < 600


def test_closing_ends_what_runs_and_all_that_would() -> None:
    confined = Confined(Limits(seconds=60.0))
    begun = threading.Event()
    ended: list[BaseException] = []

    def content() -> Iterator[bytes]:
        begun.set()
        yield b"x"

    def run() -> None:
        try:
            confined.run("trying", content(), "wait")
        except BaseException as error:  # noqa: BLE001 - handed to the test
            ended.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    begun.wait()
    confined.close()
    thread.join(60)
    assert not thread.is_alive()
    assert [type(error) for error in ended] == [Stopped]
    with pytest.raises(Stopped):
        confined.run("trying", [b""], "open")
