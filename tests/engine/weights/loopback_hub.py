"""A Hub on the loopback interface: the three answers that a download asks of the real one, and its bad days.

Small files come straight, large ones by a redirect to another origin, as from a CDN. Every byte sent is counted.
"""

import hashlib
import json
import re
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

LARGE = 2_000  # bytes from which a file has an LFS hash, as on the Hub by its kind
COMMIT = "c" * 40


def git_hash(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass
class Served:
    """One answered request for the bytes of a file."""

    path: str
    start: int
    sent: int
    encoding: str | None


@dataclass
class LoopbackHub:
    """`files` by repository and path. What goes wrong is a list per wrong: each request takes the next item."""

    files: dict[str, dict[str, bytes]]
    commit: str = COMMIT
    status: int = 200  # of every answer
    headers: dict[str, str] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)  # listed, but not given
    cuts: list[int] = field(default_factory=list)  # so many bytes, then the connection ends
    statuses: list[int] = field(default_factory=list)  # of the next requests for bytes
    wrong: list[bool] = field(default_factory=list)  # the next answers begin with other bytes
    stalls: list[bool] = field(default_factory=list)  # half of the next answers, then silence until `released`
    surplus: bytes = b""  # follows the bytes of a large file
    ignores_ranges: bool = False
    refuses_ranges: bool = False
    listed: dict[str, str] = field(default_factory=dict)  # a hash that the listing claims, by path
    served: list[Served] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    tokens: set[tuple[str, str | None]] = field(default_factory=set)  # (origin asked, authorization)
    released: threading.Event = field(default_factory=threading.Event)
    address: str = ""
    cdn: str = ""

    def sent(self, path: str) -> int:
        return sum(request.sent for request in self.served if request.path == path)

    def listing(self, repo: str) -> dict:
        siblings = []
        for path, data in self.files[repo].items():
            sibling = {"rfilename": path, "size": len(data), "blobId": self.listed.get(path, git_hash(data))}
            if len(data) >= LARGE:
                sha256 = self.listed.get(path, hashlib.sha256(data).hexdigest())
                sibling["lfs"] = {"sha256": sha256, "size": len(data), "pointerSize": 130}
            siblings.append(sibling)
        return {"id": repo, "sha": self.commit, "siblings": siblings}


class _Handler(BaseHTTPRequestHandler):
    hub: LoopbackHub
    origin: str
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None: ...

    def do_GET(self) -> None:
        hub = self.hub
        hub.asked.append(self.path)
        hub.tokens.add((self.origin, self.headers.get("Authorization")))
        if listing := re.fullmatch(r"/api/models/([^/]+/[^/]+)/revision/([^?]+)(\?.*)?", self.path):
            return self._list(listing.group(1), listing.group(2))
        repo, _, rest = self.path.lstrip("/").partition("/resolve/")
        path = rest.partition("/")[2]
        if hub.status != 200:
            return self._answer(hub.status, b"", hub.headers)
        if hub.statuses and (status := hub.statuses.pop(0)) != 200:
            return self._answer(status, b"", {})
        data = hub.files.get(repo, {}).get(path)
        if data is None or path in hub.gone:
            return self._answer(404, b"", {"X-Error-Code": "EntryNotFound"})
        if len(data) >= LARGE and self.origin == "hub":
            return self._answer(302, b"", {"Location": hub.cdn + self.path})
        return self._send(path, data)

    def _list(self, repo: str, revision: str) -> None:
        hub = self.hub
        if hub.status != 200:
            return self._answer(hub.status, b"", hub.headers)
        if repo not in hub.files:
            return self._answer(404, b"", {"X-Error-Code": "RepoNotFound"})
        if revision not in ("main", hub.commit):
            return self._answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
        return self._answer(200, json.dumps(hub.listing(repo)).encode(), {"Content-Type": "application/json"})

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _send(self, path: str, data: bytes) -> None:
        hub = self.hub
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if asked and hub.refuses_ranges:
            return self._answer(416, b"", {})
        start = int(asked.group(1)) if asked and not hub.ignores_ranges else 0
        data += hub.surplus
        body = data[start:]
        if hub.wrong and hub.wrong.pop(0):
            body = bytes(b ^ 0xFF for b in body[:5]) + body[5:]
        if asked and not hub.ignores_ranges:
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        cut = hub.cuts.pop(0) if hub.cuts else len(body)
        stalls = bool(hub.stalls and hub.stalls.pop(0))
        request = Served(path, start, 0, self.headers.get("Accept-Encoding"))
        hub.served.append(request)
        body = body[: len(body) // 2] if stalls else body[:cut]
        with suppress(OSError):  # the client may be gone
            for at in range(0, len(body), 4096):
                self.wfile.write(body[at : at + 4096])
                request.sent += len(body[at : at + 4096])
            self.wfile.flush()
        if stalls:
            hub.released.wait(10)
        if stalls or cut < len(data) - start:
            self.close_connection = True


@contextmanager
def serving(hub: LoopbackHub):
    """Serve `hub` on two origins, the Hub's and the CDN's."""
    servers = []
    for origin in ("hub", "cdn"):
        handler = type("Handler", (_Handler,), {"hub": hub, "origin": origin})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        servers.append(server)
    hub.address, hub.cdn = (f"http://127.0.0.1:{server.server_port}" for server in servers)
    try:
        yield hub
    finally:
        hub.released.set()
        for server in servers:
            server.shutdown()
            server.server_close()
