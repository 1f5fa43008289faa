"""Listening: where a server can be reached, and with which certificate."""

import ipaddress
import socket
import ssl
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

UNTAKEN_SECONDS = 60
"""After which a client that takes nothing of an answer is cut off: a few of them would keep all others away."""


class ListenTrouble(Exception):
    """The address cannot be listened on as asked; `str()` says why and what to do."""


@dataclass(frozen=True)
class Listen:
    """Where to listen, and with which certificate; without one, plain HTTP."""

    host: str
    port: int
    tls_cert: Path | None = None
    tls_key: Path | None = None
    allows_insecure: bool = False

    def check(self) -> None:
        """Raises ListenTrouble for passwords and files in the clear on a network, and for a certificate of no use."""
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ListenTrouble("--tls-cert and --tls-key belong together: give both.")
        if self.tls_cert is None and not self.allows_insecure and not _is_loopback(self.host):
            raise ListenTrouble(
                f"{self.host} can be reached by others, who could read passwords and files on the way. Give --tls-cert"
                " and --tls-key, listen on 127.0.0.1 behind a proxy that does TLS, or say --insecure-http."
            )
        if self.tls_cert is not None:
            try:
                ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(self.tls_cert, self.tls_key)
            except OSError as error:
                raise ListenTrouble(
                    f"{self.tls_cert} and {self.tls_key} are no certificate and key that belong together, both PEM"
                    f" ({error.strerror or error})."
                ) from error

    def url(self, port: int) -> str:
        """The address as a person would type it."""
        scheme = "http" if self.tls_cert is None else "https"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{host}:{port}"


def parse_listen(text: str) -> tuple[str, int]:
    """Host and port of HOST:PORT; raises ListenTrouble."""
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isdigit() or not port.isascii() or int(port) > 65_535:
        raise ListenTrouble(f"{text} is no HOST:PORT, such as 127.0.0.1:8750")
    return host, int(port)


@contextmanager
def bound_to(listen: Listen) -> Generator[socket.socket, None, None]:
    """A socket with that address, closed at the end; raises ListenTrouble."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            listen.host, listen.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ListenTrouble(f"{listen.host} is no address of this machine ({error.strerror}).") from error
    with bound:
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # Connections inherit it. The kernel alone knows of each byte that is taken, whoever sends it.
            bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNTAKEN_SECONDS * 1_000)
            bound.bind(address)
        except OSError as error:
            raise ListenTrouble(
                f"{listen.host}:{listen.port} cannot be listened on ({error.strerror}): another program may use that"
                " port. Give another with --listen HOST:PORT."
            ) from error
        yield bound


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
