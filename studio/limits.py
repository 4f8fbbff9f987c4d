"""What a visitor may ask for: bytes in a request, jobs, projects, drafts and uploads. Also where a POST may come from.

`Guard` stands in front of every route of the server, Gradio's own included. It also refuses what Gradio would fetch: a
file given as a web address.
"""

import json
import re
import threading
import time
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from engine.errors import InputError

MAX_JSON_BYTES = 1_000_000
MAX_UPLOAD_BYTES = 64_000_000  # one request; a single picture may have 25 MB (engine.media.importer)
MAX_FILES = 8
MAX_RUNNING_JOBS = 1
MAX_WAITING_JOBS = 3
MAX_PROJECTS = 20
MAX_RUNS = 8  # of training, an owner
HOUR_S = 3600.0
MAX_PER_HOUR = {"draft": 30, "upload": 200, "copy": 60, "search": 40}
COUNTED = {"draft": "drafts", "upload": "uploads", "copy": "copies", "search": "picture searches"}
LOOPBACK = ("127.0.0.1", "localhost", "::1")
FETCHING = re.compile(r"/file[=/]\s*https?:|/proxy=", re.IGNORECASE)  # addresses with which Gradio fetches from the web

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

SECURITY_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", b"frame-ancestors 'self' https://huggingface.co https://*.hf.space"),
)


@dataclass(frozen=True)
class Refusal:
    """An answer given instead of the application's."""

    status: int
    message: str
    hint: str

    async def send(self, send: Send) -> None:
        body = json.dumps({"message": self.message, "hint": self.hint, "id": ""}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        headers.append((b"connection", b"close"))
        headers.extend(SECURITY_HEADERS)
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


TOO_LARGE = Refusal(413, "This request is too large.", "Pictures may have 25 MB, videos 60 MB, the rest 1 MB.")
TOO_MANY_FILES = Refusal(413, f"This request holds more than {MAX_FILES} files.", "Upload one file at a time.")
FOREIGN = Refusal(403, "This request comes from another site.", "Open the studio's own page.")
NO_ADDRESSES = Refusal(400, "This studio does not fetch files from the web.", "Upload the picture itself.")
NO_SUCH_PAGE = Refusal(404, "There is no such page here.", "Check the link.")
STRANGE_HOST = Refusal(421, "This studio is for this computer only.", "Open it at the address that it printed.")
TOO_OFTEN = Refusal(429, "Too many uploads in the last hour.", "Wait a while, then try again.")


class Guard:
    """ASGI middleware: body size and file count, same-origin POST, uploads an hour, security headers.

    public: others may reach this studio, by whatever name; else a request must name this computer, so that no web site
    can have its own name resolve to it (DNS rebinding).
    """

    def __init__(self, app: App, rates: "Rates | None" = None, *, public: bool = True) -> None:
        self.app = app
        self.rates = rates or Rates()
        self.public = public

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        body = Body(scope, receive, send)
        refusal = body.refusal or self._refusal(scope, body)
        if not refusal and body.is_json and "/gradio_api/" in scope["path"]:
            refusal = await body.refusal_of_content()
        if refusal:
            await refusal.send(send)
            return
        try:
            await self.app(scope, body.receive, body.send)
        except Exception:
            if body.refusal is None:
                raise
        if body.refusal and not body.started:
            await body.refusal.send(send)

    def _refusal(self, scope: Scope, body: "Body") -> Refusal | None:
        if not self.public and hostname(body.headers.get("host", "")) not in LOOPBACK:
            return STRANGE_HOST
        if FETCHING.search(scope["path"]):
            return NO_SUCH_PAGE
        if scope["method"] in ("GET", "HEAD", "OPTIONS"):
            return None
        if not same_origin(body.headers):
            return FOREIGN
        if body.is_upload:
            client = scope.get("client")
            try:
                self.rates.count("upload", client[0] if client else "")
            except InputError:
                return TOO_OFTEN
        return None


class Body:
    """One request's body, counted as it streams in; the answer is replaced once it is too much."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        content_type = self.headers.get("content-type", "")
        self.is_upload = content_type.lower().startswith("multipart/form-data")
        self.is_json = "json" in content_type.lower()
        self.limit = MAX_UPLOAD_BYTES if self.is_upload else MAX_JSON_BYTES
        self.refusal: Refusal | None = None
        self.started = False
        self._receive, self._send = receive, send
        self._seen = 0
        self._boundary = b"--" + _boundary(content_type) if self.is_upload else b""
        self._parts, self._end = 0, b""
        self._held: list[Message] = []
        declared = self.headers.get("content-length", "0")
        if not declared.isascii() or not declared.isdigit() or int(declared) > self.limit:
            self.refusal = TOO_LARGE

    async def refusal_of_content(self) -> Refusal | None:
        """Read the whole body (JSON is small by now) and look into it; it is handed on unchanged."""
        held: list[Message] = []
        while True:
            message = await self.receive()
            held.append(message)
            if message["type"] != "http.request" or not message.get("more_body"):
                break
        self._held = held
        data = b"".join(message.get("body", b"") for message in held)
        return self.refusal or (NO_ADDRESSES if names_an_address(data) else None)

    async def receive(self) -> Message:
        if self._held:
            return self._held.pop(0)
        if self.refusal:
            return {"type": "http.disconnect"}
        message = await self._receive()
        if message["type"] == "http.request":
            self._count(message.get("body", b""))
            if self.refusal:
                return {"type": "http.disconnect"}
        return message

    async def send(self, message: Message) -> None:
        if self.refusal and not self.started:
            return  # the application's own answer to a cut-off body; `Guard` sends the refusal
        if message["type"] == "http.response.start":
            self.started = True
            present = {name.lower() for name, _ in message["headers"]}
            extra = [header for header in SECURITY_HEADERS if header[0] not in present]
            message = {**message, "headers": [*message["headers"], *extra]}
        await self._send(message)

    def _count(self, chunk: bytes) -> None:
        self._seen += len(chunk)
        if self._seen > self.limit:
            self.refusal = TOO_LARGE
        elif self._boundary:
            window = self._end + chunk
            self._parts += window.count(self._boundary)
            self._end = window[-len(self._boundary) + 1 :]
            if self._parts > MAX_FILES + 1:  # the closing boundary counts as well
                self.refusal = TOO_MANY_FILES


def names_an_address(data: bytes) -> bool:
    """Whether a JSON body holds a file (an object with a `path`) that is a web address, which Gradio would fetch."""
    if b"http" not in data.lower() and b"\\u" not in data:
        return False
    try:
        waiting = [json.loads(data)]
    except (ValueError, RecursionError):
        return False  # Gradio refuses it as well
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            path = value.get("path")
            if isinstance(path, str) and path.strip().lower().startswith(("http:", "https:")):
                return True
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)
    return False


def _boundary(content_type: str) -> bytes:
    for part in content_type.split(";")[1:]:
        name, _, value = part.strip().partition("=")
        if name.lower() == "boundary":
            return value.strip('"').encode("latin-1")
    return b"\r\n\r\n"


def hostname(host: str) -> str:
    """The name in a Host header, without its port; "" when there is none."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def same_origin(headers: dict[str, str]) -> bool:
    """No Origin at all (not a browser's cross-site request), or the host the request was sent to."""
    origin = headers.get("origin")
    if origin is None:
        return headers.get("sec-fetch-site", "none") in ("none", "same-origin")
    host = urlsplit(origin).netloc.lower()
    return bool(host) and host in (headers.get("host", "").lower(), headers.get("x-forwarded-host", "").lower())


class Rates:
    """How often a visitor did something in the last hour. In memory: a restart forgives."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._times: dict[tuple[str, str], deque[float]] = defaultdict(deque)

    def count(self, what: str, owner: str) -> None:
        """Count one `what` by `owner`; raises `InputError` beyond the hourly limit."""
        now = time.monotonic()
        with self._lock:
            if len(self._times) > 10_000:
                self._forget(now)
            times = self._times[what, owner]
            while times and times[0] < now - HOUR_S:
                times.popleft()
            if len(times) >= MAX_PER_HOUR[what]:
                minutes = max(1, round((times[0] + HOUR_S - now) / 60))
                raise InputError(
                    f"That is {MAX_PER_HOUR[what]} {COUNTED[what]} in the last hour, the limit here.",
                    f"Nothing is lost. Try again in {minutes} min.",
                )
            times.append(now)

    def _forget(self, now: float) -> None:
        for key in [key for key, times in self._times.items() if not times or times[-1] < now - HOUR_S]:
            del self._times[key]
