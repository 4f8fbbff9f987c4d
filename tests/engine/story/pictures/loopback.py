"""The web, played on loopback: a server that answers what a test says, byte for byte, and a backend that leads there.

All checks of the fetcher stay on: it sees https addresses, resolves names (to what the test says) and connects to
public addresses; only the last step, the connection itself, ends at this machine, and without TLS.
"""

import socketserver
import ssl
import threading
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property

import httpcore

from engine.story.pictures.fetch import Fetcher

PUBLIC = "93.184.216.34"
Answer = bytes | Callable[[socketserver.StreamRequestHandler], None]


def answer(body: bytes = b"", status: int = 200, **headers: str) -> bytes:
    """An HTTP/1.1 answer; `content_type="image/png"` becomes the header Content-Type."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    named.setdefault("content-length", str(len(body)))
    head = "".join(f"{name}: {value}\r\n" for name, value in named.items())
    return f"HTTP/1.1 {status} Said\r\n{head}\r\n".encode("latin-1") + body


def redirect(location: str, status: int = 302) -> bytes:
    return answer(status=status, location=location)


class Web:
    """Answers by (host, target) or by target alone. Keeps what was asked, connected to and named in a handshake."""

    def __init__(self) -> None:
        self.answers: dict[object, Answer] = {}
        self.otherwise: Answer = answer(b"nothing here", 404)
        self.requests: list[tuple[str, str]] = []
        self.headers: list[dict[str, str]] = []
        self.connected: list[tuple[str, int]] = []
        self.names: list[str | None] = []
        self.resolved: list[str] = []
        self.deaf: set[str] = set()  # addresses that take no connection
        self.hanging: set[str] = set()  # that neither take nor refuse one; the wait itself is left out
        self.limits_s: list[float | None] = []  # of each connection
        self.addresses: Callable[[str], Sequence[str]] = lambda host: [PUBLIC]

    @cached_property
    def _server(self) -> socketserver.ThreadingTCPServer:
        """Started by the first connection: most tests are about there being none."""
        web = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                lines = []
                while (line := self.rfile.readline(70_000)) not in (b"\r\n", b""):
                    lines.append(line.decode("latin-1").strip())
                if not lines:
                    return
                target = lines[0].split(" ")[1]
                headers = {name.lower(): value.strip() for name, _, value in (one.partition(":") for one in lines[1:])}
                web.headers.append(headers)
                web.requests.append((headers.get("host", ""), target))
                said = web.answers.get((headers.get("host"), target), web.answers.get(target, web.otherwise))
                try:
                    said(self) if callable(said) else self.wfile.write(said)
                except OSError:
                    pass  # the client hung up, as it should on an endless answer

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True
            block_on_close = False

        server = Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.005}, daemon=True).start()
        return server

    @property
    def port(self) -> int:
        return self._server.server_address[1]

    def close(self) -> None:
        if "_server" in self.__dict__:
            self._server.shutdown()
            self._server.server_close()

    def fetcher(self, *hosts: str, deadline_s: float = 5.0, contact: str = "") -> Fetcher:
        return Fetcher(
            hosts,
            resolve=self._resolve,
            backend=StandIn(self),
            ssl_context=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),  # `StandIn` leaves it unused
            deadline_s=deadline_s,
            contact=contact,
        )

    def _resolve(self, host: str) -> Sequence[str]:
        self.resolved.append(host)
        return self.addresses(host)


class StandIn(httpcore.SyncBackend):
    """Leads every connection to a `Web`, whatever address it was for."""

    def __init__(self, web: Web) -> None:
        self._web = web

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        self._web.connected.append((host, port))
        self._web.limits_s.append(timeout)
        if host in self._web.deaf:
            raise httpcore.ConnectError("no connection")
        if host in self._web.hanging:
            raise httpcore.ConnectTimeout("no answer")
        return Plain(super().connect_tcp("127.0.0.1", self._web.port, timeout), self._web)


class Plain(httpcore.NetworkStream):
    """A connection that says yes to TLS and goes on without it."""

    def __init__(self, inner: httpcore.NetworkStream, web: Web) -> None:
        self._inner = inner
        self._web = web

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, timeout)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, timeout)

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        self._web.names.append(server_hostname)
        return self

    def get_extra_info(self, info: str) -> object:
        return self._inner.get_extra_info(info)
