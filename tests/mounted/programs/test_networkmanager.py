"""Metered networks: the real daemon on a message bus of its own, with a service that answers for NetworkManager."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.mounted.conftest import eventually

pytestmark = pytest.mark.mounted

BUS = """
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path={socket}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow send_destination="*" eavesdrop="true"/>
    <allow receive_sender="*"/>
    <allow own="*"/>
    <allow user="*"/>
  </policy>
</busconfig>
"""
MANAGER = """
import sys, threading
from jeepney import DBusAddress, HeaderFields, MatchRule, message_bus, new_error, new_method_return, new_signal
from jeepney.io.blocking import open_dbus_connection

PATH, NAME = "/org/freedesktop/NetworkManager", "org.freedesktop.NetworkManager"
connection = open_dbus_connection(bus="SYSTEM")
connection.send_and_get_reply(message_bus.RequestName(NAME))
state = {"metered": int(sys.argv[1])}

def listen():
    # One number a line: the state from now on.
    for line in sys.stdin:
        state["metered"] = int(line)
        properties = DBusAddress(PATH, interface="org.freedesktop.DBus.Properties")
        changed = (NAME, {"Metered": ("u", int(line))}, [])
        connection.send(new_signal(properties, "PropertiesChanged", "sa{sv}as", changed))
    connection.close()

threading.Thread(target=listen, daemon=True).start()
print("ready", flush=True)
while True:
    try:
        question = connection.receive()
    except OSError:
        break
    if question.header.fields.get(HeaderFields.member) == "Get" and question.body == (NAME, "Metered"):
        connection.send(new_method_return(question, "v", (("u", state["metered"]),)))
"""
YES, NO, GUESSED_YES = 1, 2, 3


class Manager:
    """What answers for NetworkManager, between `start` and `stop`."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def start(self, metered: int) -> None:
        """Returns when it can be asked."""
        command = [sys.executable, "-c", MANAGER, str(metered)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def becomes(self, metered: int) -> None:
        """The network is another."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(f"{metered}\n")
        self._process.stdin.flush()

    def stop(self) -> None:
        """Goes off the bus."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
    """A message bus that devices use from now on; NetworkManager is not on it yet."""
    config, address = tmp_path / "bus.conf", tmp_path / "bus"
    config.write_text(BUS.format(socket=address))
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={address}")
    command = ["dbus-daemon", f"--config-file={config}", "--nofork", "--print-address"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as bus:
        assert bus.stdout is not None
        assert str(address) in bus.stdout.readline()
        made = Manager()
        yield made
        made.stop()
        bus.terminate()
        bus.stdout.read()


def test_on_a_metered_network_nothing_is_sent_until_it_is_another(device: Any, manager: Manager) -> None:
    manager.start(GUESSED_YES)
    desk, laptop = device("desk", mount=False), device("laptop", metered="ignore")
    desk.mount()
    assert eventually(lambda: desk.status()["paused"]["is_paused"])
    (desk.path / "note").write_text("a note")
    assert desk.cli("wait", "--timeout", "0.5").returncode == 6
    assert "metered" in desk.cli("status").stdout
    # This one was told to ignore it.
    (laptop.path / "other").write_text("sent")
    laptop.wait()
    manager.becomes(NO)
    desk.wait()
    laptop.sees("note", "a note")


def test_resume_sends_on_a_metered_network_until_it_is_another(device: Any, manager: Manager) -> None:
    manager.start(NO)
    desk = device("desk")
    (desk.path / "note").write_text("a note")
    desk.wait()
    manager.becomes(YES)
    assert eventually(lambda: desk.status()["paused"]["is_metered"])
    desk.must("resume")
    (desk.path / "note").write_text("a longer note")
    desk.wait()
    manager.becomes(NO)
    assert eventually(lambda: not desk.status()["paused"]["is_metered"])
    manager.becomes(YES)
    assert eventually(lambda: desk.status()["paused"]["is_paused"])
    # When NetworkManager ends, nobody says that it is metered.
    manager.stop()
    assert eventually(lambda: not desk.status()["paused"]["is_paused"])
    manager.start(YES)
    assert eventually(lambda: desk.status()["paused"]["is_paused"])
    assert os.getxattr(desk.path / "note", "user.satchel.state") == b"synced"
