"""Metrics: what Prometheus reads at an address of its own, and the counting of requests that feeds it."""

import time
from collections.abc import Callable

from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, ReceiveMessage, Scope, Send
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from remote.server.http.connections import lent_of
from remote.server.instance import Instance

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)
_OTHER = "(none)"
_WAITING = frozenset({"/v1/poll"})
"""Routes whose requests wait on purpose: how long says nothing."""


class Metrics:
    """Counts an instance's requests; bytes are those of bodies, times seconds."""

    def __init__(self, instance: Instance) -> None:
        self.registry = CollectorRegistry()
        labels = ["route", "method"]
        self._requests = Counter("satchel_requests", "Requests answered", [*labels, "status"], registry=self.registry)
        self._seconds = Histogram(
            "satchel_request_seconds",
            "Seconds until an answer was sent whole; not of long polls",
            labels,
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self._received = Counter("satchel_received_bytes", "Bytes of bodies received", registry=self.registry)
        self._sent = Counter("satchel_sent_bytes", "Bytes of bodies sent", registry=self.registry)
        self._running = Gauge("satchel_requests_running", "Requests being answered", registry=self.registry)
        self._gauge("satchel_polls_waiting", "Devices that wait for changes", lambda: instance.hub.waiting)
        self._gauge("satchel_writes_waiting", "Writes that wait for the database", lambda: instance.database.waiting)
        self._gauge("satchel_free_bytes", "Bytes free for objects", instance.objects.free_bytes)

    def counted(self, app: ASGIApp) -> ASGIApp:
        """The application, with its requests counted."""

        async def count(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != ScopeType.HTTP:
                await app(scope, receive, send)
                return
            method, status = str(scope["method"]), 0

            async def received() -> ReceiveMessage:
                message = await receive()
                if message["type"] == "http.request":
                    self._received.inc(len(message["body"]))
                return message

            async def sent(message: Message) -> None:
                nonlocal status
                if message["type"] == "http.response.start":
                    status = message["status"]
                elif message["type"] == "http.response.body":
                    self._sent.inc(len(message["body"]))
                await send(message)

            began = time.perf_counter()
            with self._running.track_inprogress():
                try:
                    await app(scope, received, sent)
                finally:
                    if (lent := lent_of(scope)) is not None:
                        self._sent.inc(lent.sent_bytes)
                        self._received.inc(lent.received_bytes)
                    # Routed by now; an unknown path must not make a series of its own.
                    route = str(scope.get("path_template") or _OTHER) if status != 404 else _OTHER
                    asked = method if route != _OTHER else _OTHER
                    self._requests.labels(route, asked, str(status)).inc()
                    if route not in _WAITING:
                        self._seconds.labels(route, asked).observe(time.perf_counter() - began)

        return count

    def serve(self, host: str, port: int) -> Callable[[], None]:
        """Answers `GET /metrics` there, in a thread, until what this returns is called; raises OSError."""
        server, thread = start_http_server(port, host, self.registry)

        def end() -> None:
            server.shutdown()
            server.server_close()
            thread.join()

        return end

    def _gauge(self, name: str, what: str, value: Callable[[], float]) -> None:
        Gauge(name, what, registry=self.registry).set_function(value)
