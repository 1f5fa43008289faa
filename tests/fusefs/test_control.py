"""Control and verbs: what travels between a command and the daemon, also when one of them misbehaves."""

import json
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from fusefs import control, verbs
from fusefs.control import REQUEST_MAX, DaemonEnded, Exit, NoDaemon, Refused, ask
from fusefs.verbs import Verbs, listen
from remote.protocol.errors import NotSignedIn, Unreachable

pytestmark = pytest.mark.anyio


class _Answers(Verbs):
    """The answering side with verbs of the test's own."""

    def __init__(self, **own: Callable[[dict[str, Any]], Any]) -> None:
        # Any: neither drive nor account is asked for by these verbs.
        nothing: Any = type("Account", (), {"url": "http://x"})
        super().__init__(nothing, nothing, "/mnt", lambda: None)
        self._verbs = {**self._verbs, **own}


async def _echo(fields: dict[str, Any]) -> object:
    return fields


async def _asked(address: Path, verb: str, **fields: Any) -> Any:
    return await trio.to_thread.run_sync(lambda: ask(address, verb, seconds=60.0, **fields))


async def test_a_request_and_its_answer_also_with_odd_names(tmp_path: Path) -> None:
    odd = os.fsdecode(b"\xff\n\"'\xc3\xa4")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_Answers(echo=_echo).serve, listen(tmp_path / "control"))
        answer = await _asked(tmp_path / "control", "echo", path=odd)
        assert os.fsencode(answer["path"]) == b"\xff\n\"'\xc3\xa4"
        nursery.cancel_scope.cancel()


async def test_a_refusal_is_one_line_whatever_name_is_in_it(tmp_path: Path) -> None:
    async def refuse(fields: dict[str, Any]) -> object:
        raise Refused(f"There is no {fields['path']} here.")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(_Answers(refuse=refuse).serve, listen(tmp_path / "control"))
        with pytest.raises(Refused, match=r"^There is no a\\nb here\.$"):
            await _asked(tmp_path / "control", "refuse", path="a\nb")
        nursery.cancel_scope.cancel()


async def test_a_socket_in_a_deep_folder(tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 100) / ("y" * 100)
    deep.mkdir(parents=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_Answers(echo=_echo).serve, listen(deep / "control"))
        assert (deep / "control").stat().st_mode & 0o777 == 0o600
        assert (await _asked(deep / "control", "echo"))["verb"] == "echo"
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Refused("no", Exit.PENDING), Exit.PENDING),
        (Unreachable("away"), Exit.UNREACHABLE),
        (NotSignedIn("who"), Exit.SIGN_IN),
        (TimeoutError("late"), Exit.UNREACHABLE),
        (OSError(5, "bad"), Exit.FAILURE),
        (ValueError("odd"), Exit.USAGE),
    ],
)
async def test_what_goes_wrong_becomes_a_sentence_and_a_code(tmp_path: Path, error: Exception, code: int) -> None:
    async def fail(_: dict[str, Any]) -> object:
        raise error

    async with trio.open_nursery() as nursery:
        nursery.start_soon(_Answers(fail=fail).serve, listen(tmp_path / "control"))
        with pytest.raises(Refused) as caught:
            await _asked(tmp_path / "control", "fail")
        assert caught.value.code == code
        nursery.cancel_scope.cancel()


async def test_an_unknown_verb_is_refused(tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_Answers().serve, listen(tmp_path / "control"))
        with pytest.raises(Refused, match=r"another version"):
            await _asked(tmp_path / "control", "dance")
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("sent", [b"", b"{", b"{}\n", b"[]\n", b"7\n", b"\xff\n", b"x" * (REQUEST_MAX + 2)])
async def test_nonsense_ends_nothing_but_its_connection(tmp_path: Path, sent: bytes) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_Answers(echo=_echo).serve, listen(tmp_path / "control"))
        stream = await trio.open_unix_socket(str(tmp_path / "control"))
        async with stream:
            with trio.move_on_after(5):
                # The daemon may close before it has read all of it.
                try:
                    await stream.send_all(sent)
                    await stream.send_eof()
                    answer = await stream.receive_some()
                except trio.BrokenResourceError:
                    answer = b""
                assert not answer or json.loads(answer)["code"] == Exit.USAGE
        assert (await _asked(tmp_path / "control", "echo"))["verb"] == "echo"
        nursery.cancel_scope.cancel()


async def test_a_verb_ends_when_its_asker_goes(tmp_path: Path) -> None:
    began, ended = trio.Event(), trio.Event()

    async def forever(_: dict[str, Any]) -> object:
        began.set()
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(_Answers(forever=forever).serve, listen(tmp_path / "control"))
        stream = await trio.open_unix_socket(str(tmp_path / "control"))
        await stream.send_all(b'{"verb": "forever"}\n')
        await began.wait()
        await stream.aclose()
        with trio.fail_after(60):
            await ended.wait()
        nursery.cancel_scope.cancel()


async def test_other_users_get_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verbs, "_peer_uid", lambda _: 12_345)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_Answers(echo=_echo).serve, listen(tmp_path / "control"))
        with pytest.raises(DaemonEnded):
            await _asked(tmp_path / "control", "echo")
        nursery.cancel_scope.cancel()


def test_no_daemon(tmp_path: Path) -> None:
    with pytest.raises(NoDaemon) as caught:
        ask(tmp_path / "none/control", "ping")
    assert caught.value.code == Exit.NOT_MOUNTED
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "control"))
    with pytest.raises(NoDaemon):
        ask(tmp_path / "control", "ping")


def test_a_daemon_that_does_not_answer(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "control"))
        silent.listen()
        with pytest.raises(Refused, match=r"did not answer within"):
            ask(tmp_path / "control", "ping", seconds=0.01)


def test_a_daemon_that_ends_while_it_is_asked(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dying:
        dying.bind(str(tmp_path / "control"))
        dying.listen()

        def hang_up() -> None:
            dying.accept()[0].close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        with pytest.raises(DaemonEnded):
            ask(tmp_path / "control", "ping", seconds=60)
        thread.join()


def test_the_longest_path_fits_a_request() -> None:
    # 4,096 bytes of which each becomes six characters of JSON.
    assert len(json.dumps({"verb": "versions", "path": "\udcff" * 4096})) < control.REQUEST_MAX


@pytest.mark.logs_errors("a request of a command failed")
async def test_no_request_ends_the_daemon(tmp_path: Path) -> None:
    async def fail(_: dict[str, Any]) -> object:
        raise ZeroDivisionError("inside")

    def send(line: bytes) -> bytes:
        with socket.socket(socket.AF_UNIX) as asker:
            asker.settimeout(60.0)
            asker.connect(str(tmp_path / "control"))
            asker.sendall(line)
            return asker.recv(1 << 16)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(_Answers(fail=fail).serve, listen(tmp_path / "control"))
        for line in (b"[" * 60_000 + b"\n", b'{"verb": "fail"}\n', b"[]\n", b"\xff\n"):
            answer = await trio.to_thread.run_sync(send, line)
            assert "error" in json.loads(answer)
        nursery.cancel_scope.cancel()
