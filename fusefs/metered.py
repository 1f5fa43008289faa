"""Metered: whether this machine's network costs by the byte, as NetworkManager says on the system's message bus.

The only module that speaks D-Bus. Without a bus, or without NetworkManager on it, nothing is ever metered.
"""

import logging
from collections.abc import Callable
from typing import Final

import trio
from jeepney import DBusAddress, HeaderFields, MatchRule, Message, MessageFlag, MessageType, Properties
from jeepney.bus_messages import message_bus
from jeepney.io.trio import DBusConnection, open_dbus_connection

log = logging.getLogger(__name__)

_NAME: Final = "org.freedesktop.NetworkManager"
_PATH: Final = "/org/freedesktop/NetworkManager"
_YES: Final = (1, 3)
"""NMMetered: yes, and guessed yes."""
_AGAIN_SECONDS: Final = 60.0


async def watch(heard: Callable[[bool], None]) -> None:
    """Calls `heard` with whether the network is metered, now and whenever that may be otherwise, until cancelled."""
    was_there = True
    while True:
        try:
            async with await open_dbus_connection(bus="SYSTEM") as connection:
                was_there = True
                await _follow(connection, heard)
        except* Exception as gone:  # noqa: BLE001 - whatever comes over a bus must not take the drive away
            if was_there:
                log.info("nobody says whether the network is metered: %r", gone.exceptions[0])
            was_there = False
        heard(False)
        await trio.sleep(_AGAIN_SECONDS)


async def _follow(connection: DBusConnection, heard: Callable[[bool], None]) -> None:
    # Plain messages: jeepney's router fails when the bus goes away while there are filters.
    properties = MatchRule(
        type="signal", interface="org.freedesktop.DBus.Properties", member="PropertiesChanged", path=_PATH
    )
    owner = MatchRule(
        type="signal", sender=message_bus.bus_name, interface=message_bus.interface, member="NameOwnerChanged"
    )
    owner.add_arg_condition(0, _NAME)
    for rule in (properties, owner):
        await connection.send(message_bus.AddMatch(rule))
    asked = await _ask(connection)
    while True:
        message: Message = await connection.receive()
        if message.header.message_type is MessageType.signal:
            asked = await _ask(connection)
        elif message.header.fields.get(HeaderFields.reply_serial) == asked:
            is_answer = message.header.message_type is MessageType.method_return
            heard(is_answer and message.body[0][1] in _YES)


async def _ask(connection: DBusConnection) -> int:
    """Asks whether the network is metered; the number that the answer will name."""
    question = Properties(DBusAddress(_PATH, bus_name=_NAME, interface=_NAME)).get("Metered")
    # Who asks must not be the one that starts it.
    question.header.flags = MessageFlag.no_auto_start
    serial = next(connection.outgoing_serial)
    await connection.send(question, serial=serial)
    return int(serial)
