"""The one place that fetches files from the web: https, named hosts, public addresses, little time and few bytes (S10).

A host's name is resolved once for each request; every address it has must be public, and the connection goes to one of
those very addresses (no second look-up, so no rebinding). TLS and the Host header still use the name. A redirect is a
new request with every check repeated. No proxies, cookies, passwords or compressed answers. Knows nothing about
pictures.
"""

import ipaddress
import queue
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import httpcore

from engine import __version__
from engine.errors import BackendUnavailable

DEADLINE_S = 10.0
LEAST_CONNECT_S = 2.0  # for one address of several
MAX_REDIRECTS = 3
HEADROOM_BYTES = 300_000  # headers, and chunk sizes within a body
REDIRECTS = (301, 302, 303, 307, 308)
# Taken apart by hand and sent from the same parts: no two parsers that could disagree about the host.
ADDRESS = re.compile(r"https://([A-Za-z0-9.-]{1,253})(?::443)?(/[!-\[\]-~]*)?", re.ASCII)
UNICAST = ipaddress.ip_network("2000::/3")
# Inside the public ranges, yet they lead elsewhere: 6to4, Teredo, documentation, 6to4 relays, Azure's metadata server.
ELSEWHERE = tuple(
    ipaddress.ip_network(text)
    for text in ("2002::/16", "2001::/23", "2001:db8::/32", "3fff::/20", "192.88.99.0/24", "168.63.129.16/32")
)

AGAIN = "Try again in a moment, or use a picture of your own."
UNSAFE = "Nothing was fetched. Use another picture, or one of your own."

Resolve = Callable[[str], Sequence[str]]


@dataclass(frozen=True)
class Target:
    """An address that passed the checks, in the parts that are sent."""

    host: str
    path: str

    def __str__(self) -> str:
        return f"https://{self.host}{self.path}"


class Fetcher:
    """Fetches from `hosts` only. `resolve` and `backend` are the network, which tests play on loopback.

    contact: of the operator, for the sources that ask for one. Safe to call from any thread.
    """

    def __init__(
        self,
        hosts: Iterable[str],
        *,
        contact: str = "",
        resolve: Resolve | None = None,
        backend: httpcore.NetworkBackend | None = None,
        ssl_context: ssl.SSLContext | None = None,
        deadline_s: float = DEADLINE_S,
    ) -> None:
        self.hosts = frozenset(hosts)
        self._resolve = resolve or addresses_of
        self._backend = backend or httpcore.SyncBackend()
        self._given_context = ssl_context
        self._deadline_s = deadline_s
        about = f" ({contact})" if contact else ""
        self._agent = f"StableVideoInfinityStudio/{__version__}{about} httpcore/{httpcore.__version__}"

    @cached_property
    def ssl_context(self) -> ssl.SSLContext:
        """Made at the first request: reading the certificate authorities takes longer than many an answer."""
        return self._given_context or httpcore.default_ssl_context()

    def get(self, address: str, *, accept: str, max_bytes: int) -> bytes:
        """The body at `address`. Every way in which that fails is a `BackendUnavailable`."""
        deadline = time.monotonic() + self._deadline_s
        target = self._checked(address)
        for _ in range(MAX_REDIRECTS + 1):
            answer = self._request(target, accept, max_bytes, deadline)
            if isinstance(answer, bytes):
                return answer
            target = self._checked(f"https://{target.host}{answer}" if answer.startswith("/") else answer)
        raise BackendUnavailable(f"{target.host} sent the studio from one address to the next.", UNSAFE)

    def _checked(self, address: str) -> Target:
        match = ADDRESS.fullmatch(address) if len(address) <= 4000 else None
        host = match[1].lower() if match else ""
        if host not in self.hosts:
            raise BackendUnavailable("A picture source named an address that the studio does not open.", UNSAFE)
        return Target(host, match[2] or "/")

    def _request(self, target: Target, accept: str, max_bytes: int, deadline: float) -> bytes | str:
        """The body, or where a redirect leads to."""
        pinned = PinnedBackend(self._backend, self._resolve, deadline, max_bytes + HEADROOM_BYTES)
        headers = {
            "Host": target.host, "User-Agent": self._agent, "Accept": accept, "Accept-Encoding": "identity",
            "Connection": "close",
        }  # fmt: skip
        url = httpcore.URL(scheme=b"https", host=target.host.encode(), port=None, target=target.path.encode())
        try:
            with (
                httpcore.ConnectionPool(
                    ssl_context=self.ssl_context, network_backend=pinned, max_connections=1, http2=False, retries=0
                ) as pool,
                pool.stream("GET", url, headers=headers) as response,
            ):
                return self._body(target, response, max_bytes)
        except httpcore.TimeoutException as err:
            raise BackendUnavailable(f"{target.host} took too long to answer.", AGAIN) from err
        except (httpcore.NetworkError, httpcore.ProtocolError, OSError) as err:
            raise BackendUnavailable(f"{target.host} could not be reached.", AGAIN) from err

    def _body(self, target: Target, response: httpcore.Response, max_bytes: int) -> bytes | str:
        headers = {name.lower(): value for name, value in response.headers}
        if response.status in REDIRECTS:
            return _location(target, headers.get(b"location", b""))
        if response.status == 429:
            raise BackendUnavailable(f"{target.host} asks the studio to pause.", "Try again in a few minutes.")
        if response.status != 200:
            raise BackendUnavailable(f"{target.host} answered with an error ({response.status}).", AGAIN)
        if headers.get(b"content-encoding", b"identity").lower() != b"identity":
            raise BackendUnavailable(f"{target.host} sent a compressed answer, which was not asked for.", UNSAFE)
        declared = headers.get(b"content-length", b"0")
        body = bytearray()
        if not (declared.isdigit() and int(declared[:20]) > max_bytes):
            for chunk in response.iter_stream():
                body += chunk
                if len(body) > max_bytes:
                    break
            else:
                return bytes(body)
        raise BackendUnavailable(f"{target.host} sent more than {max_bytes / 1e6:g} MB.", UNSAFE)


def _location(target: Target, location: bytes) -> str:
    """Where a redirect leads, as text that `Fetcher` checks like any other address."""
    if location.startswith(b"//"):
        location = b"https:" + location
    try:
        return location.decode("ascii") or "nowhere"
    except UnicodeDecodeError:
        return "nowhere"


class PinnedBackend(httpcore.NetworkBackend):
    """Connects to a public address of the host, within what is left of a deadline and a number of bytes."""

    def __init__(self, inner: httpcore.NetworkBackend, resolve: Resolve, deadline: float, max_bytes: int) -> None:
        self._inner = inner
        self._resolve = resolve
        self._budget = Budget(deadline, max_bytes)

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        addresses = checked_addresses(host, within(self._budget, self._resolve, host))
        for untried, address in zip(range(len(addresses), 0, -1), addresses, strict=True):
            left = self._budget.left_s()
            share = min(left, max(LEAST_CONNECT_S, left / untried))
            try:
                stream = self._inner.connect_tcp(address, port, share, None, socket_options or ())
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                if untried == 1:
                    raise
            else:
                return MeteredStream(stream, self._budget)
        raise httpcore.ConnectError("no address")

    def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None
    ) -> httpcore.NetworkStream:
        raise httpcore.ConnectError("no sockets of this machine")


class Budget:
    """Seconds and bytes that one request has left. Raises httpcore's own errors, as a slow network would."""

    def __init__(self, deadline: float, max_bytes: int) -> None:
        self._deadline = deadline
        self._bytes = max_bytes

    def left_s(self) -> float:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise httpcore.ReadTimeout("the deadline has passed")
        return left

    def spend(self, count: int) -> None:
        self._bytes -= count
        if self._bytes < 0:
            raise httpcore.ReadError("more bytes than any answer may have")


class MeteredStream(httpcore.NetworkStream):
    """A stream whose every step takes from one budget, so that one byte a second is as bounded as none."""

    def __init__(self, inner: httpcore.NetworkStream, budget: Budget) -> None:
        self._inner = inner
        self._budget = budget

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        data = self._inner.read(max_bytes, self._budget.left_s())
        self._budget.spend(len(data))
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, self._budget.left_s())

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return MeteredStream(self._inner.start_tls(ssl_context, server_hostname, self._budget.left_s()), self._budget)

    def get_extra_info(self, info: str) -> object:
        return self._inner.get_extra_info(info)


def within(budget: Budget, resolve: Resolve, host: str) -> Sequence[str]:
    """What `resolve` says of `host`, within the budget: the system's resolver has no time limit of its own."""
    answers: queue.SimpleQueue[Sequence[str] | OSError] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put(resolve(host))
        except (OSError, UnicodeError) as err:
            answers.put(err if isinstance(err, OSError) else OSError(str(err)))

    threading.Thread(target=ask, name="resolve", daemon=True).start()
    try:
        answer = answers.get(timeout=budget.left_s())
    except queue.Empty as err:
        raise httpcore.ConnectTimeout("the name was not resolved in time") from err
    if isinstance(answer, OSError):
        raise httpcore.ConnectError("the name could not be resolved") from answer
    return answer


def addresses_of(host: str) -> tuple[str, ...]:
    """The addresses that this machine's resolver gives for `host`."""
    found = socket.getaddrinfo(host, 443, type=socket.SOCK_STREAM)
    return tuple(dict.fromkeys(str(address[0]) for *_, address in found))


def checked_addresses(host: str, addresses: Sequence[str]) -> Sequence[str]:
    """`addresses`, when there are some and all of them are public."""
    if not addresses or not all(is_public(address) for address in addresses):
        raise BackendUnavailable(f"{host} leads to an address that is not on the public internet.", UNSAFE)
    return addresses


def is_public(text: str) -> bool:
    """Whether `text` is an address of the public internet, in its usual form and under no other name.

    Addresses that carry an IPv4 address inside (mapped, compatible, NAT64, 6to4, Teredo) never are.
    """
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    if any(address in network for network in ELSEWHERE if network.version == address.version):
        return False
    if isinstance(address, ipaddress.IPv6Address):
        return address in UNICAST and address.scope_id is None and address.is_global
    return address.is_global and not (address.is_multicast or address.is_reserved or address in PROTOCOL)


PROTOCOL = ipaddress.ip_network("192.0.0.0/24")  # of IETF protocols; Oracle's metadata server is 192.0.0.192
