"""Wrong passwords and guesses have to wait: by name and by address; proxies are believed where they are known."""

from ipaddress import ip_network

import httpx
import msgspec
import pytest

from remote.protocol.messages import LoginRequest
from remote.server.http.app import make_app
from remote.server.http.requests import Network, watched
from remote.server.instance import Instance
from remote.server.slowing import FAILURES_FREE, FAILURES_FREE_BY_ADDRESS, FAILURES_FREE_BY_NAME

pytestmark = pytest.mark.anyio


class Clients:
    """Who asks from many addresses, through a proxy at 127.0.0.1, of a server whose clock stands still."""

    def __init__(self, instance: Instance, proxies: tuple[Network, ...]) -> None:
        self.slowing = instance.accounts.slowing
        self.now_ns = 10**18
        for failures in (self.slowing._pairs, self.slowing._names, self.slowing._addresses):
            failures._now_ns = lambda: self.now_ns
        transport = httpx.ASGITransport(watched(make_app(instance), proxies))
        self.http = httpx.AsyncClient(transport=transport, base_url="http://server")

    async def login(self, name: str, address: str, password: str = "wrong") -> httpx.Response:
        body = msgspec.msgpack.encode(LoginRequest(name, password, "desk"))
        return await self.http.post("/v1/login", content=body, headers={"x-forwarded-for": address})


@pytest.fixture
def clients(instance: Instance) -> Clients:
    return Clients(instance, (ip_network("127.0.0.1"), ip_network("10.0.0.0/8")))


async def test_wrong_passwords_slow_their_address_and_no_other(ann: object, clients: Clients, build: type) -> None:
    for _ in range(FAILURES_FREE):
        assert (await clients.login("ann", "192.0.2.1")).status_code == 401
    slowed = await clients.login("ann", "192.0.2.1", build.password)
    assert (slowed.status_code, slowed.headers["retry-after"]) == (429, "1")
    assert (await clients.login("ann", "192.0.2.2", build.password)).status_code == 200
    clients.now_ns += 10**9
    assert (await clients.login("ann", "192.0.2.1", build.password)).status_code == 200


async def test_many_names_from_one_address_are_slowed_and_no_other(ann: object, clients: Clients, build: type) -> None:
    for number in range(FAILURES_FREE_BY_ADDRESS):
        assert (await clients.login(f"name{number}", "2001:db8::1")).status_code == 401
    # Another address of the same customer.
    assert (await clients.login("ann", "2001:db8::ffff:2", build.password)).status_code == 429
    assert (await clients.login("ann", "2001:db8:0:1::1", build.password)).status_code == 200


async def test_one_name_from_very_many_addresses_is_slowed(ann: object, clients: Clients, build: type) -> None:
    for number in range(FAILURES_FREE_BY_NAME):
        assert (await clients.login("ann", f"198.51.100.{number}")).status_code == 401
    assert (await clients.login("ann", "192.0.2.1", build.password)).status_code == 429


async def test_only_the_last_address_that_is_no_proxy_is_believed(ann: object, clients: Clients, build: type) -> None:
    for number in range(FAILURES_FREE):
        # What is before it, whoever asks wrote himself.
        assert (await clients.login("ann", f"203.0.113.{number}, 192.0.2.1, 10.1.2.3")).status_code == 401
    assert (await clients.login("ann", "192.0.2.1", build.password)).status_code == 429
    for nonsense in ("", "nonsense", "192.0.2.1, nonsense", "192.0.2.1,"):
        assert (await clients.login("ann", nonsense, build.password)).status_code == 200


async def test_whom_no_proxy_sent_is_believed_nothing(ann: object, instance: Instance, build: type) -> None:
    clients = Clients(instance, (ip_network("192.0.2.250"),))
    for number in range(FAILURES_FREE):
        assert (await clients.login("ann", f"192.0.2.{number}")).status_code == 401
    assert (await clients.login("ann", "192.0.2.99", build.password)).status_code == 429


async def test_guessed_links_slow_their_address_and_no_other(clients: Clients) -> None:
    async def status(address: str) -> int:
        return (await clients.http.get("/s/a-guess", headers={"x-forwarded-for": address})).status_code

    found = [await status("192.0.2.1") for _ in range(FAILURES_FREE_BY_ADDRESS + 1)]
    assert found == [404] * FAILURES_FREE_BY_ADDRESS + [429]
    assert await status("192.0.2.2") == 404


async def test_a_right_password_does_not_clear_the_address(ann: object, clients: Clients, build: type) -> None:
    for number in range(FAILURES_FREE_BY_ADDRESS):
        await clients.login(f"name{number}", "192.0.2.1")
        if number % 5 == 0:
            await clients.login("ann", "192.0.2.1", build.password)
    assert (await clients.login("ann", "192.0.2.1", build.password)).status_code == 429
