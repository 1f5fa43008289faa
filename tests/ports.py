"""Ports that stay a test's own while its server is stopped and started again."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def port_of_its_own() -> Iterator[int]:
    """A port of 127.0.0.1 that no other program is given until the block ends; a server with SO_REUSEADDR may take it.

    A port that was only looked up is given to the next program that connects anywhere.
    """
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        yield int(held.getsockname()[1])
